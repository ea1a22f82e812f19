"""BADGE's distances against scikit-activeml's own.

Its picks are other ones by design: it begins with the longest gradient, and never forgets the
distances to the origin that it began with.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fishermask_fast.strategies.diversity import squared_distances

pytest.importorskip("skactiveml")

from skactiveml.classifier import SklearnClassifier  # noqa: E402
from skactiveml.pool import Badge  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402


@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_draws_are_those_of_scikit_activeml_given_its_first_pick(n_classes: int) -> None:
    dice = np.random.default_rng(n_classes)
    x = dice.normal(size=(60, 5))
    y = np.full(60, np.nan)
    y[:12] = np.arange(12) % n_classes
    classifier = SklearnClassifier(LogisticRegression(), classes=list(range(n_classes))).fit(x, y)
    picks, chances = Badge(random_state=0).query(
        x, y, classifier, fit_clf=False, batch_size=6, return_utilities=True
    )
    a = torch.from_numpy(classifier.predict_proba(x[12:]))
    a[torch.arange(48), a.argmax(1)] -= 1
    h = torch.from_numpy(x[12:])
    size = a.square().sum(1) * h.square().sum(1)
    assert picks[0] - 12 == int(size.argmax())
    nearest = size.clone()
    for step, pick in enumerate(picks):
        expected = torch.from_numpy(chances[step, 12:])
        drawn = ~expected.isnan()  # those picked before
        assert int(drawn.sum()) == 48 - step
        torch.testing.assert_close((nearest / nearest.sum())[drawn], expected[drawn])
        nearest = torch.minimum(nearest, squared_distances(a, h, size, int(pick) - 12))
