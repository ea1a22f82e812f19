"""What a person is told: who the strategies are, what commands are typed, what a word may mean."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SENTENCES = {
    "fishermask": "the batch that most lowers tr(M^-1 F) over a mask of a few parameters of all "
    "layers: each pick counts what the others and the labels already tell.",
    "fishermask_entropy": "half of the batch by entropy, the other half by fishermask.",
    "fishermask_coverage": "five candidates a pick by fishermask, with lamb by the trace of F and "
    "each class alike, and of them the batch by uherding.",
    "bait": "the objective of fishermask over the last layer alone, whole: no mask to find.",
    "random": "any sample alike: what every other strategy has to beat.",
    "entropy": "the samples whose predicted probabilities have the highest entropy.",
    "margin": "the samples whose two likeliest classes are the closest in probability.",
    "least_confidence": "the samples whose likeliest class is the least probable.",
    "coreset": "one after the other the sample that is farthest from all labeled and picked ones, "
    "by the inputs of the last layer (k-center greedy).",
    "badge": "k-means++ over the last layer's gradients for the likeliest class: uncertain samples "
    "that lie apart.",
    "uherding": "one after the other the sample that covers most of what is uncertain and not near "
    "a labeled or picked one, by the inputs of the last layer.",
    "typiclust": "the most typical sample of each cluster without labels, by the inputs of the "
    "last layer: for the very first labels.",
}
"""Who picks, in a sentence each."""

EXAMPLES = {
    "run": (
        "fishermask-fast run",
        "fishermask-fast run --data fashion-mnist --download --strategy fishermask badge random "
        "--seed 0 1 2 --out out",
        "fishermask-fast run experiment.toml",
        "fishermask-fast run --resume out --rounds 6",
    ),
    "select": (
        "fishermask-fast select --unlabeled new --labeled old --model resnet18 --checkpoint net.pt "
        "-n 50",
        "fishermask-fast select --csv labels.csv --model timm:convnext_tiny --checkpoint net.pt "
        "-n 50 --dry-run",
        "fishermask-fast select --csv texts.csv --model hf:FOLDER -n 50 --strategy bait",
        "fishermask-fast select --embeddings pool.npz -n 50",
    ),
    "plot": (
        "fishermask-fast plot out",
        "fishermask-fast plot out --baseline badge --target 0.8",
    ),
    "import-labels": (
        "fishermask-fast import-labels project-1.json",
        "fishermask-fast import-labels project-1.csv --pool picks/pool.csv --out labels.csv",
    ),
    "info": ("fishermask-fast info",),
}
"""Commands as they are typed, by the command."""


def epilogue(command: str) -> str:
    """What follows the options in a command's help, as Markdown."""
    lines = []
    if command in ("run", "select"):
        lines += ["Strategies:", "", *(f"- {name}: {said}" for name, said in SENTENCES.items()), ""]
    return "\n".join([*lines, "Examples:", "", *(f"- `{line}`" for line in EXAMPLES[command])])


def meant(name: str, known: Iterable[str]) -> str:
    """A question for a name that is close to a known one, else nothing."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""
