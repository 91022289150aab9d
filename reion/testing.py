"""A test suite for readers, and hypothesis strategies for tests of code that takes Simulations.

It needs hypothesis: `pip install 'reion[testing]'`. The whole test of a reader is then

    from reion.testing import check_reader

    def test_my_reader():
        check_reader(FORMAT, write)

where `write` writes a Simulation in the format without using code of the reader.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from reion.errors import InputError
from reion.readers.assembly import assemble
from reion.readers.folders import expand
from reion.readers.format import Format
from reion.readers.joining import join_boxes
from reion.readers.settings import Settings
from reion.simulation.contract import box_size_mpc, check_simulation, make_simulation

__all__ = ["Writer", "check_reader", "damaged", "layouts", "simulations"]

FIELDS = ("n_igm", "n_src", "xi")
COSMOLOGY = {"H0": 70.0, "Om0": 0.27, "Ob0": 0.044}
"""The cosmology of every Simulation that the strategies draw."""

Writer = Callable[[Path, xr.Dataset], Mapping[str, str]]
"""Writes a Simulation as files into a folder; returns the facts that the files lack, as for `--set`."""

SHAPES = st.tuples(*[st.integers(1, 7)] * 3)
REDSHIFTS = st.lists(st.integers(4000, 20000), min_size=1, max_size=3, unique=True).map(
    lambda numbers: tuple(sorted((number / 1000 for number in numbers), reverse=True))
)
"""One to three redshifts from 4 to 20, with the three decimals that file names have."""

_INTERESTING = (0, 1, 12, -1, -12, 255, 2**15, 2**31 - 1, -(2**31), 2**24 + 7, 4096)


@st.composite
def simulations(
    draw: st.DrawFn,
    *,
    shapes: st.SearchStrategy[tuple[int, int, int]] = SHAPES,
    redshifts: st.SearchStrategy[tuple[float, ...]] = REDSHIFTS,
    fields: Sequence[str] = FIELDS,
    sizes_mpc: st.SearchStrategy[float] | None = None,
) -> xr.Dataset:
    """A strategy for Simulations: random fields of realistic magnitude, sources in a third of the cells.

    Parameters
    ----------
    shapes, redshifts
        Strategies for the numbers of cells along x, y and z, and for redshifts in descending order.
    fields
        Names of the fields, among n_igm, n_src, n_ion and xi.
    sizes_mpc
        A strategy for the comoving side of a cell. By default the box is 500/h Mpc long along x.
    """
    shape, redshift = draw(shapes), draw(redshifts)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    full = (len(redshift), *shape)
    values = {
        "n_igm": 4e-31 * rng.lognormal(0, 0.3, full),
        "n_src": np.where(rng.random(full) < 0.3, rng.lognormal(2, 1, full), 0),
        "n_ion": np.where(rng.random(full) < 0.3, rng.lognormal(2, 1, full), 0),
        "xi": rng.random(full),
    }
    side = 500 / 0.7 / shape[0] if sizes_mpc is None else draw(sizes_mpc)
    return make_simulation(
        {name: values[name].astype(np.float32) for name in fields},
        redshift=redshift,
        box_size=[n * side for n in shape],
        cosmology=COSMOLOGY,
        source_code="random numbers",
    )


@st.composite
def layouts(draw: st.DrawFn, values: np.ndarray) -> np.ndarray:
    """A strategy for arrays of the same values in different memory layouts.

    C or Fortran order, axes that run backwards, gaps between the numbers, the other byte order, read-only.
    """
    in_order = np.asfortranarray if draw(st.booleans()) else np.ascontiguousarray
    array: np.ndarray = in_order(values).copy(order="K")
    if draw(st.booleans()):
        wide = in_order(np.zeros([2 * n for n in array.shape], dtype=array.dtype))
        every_other = (slice(None, None, 2),) * array.ndim
        wide[every_other] = array
        array = wide[every_other]
    for axis in range(array.ndim):
        if draw(st.booleans()):
            array = np.flip(np.flip(array, axis).copy(order="K"), axis)
    if draw(st.booleans()):
        array = array.astype(array.dtype.newbyteorder())
    array.flags.writeable = draw(st.booleans())
    return array


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to four mutations, half of them near the start or the end, where headers are.

    A mutation flips a bit, replaces a byte or an integer, or cuts off, removes, doubles or blanks bytes.
    """
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not out:
            break
        region = rng.integers(4)
        if region == 0:
            at = int(rng.integers(min(len(out), 256)))
        elif region == 1:
            at = len(out) - 1 - int(rng.integers(min(len(out), 1024)))
        else:
            at = int(rng.integers(len(out)))
        _mutate(out, at, rng)
    return bytes(out)


def _mutate(out: bytearray, at: int, rng: np.random.Generator) -> None:
    length = int(rng.integers(1, 64))
    kind = rng.integers(8)
    if kind <= 1:
        out[at] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        out[at] = int(rng.integers(256))
    elif kind == 3:
        width, little = int(rng.choice([2, 4, 8])), str(rng.choice(["little", "big"])) == "little"
        value = _INTERESTING[rng.integers(len(_INTERESTING))]
        out[at : at + width] = (value % 256**width).to_bytes(width, "little" if little else "big")
    elif kind == 4:
        del out[at:]
    elif kind == 5:
        del out[at : at + length]
    elif kind == 6:
        other = int(rng.integers(len(out)))
        out[at:at] = out[other : other + length]
    else:
        out[at : at + length] = bytes([int(rng.choice([0, 32, 48, 255]))]) * length


