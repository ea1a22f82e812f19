"""Ops without a compiler: each definition under its op's schema, and a whole install's picks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from op_samples import SAMPLES, Sample, operator, registered_ops

import fishermask_fast
from fishermask_fast.ops.definitions import DEFINITIONS, SCHEMAS

CASES = [
    pytest.param(name, sample, id=f"{name}-{sample.label}")
    for name, samples in SAMPLES.items()
    for sample in samples()
]


def test_every_op_has_a_definition() -> None:
    assert registered_ops() == sorted(DEFINITIONS) == sorted(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_the_compiled_ops(name: str) -> None:
    ours = torch._C.parse_schema(f"fishermask_fast::{name}{SCHEMAS[name]}")
    assert str(ours) == str(operator(name)._schema)


@pytest.mark.parametrize(("name", "sample"), CASES)
def test_definition_equals_the_expected(name: str, sample: Sample) -> None:
    arguments = sample.fresh_arguments()
    result = DEFINITIONS[name](*arguments)
    returned = result if isinstance(result, tuple) else () if result is None else (result,)
    pairs = list(zip(returned, sample.returned, strict=True))
    pairs += [(arguments[at], expected) for at, expected in sample.changed.items()]
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=sample.bound, atol=sample.bound)


# Everything that calls an op, as one list of numbers.
PROGRAM = """
import json, sys, warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    from fishermask_fast import FisherMaskSelector, factors_from_embeddings, select_batch
import torch
from fishermask_fast import build_info
from pools import oracle
from torch import nn

real = oracle()
problem = dict(fisher=real.fisher, labeled_fisher=real.labeled_fisher, n_labeled=real.n_labeled)
pools = {
    "real": real.pool[:120],
    "dense": real.pool[:40].map(lambda part: part.double()),
}
found = {
    name: select_batch(pool, 6, backward_steps=1, **problem).indices.tolist()
    for name, pool in pools.items()
}
torch.manual_seed(0)
factors = factors_from_embeddings(torch.randn(80, 12), torch.rand(80, 5).softmax(1), mask=20)
found["masked head"] = select_batch(factors, 8).indices.tolist()
model = nn.Sequential(
    nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
)
images = torch.rand(60, 1, 8, 8)
selector = FisherMaskSelector(model, fraction=0.6)
found["query"] = selector.query(images[20:], 6, images[:20], progress=False).indices.tolist()
print(json.dumps([found, build_info().compiler, [str(warning.message) for warning in told]]))
"""


# Without the site's .pth files, of which an editable install's would find this tree's _C.
ALONE = "import sys; sys.path[:0] = sys.argv[1:]; "


def run(program: str, *path: Path) -> subprocess.CompletedProcess[str]:
    folders = map(str, (*path, Path(torch.__file__).parents[1]))
    return subprocess.run(
        [sys.executable, "-S", "-c", ALONE + program, *folders],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=path[0],
        capture_output=True,
        text=True,
    )


def answer(*path: Path) -> tuple[dict[str, list[int]], str, list[str]]:
    ran = run(PROGRAM, *path)
    assert ran.returncode == 0, ran.stderr
    found, compiler, told = json.loads(ran.stdout)
    return found, compiler, told


def install(folder: Path, pure: bool) -> Path:
    """The package without its compiled ops, and what its wheel said of them; where it came from."""
    package = Path(fishermask_fast.__file__).parent
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("*.so"))
    about = folder / "fishermask_fast-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fishermask-fast\nVersion: 0\n")
    (about / "WHEEL").write_text(f"Wheel-Version: 1.0\nRoot-Is-Purelib: {str(pure).lower()}\n")
    return package.parent


def test_an_install_without_compiled_ops_makes_the_same_picks(tmp_path: Path) -> None:
    source = install(tmp_path, pure=True)
    tests = Path(__file__).parents[1]
    found, compiler, told = answer(tmp_path, tests)
    expected, compiled_by, silent = answer(source, tests)
    assert found == expected
    assert (compiler, silent) == ("none", [])
    assert compiled_by != "none"
    (message,) = [message for message in told if "without compiled ops" in message]
    # Both who asked for that and who was given it by pip, which takes this wheel where no other
    # fits, are told where it comes from and what to do about it.
    for word in ("FISHERMASK_BUILD=0", "py3-none-any", "pip", "compiler"):
        assert word in message


def test_what_says_that_ops_are_missing_points_at_the_import(tmp_path: Path) -> None:
    install(tmp_path, pure=True)
    (tmp_path / "theirs.py").write_text("import torch\n\nfrom fishermask_fast import fast_select\n")
    ran = run("import theirs", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert f"{tmp_path / 'theirs.py'}:3: RuntimeWarning" in ran.stderr


def test_a_source_folder_that_was_not_built_is_an_error(tmp_path: Path) -> None:
    install(tmp_path, pure=False)
    ran = run("from fishermask_fast import fast_select", tmp_path)
    assert ran.returncode != 0
    assert "compiled ops could not be loaded" in ran.stderr
