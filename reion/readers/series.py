"""Puts snapshots in the order of time, and checks that all fields have the same, plausible redshifts."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from reion.errors import InputError
from reion.readers.filenames import lacks_a_point
from reion.readers.settings import Settings
from reion.readers.snapshot import Box, Snapshot
from reion.simulation.contract import REDSHIFT_TOLERANCE

_HIGHEST = 200.0
"""No simulation of galaxies begins at a higher redshift."""

_WIDEST_STEP = np.log(1.3)
"""Largest usual step in ln(1 + z) between snapshots. A warning also needs `_UNUSUAL`."""

_WIDEST_ONLY_STEP = np.log(2.5)
"""The same for a series of two snapshots, which has no other step to compare with."""

_UNUSUAL = 4.0
"""A warning needs a step that is larger than this number of median steps of its series."""


def series_of(box: Box, settings: Settings) -> dict[str, list[Snapshot]]:
    """The snapshots of each field in the order of time, all fields with the same redshifts and shape.

    Redshifts of two fields that differ by less than `REDSHIFT_TOLERANCE` count as one, because 8.397 in
    float32 is 8.39700031.

    Raises
    ------
    InputError
        If a field has a redshift twice, lacks a redshift that another field has or that the settings ask for,
        or has another shape; if a redshift is implausible.
    """
    found: dict[str, list[Snapshot]] = {}
    for snapshot in box.snapshots:
        found.setdefault(snapshot.name, []).append(snapshot)
    everything = _at_shared_redshifts(found)
    for name, snapshots in everything.items():
        snapshots.sort(key=lambda snapshot: -snapshot.redshift)
        for earlier, later in itertools.pairwise(snapshots):
            if earlier.redshift == later.redshift:
                raise InputError(
                    f"{name}: expected each redshift once; z = {later.redshift:g} is also in {earlier.file}",
                    file=later.file,
                )
    series = _selected(everything, settings.redshifts())
    _warn_of_photons_left_out(everything, series)
    _check_plausible(series)
    _warn_of_odd_redshifts(series)
    _check_same_redshifts(series)
    reference = next(iter(series))
    shape = series[reference][0].shape
    for name, snapshots in series.items():
        for snapshot in snapshots:
            if snapshot.shape != shape:
                raise InputError(
                    f"{name} at z = {snapshot.redshift:g}: expected the shape {shape} of "
                    f"{series[reference][0].file.name}; received {snapshot.shape}",
                    file=snapshot.file,
                )
    return series


def nearest_redshift(redshift: float, others: Iterable[float]) -> float | None:
    """The nearest of `others`, if it differs by less than `REDSHIFT_TOLERANCE`; otherwise None."""
    near = min(others, key=lambda other: abs(other - redshift), default=None)
    return near if near is not None and abs(near - redshift) < REDSHIFT_TOLERANCE else None


def _at_shared_redshifts(series: Mapping[str, Sequence[Snapshot]]) -> dict[str, list[Snapshot]]:
    """The snapshots, with the redshift of an earlier field where it is the same within the tolerance."""
    known: set[float] = set()
    shared: dict[str, list[Snapshot]] = {}
    for name, snapshots in series.items():
        own = {snapshot.redshift for snapshot in snapshots}
        shared[name] = []
        for snapshot in snapshots:
            near = None if snapshot.redshift in known else nearest_redshift(snapshot.redshift, known - own)
            shared[name].append(snapshot if near is None else replace(snapshot, redshift=near))
        known |= {snapshot.redshift for snapshot in shared[name]}
    return shared


def _check_same_redshifts(series: Mapping[str, Sequence[Snapshot]]) -> None:
    """Raise `InputError` if fields have different redshifts; it says which field lacks which redshift."""
    redshifts = {name: {snapshot.redshift for snapshot in snapshots} for name, snapshots in series.items()}
    reference = next(iter(series))
    expected = redshifts[reference]
    for name, found in redshifts.items():
        if found == expected:
            continue
        lacking = {name: sorted(expected - found), reference: sorted(found - expected)}
        what = "; ".join(
            f"{field} lacks z = {_listed(missing)}" for field, missing in lacking.items() if missing
        )
        shared = sorted(set.intersection(*redshifts.values()))
        unheard = _left_out(series, shared)
        raise InputError(
            f"expected every field at every redshift; {what}",
            file=series[name][0].file.parent,
            hint="choose the redshifts that all fields have: --set redshifts="
            + (",".join(f"{z:g}" for z in shared) or "Z1,Z2")
            + (
                f". Photons of the sources at z = {_listed(unheard)} are then not counted in n_ion: to have "
                "them counted, convert the files of density and sources alone, all of them"
                if unheard
                else ""
            ),
        )


def _left_out(series: Mapping[str, Sequence[Snapshot]], kept: Sequence[float]) -> list[float]:
    """Redshifts of n_src whose photons n_ion lacks if it is summed up from the redshifts `kept` alone."""
    if "n_ion" in series or not kept:
        return []
    # The photons of the last redshift are never in n_ion.
    return [
        snapshot.redshift
        for snapshot in series.get("n_src", ())
        if snapshot.redshift > min(kept) and snapshot.redshift not in kept
    ]


def _warn_of_photons_left_out(
    everything: Mapping[str, Sequence[Snapshot]], selected: Mapping[str, Sequence[Snapshot]]
) -> None:
    """Warn if n_ion is to be summed up and will lack the photons of snapshots that are not selected."""
    unheard = _left_out(everything, [snapshot.redshift for snapshot in selected.get("n_src", ())])
    if unheard:
        warnings.warn(
            f"--set redshifts leaves out sources at z = {_listed(unheard)}: their photons are not counted in "
            "n_ion, which is summed up from the snapshots that are read. Convert the whole series first: its "
            "store holds n_ion, so that redshifts can be chosen from it",
            stacklevel=2,
        )


def _listed(redshifts: Iterable[float]) -> str:
    return ", ".join(f"{redshift:g}" for redshift in redshifts)


def _selected(
    series: Mapping[str, list[Snapshot]], redshifts: Sequence[float] | None
) -> dict[str, list[Snapshot]]:
    """The snapshots at these redshifts (within 0.001), in the order of time; all if `redshifts` is None.

    Raises
    ------
    InputError
        If a field has no snapshot at one of the redshifts.
    """
    if redshifts is None:
        return dict(series)
    selected: dict[str, list[Snapshot]] = {name: [] for name in series}
    for redshift in redshifts:
        for name, snapshots in series.items():
            matching = [s for s in snapshots if abs(s.redshift - redshift) < REDSHIFT_TOLERANCE]
            if not matching:
                have = _listed(snapshot.redshift for snapshot in snapshots)
                raise InputError(f"--set redshifts: {name} has no z = {redshift:g}; it has {have}")
            selected[name] += matching
    for snapshots in selected.values():
        snapshots.sort(key=lambda snapshot: -snapshot.redshift)
    return selected


def _check_plausible(series: Mapping[str, list[Snapshot]]) -> None:
    """Refuse redshifts that no simulation of galaxies has, and redshifts from a name without their point.

    Raises
    ------
    InputError
        If there is such a redshift. The message names the first one and its file.
    """
    for snapshot in itertools.chain.from_iterable(series.values()):
        redshift = snapshot.redshift
        from_name = lacks_a_point(snapshot.file, redshift)
        if from_name or not 0 <= redshift <= _HIGHEST:
            raise InputError(
                f"{snapshot.name}: expected a redshift between 0 and {_HIGHEST:g}; received z = {redshift:g}"
                + (", a whole number from the file's name: does it lack its point?" if from_name else ""),
                file=snapshot.file,
                hint="name the file like xi_z8.500 for 8.5, or say it in a mapping: [redshift] value = 8.5; "
                "--set redshifts=9,8.5 leaves other snapshots out",
            )


def _warn_of_odd_redshifts(series: Mapping[str, list[Snapshot]]) -> None:
    """Warn of two snapshots at almost one redshift, of a wide gap, and of redshifts that are all below 1."""
    snapshots = max(series.values(), key=len)
    if snapshots and snapshots[0].redshift < 1:
        warnings.warn(
            f"all redshifts are below 1, the first is z = {snapshots[0].redshift:g} "
            f"({snapshots[0].file.name}): are they scale factors? A mapping says so: "
            "[redshift] unit = 'scale factor'",
            stacklevel=2,
        )
    steps = [
        (np.log1p(earlier.redshift) - np.log1p(later.redshift), earlier, later)
        for earlier, later in itertools.pairwise(snapshots)
    ]
    usual = float(np.median([step for step, _, _ in steps])) if steps else 0.0
    widest = _WIDEST_STEP if len(steps) > 1 else _WIDEST_ONLY_STEP
    for step, earlier, later in steps:
        pair = (
            f"z = {earlier.redshift:g} ({earlier.file.name}) and z = {later.redshift:g} ({later.file.name})"
        )
        if earlier.redshift - later.redshift < REDSHIFT_TOLERANCE:
            warnings.warn(f"{pair} are almost the same redshift: is one a copy?", stacklevel=2)
        elif step > widest and (len(steps) == 1 or step > _UNUSUAL * usual):
            warnings.warn(
                f"nothing lies between {pair}: is a redshift misread, are files missing?", stacklevel=2
            )
