"""A page that predicts in the browser: the model, a sample and onnxruntime's web build in one folder."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.jobs.outputs import whole_folder, write_json, write_whole
from reion.jobs.places import GENERATOR, Kind, claimed, holds_only
from reion.prediction.emulator import Emulator
from reion.simulation.contract import AXES, DEFAULT_COSMOLOGY, box_size_mpc
from reion.simulation.photons import late_start_is_known
from reion.simulation.recombinations import with_photons_left

RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Files of onnxruntime-web that the page loads, from the `dist` folder of its npm package."""

_PAGE_FILES = ("index.html", "demo.js", "boxes.js", "style.css")


def is_demo_page(folder: Path) -> bool:
    """Whether a folder is one that `write_demo_page` wrote, and holds nothing besides."""
    samples = [path.name for path in folder.glob("sample_z*.npz")]
    return (
        holds_only(folder, (*_PAGE_FILES, *RUNTIME_FILES, "model.onnx", "model.json", *samples))
        and GENERATOR in (folder / "index.html").read_bytes()
    )


@dataclass(frozen=True, kw_only=True)
class DemoPage:
    """A demo page that was written.

    Attributes
    ----------
    output
        Path of the folder.
    model
        Name and version of the model.
    snapshots
        Redshifts of the sample on the page.
    bytes
        Size of the folder.
    """

    output: str
    model: str
    snapshots: Sequence[float]
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return dataclasses.asdict(self)


DEMO_PAGE = Kind(name="the folder of a demo page", is_ours=is_demo_page)


def write_demo_page(
    model: str | Path | bytes | Emulator,
    out: str | Path,
    *,
    runtime: str | Path = "node_modules/onnxruntime-web/dist",
    sim: xr.Dataset | None = None,
    force: bool = False,
) -> DemoPage:
    """Write a folder with a page that loads a model, shows a box and predicts it, all in the browser.

    The page loads nothing from outside the folder. Any file server can serve it, such as
    `python -m http.server`.

    Parameters
    ----------
    model
        What `reion.prediction.emulator.Emulator` opens.
    out
        The folder to write.
    runtime
        Folder with `RUNTIME_FILES`.
    sim
        The sample on the page; by default the held-out box that comes with reion.
    force
        Replace a page that exists.

    Raises
    ------
    InputError
        If something is at `out` and `force` is not set, if onnxruntime-web is not in `runtime`, or if the
        model does not fit the sample.
    """
    runtime = Path(runtime)
    missing = [name for name in RUNTIME_FILES if not (runtime / name).is_file()]
    if missing:
        raise InputError(
            f"expected the web build of onnxruntime; missing {', '.join(missing)}",
            file=runtime,
            hint="`npm install onnxruntime-web` puts them into node_modules/onnxruntime-web/dist; another "
            "folder can be given with --runtime",
        )
    emulator = model if isinstance(model, Emulator) else Emulator(model, device="cpu")
    if sim is None:
        from reion.sample import load_sample

        sim = load_sample().held_out
    emulator.check(sim)
    if "n_ion" in emulator.card.inputs:
        with late_start_is_known():
            sim = with_photons_left(sim)
    with claimed(out, DEMO_PAGE, force=force) as place, whole_folder(place) as folder:
        for name in _PAGE_FILES:
            with resources.as_file(resources.files(__package__) / name) as file:
                shutil.copyfile(file, folder / name)
        for name in RUNTIME_FILES:
            shutil.copyfile(runtime / name, folder / name)
        write_whole(folder / "model.onnx", emulator.content)
        samples = _write_samples(sim, emulator, folder)
        card = emulator.card
        write_json(
            folder / "model.json",
            {
                "name": card.name,
                "version": card.version,
                "inputs": dict(card.inputs),
                "cell_size_mpc": card.cell_size_mpc,
                "redshift_range": list(card.redshift_range),
                "cosmology": DEFAULT_COSMOLOGY,
                "samples": samples,
            },
        )
        size = sum(path.stat().st_size for path in folder.iterdir())
    return DemoPage(
        output=str(out),
        model=f"{card.name} {card.version}",
        snapshots=[sample["redshift"] for sample in samples],
        bytes=size,
    )


def _write_samples(sim: xr.Dataset, emulator: Emulator, folder: Path) -> list[dict[str, Any]]:
    """Write an .npz file for each snapshot, with the model's fields and the true xi if there is one.

    Returns the entries of `model.json` that list them.
    """
    box_size = box_size_mpc(sim)
    samples = []
    for index, redshift in enumerate(sim["redshift"].values.tolist()):
        names = [*emulator.card.inputs, *(["xi"] if "xi" in sim.data_vars else [])]
        fields = {name: sim[name][index].values.astype(np.float32) for name in names}
        file = f"sample_z{redshift:06.3f}.npz"
        np.savez_compressed(
            folder / file,
            allow_pickle=False,
            redshift=np.float64(redshift),
            box_size=np.asarray(box_size),
            **fields,
        )
        samples.append({"file": file, "redshift": redshift, "shape": [sim.sizes[axis] for axis in AXES]})
    return samples
