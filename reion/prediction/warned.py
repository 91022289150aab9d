"""The warnings of a prediction: collected while they are given, and stored with its xi."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from reion.storage.store import consolidate


@contextlib.contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Yield a list to which the text of every UserWarning of the block is added, each once.

    The list is complete, and the warnings are given, when the block ends. The warning filters of the caller
    decide whether they are shown; all are in the list.
    """
    texts: list[str] = []
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            yield texts
    finally:  # they are given before an error too
        said = [str(item.message) for item in caught if issubclass(item.category, UserWarning)]
        texts += dict.fromkeys(" ".join(text.split()) for text in said)
        for item in caught:
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)


def store_warnings(store: Path, texts: Sequence[str]) -> None:
    """Add warnings to the attribute `warnings` of the xi in a Zarr store: one a line, each once."""
    import zarr

    if texts:
        group = zarr.open_group(store, mode="r+")
        before = str(group["xi"].attrs.get("warnings", "")).splitlines()
        group["xi"].attrs["warnings"] = "\n".join(dict.fromkeys([*before, *texts]))
        consolidate(group)
