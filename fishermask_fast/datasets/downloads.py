"""Sets that others publish, which are there, or are downloaded where somebody asks for that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fetched(name: str, root: str, download: bool) -> Iterator[None]:
    """Says of a set that cannot be read under ``root`` how to have it.

    Raises:
        ValueError: In place of what its reader raised.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        if download:
            raise ValueError(f"could not download {name} to {root}: {error}") from error
        raise ValueError(
            f"{name} is not in {root}; this downloads it: "
            f"fishermask-fast run --data {name} --data-root {root} --download"
        ) from error
