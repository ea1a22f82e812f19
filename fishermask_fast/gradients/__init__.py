"""Per-sample gradients on the mask, V_x = R_x J_x, and the Fisher diagonal f_i = E (d log p)_i^2.

Rooms in reading order: masked and diagonal (what is asked for), passes (the way through a pool),
planning (which parameters go by rule), tracing and trial (which do, found by running), compared
(rules with autograd), capture (one forward, r backward passes), reading (what each kind of
operation saved), rules and lookups (from delta to rows, by kind of operation), terms (the forms
that rows take), weight_products (dW = delta a^T), fallback (torch.func), kept (parameters that a
kept tensor hides), taken (what a forward uses from before), places and order (where each sample is
in a result), resumable and fingerprint (gradients in a file). May import: masks, network, factors,
likelihoods, ops, progress, checks, arrays, files.
"""

from __future__ import annotations

from fishermask_fast.gradients.diagonal import draw, fisher_diagonal
from fishermask_fast.gradients.masked import masked_gradients
from fishermask_fast.gradients.passes import slow_parameters

__all__ = [
    "draw",
    "fisher_diagonal",
    "masked_gradients",
    "slow_parameters",
]
