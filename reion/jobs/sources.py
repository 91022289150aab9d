"""Lists the files that a command reads, so that an output never mixes two states of its sources."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reion.errors import InputError


@dataclass(frozen=True)
class SourceFiles:
    """Size in bytes and time of the last change in ns of each file (each chunk of a store), by its path."""

    roots: tuple[Path, ...]
    files: Mapping[str, tuple[int, int]]

    @classmethod
    def list(cls, paths: Iterable[Path]) -> SourceFiles:
        """List files, and all the files in folders.

        Raises
        ------
        OSError
            If a file cannot be examined.
        """
        roots = tuple(path.resolve() for path in paths)
        return cls(roots, dict(_listed(roots)))

    @property
    def digest(self) -> str:
        """SHA-256 of the list."""
        return hashlib.sha256(json.dumps(sorted(self.files.items())).encode()).hexdigest()

    def check_unchanged(self) -> None:
        """Raise `InputError` if files have changed, appeared or gone; it names the first of them."""
        try:
            now = dict(_listed(self.roots))
        except OSError as error:
            raise InputError(f"cannot be read any more: {error}", file=error.filename) from error
        changed = sorted(
            path for path in self.files.keys() | now.keys() if self.files.get(path) != now.get(path)
        )
        if changed:
            raise InputError(
                f"changed while it was read, as {len(changed)} of {len(now)} files did: the output would mix "
                "old and new, so it is not put in its place",
                file=changed[0],
                hint="the same command without --resume begins anew, with the files as they are now",
            )


def _listed(roots: Iterable[Path]) -> Iterator[tuple[str, tuple[int, int]]]:
    for root in roots:
        if not root.is_dir():
            yield str(root), _state(root.stat())
            continue
        for folder, _, names in os.walk(root, onerror=_raise):
            for name in names:
                path = Path(folder, name)
                yield str(path), _state(path.stat())


def _state(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _raise(error: OSError) -> None:
    raise error
