"""Fills pages from what is declared elsewhere, so that nothing is said twice.

``<!-- results -->`` becomes what benchmarks/results holds, ``<!-- experiments -->`` the report of
its experiments, ``<!-- frozen -->`` and ``<!-- scratch -->`` those of the registered proofs,
``<!-- changelog -->`` CHANGELOG.md, and ``<!-- command line -->`` the commands and options that
fishermask_fast/options declares. The map of wings, a chain, becomes a list: the theme
would fetch what draws it from elsewhere.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
EXPERIMENTS = RESULTS / "experiments"
PROOFS = ("frozen", "scratch")
MAP = re.compile(r"```mermaid\n(.*?)```", re.DOTALL)
# Inline code without spaces that a phone has room for on one line.
NAME = re.compile(r"(?<!</span>)<code>(?=[^\s<]{1,28}</code>)")


def on_files(files: Any, config: Any) -> Any:
    plots = [*RESULTS.glob("*.png"), *EXPERIMENTS.glob("*/*.png")]
    plots += [plot for name in PROOFS for plot in (RESULTS / name).glob("*.png")]
    for plot in sorted(plots):
        name = f"results/{plot.relative_to(RESULTS)}"
        files.append(File.generated(config, name, abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    for marker, made in PARTS.items():
        if marker in markdown:
            markdown = markdown.replace(marker, made())
    return MAP.sub(lambda found: chain(found.group(1)), markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Marks short names in code, so that no line ends within one, as in the dashes of a flag."""
    return NAME.sub('<code class="whole">', html)


def results() -> str:
    parts = [table.read_text() for table in sorted(RESULTS.glob("*.md"))]
    parts += [
        f"![{plot.stem.replace('-', ' ')}](results/{plot.name})"
        for plot in sorted(RESULTS.glob("*.png"))
    ]
    return "\n\n".join(parts) or "No results are recorded yet."


def experiments() -> str:
    """The report from its heading on, which becomes a section, with its pictures where they are."""
    report = "#" + (EXPERIMENTS / "README.md").read_text().replace("\n## ", "\n### ")
    report = re.sub(r"(!\[[^]]*\]\()", r"\1results/experiments/", report)
    return re.sub(r"(?<!!)\[([^]]*)\]\(\.\.[^)]*\)", r"`\1`", report)


def proof(name: str) -> str:
    """The tables that frozen/report.py made, with their pictures where they are."""
    report = (RESULTS / name / "report.md").read_text()
    return re.sub(r"(!\[[^]]*\]\()", rf"\1results/{name}/", report)


def changelog() -> str:
    """What follows the changelog's heading, which the page has already."""
    return (ROOT / "CHANGELOG.md").read_text().partition("\n")[2]


def command_line() -> str:
    """Commands and options as cyclopts documents them, one heading deeper than in a page alone."""
    sys.path.insert(0, str(ROOT))
    from fishermask_fast.commands import _app
    from fishermask_fast.options import OptionsFile

    pages = _app(OptionsFile()).generate_docs(output_format="markdown", heading_level=1)
    # The usage names the module that Python was started with: here the one that builds the site.
    pages = re.sub(r"^(fishermask-fast.*?) -m \w+", r"\1", pages, flags=re.MULTILINE)
    return pages[pages.index("## fishermask-fast run") :]


def chain(flowchart: str) -> str:
    """A list of the boxes of a flowchart that goes straight down."""
    boxes = re.findall(r'\["(.*?)"\]', flowchart)
    return "\n".join(['<ol class="layers">', *(f"<li>{box}</li>" for box in boxes), "</ol>"])


PARTS: dict[str, Callable[[], str]] = {
    "<!-- results -->": results,
    "<!-- experiments -->": experiments,
    **{f"<!-- {name} -->": partial(proof, name) for name in PROOFS},
    "<!-- changelog -->": changelog,
    "<!-- command line -->": command_line,
}
