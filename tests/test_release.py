"""What is packed and published: the build's choices, the release's facts, the source archive."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import check_release
import pytest

import build_backend

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("choice", "needs_torch"), [(None, True), ("1", True), ("0", False)], ids=str
)
def test_torch_is_asked_for_where_ops_are_built(
    choice: str | None, needs_torch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FISHERMASK_BUILD", raising=False)
    monkeypatch.setattr(build_backend, "check_compiler", lambda: None)
    if choice is not None:
        monkeypatch.setenv("FISHERMASK_BUILD", choice)
    for hook in ("wheel", "editable"):
        needed = getattr(build_backend, f"get_requires_for_build_{hook}")()
        assert any(name.startswith("torch") for name in needed) == needs_torch
    assert build_backend.get_requires_for_build_sdist() == []


@pytest.mark.parametrize("hook", ["wheel", "editable"])
@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("FISHERMASK_BUILD", "yes", "FISHERMASK_BUILD must be 1 or 0; got 'yes'"),
        ("FISHERMASK_BUILD", "", "FISHERMASK_BUILD must be 1 or 0; got ''"),
        ("FISHERMASK_CUDA", "yes", "FISHERMASK_CUDA must be auto, 0 or 1; got 'yes'"),
        ("CXX", "no-such-compiler -m64", "'no-such-compiler' was not found"),
        ("PATH", "", "'c++' was not found"),
    ],
)
def test_what_cannot_be_compiled_is_told_in_a_line_before_torch_is_fetched(
    hook: str, name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("FISHERMASK_BUILD", "FISHERMASK_CUDA", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        getattr(build_backend, f"get_requires_for_build_{hook}")()
    (line,) = str(ended.value).splitlines()
    assert told in line
    assert "FISHERMASK_BUILD=0 pip install ." in line


def test_without_compiled_ops_no_compiler_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FISHERMASK_BUILD", "0")
    monkeypatch.setenv("PATH", "")
    assert build_backend.get_requires_for_build_wheel() == []


def run_setup(
    *arguments: str, build: str, before: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    program = (
        "import os, runpy, sys\n"
        "sys.modules['torch'] = None\n"  # as where there is none
        f"{before}\n"
        f"os.environ['FISHERMASK_BUILD'] = {build!r}\n"
        f"sys.argv = ['setup.py', *{list(arguments)!r}]\n"
        "runpy.run_path('setup.py', run_name='__main__')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


def test_a_build_that_fails_names_the_way_out_last() -> None:
    ran = run_setup("--version", build="1")
    assert ran.returncode != 0
    assert "FISHERMASK_BUILD=0 pip install ." in ran.stderr.strip().splitlines()[-1]


def test_an_unknown_choice_is_refused() -> None:
    ran = run_setup("--version", build="yes")
    assert ran.returncode != 0
    assert "FISHERMASK_BUILD must be 1 or 0; got 'yes'" in ran.stderr


def test_a_missing_compiler_is_told_before_a_missing_torch() -> None:
    ran = run_setup("--version", build="1", CXX="no-such-compiler")
    assert ran.returncode != 0
    assert "'no-such-compiler' was not found" in ran.stderr
    assert "torch" not in ran.stderr


@pytest.mark.parametrize("build", ["0", "1"])
def test_an_old_setuptools_is_told_in_a_line(build: str) -> None:
    """Without isolation pip asks no one; setuptools then rejects pyproject.toml by its licence."""
    old = "import setuptools; setuptools.__version__ = '76.1.0'"
    ran = run_setup("--version", build=build, before=old)
    assert ran.returncode != 0
    (line,) = ran.stderr.splitlines()
    assert "building needs setuptools >= 77; got 76.1.0" in line
    assert "FISHERMASK_BUILD" not in line


def test_pure_python_needs_no_torch_to_build() -> None:
    ran = run_setup("--version", build="0")
    assert ran.returncode == 0, ran.stderr


def test_the_description_for_an_index_has_no_links_into_a_folder() -> None:
    ran = run_setup("--long-description", build="0")
    assert ran.returncode == 0, ran.stderr
    links = re.findall(r"\]\(([^)]+)\)", ran.stdout)
    assert links and all(link.startswith("https://") for link in links)
    assert "/blob/main/docs/digits.png?raw=true" in ran.stdout


def git(*arguments: str, given: str = "") -> str:
    """What git says of this checkout; a skip where there is no git, or this is none."""
    if shutil.which("git") is None:
        pytest.skip("no git on PATH")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments], input=given, cwd=ROOT, capture_output=True, text=True
        )

    # An archive that was unpacked inside another checkout is none itself.
    top = run("rev-parse", "--show-toplevel")
    if top.returncode != 0 or Path(top.stdout.strip()).resolve() != ROOT.resolve():
        pytest.skip("not a git checkout")
    return run(*arguments).stdout


def test_the_source_archive_holds_what_its_tests_need(tmp_path: Path) -> None:
    ran = run_setup("-q", "sdist", "--dist-dir", str(tmp_path), build="1")
    assert ran.returncode == 0, ran.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    tracked = git("ls-files")
    left_out = ("benchmarks/results/", ".ci/", ".gitignore")
    shown = ("benchmarks/results/experiments/README.md", "benchmarks/results/frozen/report.md")
    needed = {name for name in tracked.split() if not name.startswith(left_out)}
    needed |= set(shown)
    assert sorted(needed - held) == []
    assert not [name for name in held if name.endswith((".so", ".pyc"))]


def test_no_page_or_picture_is_ignored_as_if_it_were_built() -> None:
    files = [str(path) for path in (ROOT / "docs").rglob("*") if path.is_file()]
    asked = "\n".join(file for file in files if "__pycache__" not in file)
    assert git("check-ignore", "--no-index", "--stdin", given=asked) == ""


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A tree of which everything agrees."""
    for name, text in {
        "fishermask_fast/version.py": '__version__ = "1.2.3"\n',
        "CHANGELOG.md": "# Changelog\n\n## 1.2.3 - 2026-01-02\n\n## 1.2.2 - 2025-12-31\n",
        "CITATION.cff": (
            'title: "fishermask_fast: fast"\nlicense: MIT\nversion: 1.2.3\n'
            'date-released: "2026-01-02"\nreferences:\n  - doi: 10.48550/arXiv.2411.05752\n'
        ),
        "pyproject.toml": 'license = "MIT"\nSource = "https://github.com/someone/some"\n',
        "mkdocs.yml": "repo_url: https://github.com/someone/some\n",
        "README.md": "By FisherMask (https://arxiv.org/abs/2411.05752).\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_release_of_which_everything_agrees(release: Path) -> None:
    assert check_release.disagreements(release, "v1.2.3") == []
    assert check_release.disagreements(release, None) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("fishermask_fast/version.py", "1.2.3", "1.2.4", "1.2.4"),
        ("CHANGELOG.md", "## 1.2.3 - 2026-01-02", "## Unreleased", "Unreleased"),
        ("CHANGELOG.md", "2026-01-02", "2026-01-03", "2026-01-03"),
        ("CHANGELOG.md", "2025-12-31", "2025-12-32", "2025-12-32, which is no date"),
        ("CHANGELOG.md", "2025-12-31", "2026-01-03", "1.2.2 of 2026-01-03 stands below"),
        ("CITATION.cff", "version: 1.2.3", "version: 1.2.2", "1.2.2"),
        ("CITATION.cff", "2026-01-02", "2026-01-01", "2026-01-01"),
        ("CITATION.cff", "2026-01-02", "2026-02-30", "2026-02-30, which is no date"),
        ("CITATION.cff", "fishermask_fast:", "fishermask:", "title"),
        ("CITATION.cff", "MIT", "BSD-3-Clause", "BSD-3-Clause"),
        ("CITATION.cff", "arXiv.2411.05752", "arXiv.2411.05753", "10.48550/arXiv.2411.05752"),
        ("pyproject.toml", "someone", "OWNER", "pyproject.toml still has OWNER"),
        ("mkdocs.yml", "someone", "OWNER", "mkdocs.yml still has OWNER"),
        ("README.md", "By FisherMask", "By [FisherMask](https://github.com/OWNER/x)", "README.md"),
    ],
)
def test_what_disagrees_is_told(release: Path, name: str, old: str, new: str, told: str) -> None:
    path = release / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    found = check_release.disagreements(release, "v1.2.3")
    assert found and told in " ".join(found)


