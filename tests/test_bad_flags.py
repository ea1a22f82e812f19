"""Every bad value of every flag gets one line that names it and exit code 2; nothing is written.

The cases are generated from the options' declarations: see bad_flags.py.
"""

from __future__ import annotations

from pathlib import Path

import bad_flags
import pytest

from fishermask_fast.cli import main


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    bad_flags.prepare(folder)
    # The run that plot reads.
    assert main([*bad_flags.usual("run", ""), "--out", str(folder / "before")]) == 0
    return folder


def written(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


def test_every_command_has_cases() -> None:
    cases = [(c, flag, v) for c in bad_flags.COMMANDS for flag, v in bad_flags.cases(c)]
    assert len(cases) > 250
    assert {command for command, _, _ in cases} == set(bad_flags.COMMANDS)
    for command in bad_flags.COMMANDS:
        cased = {flag for flag, _ in bad_flags.cases(command)}
        assert {flag.name for flag in bad_flags.flags(command)} == cased


@pytest.mark.parametrize("flag", ["", "--csv", "--embeddings"])
def test_the_usual_command_lines_are_right(
    flag: str, files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(files)
    command = bad_flags.usual("select", flag)
    assert main([*command, "--out", str(tmp_path / "picks")]) == 0


@pytest.mark.parametrize("command", bad_flags.COMMANDS)
def test_bad_values_get_one_line_that_names_the_flag(
    command: str,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(files)
    before = written(files)
    faults = []
    for flag, value in bad_flags.cases(command):
        capsys.readouterr()
        try:
            code = main([*bad_flags.usual(command, flag), f"{flag}={value}"])
        except BaseException as error:  # whatever leaves is a fault
            faults.append(f"{command} {flag}={value}: {error!r}")
            continue
        said = capsys.readouterr()
        names = [flag[2:], flag[2:].replace("-", "_")]
        right = code == 2 and said.err.count("\n") == 1 and any(name in said.err for name in names)
        if not right or written(files) != before:
            faults.append(f"{command} {flag}={value}: {code}, {said.err!r}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("value", ["2.5", "1e40", "9223372036854775808"])
def test_whole_numbers_of_files_are_checked_too(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f"batch-size = {value}\n")
    assert main(["run", str(file), "--out", str(tmp_path / "run")]) == 2
    assert "batch" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_largest_seed_is_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    """It is not 2**63, as it would be by way of a float."""
    assert main(["run", "--seed", str(2**63 - 1), "--epochs", "0"]) == 2
    assert "epochs" in capsys.readouterr().err
