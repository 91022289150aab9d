"""The Simulation, reion's data type: an `xarray.Dataset` with named fields, units and checked values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from reion.errors import BadValuesError, InputError
from reion.simulation.arguments import require_dataset
from reion.simulation.arrays import check_coordinates, native_floats, plain_values, require_floats
from reion.simulation.constants import CM_PER_KM, CM_PER_MPC, GRAVITY_CM3_PER_G_S2, PROTON_MASS_G
from reion.simulation.given import box_sides, given_cosmology, numbers_given

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM

DIMS = ("redshift", "x", "y", "z")
AXES = ("x", "y", "z")

Shape = tuple[int, int, int]
"""Cells along x, y and z."""

PHOTON_RATE_UNITS = "1e48 s-1 Mpc-3"
PHOTON_UNITS = "1e66 Mpc-3"
DENSITY_UNITS = "g cm-3"
VELOCITY_UNITS = "km s-1"
TEMPERATURE_UNITS = "K"
RATE_UNITS = "s-1"
SOURCE_UNITS = (PHOTON_RATE_UNITS, "Mpc-3", "Msun Mpc-3")
"""The units that n_src may have. n_ion has the same unit times 1e18 s."""

DEFAULT_COSMOLOGY = {"H0": 67.66, "Om0": 0.30964, "Ob0": 0.04897}
MEAN_MOLECULAR_WEIGHT = 1.222
"""Baryon mass per hydrogen atom in proton masses, as in C2-Ray."""

MAX_MFP = "max_mfp"
"""Name of the variable (redshift,): comoving radius in Mpc that photons reach until the next snapshot."""

CELL_SIZE_TOLERANCE = 0.02
"""Largest relative difference of a simulation's and a model's cells: 1.6 to 3.2 % cost 0.001 in R²."""

CUBIC_TOLERANCE = 1e-3
"""Largest difference between the sides of a cell that counts as a cube, relative to the shortest."""

REDSHIFT_TOLERANCE = 1e-3
"""Largest difference between two redshifts that count as one."""

XI_ROUNDING = 1e-5
"""Largest distance of an ionised fraction from [0, 1] that counts as rounding; it is clipped."""


@dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """A field of a Simulation: its name, the units it may have (the default first) and its range."""

    name: str
    units: tuple[str, ...]
    long_name: str
    minimum: float = 0.0
    maximum: float = np.inf


FIELDS: Mapping[str, FieldSpec] = {
    spec.name: spec
    for spec in (
        FieldSpec(name="n_igm", units=(DENSITY_UNITS,), long_name="baryon density, comoving"),
        FieldSpec(
            name="n_src",
            units=SOURCE_UNITS,
            long_name="ionising photon rate of the sources that switch on at this snapshot, comoving",
        ),
        FieldSpec(
            name="n_ion",
            units=(PHOTON_UNITS, *(f"1e18 s {unit}" for unit in SOURCE_UNITS[1:])),
            long_name="ionising photons emitted up to this snapshot, comoving",
        ),
        FieldSpec(
            name="propagation_mask",
            units=SOURCE_UNITS,
            long_name="mean of n_src over the ball that its photons can reach",
        ),
        FieldSpec(name="xi", units=("1",), long_name="ionised fraction of hydrogen", maximum=1.0),
        *(
            FieldSpec(
                name=f"velocity_{axis}",
                units=(VELOCITY_UNITS,),
                long_name=f"peculiar velocity of the gas along {axis}, proper",
                minimum=-np.inf,
            )
            for axis in AXES
        ),
        FieldSpec(name="t_spin", units=(TEMPERATURE_UNITS,), long_name="spin temperature of the 21-cm line"),
        FieldSpec(
            name="ionisation_rate",
            units=(RATE_UNITS,),
            long_name="photo-ionisations of each neutral hydrogen atom, in the last time step",
        ),
    )
}
GAS_EVERYWHERE_CELLS = 32**3
"""A region of at least this many cells without any gas was never written; it is no void."""
NOT_A_DENSITY = (
    "is it zero because a part was never written, or is the unit another one? An overdensity that is -1 "
    "everywhere is no gas at all"
)


def make_simulation(
    fields: Mapping[str, Any],
    *,
    redshift: Sequence[float] | np.ndarray,
    box_size: float | Sequence[float],
    n_src_units: str = PHOTON_RATE_UNITS,
    cosmology: Mapping[str, float] | FlatLambdaCDM | None = None,
    source_code: str = "unknown",
    check_values: bool = True,
) -> xr.Dataset:
    """Make a Simulation of arrays and check it.

    Parameters
    ----------
    fields
        Arrays of shape (redshift, x, y, z) by name, any of `FIELDS` in the first of their units, such as
        n_igm in g cm-3 (comoving); but n_src and propagation_mask in `n_src_units` (per comoving volume), and
        n_ion in `n_ion_units(n_src_units)`. What an array says of its unit, axes and coordinates counts (see
        `reion.simulation.arrays`). Lazily indexed arrays in these units stay lazy.
    redshift
        One number for each snapshot. Snapshots are put into descending order (the order of time).
    box_size
        Comoving Mpc, one number or three; or a Quantity.
    cosmology
        `H0`, `Om0` and `Ob0`, or a FlatLambdaCDM of astropy. Without it, `DEFAULT_COSMOLOGY` is assumed.
    check_values
        Read every value once and check that it is finite and in range (see `check_simulation`).

    Raises
    ------
    InputError
        If the result is not a Simulation.
    """
    redshift = numbers_given("redshift", redshift, None)
    sides = box_sides(box_size)
    lengths = np.broadcast_to(sides, len(AXES)).tolist()
    data: dict[str, xr.Variable] = {}
    of_sources = {"n_src": n_src_units, "propagation_mask": n_src_units, "n_ion": n_ion_units(n_src_units)}
    for name, values in fields.items():
        if name not in FIELDS:
            raise InputError(f"expected fields named {', '.join(FIELDS)}; received {name!r}")
        units = of_sources.get(name, FIELDS[name].units[0])
        if len(np.shape(values)) != len(DIMS):
            raise InputError(f"{name}: expected shape (redshift, x, y, z); received {np.shape(values)}")
        hint = (
            f"n_src_units says the unit of sources: {', '.join(SOURCE_UNITS)}" if name in of_sources else None
        )
        numbers = native_floats(plain_values(name, values, units, dims=DIMS, hint=hint))
        check_coordinates(name, values, redshift=redshift, tolerance=REDSHIFT_TOLERANCE, sides_mpc=lengths)
        data[name] = xr.Variable(DIMS, numbers, {"units": units, "long_name": FIELDS[name].long_name})
    if not data:
        raise InputError(f"expected at least one of the fields {', '.join(FIELDS)}; received none")
    attrs: dict[str, Any] = {
        "box_size": sides,
        **given_cosmology(DEFAULT_COSMOLOGY if cosmology is None else cosmology),
        "cosmology_assumed": int(cosmology is None),
        "source_code": source_code,
    }
    sizes = {name: variable.shape[1:] for name, variable in data.items()}
    if len(set(sizes.values())) > 1:
        received = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(f"expected fields of one shape; received {received}")
    (shape,) = set(sizes.values())
    coords = {
        "redshift": ("redshift", redshift, {"long_name": "redshift", "units": "1"}),
        **{
            axis: (axis, (np.arange(n) + 0.5) * (length / n), {"long_name": axis, "units": "Mpc"})
            for axis, n, length in zip(AXES, shape, lengths, strict=True)
        },
    }
    for name, variable in data.items():
        if variable.shape[0] != redshift.size:
            raise InputError(
                f"{name}: expected one snapshot for each of {redshift.size} redshifts; "
                f"received {variable.shape[0]}"
            )
    sim = xr.Dataset(data, coords=coords, attrs=attrs)
    order = np.argsort(-redshift, kind="stable")
    if not np.array_equal(order, np.arange(redshift.size)):
        sim = sim.isel(redshift=order)
    return check_simulation(sim, values=check_values)


def check_simulation(sim: xr.Dataset, *, values: bool = True, file: str | None = None) -> xr.Dataset:
    """Check that a Dataset is a Simulation and return it.

    The structure is always checked (dimensions, units, redshifts, box size, cell centres); with `values` also
    every number, one snapshot at a time: finite and within the range of its field (`FIELDS`).

    Raises
    ------
    InputError
        If it is no Simulation. The message says what was expected, what came, in which file and cell.
    """
    require_dataset(sim, file)
    present = [name for name in FIELDS if name in sim.data_vars]
    if not present:
        raise InputError(
            f"expected any of the fields {', '.join(FIELDS)}; received variables {list(sim.data_vars)}",
            file=file,
        )
    for name in present:
        variable = sim[name]
        if variable.dims != DIMS:
            raise InputError(f"{name}: expected dimensions {DIMS}; received {variable.dims}", file=file)
        units = variable.attrs.get("units")
        if units not in FIELDS[name].units:
            raise InputError(
                f"{name}: expected units {' or '.join(map(repr, FIELDS[name].units))}; received {units!r}",
                file=file,
                hint="`reion convert` takes other units with --set",
            )
        require_floats(name, variable.dtype, file=file)
        if 0 in variable.shape:
            raise InputError(
                f"{name}: expected at least one cell and one snapshot; received shape {variable.shape}",
                file=file,
            )
    _check_coordinates(sim, file)
    if values:
        for name in present:
            for index in range(sim.sizes["redshift"]):
                check_values(name, sim[name][index].values, redshift=float(sim["redshift"][index]), file=file)
    return sim


def _check_coordinates(sim: xr.Dataset, file: str | None) -> None:
    missing = [dim for dim in DIMS if dim not in sim.coords]
    if missing:
        raise InputError(f"expected coordinates {', '.join(DIMS)}; missing {', '.join(missing)}", file=file)
    redshift = sim["redshift"].values
    check_redshifts(redshift, file=file)
    if np.unique(redshift).size != redshift.size:
        raise InputError(f"expected each redshift once; received {redshift.tolist()}", file=file)
    if np.any(np.diff(redshift) > 0):
        raise InputError(
            f"expected redshifts in descending order (the order of time); received {redshift.tolist()}",
            file=file,
        )
    if "box_size" not in sim.attrs:
        raise InputError(
            "the box size is missing", file=file, hint="give it in comoving Mpc: --set box_size=714.2857"
        )
    lengths = np.atleast_1d(np.asarray(sim.attrs["box_size"], dtype=np.float64))
    if lengths.size not in (1, 3) or not np.all(np.isfinite(lengths)) or np.any(lengths <= 0):
        raise InputError(
            f"expected a box size of one or three positive lengths in Mpc; received {sim.attrs['box_size']}",
            file=file,
        )
    lengths = np.broadcast_to(lengths, 3)
    for axis, length in zip(AXES, lengths, strict=True):
        n = sim.sizes[axis]
        expected = (np.arange(n) + 0.5) * (length / n)
        if not np.allclose(sim[axis].values, expected, rtol=0, atol=1e-4 * length / n):
            raise InputError(
                f"expected {axis} to be the cell centres of a box of {length:g} Mpc, from {expected[0]:g} to "
                f"{expected[-1]:g}; received {sim[axis].values[0]:g} to {sim[axis].values[-1]:g}",
                file=file,
                hint="a sub-volume of a periodic box is not periodic: give the whole box",
            )


def check_redshifts(redshift: np.ndarray, *, file: str | None = None) -> None:
    """Raise `InputError` if one of the redshifts is not finite or not above -1."""
    if not np.all(np.isfinite(redshift)) or np.any(redshift <= -1):
        raise InputError(f"expected finite redshifts above -1; received {redshift.tolist()}", file=file)


def check_values(
    name: str,
    values: np.ndarray,
    *,
    redshift: float,
    file: str | None = None,
    origin: Sequence[int] = (0, 0, 0),
    whole: bool = True,
) -> None:
    """Check that a snapshot of field `name` (or a block of it at cell `origin`) is finite and in range.

    Parameters
    ----------
    whole
        Whether `values` are a whole snapshot, which must contain gas.

    Raises
    ------
    InputError
        If there is no gas; a BadValuesError, with the number of bad cells and the first, if values are bad.
    """
    spec = FIELDS[name]
    slack = XI_ROUNDING if name == "xi" else 0.0
    low, high = float(values.min()), float(values.max())
    if (
        np.isfinite(low)
        and np.isfinite(high)
        and low >= spec.minimum - slack
        and high <= spec.maximum + slack
    ):
        if name == "n_igm" and high == 0 and (whole or values.size >= GAS_EVERYWHERE_CELLS):
            raise InputError(
                f"n_igm at z = {redshift:g}: expected gas; received a density of zero in all {values.size} "
                f"cells from cell {tuple(int(o) for o in origin)} on",
                file=file,
                hint=NOT_A_DENSITY,
            )
        return
    bad = ~np.isfinite(values)
    what = "finite numbers"
    if not bad.any():
        bad = (values < spec.minimum - slack) | (values > spec.maximum + slack)
        what = "values from 0 to 1" if name == "xi" else "no negative values"
    where = np.unravel_index(int(np.argmax(bad)), values.shape)
    cell = tuple(int(i) + int(o) for i, o in zip(where, origin, strict=True))
    raise BadValuesError(
        f"{name} at z = {redshift:g}: expected {what}; received {int(bad.sum())} that are not, "
        f"the first at cell {cell}: {values[where]}",
        file=file,
        hint="is this an overdensity, rho / mean - 1? Then --set n_igm_unit=overdensity"
        if name == "n_igm" and low < 0
        else None,
    )


_SOURCES = (
    "sources, in cells or as a list of haloes, are read together with the density: give their files too "
    "(`reion convert --help`)"
)
_WHERE_FROM = {
    "n_igm": "the density, of the gas or of all matter, is read together with the other fields: give its "
    "files too (`reion convert --help`)",
    "n_src": _SOURCES,
    "n_ion": f"n_ion is summed up from n_src, the sources of all snapshots: {_SOURCES}",
    "xi": "`reion predict` and `reion simulate` compute the ionised fraction, xi",
}
"""Where a missing field comes from, for the hint of an error."""


def require_fields(sim: xr.Dataset, names: Iterable[str], *, purpose: str, file: str | None = None) -> None:
    """Raise `InputError` if `sim` lacks one of the fields `names`, saying what needs it."""
    require_dataset(sim, file)
    missing = [name for name in names if name not in sim.data_vars]
    if missing:
        have = [name for name in FIELDS if name in sim.data_vars]
        raise InputError(
            f"{purpose} needs {', '.join(missing)}; this simulation has {', '.join(have)}",
            file=file,
            hint=_WHERE_FROM.get(missing[0]),
        )


def box_size_mpc(sim: xr.Dataset) -> tuple[float, float, float]:
    """Comoving side lengths of the box in Mpc."""
    lengths = np.broadcast_to(np.asarray(sim.attrs["box_size"], dtype=np.float64), 3)
    return (float(lengths[0]), float(lengths[1]), float(lengths[2]))


def cell_size_mpc(sim: xr.Dataset) -> tuple[float, float, float]:
    """Comoving side lengths of a cell in Mpc."""
    lx, ly, lz = box_size_mpc(sim)
    return (lx / sim.sizes["x"], ly / sim.sizes["y"], lz / sim.sizes["z"])


def cubic_cell_size_mpc(sim: xr.Dataset) -> float:
    """Comoving side of a cubic cell in Mpc; InputError if its sides differ by more than `CUBIC_TOLERANCE`."""
    sides = cell_size_mpc(sim)
    if max(sides) > min(sides) * (1 + CUBIC_TOLERANCE):
        raise InputError(
            f"expected cubic cells; received cells of {sides[0]:g} x {sides[1]:g} x {sides[2]:g} Mpc",
            hint="regrid with `reion convert --cell-size MPC`",
        )
    return float(np.mean(sides))


def cosmology(sim: xr.Dataset) -> FlatLambdaCDM:
    """Return the simulation's cosmology as an `astropy.cosmology.FlatLambdaCDM`."""
    from astropy.cosmology import FlatLambdaCDM

    return FlatLambdaCDM(**cosmological_parameters(sim))


