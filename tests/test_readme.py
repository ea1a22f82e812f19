"""The examples of the README and of docs/ run as they stand there, and print what they say.

The tutorial's parts need each other: see test_tutorial.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
from documented import PAGES, PROGRAM, ROOT, commands

from fishermask_fast.commands import parse

EXAMPLE = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
EXAMPLES = [
    pytest.param(code, output, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    if page.name != "tutorial.md"
    for number, (code, output) in enumerate(EXAMPLE.findall(page.read_text()))
]
FRAMEWORKS = ("baal", "lightning", "peft", "skactiveml", "small_text", "transformers")


def test_there_are_examples() -> None:
    names = " ".join(str(example.id) for example in EXAMPLES)
    assert names.count("README.md") >= 2
    pages = (
        "index",
        "embeddings",
        "goals",
        "likelihoods",
        "lora",
        "published",
        "arrays",
        "huggingface",
    )
    for page in (*pages, "baal", "lightning", "skactiveml", "small_text"):
        assert f"{page}.md" in names


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_example_runs(
    code: str,
    output: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # for the files that an example writes
    for framework in FRAMEWORKS:
        if f"from {framework}" in code or f"import {framework}" in code:
            pytest.importorskip(framework)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the frameworks' own
        exec(compile(code, "example", "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out
    assert printed
    assert not output or printed == output


COMMANDS = [
    pytest.param(page, argv, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, argv in enumerate(commands(page.read_text()))
    if "--resume" not in argv  # which reads the run first: see test_resume_alone
]


@pytest.mark.parametrize(("page", "argv"), COMMANDS)
def test_commands_are_ones_that_there_are(
    page: Path, argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toml = re.search(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    if toml is not None:
        Path("file.toml").write_text(toml[1])
    for folder in ("new", "old", "photos/new", "photos/known", "out"):
        Path(folder).mkdir(parents=True)
    for file in ("net.pt", "images.csv", "labels.csv", "project-1.json"):
        Path(file).touch()
    parse(argv)


def test_no_command_stands_elsewhere_in_a_block() -> None:
    """Behind a prompt or a variable it would not be looked at."""
    for page in PAGES:
        for block in re.findall(r"```(?:sh|bash)\n(.*?)```", page.read_text(), re.DOTALL):
            found = [line for line in block.splitlines() if f"{PROGRAM} " in line]
            assert all(line.startswith((PROGRAM, "pip ")) for line in found), page


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[1:]:
        assert str(page.relative_to(ROOT / "docs")) in navigation
