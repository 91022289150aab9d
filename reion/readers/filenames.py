"""Redshifts, labels and endings in file names."""

from __future__ import annotations

import re
from pathlib import Path

_REDSHIFT = re.compile(
    r"(?<![A-Za-z])(?:redshift|zred|z)[=_-]?(?P<number>\d{1,4}(?:[.,p]\d+)?)(?![A-Za-z0-9]|\.\d)",
    re.IGNORECASE,
)
"""A redshift is a number after the word z, zred or redshift; `nz64` and `xyz64` have none. EAGLE and others
write `z008p500` for 8.5, some write 8,5."""

_MESH = re.compile(r"y[=_-]?\d+[_x-]?$", re.IGNORECASE)
"""The text before z in `x64y64z64` and `nx64_ny64_z64`, where z stands before a number of cells."""

_GOES_ON = re.compile(
    r"(?:-|_?to_?|\.\.+)(?:redshift|zred|z)?[=_]?\d+[.,p]\d"  # z8.0-9.0, z6to12.5, z6.0-z12.0
    r"|_?to_?z?\d|[-_]\d{1,2}(?![A-Za-z0-9])",
    re.IGNORECASE,
)
"""Text after a number that makes it a range (`z6.0-12.0`, `z6-12`) or may be its decimals (`z8_5`)."""
_RANGE_BEFORE = re.compile(r"z[=_]?\d+(?:[.,p]\d+)?(?:-|_?to_?)$", re.IGNORECASE)
"""Text before a number with its own z that makes it the end of a range: `z6.0-z12.0`."""
_HIGHEST_WHOLE = 50
"""A larger whole number is probably a redshift without its point: `z0850`, `z85`."""

_COMPRESSED = ".gz"


def redshift_of(path: Path) -> float | None:
    """The redshift in a name like `xi_z8.397.npy`, `snap_z008p397.h5` or `redshift=8.4.h5`; None without one.

    Of several numbers the last counts: `box_z64cells_z8.0.h5` and `z64_z8.0.h5` are at 8. A range such as
    `z8.0-9.0` is no redshift, nor is a whole number that decimals may follow, as in `z8_5`.
    """
    stem = ending_removed(path.name)
    match = _last_redshift(stem)
    if match is None or _may_go_on(match, stem):
        return None
    return float(match["number"].lower().replace("p", ".").replace(",", "."))


def why_no_redshift(path: Path) -> str:
    """Why `redshift_of` does not accept the number in a name; empty if it does, or if there is no number."""
    stem = ending_removed(path.name)
    match = _last_redshift(stem)
    if match is None or not _may_go_on(match, stem):
        return ""
    return f": {stem!r} may be a range of redshifts, or have decimals behind {match[0]}"


def lacks_a_point(path: Path, redshift: float) -> bool:
    """Whether a redshift is probably from a name without its point, as 850 from `xi_z0850.npy`."""
    stem = ending_removed(path.name)
    match = _last_redshift(stem)
    return (
        match is not None
        and match["number"].isdigit()
        and float(match["number"]) == redshift
        and redshift > _HIGHEST_WHOLE
    )


def label_of(path: Path) -> str:
    """The name of the simulation a file belongs to: the file's name without redshift and ending.

    `box1_z06.000.npz` gives `box1`; a name that is only a redshift gives the folder's name.
    """
    stem = ending_removed(path.name)
    match = _last_redshift(stem)
    if match is not None:
        stem = stem[: match.start()].rstrip("_-. ") + stem[match.end() :]
    return stem.strip("_-. ") or path.resolve().parent.name


def ending_of(name: str) -> str:
    """The ending of a file's name in lower case, without `.gz`: `.dat` for `xfrac_8.397.DAT.gz`."""
    return Path(name.lower().removesuffix(_COMPRESSED)).suffix


def ending_removed(name: str) -> str:
    """A file's name without its ending and without `.gz`; a number such as `z8.397` is no ending."""
    stem = name[: -len(_COMPRESSED)] if name.lower().endswith(_COMPRESSED) else name
    suffix = Path(stem).suffix
    return stem if suffix[1:].isdigit() else stem.removesuffix(suffix)


def another_in_name(path: Path, redshift: float) -> float | None:
    """The redshift in a file's name, if it has decimals and differs from the `redshift` in the file."""
    stem = ending_removed(path.name)
    match, named = _last_redshift(stem), redshift_of(path)
    if match is None or named is None or match["number"].isdigit():
        return None
    # The number in the name may be rounded or cut off.
    decimals = len(re.split(r"[.,p]", match["number"], flags=re.IGNORECASE)[1])
    return named if abs(named - redshift) > 1.001 * 10.0**-decimals else None


def _may_go_on(match: re.Match[str], stem: str) -> bool:
    if _RANGE_BEFORE.search(stem[: match.start()]):
        return True
    behind = _GOES_ON.match(stem, match.end())
    # No decimals follow a number that has some: `z8.0_2` and `z8.0-9` are further files at 8.
    return behind is not None and (
        match["number"].isdigit() or re.search(r"to|[.,p]\d", behind[0]) is not None
    )


def _last_redshift(stem: str) -> re.Match[str] | None:
    matches = [match for match in _REDSHIFT.finditer(stem) if not _MESH.search(stem[: match.start()])]
    return matches[-1] if matches else None
