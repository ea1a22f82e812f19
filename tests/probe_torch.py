"""Tries what is installed, for check_torch: prints one verdict per op and per kind of operation.

python -I tests/probe_torch.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Runs every op in this process and prints the verdicts as one line of JSON."""
    import op_samples
    import torch

    import fishermask_fast.ops

    if Path(fishermask_fast.__file__).is_relative_to(ROOT / "fishermask_fast"):
        raise ImportError(f"the source tree was imported: {fishermask_fast.__file__}")
    verdicts = {"import": f"ok ({torch.__version__})"}
    for name in sorted({*op_samples.registered_ops(), *op_samples.SAMPLES}):
        try:
            op_samples.check_op(name)
            verdicts[name] = "ok"
        except Exception as error:  # a broken op is a cell of the table
            verdicts[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    verdicts |= saved_fields()
    print(json.dumps(verdicts))


def saved_fields() -> dict[str, str]:
    """One verdict for each kind of operation: whether it saves what its rule reads."""
    import op_nodes

    from fishermask_fast.gradients.reading import SAVED, missing_fields

    verdicts = {}
    for kind in SAVED:
        node = op_nodes.node_of(kind)
        if node is None:
            elsewhere = kind in op_nodes.ELSEWHERE
            verdicts[kind] = "ok (needs a GPU)" if elsewhere else "is another operation here"
            continue
        missing = missing_fields(node)
        verdicts[kind] = f"saves no {', '.join(missing)}" if missing else "ok"
    return verdicts


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
