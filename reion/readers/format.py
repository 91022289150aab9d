"""`Format`: the functions that a reader of a file format provides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reion.readers.settings import Settings
from reion.readers.snapshot import Box


@dataclass(frozen=True, kw_only=True)
class Format:
    """A file format: how to recognise its files and how to find the snapshots in them.

    `claim` returns the paths that are of this format; it looks at names, first bytes or attributes, never at
    fields. `scan` reads headers and returns the simulations found. `settings` are the `--set` keys of this
    format besides the common ones, with their meaning. A `generic` format is considered only if no other
    format claims a file. A `mapped` format can be read by a mapping, which says which array is what.
    """

    name: str
    description: str
    claim: Callable[[Sequence[Path]], list[Path]]
    scan: Callable[[Sequence[Path], Settings], list[Box]]
    settings: Mapping[str, str] = field(default_factory=dict)
    generic: bool = False
    mapped: bool = False
