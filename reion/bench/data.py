"""Reading, inspecting and converting, compared with plain reading and with a gibibyte of memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from reion.bench.harness import Ratio, Result, interleaved

CELLS = 300
REDSHIFTS = ("9.000", "8.500", "8.000", "7.500")
SETTINGS = {"preset": "500/h", "f_gamma": "30", "lifetime_myr": "11.53"}
_GIBIBYTE = 1 << 30


def measure(say: Callable[[str], None]) -> Iterator[Result]:
    """Measure on a generated C2-Ray simulation of four snapshots; `say` gets a line before each step."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        say(f"data: writing a C2-Ray simulation of {len(REDSHIFTS)} x {CELLS}^3 cells")
        _write_c2ray(run)
        say("data: reading a snapshot")
        yield _reading(run)
        say("data: converting all, in a process of its own")
        store = Path(folder) / "sim.zarr"
        yield _memory(
            "convert_memory",
            "from reion.storage.conversion import convert; "
            f"result = convert({str(run)!r}, {str(store)!r}, settings={SETTINGS!r})",
        )
        say("data: inspecting all, in a process of its own")
        yield _memory(
            "inspect_memory",
            "from reion.inspection.look import inspect; from reion.readers import open_simulation; "
            f"result = inspect(open_simulation({str(store)!r}))",
        )
        say("data: inspecting a snapshot")
        yield _inspecting(store)


def _write_c2ray(folder: Path) -> None:
    """Write one snapshot, and link the same files under the names of the other redshifts."""
    rng = np.random.default_rng(0)
    shape = np.full(3, CELLS, "<i4")
    cells = CELLS**3
    marker = np.array([8 * cells], "<i4")
    first = REDSHIFTS[0]
    with (folder / f"xfrac3d_{first}.bin").open("wb") as stream:
        for part in (np.array([12], "<i4"), shape, np.array([12], "<i4"), marker, rng.random(cells), marker):
            part.tofile(stream)
    with (folder / f"{first}n_all.dat").open("wb") as stream:
        shape.tofile(stream)
        (97844.7 * rng.lognormal(-0.1, 0.5, cells)).astype("<f4").tofile(stream)
    sources = np.column_stack([rng.integers(1, CELLS + 1, (20_000, 3)), rng.lognormal(3, 1, (20_000, 2))])
    with (folder / f"{first}-coarsest_wsubgrid_sources.dat").open("w") as stream:
        stream.write(f"{len(sources)}\n")
        np.savetxt(stream, sources, "%d %d %d %.6e %.6e")
    for redshift in REDSHIFTS[1:]:
        for path in list(folder.glob(f"*{first}*")):
            (folder / path.name.replace(first, redshift)).hardlink_to(path)


def _reading(run: Path) -> Result:
    from reion.readers import open_simulation
    from reion_kernels import moments

    first = REDSHIFTS[0]
    sim = open_simulation(run, settings=SETTINGS)

    def ours() -> None:
        for name in ("n_igm", "xi"):
            sim[name][0].values  # noqa: B018 (reading is what is measured)

    def plain() -> None:
        moments(np.fromfile(run / f"{first}n_all.dat", "<f4", offset=12))
        moments(np.fromfile(run / f"xfrac3d_{first}.bin", "<f8", offset=24, count=CELLS**3))

    compared = interleaved(ours, plain, rounds=7)
    return Result(
        name="read_c2ray",
        ratio=compared.ratio,
        against="numpy.fromfile of density and xi, and a pass of the moments kernel over each",
        target=1 / 1.5,
        extra={"seconds": compared.seconds},
    )


def _inspecting(store: Path) -> Result:
    from reion.inspection.look import inspect
    from reion.readers import open_simulation

    sim = open_simulation(store).isel(redshift=slice(1, 2))

    def plain() -> None:
        for name in sim.data_vars:
            sim[name][0].values  # noqa: B018 (reading is what is measured)

    compared = interleaved(lambda: inspect(sim), plain, rounds=7)
    return Result(
        name="inspect",
        ratio=compared.ratio,
        against="reading and decoding the same fields",
        target=0.5,
        extra={"seconds": compared.seconds},
    )


def _memory(name: str, code: str) -> Result:
    """A gibibyte divided by the peak memory of a process that only runs `code`."""
    script = (
        "import json, time, warnings; warnings.simplefilter('ignore'); started = time.perf_counter(); "
        f"{code}; from reion.jobs.resources import peak_memory_bytes; "
        "print(json.dumps([peak_memory_bytes(), time.perf_counter() - started]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    peak, seconds = json.loads(done.stdout.splitlines()[-1])
    return Result(
        name=name,
        ratio=Ratio.of([_GIBIBYTE / peak]),
        against="1 GiB, on four snapshots of 300^3 cells",
        target=1.0,
        extra={"peak_memory_bytes": peak, "seconds": seconds},
    )