def cosmological_parameters(sim: xr.Dataset) -> dict[str, float]:
    """H0 in km s-1 Mpc-1, Om0 and Ob0 of a simulation; those of the default where it lacks them."""
    return {key: float(sim.attrs.get(key, default)) for key, default in DEFAULT_COSMOLOGY.items()}


def mean_baryon_density(sim: xr.Dataset) -> float:
    """Cosmic mean baryon density in g cm-3, comoving: Omega_b times the critical density today."""
    return mean_density(cosmological_parameters(sim))


def mean_density(cosmology: Mapping[str, float]) -> float:
    """Cosmic mean baryon density in g cm-3, comoving, in a cosmology given as H0 (km s-1 Mpc-1) and Ob0."""
    hubble_per_s = cosmology["H0"] * CM_PER_KM / CM_PER_MPC
    critical = 3 * hubble_per_s**2 / (8 * math.pi * GRAVITY_CM3_PER_G_S2)
    return float(cosmology["Ob0"] * critical)


def hydrogen_density(n_igm: np.ndarray) -> np.ndarray:
    """Hydrogen atoms in 1e66 Mpc-3, n_igm / (1.222 m_p) as in C2-Ray, in the shape and dtype of n_igm."""
    atoms: np.ndarray = n_igm * n_igm.dtype.type(hydrogen_per_density())
    return atoms


