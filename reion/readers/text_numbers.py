"""Reads numbers from text files in the usual dialects.

Comments begin with `#`, `!`, `%` or `//`. Numbers are separated by blanks, tabs, commas or semicolons. Their
exponents may be those of Fortran (`1.0D+54`, `1d54`, `1.0+100`). Where blanks or semicolons separate numbers,
a comma may be the decimal point (`1,5;2,5`). An empty place between two commas or semicolons is NaN.
Quotation marks, a byte-order mark and empty lines are ignored. The file may be gzipped.
"""

from __future__ import annotations

import codecs
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reion.errors import InputError
from reion.readers.compressed import read_plain

_COMMENT = re.compile(r"(?:[#!%]|//).*")
_FORTRAN_EXPONENT = re.compile(r"(?<=[\d.])[dDqQ](?=[+-]?\d)")
_NO_LETTER = re.compile(r"(?<=[\d.])(?=[+-]\d{2,3}(?:\s|$))")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdDqQ]?[+-]?\d+)?|[+-]?(?:nan|inf)", re.IGNORECASE)
_WITH_COMMA = r"[+-]?\d+(?:,\d+)?(?:[eEdD][+-]?\d+)?"
_DECIMAL_COMMAS = re.compile(
    rf"^(?=.*\d,\d)[ \t]*{_WITH_COMMA}(?:[ \t]*;[ \t]*{_WITH_COMMA}|[ \t]+{_WITH_COMMA})+[ \t;]*$",
    re.MULTILINE,
)
"""A line of numbers in which a comma is the decimal point."""
_EMPTY = re.compile(r"(?:^|(?<=[,;]))[ \t]*(?=[,;])", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z_][\w.+-]*")
_ENCODINGS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"), (b"", "utf-8-sig"))


def text_of(path: Path) -> str:
    """The text in a file, without quotation marks, with decimal points, and with NaN for empty places.

    Raises
    ------
    InputError
        If the file is not text.
    """
    try:
        raw = read_plain(path)
        encoding = next(name for mark, name in _ENCODINGS if raw.startswith(mark))
        text = raw.decode(encoding).replace('"', "")
    except UnicodeDecodeError as error:
        raise InputError(f"expected text; {error}", file=path) from error
    if _DECIMAL_COMMAS.search(text):
        text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    return _EMPTY.sub("nan", text) if "," in text or ";" in text else text


def data_lines(text: str) -> list[str]:
    """The lines that are not empty, without comments and separators, with numbers in Python's notation."""
    plain = _COMMENT.sub("", text) if any(mark in text for mark in ("#", "!", "%", "//")) else text
    plain = plain.replace(",", " ").replace(";", " ")
    plain = _NO_LETTER.sub("e", _FORTRAN_EXPONENT.sub("e", plain))
    return [line for line in plain.splitlines() if line.strip()]


def numbers_in(lines: Sequence[str], path: Path) -> np.ndarray:
    """All numbers in the lines, float64, one axis.

    Raises
    ------
    InputError
        If there is anything but numbers.
    """
    joined = "\n".join(lines)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            return np.fromstring(joined, dtype=np.float64, sep=" ")
    except (ValueError, DeprecationWarning) as error:
        raise InputError(f"expected numbers only; received {joined[:40]!r}", file=path) from error


def rows_in(lines: Sequence[str], path: Path) -> np.ndarray:
    """The numbers in each line, (lines, columns) float64; NaN in a column that holds words.

    Raises
    ------
    InputError
        If a line has more or fewer columns than the first, no column holds numbers, or a column of numbers
        holds a word.
    """
    first = lines[0].split() if lines else []
    for number, line in enumerate(lines, start=1):
        if len(line.split()) != len(first):
            raise InputError(
                f"expected {len(first)} numbers on each of {len(lines)} lines; received {len(line.split())} "
                f"on line {number} of them",
                file=path,
            )
    words = {column for column, word in enumerate(first) if not _NUMBER.fullmatch(word)}
    if words and len(words) < len(first):
        lines = [
            " ".join("nan" if column in words else word for column, word in enumerate(line.split()))
            for line in lines
        ]
    return numbers_in(lines, path).reshape(len(lines), len(first))


def header_names(text: str) -> list[str]:
    """The names of the columns: the last line before the numbers that has a name for each column.

    Without numbers it is the last line of several names. Empty if there is no such line. Comment marks and
    text in brackets do not belong to a name: `#ID(1) Xc(2) [Mpc/h]`.
    """
    found: list[list[str]] = []
    for line in text.splitlines():
        if line.strip() and not _COMMENT.match(line.strip()) and _is_data(line):
            width = len(_words(line))
            if width > 1:  # a single number is the count of lines
                return next((names for names in reversed(found) if len(names) == width), [])
            continue
        names = names_in(line)
        if all(_NAME.fullmatch(name) for name in names):
            found.append(names)
    return next((names for names in reversed(found) if len(names) > 1), [])


def names_in(line: str) -> list[str]:
    """The words in a line, without comment marks and text in brackets."""
    return _words(re.sub(r"\([^)]*\)|\[[^\]]*\]", "", line.lstrip("#!%/ \t")))


def _words(line: str) -> list[str]:
    return line.replace(",", " ").replace(";", " ").split()


def _is_data(line: str) -> bool:
    """Whether a line begins with a number."""
    words = _words(line)
    return bool(words) and bool(_NUMBER.fullmatch(words[0]))
