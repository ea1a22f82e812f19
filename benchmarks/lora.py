"""What a LoRA model's gradients cost beside full fine-tuning's: CPU seconds of one thread.

    python benchmarks/lora.py

One BERT (4 layers of width 256, 64 tokens, 3 classes), once with all of its parameters trained and
once with LoRA of rank 8 on queries and values; both masks keep the head and are equally large.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from fishermask_fast import FisherMask, fisher_diagonal, masked_gradients

SAMPLES, TOKENS, WIDTH, LAYERS = 16, 64, 256, 4
ENTRIES = 1600


def cpu_seconds(call: Callable[[], object]) -> float:
    """The least of two, after one that is not counted."""
    call()
    seconds = []
    for _ in range(2):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)


def models() -> dict[str, nn.Module]:
    config = BertConfig(
        vocab_size=1000, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        intermediate_size=4 * WIDTH, max_position_embeddings=TOKENS, num_labels=3,
    )  # fmt: skip
    lora = LoraConfig(task_type="SEQ_CLS", r=8, init_lora_weights=False)
    return {
        "all parameters": BertForSequenceClassification(config),
        "LoRA, rank 8": get_peft_model(BertForSequenceClassification(config), lora),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens = torch.randint(1000, (SAMPLES, TOKENS))
    print("| trained | parameters | forward | Fisher diagonal | masked gradients |")
    print("|---|---|---|---|---|")
    for name, model in models().items():
        model.eval()
        with torch.no_grad():
            forward = cpu_seconds(lambda model=model: model(input_ids=tokens))
        scores = fisher_diagonal(model, tokens, n_samples=SAMPLES)
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        mask = FisherMask.from_scores(scores, ENTRIES / count, "global", model=model, inputs=tokens)
        diagonal = cpu_seconds(lambda model=model: fisher_diagonal(model, tokens))
        masked = cpu_seconds(lambda model=model, mask=mask: masked_gradients(model, tokens, mask))
        print(
            f"| {name} | {count:,} | {1e3 * forward / SAMPLES:.1f} ms | "
            f"{1e3 * diagonal / SAMPLES:.1f} ms | {1e3 * masked / SAMPLES:.1f} ms |"
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