def check_reader(
    format: Format,  # noqa: A002 (what it is)
    write: Writer,
    *,
    fields: Sequence[str] = FIELDS,
    shapes: st.SearchStrategy[tuple[int, int, int]] = SHAPES,
    examples: int = 25,
    damages: int = 100,
    rtol: float = 3e-6,
) -> None:
    """Check that a reader does what every reader of reion does.

    - It claims the files that `write` wrote, and neither an empty file nor a text.
    - Simulations of any shape and redshifts are read as they were written: fields, redshifts, box, cosmology.
    - A part of a field that is read alone equals that part of the whole field.
    - A damaged file gives a Simulation or an `InputError`, and no other error.

    Parameters
    ----------
    format
        The reader. It need not be one that comes with reion.
    write
        See `Writer`.
    fields
        Names of the fields that the format holds.
    shapes
        A strategy for the numbers of cells along x, y and z that the format can hold.
    examples, damages
        Number of Simulations to write, and number of damaged files to read.
    rtol
        Largest relative error of a value. A value of xi may also be off by 1e-7.

    Raises
    ------
    AssertionError
        If the reader fails a check. The message says which, and hypothesis prints the smallest Simulation
        that shows it.
    """

    @settings(deadline=None, max_examples=examples, database=None, report_multiple_bugs=False)
    @given(sim=simulations(shapes=shapes), data=st.data())
    def reads(sim: xr.Dataset, data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as folder:
            found = _read(format, Path(folder), write(Path(folder), sim))
            _compare(found, sim, fields, rtol)
            name = data.draw(st.sampled_from(list(fields)))
            key = data.draw(st.tuples(*(_part(n) for n in found[name].shape)))
            part, whole = found[name][key].values, found[name].values[key]
            if not np.array_equal(part, whole):
                raise AssertionError(f"{name}[{key}] read alone differs from that part of {name}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check_claims(format)
        reads()
        _check_damaged(format, write, damages)


def _part(size: int) -> st.SearchStrategy[int | slice]:
    slices = st.slices(size).filter(lambda part: bool(range(size)[part]))
    return st.one_of(st.integers(0, size - 1), slices)


def _read(format: Format, folder: Path, given_settings: Mapping[str, str]) -> xr.Dataset:  # noqa: A002
    """The one Simulation that a reader finds in a folder."""
    told = Settings(given_settings, format.settings)
    boxes = join_boxes(format.scan(format.claim(expand(folder)), told))
    if len(boxes) != 1:
        raise AssertionError(f"expected one simulation; the reader finds {len(boxes)}")
    return assemble(boxes[0], told)


def _compare(found: xr.Dataset, sim: xr.Dataset, fields: Sequence[str], rtol: float) -> None:
    check_simulation(found)
    np.testing.assert_allclose(found["redshift"].values, sim["redshift"].values, atol=1e-9)
    np.testing.assert_allclose(box_size_mpc(found), box_size_mpc(sim), rtol=1e-6)
    for key, value in COSMOLOGY.items():
        np.testing.assert_allclose(found.attrs[key], value, rtol=1e-6, err_msg=key)
    for name in fields:
        if found[name].dtype != np.float32:
            raise AssertionError(f"expected {name} in float32; the reader gives {found[name].dtype}")
        atol = 1e-7 if name == "xi" else 0
        np.testing.assert_allclose(found[name].values, sim[name].values, rtol=rtol, atol=atol, err_msg=name)


def _check_claims(format: Format) -> None:  # noqa: A002
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("empty", b""), ("notes.txt", b"what I did on Monday\n")):
            (Path(folder) / name).write_bytes(content)
        claimed = format.claim(expand(folder))
    if claimed:
        raise AssertionError(
            f"the reader claims {', '.join(path.name for path in claimed)}, which are no data"
        )


def _check_damaged(format: Format, write: Writer, damages: int) -> None:  # noqa: A002
    rng = np.random.default_rng(0)
    sim = make_simulation(
        {
            name: np.full((1, 6, 6, 6), value, np.float32)
            for name, value in zip(FIELDS, (4e-31, 1, 0.5), strict=True)
        },
        redshift=[9.0],
        box_size=500 / 0.7,
        cosmology=COSMOLOGY,
        source_code="one number",
    )
    with tempfile.TemporaryDirectory() as made:
        whole, copy = Path(made) / "whole", Path(made) / "damaged"
        whole.mkdir()
        told = write(whole, sim)
        files = [path for path in sorted(whole.rglob("*")) if path.is_file() and path.stat().st_size]
        for number in range(damages):
            shutil.copytree(whole, copy)
            victim = files[int(rng.integers(len(files)))].relative_to(whole)
            (copy / victim).write_bytes(damaged((whole / victim).read_bytes(), rng))
            try:
                found = _read(format, copy, told)
                for name in found.data_vars:
                    found[name].values  # noqa: B018 (reading is what is tried)
            except (InputError, AssertionError):
                pass
            except Exception as error:
                raise AssertionError(
                    f"{victim}, damaged (number {number}), gives {type(error).__name__} in place of "
                    f"InputError: {error}"
                ) from error
            finally:
                shutil.rmtree(copy)
