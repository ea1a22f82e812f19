"""Which likelihood an argument `likelihood=` stands for."""

from __future__ import annotations

from fishermask_fast.likelihoods.bernoulli import Bernoulli
from fishermask_fast.likelihoods.categorical import Categorical
from fishermask_fast.likelihoods.custom import Custom, RowsFunction
from fishermask_fast.likelihoods.gaussian import Gaussian
from fishermask_fast.likelihoods.likelihood import Likelihood

LikelihoodLike = str | RowsFunction
"""A name of `LIKELIHOODS`, or a function from outputs (n, ...) to rows (n, r, outputs)."""

_NAMED: dict[str, Likelihood] = {
    "categorical": Categorical(),
    "bernoulli": Bernoulli(),
    "gaussian": Gaussian(),
}
LIKELIHOODS = tuple(_NAMED)


def likelihood_of(given: object) -> Likelihood:
    """The likelihood of a name or of a user's function.

    Raises:
        TypeError: neither a str nor callable.
        ValueError: an unknown name.
    """
    if isinstance(given, str):
        if given not in _NAMED:
            raise ValueError(
                f"likelihood must be one of {', '.join(LIKELIHOODS)} or a function from outputs "
                f"(n, ...) to rows (n, r, outputs); got {given!r}"
            )
        return _NAMED[given]
    if not callable(given):
        raise TypeError(
            f"likelihood must be one of {', '.join(LIKELIHOODS)} or a function from outputs "
            f"(n, ...) to rows (n, r, outputs); got {type(given).__name__}"
        )
    return Custom(given)