def hydrogen_per_density() -> float:
    """The factor from n_igm in g cm-3 to hydrogen atoms in 1e66 Mpc-3."""
    return hydrogen_per_gram() * CM_PER_MPC**3 / 1e66


def hydrogen_per_gram() -> float:
    """Hydrogen atoms in a gram of gas, 1 / (1.222 m_p): the factor from n_igm in g cm-3 to atoms per cm3."""
    return 1.0 / (MEAN_MOLECULAR_WEIGHT * PROTON_MASS_G)


def with_max_mfp(sim: xr.Dataset, max_mfp_mpc: Sequence[float] | np.ndarray) -> xr.Dataset:
    """Return the simulation with `max_mfp`; InputError unless each snapshot has a positive length in Mpc."""
    lengths = np.asarray(max_mfp_mpc, dtype=np.float64)
    if lengths.shape != (sim.sizes["redshift"],) or not np.all(np.isfinite(lengths)) or np.any(lengths <= 0):
        raise InputError(
            f"{MAX_MFP}: expected one positive length in Mpc for each of {sim.sizes['redshift']} snapshots; "
            f"received {lengths.tolist()}"
        )
    attrs = {"units": "Mpc", "long_name": "comoving radius that photons reach until the next snapshot"}
    return sim.assign({MAX_MFP: ("redshift", lengths, attrs)})


def n_ion_units(n_src_units: str) -> str:
    """Units of n_ion where n_src is in `n_src_units`: the same times 1e18 s."""
    return PHOTON_UNITS if n_src_units == PHOTON_RATE_UNITS else f"1e18 s {n_src_units}"


def shape_of(sim: xr.Dataset) -> Shape:
    """Cells along x, y and z."""
    return (sim.sizes["x"], sim.sizes["y"], sim.sizes["z"])


def cells_of(sim: xr.Dataset) -> int:
    """Number of cells in a snapshot."""
    return math.prod(shape_of(sim))
