"""Puts what benchmarks/results holds into the performance page: tables (.md) and plots (.png)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
MARKER = "<!-- results -->"


def on_files(files: Any, config: Any) -> Any:
    for plot in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"results/{plot.name}", abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    if MARKER not in markdown:
        return markdown
    parts = [table.read_text() for table in sorted(RESULTS.glob("*.md"))]
    parts += [
        f"![{plot.stem.replace('-', ' ')}](results/{plot.name})"
        for plot in sorted(RESULTS.glob("*.png"))
    ]
    return markdown.replace(MARKER, "\n\n".join(parts) or "No results are recorded yet.")
