"""The errors a user can cause."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """Bad input or bad usage. The command line prints it as one message and exits with 2.

    Parameters
    ----------
    message
        What was expected and what came instead, and where.
    file
        The file at fault, if there is one.
    hint
        What to do about it.
    """

    def __init__(self, message: str, *, file: Path | str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.file = None if file is None else str(file)
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.message if self.file is None else f"{self.file}: {self.message}"]
        if self.hint:
            parts.append(self.hint)
        return "\n".join(parts)


class BadValuesError(InputError):
    """A field holds values that it cannot have. Every command on these files fails until they are mended."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known name nearest to it; empty if none is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""
