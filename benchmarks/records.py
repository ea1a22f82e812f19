"""What a benchmark measured, as a dated file beside the earlier ones."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write_record(kind: str, record: dict[str, Any], output: Path | None) -> None:
    """Writes today's record to `output`, or to results/ where that is None, and prints its path."""
    today = datetime.date.today().isoformat()
    path = output or RESULTS / f"{kind}-{today}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"date": today, **record}, indent=1) + "\n")
    print(path)