@pytest.mark.parametrize("day", ["2026-02-30", "2026-13-01", "2026-00-10", "0000-01-01", "later"])
def test_no_release_has_a_date_that_is_none(release: Path, day: str) -> None:
    released_on(release, day)
    assert f"{day}, which is no date" in " ".join(check_release.disagreements(release, None))


def test_no_release_is_dated_after_today_everywhere_on_earth(release: Path) -> None:
    latest = datetime.now(timezone(timedelta(hours=14))).date()
    released_on(release, str(latest))
    assert check_release.disagreements(release, "v1.2.3") == []
    tomorrow = str(latest + timedelta(days=1))
    released_on(release, tomorrow)
    found = check_release.disagreements(release, None)
    assert len(found) == 2 and all(f"{tomorrow}, which is yet to come" in each for each in found)


def released_on(release: Path, day: str) -> None:
    for name in ("CHANGELOG.md", "CITATION.cff"):
        text = (release / name).read_text()
        (release / name).write_text(re.sub(r"2026-\d\d-\d\d", day, text))


def test_a_placeholder_owner_stops_a_tag_and_is_told_before(release: Path) -> None:
    mkdocs = release / "mkdocs.yml"
    mkdocs.write_text(mkdocs.read_text().replace("someone", "OWNER"))
    assert check_release.disagreements(release, None) == []
    assert check_release.placeholders(release) == ["mkdocs.yml"]


