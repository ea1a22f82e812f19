"""Per-sample factors V_x = [middle | coupling kron hidden], and where they lie.

Rooms in reading order: gradient_factors (in memory), checks, products (the cheapest form of each),
quadratic_forms (V Q V^T), grams (sums of V^T V), masked_head (by a head's masked entries),
inverse_products (V M^-1 on a GPU), embeddings (a head's factors without a network), embedding_files
(whose inputs stay in files), bytes_at, checksums and tensor_file (safetensors on disk), sound (that
samples are those that were written), storage (factors in a file), streaming (FactorSource, what all
of them are to the engine, and factors on their way to a GPU), equal (which samples are equal). May
import: likelihoods, ops, checks, arrays, memory, triangles, files.
"""

from __future__ import annotations

from fishermask_fast.factors import inverse_products  # noqa: F401  registers a kernel
from fishermask_fast.factors.bytes_at import read_bytes
from fishermask_fast.factors.checks import check_chances, check_distributions, check_finite
from fishermask_fast.factors.embedding_files import EmbeddingFactors
from fishermask_fast.factors.embeddings import factors_from_embeddings
from fishermask_fast.factors.equal import first_of_equal, next_of_equal
from fishermask_fast.factors.gradient_factors import GradientFactors, same_columns
from fishermask_fast.factors.grams import check_weights
from fishermask_fast.factors.sound import Written
from fishermask_fast.factors.storage import StoredFactors, save_factors
from fishermask_fast.factors.streaming import FactorSource, StreamedFactors, as_factors
from fishermask_fast.factors.tensor_file import (
    Layout,
    drop_pages,
    plan_file,
    read_layout,
    write_rows,
    write_start,
)

__all__ = [
    "check_weights",
    "EmbeddingFactors",
    "FactorSource",
    "GradientFactors",
    "Layout",
    "StoredFactors",
    "StreamedFactors",
    "Written",
    "as_factors",
    "check_chances",
    "check_distributions",
    "check_finite",
    "drop_pages",
    "factors_from_embeddings",
    "first_of_equal",
    "next_of_equal",
    "save_factors",
    "plan_file",
    "read_bytes",
    "read_layout",
    "same_columns",
    "write_rows",
    "write_start",
]
