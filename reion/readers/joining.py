"""Joins boxes of one simulation that lie in files of their own: what must agree, and the sum of photons."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

import numpy as np

from reion.errors import InputError
from reion.readers.snapshot import Box, Snapshot
from reion.readers.unused import without_field
from reion.simulation.units import Conversion

_ROUNDING = 1e-3
"""Relative difference of two box sizes or cosmological parameters that count as equal, as for settings."""
_MOST_CELLS = 2**24
"""Most cells that are read at once where it is looked up whether a snapshot holds photons."""
_AS_STORED = Conversion("")


def join_boxes(boxes: Sequence[Box]) -> list[Box]:
    """Join the boxes that have the same label.

    Boxes of one field each, such as `density` and `xHII`, are joined as well: labels that differ only in the
    name of the field, and no field twice.

    What one of them lacks, its box size or cosmology, is that of the others. An n_ion that starts again at
    zero, as where each box was converted by itself, is left out with a warning: it is summed up anew.

    Raises
    ------
    InputError
        If their sizes or cosmologies differ, or their reaches of photons at one redshift; if n_ion starts
        again and sources are missing to sum it up from.
    """
    parts: dict[str, list[Box]] = {}
    for box in boxes:
        parts.setdefault(box.label, []).append(box)
    joined = []
    for own in parts.values():
        box = own[0]
        for other in own[1:]:
            box = _joined(box, other)
        joined.append(_with_one_sum(box, own) if len(own) > 1 else box)
    return _of_one_field_each(joined)


def _of_one_field_each(boxes: Sequence[Box]) -> list[Box]:
    """The boxes, joined where each holds other fields of one simulation."""
    groups: dict[str, list[Box]] = {}
    for box in boxes:
        groups.setdefault(without_field(box.label), []).append(box)
    joined = []
    for name, own in groups.items():
        fields = [{snapshot.name for snapshot in box.snapshots} for box in own]
        if len(own) == 1 or not are_apart(fields):
            joined += own
            continue
        whole = own[0]
        for other in own[1:]:
            whole = _joined(whole, other)
        joined.append(replace(whole, label=name or whole.snapshots[0].file.resolve().parent.name))
    return joined


def are_apart(sets: Sequence[Set[str]]) -> bool:
    """Whether sets of fields are not empty and have no field in common."""
    return all(sets) and sum(map(len, sets)) == len(set().union(*sets))


def _joined(first: Box, box: Box) -> Box:
    if not (_agree(first.box_size, box.box_size) and _same_cosmology(first, box)):
        files = [item.snapshots[0].file if item.snapshots else None for item in (first, box)]
        raise InputError(
            f"expected the box size and cosmology of {files[0].name if files[0] else first.label}: "
            f"{first.box_size} Mpc, {first.cosmology}; received {box.box_size} Mpc, {box.cosmology}",
            file=files[1],
        )
    return replace(
        first,
        snapshots=[*first.snapshots, *box.snapshots],
        box_size=box.box_size if first.box_size is None else first.box_size,
        cosmology=box.cosmology if first.cosmology is None else first.cosmology,
        centres={**box.centres, **first.centres},
        max_mfp_mpc=_joined_reaches(first, box),
    )


def _agree(one: float | Sequence[float] | None, other: float | Sequence[float] | None) -> bool:
    """Whether two numbers, or one and three, are equal but for their rounding; None agrees with all."""
    return one is None or other is None or bool(np.all(np.isclose(one, other, rtol=_ROUNDING)))


def _same_cosmology(first: Box, box: Box) -> bool:
    if first.cosmology is None or box.cosmology is None:
        return True
    return all(_agree(value, box.cosmology[key]) for key, value in first.cosmology.items())


def _with_one_sum(joined: Box, parts: Sequence[Box]) -> Box:
    """The joined box, without n_ion if this starts again at zero in one of the `parts`.

    Raises
    ------
    InputError
        If it does, and there are not sources at all of its redshifts.
    """
    photons = [
        sorted((s for s in part.snapshots if s.name == "n_ion"), key=lambda s: -s.redshift) for part in parts
    ]
    starts = sorted((own[0] for own in photons if own), key=lambda s: -s.redshift)[1:]
    before = [s for s in joined.snapshots if s.name in ("n_src", "n_ion")]
    again = [start for start in starts if _starts_again(start, before)]
    if not again:
        return joined
    found = (
        f"n_ion, the photons emitted so far, starts again at zero at z = {again[0].redshift:g}: the series "
        "was converted in parts"
    )
    shining = [s.redshift for s in joined.snapshots if s.name == "n_src"]
    lacking = [s.redshift for own in photons for s in own if not np.isclose(s.redshift, shining).any()]
    if lacking:
        raise InputError(
            f"{found}, and there are no sources (n_src) at z = {', '.join(f'{z:g}' for z in lacking)} to sum "
            "it up from",
            file=again[0].file,
            hint="convert the whole series at once, or read each part by itself",
        )
    warnings.warn(f"{again[0].file}: {found}. It is summed anew from the sources of all parts", stacklevel=2)
    return replace(joined, snapshots=[s for s in joined.snapshots if s.name != "n_ion"])


def _starts_again(start: Snapshot, others: Sequence[Snapshot]) -> bool:
    """Whether n_ion is zero at `start`, although photons were emitted or sources shone before."""
    earlier = sorted((s for s in others if s.redshift > start.redshift), key=lambda s: s.redshift)
    return not _is_positive(start) and any(_is_positive(snapshot) for snapshot in earlier)


def _is_positive(snapshot: Snapshot) -> bool:
    """Whether a number of the snapshot is above zero; it is read plane by plane, more and more at once."""
    nx, ny, nz = snapshot.shape
    start, planes = 0, 1
    while start < nx:
        region = (slice(start, min(start + planes, nx)), slice(0, ny), slice(0, nz))
        if np.any(snapshot.read(region, _AS_STORED) > 0):
            return True
        start += planes
        planes = max(1, min(2 * planes, _MOST_CELLS // (ny * nz)))
    return False


def _joined_reaches(first: Box, box: Box) -> Mapping[float, float] | None:
    """The reach of photons at the redshifts of both boxes; None if neither gives it."""
    if first.max_mfp_mpc is None or box.max_mfp_mpc is None:
        return box.max_mfp_mpc if first.max_mfp_mpc is None else first.max_mfp_mpc
    for redshift, reach in box.max_mfp_mpc.items():
        known = first.max_mfp_mpc.get(redshift, reach)
        if not _agree(known, reach):
            raise InputError(
                f"max_mfp at z = {redshift:g}: expected the {known:g} Mpc of another file of the series; "
                f"received {reach:g} Mpc",
                file=box.snapshots[0].file if box.snapshots else None,
                hint="--set max_mfp=... replaces what the files say; correct one of them otherwise",
            )
    return {**box.max_mfp_mpc, **first.max_mfp_mpc}