def test_another_tag_is_told(release: Path) -> None:
    assert check_release.disagreements(release, "v1.2.2") == ["the tag must be v1.2.3; got v1.2.2"]


def test_this_tree_agrees() -> None:
    assert check_release.disagreements(ROOT, None) == []


def test_no_workflow_puts_what_others_name_into_a_shell_line() -> None:
    """A tag, a branch or a title may hold shell: by the environment it is text."""
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert files
    for file in files:
        lines = file.read_text().splitlines()
        for number, line in enumerate(lines):
            found = re.match(r"( *(?:- )?)run:", line)
            if found is None:
                continue
            deeper = re.compile(" " * (len(found[1]) + 1))
            below = list(itertools.takewhile(deeper.match, lines[number + 1 :]))
            shell = "\n".join([line, *below])
            assert "${{" not in shell, f"{file.name}:{number + 1}: {shell}"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs make in a folder that holds the Makefile and what a release is checked by."""
    if shutil.which("make") is None:
        pytest.skip("no make on PATH")
    for name in ("Makefile", "constraints.txt", "CITATION.cff", "CHANGELOG.md", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("tests/check_release.py", "fishermask_fast/version.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", f"PYTHON={sys.executable}", *arguments],
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize(
    "tag", ["v0;touch${IFS}made", "v0'$(touch made)'", "v0`touch made`", '$(shell touch made)"']
)
def test_a_tag_is_never_run(
    tag: str, make: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    ran = make("release-check", TAG=tag)
    assert ran.returncode != 0
    assert f"got {tag}" in ran.stdout
    assert not (tmp_path / "made").exists()


def test_make_takes_another_torch(
    make: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    usual = (tmp_path / "constraints.txt").read_text()
    made = "build/torch-2.11.0/constraints.txt"
    ran = make(made, TORCH="2.11.0", TORCHVISION="0.26.0")
    assert ran.returncode == 0, ran.stderr
    changed = set((tmp_path / made).read_text().split()) - set(usual.split())
    assert changed == {"torch==2.11.0", "torchvision==0.26.0"}
    for torch, pins in (("2.11.0", made), ("", "constraints.txt")):
        planned = make("--dry-run", f".venv/.torch{torch}", TORCH=torch).stdout
        assert f"--constraint {pins} setuptools" in planned


def test_arguments_reach_the_one_command_that_takes_them(
    make: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    planned = make("--dry-run", "check-torch", "ARGS=--use 2.11.0").stdout.splitlines()
    assert [line.split("/")[-1] for line in planned if "--use 2.11.0" in line] == [
        "check_torch.py --use 2.11.0"
    ]


def test_the_classifiers_are_the_pythons_that_were_tried() -> None:
    declared = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', read("pyproject.toml"))
    tried = re.findall(r"^\| (3\.\d+)\.\d+ \|.* passed", read("docs/building.md"), re.MULTILINE)
    assert declared and sorted(set(declared)) == sorted(set(tried))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
