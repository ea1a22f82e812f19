"""How masks, factors, selections and selectors show themselves."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from fishermask_fast import FisherMask, FisherMaskSelector, GradientFactors, select_batch


def mask() -> FisherMask:
    scores = {f"{i}.weight": torch.rand(20 + i, 3) for i in range(6)}
    return FisherMask.from_scores(scores, n_parameters=100, head="5")


def test_a_mask_is_one_line() -> None:
    shown = repr(mask())
    assert "\n" not in shown and len(shown) < 300
    assert shown.startswith("FisherMask(global, k = 100 of 405 parameters; as n_parameters says")
    assert "head 75 of 75" in shown and "tensors more" in shown
    assert "tensor(" not in shown


def test_factors_are_shapes_and_ranges() -> None:
    factors = GradientFactors(
        torch.tensor([[[-0.5, 2.0]]]), torch.ones(1, 1, 3), torch.ones(1, 4), torch.tensor([0, 7])
    )
    assert repr(factors) == (
        "GradientFactors((N, r, k) = (1, 1, 4), middle (1, 1, 2) in [-0.5, 2], "
        "coupling (1, 1, 3) in [1, 1], hidden (1, 4) in [1, 1], 2 of the head's 12 masked, "
        "torch.float32, cpu)"
    )
    assert "(0, 1, 2)" in repr(factors[:0])


@pytest.mark.parametrize("backward_steps", [0, 1])
def test_a_selection_is_the_sequence_of_its_picks(backward_steps: int) -> None:
    selection = select_batch(torch.randn(30, 2, 5), 8, backward_steps=backward_steps)
    assert list(selection) == selection.indices.tolist() == selection[:]
    assert selection[0] == int(selection.indices[0]) and selection[-1] == list(selection)[-1]
    assert isinstance(selection[0], int) and selection[2:4] == list(selection)[2:4]
    with pytest.raises(IndexError):
        selection[8]
    shown = repr(selection)
    assert "K = 8" in shown and "tensor(" not in shown and ", ..." in shown
    assert ("8 dropped" in shown) == bool(backward_steps)
    frame = pytest.importorskip("pandas") and selection.to_frame()
    assert frame["index"].tolist() == list(selection)
    assert frame["rank"].tolist() == list(range(1, 9))
    assert frame["score"].tolist() == selection.scores.tolist()
    assert torch.equal(pickle.loads(pickle.dumps(selection)).indices, selection.indices)


def test_pictures() -> None:
    pytest.importorskip("matplotlib").use("agg")
    selection = select_batch(torch.randn(30, 2, 5), 8)
    axes = selection.plot()
    assert list(axes.lines[0].get_ydata()) == selection.objective.tolist()
    assert selection.plot(axes) is axes
    some = mask()
    widths = [bar.get_width() for bar in some.plot().patches]
    assert widths == [pytest.approx(100 * share.masked / share.size) for share in some.profile()]
    from matplotlib import pyplot

    pyplot.close("all")


def test_a_selector_shows_what_was_set() -> None:
    model = nn.Linear(3, 2)
    assert repr(FisherMaskSelector(model)) == "FisherMaskSelector(model=Linear)"
    selector = FisherMaskSelector(model, n_parameters=5, lamb=0.5)
    assert repr(selector) == "FisherMaskSelector(model=Linear, n_parameters=5, lamb=0.5)"
    parameters = selector.get_params()
    assert parameters["model"] is model and parameters["mask"] == "global"
    assert repr(FisherMaskSelector(**parameters)) == repr(selector)
    from sklearn.base import clone

    assert clone(selector, safe=False).get_params()["lamb"] == 0.5
