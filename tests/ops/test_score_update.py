"""ops.score_update against its definition: shapes, heads, dtypes, strides, thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from pools import HEADS, random_factors, random_fisher
from torch import Tensor

from fishermask_fast import GradientFactors, reference
from fishermask_fast.ops import selection as ops


@dataclass(frozen=True)
class Problem:
    """Candidates with the state that M^-1 and F give them, and the updates of real picks."""

    factors: GradientFactors
    scale: float
    index: Tensor
    u: Tensor
    w: Tensor
    ranks: list[int]
    a: Tensor  # packed
    b: Tensor
    scores: Tensor

    def run(
        self, thresholds: Sequence[float] | None = None, **options: Any
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor, Tensor]]:
        """What the op returned, and the A, B and scores that it left."""
        state = (self.a.clone(), self.b.clone(), self.scores.clone())
        limits = [0.0] * len(self.ranks) if thresholds is None else list(thresholds)
        returned = ops.score_update(
            self.factors,
            self.index,
            self.u,
            self.w,
            self.ranks,
            torch.tensor(limits, dtype=torch.float64),
            *state,
            scale=self.scale,
            **options,
        )
        return returned, state

    def expected(self) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """A, B and scores after the updates, and the scores (T + 1, n) on the way, in float64."""
        v = self.scale * self.factors.to(dtype=torch.float64).dense()[self.index]
        r = self.factors.n_rows
        start = (unpack(self.a, r)[self.index], unpack(self.b, r)[self.index])
        columns = list(zip(self.u.split(self.ranks), self.w.split(self.ranks), strict=True))
        updates = [(u.T, w.T) for u, w in columns] if self.ranks else []
        a, b, history = reference.score_update(v, updates, *start)
        state = (self.a.clone(), self.b.clone(), self.scores.clone())
        for full, part in zip(state, (pack(a), pack(b), history[-1]), strict=True):
            full[self.index] = part
        return state, history


def pack(matrices: Tensor) -> Tensor:
    rows, columns = torch.tril_indices(*matrices.shape[1:])
    return matrices[:, rows, columns]


def unpack(packed: Tensor, r: int) -> Tensor:
    rows, columns = torch.tril_indices(r, r)
    out = packed.new_zeros(len(packed), r, r)
    out[:, rows, columns] = packed
    out[:, columns, rows] = packed
    return out


def make_problem(
    generator: torch.Generator,
    n_updates: int = 3,
    ranks: Sequence[int] | None = None,
    scale: float = 0.8,
    **sizes: Any,
) -> Problem:
    """Candidates before the picks 0, 1, ... of themselves, two thirds of them in the index."""
    factors = random_factors(generator, **sizes)
    n, r, k = len(factors), factors.n_rows, factors.n_columns
    v = scale * factors.to(dtype=torch.float64).dense()
    fisher, other = random_fisher(generator, k), random_fisher(generator, k)
    inverse = torch.linalg.inv(torch.eye(k, dtype=torch.float64) + other)
    eye = torch.eye(r, dtype=torch.float64)
    a = eye + v @ inverse @ v.mT
    b = v @ inverse @ fisher @ inverse @ v.mT
    ranks = [r] * n_updates if ranks is None else list(ranks)
    us, ws = [torch.empty(0, k, dtype=torch.float64)], [torch.empty(0, k, dtype=torch.float64)]
    for s, rank in enumerate(ranks):
        rows = v[s % n, :rank]
        gram = torch.eye(rank, dtype=torch.float64) + rows @ inverse @ rows.T
        root = torch.linalg.cholesky(torch.linalg.inv(gram))
        u = inverse @ rows.T @ root
        w = inverse @ fisher @ u - u @ (u.T @ fisher @ u) / 2
        us.append(u.T)
        ws.append(w.T)
        inverse = inverse - u @ u.T
    index = torch.randperm(n, generator=generator)[: n - n // 3]
    before = torch.linalg.solve(a, b).diagonal(dim1=1, dim2=2).sum(1)
    return Problem(
        factors, scale, index, torch.cat(us), torch.cat(ws), ranks, pack(a), pack(b), before
    )


def check(
    problem: Problem,
    assert_close: Callable[..., None],
    thresholds: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> None:
    n = len(problem.factors)
    (state, history), k = problem.expected(), problem.factors.n_columns
    limits = [0.0] * len(problem.ranks) if thresholds is None else list(thresholds)
    (best, best_index, first_index), got = problem.run(thresholds, **options)
    for found, expected in zip(got, state, strict=True):
        assert_close(found, expected, k=k, condition=10, dtype=dtype)
        untouched = torch.ones(n, dtype=torch.bool)
        untouched[problem.index] = False
        assert torch.equal(found[untouched], expected[untouched])
    assert best_index.dtype == first_index.dtype == torch.int64
    assert len(best) == len(best_index) == len(first_index) == len(problem.ranks)
    if not len(problem.index):
        assert (best == -torch.inf).all() and (best_index == n).all() and (first_index == n).all()
        return
    assert_close(best, history[:-1].amax(1), k=k, condition=10, dtype=dtype)
    assert torch.equal(best_index, problem.index[history[:-1].argmax(1)])
    for t, limit in enumerate(limits):
        reaching = problem.index[history[t] >= limit]
        assert first_index[t] == (reaching.min() if len(reaching) else n)


SHAPES: dict[str, dict[str, Any]] = {
    "one of everything": {"n": 1, "r": 1, "m": 1, "c": 1, "d": 1},
    "two classes": {"n": 21, "r": 2, "m": 5, "c": 2, "d": 3},
    "two classes, one row": {"n": 21, "r": 1, "m": 5, "c": 2, "d": 3},
    "seven classes": {"n": 33, "r": 7, "m": 11, "c": 7, "d": 5},
    "ten classes, nine rows": {"n": 40, "r": 9, "m": 13, "c": 10, "d": 7},
    "ten classes": {"n": 37, "r": 10, "m": 122, "c": 10, "d": 16},
    "more rows than masked columns": {"n": 17, "r": 10, "m": 1, "c": 10, "d": 1},
    "thirty-two classes": {"n": 9, "r": 32, "m": 6, "c": 32, "d": 3},
    "thirty-two classes, five rows": {"n": 19, "r": 5, "m": 6, "c": 32, "d": 3},
}


# For a GPU's warps and blocks: r rows and c classes of 2, 10, 32 and 100 classes, and k odd.
WIDE: dict[str, dict[str, Any]] = {
    "two classes": {"n": 300, "r": 1, "m": 5, "c": 2, "d": 3},
    "ten classes": {"n": 700, "r": 9, "m": 121, "c": 10, "d": 16},
    "ten classes, all rows": {"n": 37, "r": 10, "m": 122, "c": 10, "d": 17},
    "thirty-two classes": {"n": 50, "r": 32, "m": 7, "c": 32, "d": 3},
    "thirty-three rows": {"n": 21, "r": 33, "m": 40, "c": 33, "d": 2},
    "hundred classes": {"n": 9, "r": 99, "m": 110, "c": 100, "d": 3},
    "one sample": {"n": 1, "r": 2, "m": 3, "c": 2, "d": 2},
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES.keys())
def test_shapes(
    sizes: dict[str, Any],
    head: str,
    instruction_set: str,
    generator: torch.Generator,
    assert_close: Callable[..., None],
) -> None:
    check(make_problem(generator, head=head, **sizes), assert_close)


@pytest.mark.parametrize("r", [1, 2, 3, 4, 5, 6, 8, 11, 12, 13, 16, 17])
@pytest.mark.parametrize("float64_products", [True, False])
def test_every_width_of_the_products(
    r: int,
    float64_products: bool,
    instruction_set: str,
    generator: torch.Generator,
    assert_close: Callable[..., None],
) -> None:
    problem = make_problem(generator, 2, n=35, r=r, m=9, c=4, d=3, dtype=torch.float32)
    dtype = torch.float64 if float64_products else torch.float32
    check(problem, assert_close, dtype=dtype, float64_products=float64_products)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("float64_products", [True, False])
def test_float32_factors(
    head: str,
    float64_products: bool,
    instruction_set: str,
    generator: torch.Generator,
    assert_close: Callable[..., None],
) -> None:
    problem = make_problem(generator, n=50, r=5, m=31, head=head, dtype=torch.float32)
    dtype = torch.float64 if float64_products else torch.float32
    check(problem, assert_close, dtype=dtype, float64_products=float64_products)
    _, state = problem.run(float64_products=float64_products)
    exact, _ = problem.expected()
    # Products in float32 leave what float64's do not.
    error = (state[0] - exact[0]).abs().max() / exact[0].abs().max()
    assert (error < 1e-13) == float64_products


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 200])
def test_any_number_of_candidates(
    n: int, instruction_set: str, generator: torch.Generator, assert_close: Callable[..., None]
) -> None:
    problem = make_problem(generator, n=n)
    for index in (problem.index, torch.arange(n), torch.arange(n - 1, n), torch.arange(n)[:0]):
        check(replace(problem, index=index), assert_close)


@pytest.mark.parametrize("ranks", [[], [3], [1, 3, 2], [0], [0, 2, 0, 3], [3] * 32])
@pytest.mark.parametrize("head", ["none", "part"])
def test_any_number_of_updates(
    ranks: list[int],
    head: str,
    instruction_set: str,
    generator: torch.Generator,
    assert_close: Callable[..., None],
) -> None:
    problem = make_problem(generator, ranks=ranks, head=head)
    if not ranks:
        # The scores are then computed from A and B, whatever stood there before.
        expected, _ = problem.expected()
        problem = replace(problem, scores=torch.full_like(problem.scores, 7.0))
        expected[2][:] = problem.scores.index_copy(0, problem.index, expected[2][problem.index])
        _, state = problem.run()
        for found, wanted in zip(state, expected, strict=True):
            assert_close(found, wanted, k=problem.factors.n_columns)
        return
    check(problem, assert_close)


def test_no_update_of_no_candidate(generator: torch.Generator) -> None:
    problem = make_problem(generator, 0)
    returned, state = replace(problem, index=problem.index[:0]).run()
    assert [len(tensor) for tensor in returned] == [0, 0, 0]
    assert torch.equal(state[2], problem.scores)


def test_strides(generator: torch.Generator, assert_close: Callable[..., None]) -> None:
    problem = make_problem(generator, head="part")
    v = problem.factors

    def spread(tensor: Tensor) -> Tensor:
        return (
            torch.stack([tensor, tensor + 1], -1)
            .transpose(0, -2)
            .contiguous()
            .transpose(0, -2)[..., 0]
        )

    assert v.coupling is not None and v.hidden is not None
    factors = GradientFactors(spread(v.middle), spread(v.coupling), spread(v.hidden), v.head_index)
    strided = replace(
        problem,
        factors=factors,
        u=spread(problem.u),
        w=problem.w.T.contiguous().T,
        index=torch.stack([problem.index, problem.index], 1)[:, 0],
    )
    assert not strided.u.is_contiguous() and not strided.index.is_contiguous()
    check(strided, assert_close)
    for got, expected in zip(strided.run()[1], problem.run()[1], strict=True):
        assert torch.equal(got, expected)


def test_thresholds(
    instruction_set: str, generator: torch.Generator, assert_close: Callable[..., None]
) -> None:
    problem = make_problem(generator, n=90)
    _, history = problem.expected()
    middle = [float(scores.median()) * (1 + 1e-9) for scores in history[:-1]]
    highest = [float(scores.max()) * (1 + 1e-9) for scores in history[:-1]]
    for thresholds in (middle, highest, [torch.inf] * 3, [-torch.inf] * 3):
        check(problem, assert_close, thresholds)


def test_the_lowest_index_of_equal_scores(instruction_set: str, generator: torch.Generator) -> None:
    one = make_problem(generator, n=1)
    n = 70
    many = replace(
        one,
        factors=one.factors[torch.zeros(n, dtype=torch.int64)],
        index=torch.randperm(n, generator=generator)[:50],
        a=one.a.expand(n, -1).clone(),
        b=one.b.expand(n, -1).clone(),
        scores=one.scores.expand(n).clone(),
    )
    (best, best_index, first_index), state = many.run()
    lowest = int(many.index.min())
    assert best_index.tolist() == first_index.tolist() == [lowest] * 3
    # Equal candidates stay equal to the last bit, wherever they stand.
    for tensor in state:
        assert (tensor[many.index] == tensor[lowest]).all()


def test_order_and_threads_change_nothing(instruction_set: str, generator: torch.Generator) -> None:
    problem = make_problem(generator, n=150, dtype=torch.float32)
    before = torch.get_num_threads()
    for float64_products in (True, False):
        expected = problem.run(float64_products=float64_products)
        try:
            for n_threads in (1, 2):
                torch.set_num_threads(n_threads)
                for index in (problem.index, problem.index.flip(0), problem.index.sort().values):
                    got = replace(problem, index=index).run(float64_products=float64_products)
                    for part, wanted in zip(
                        (*got[0], *got[1]), (*expected[0], *expected[1]), strict=True
                    ):
                        assert torch.equal(part, wanted)
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("r", "ranks"), [(1, [1] * 30), (2, [2, 1, 2] * 5), (4, [3, 4, 0, 4, 1]), (3, [3] * 5)]
)
def test_updates_together_or_one_at_a_time(
    r: int, ranks: list[int], head: str, generator: torch.Generator
) -> None:
    """The same to the last bit: which updates share a look at V changes nothing."""
    problem = make_problem(generator, ranks=ranks, n=37, r=r, m=50, c=6, d=5, head=head)
    returned, together = problem.run()
    step, alone = problem, []
    for u, w in zip(problem.u.split(ranks), problem.w.split(ranks), strict=True):
        seen, (a, b, scores) = replace(step, u=u, w=w, ranks=[len(u)]).run()
        alone.append(seen)
        step = replace(step, a=a, b=b, scores=scores)
    for found, expected in zip(together, (step.a, step.b, step.scores), strict=True):
        assert torch.equal(found, expected)
    for found, parts in zip(returned, zip(*alone, strict=True), strict=True):
        assert torch.equal(found, torch.cat(parts))


BAD: dict[str, tuple[Callable[[Problem], dict[str, Any]], type[Exception], str]] = {
    "half factors": (
        lambda p: {"factors": p.factors.to(dtype=torch.float16)},
        TypeError,
        "factors must be float32 or float64; got torch.float16",
    ),
    "float32 u": (lambda p: {"u": p.u.float()}, TypeError, "u must be float64; got torch.float32"),
    "float32 state": (lambda p: {"a": p.a.float()}, TypeError, "a must be float64"),
    "ranks of more": (lambda p: {"ranks": [3, 3, 4]}, ValueError, r"u must have shape \(10, 17\)"),
    "w of another size": (lambda p: {"w": p.w[:, :-1]}, ValueError, r"w must have shape \(9, 17\)"),
    "state unpacked": (
        lambda p: {"b": unpack(p.b, 3)},
        ValueError,
        r"b must have shape \(40, 6\); got \(40, 3, 3\)",
    ),
    "too few scores": (lambda p: {"scores": p.scores[1:]}, ValueError, r"scores must have shape"),
    "int32 index": (lambda p: {"index": p.index.int()}, TypeError, "index must be 1-d int64"),
    "index of two dimensions": (lambda p: {"index": p.index[None]}, TypeError, "1-d int64"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_arguments(
    change: Callable[[Problem], dict[str, Any]],
    error: type[Exception],
    message: str,
    generator: torch.Generator,
) -> None:
    problem = make_problem(generator)
    with pytest.raises(error, match=message):
        replace(problem, **change(problem)).run([0.0, 0.0, 0.0])


def test_state_must_be_contiguous(generator: torch.Generator) -> None:
    problem = make_problem(generator)
    a = problem.a.T.contiguous().T
    with pytest.raises(ValueError, match="a must be contiguous"):
        ops.score_update(
            problem.factors,
            problem.index,
            problem.u,
            problem.w,
            problem.ranks,
            torch.zeros(3, dtype=torch.float64),
            a,
            problem.b,
            problem.scores,
        )
