"""Every kind of network of the schema becomes a file that agrees with Keras and predicts in tiles."""

import numpy as np
import pytest
import xarray as xr

from reion.config import RunConfig
from reion.models.build import build_model, build_network
from reion.models.normalizer import Normalizer
from reion.prediction import predict as prediction
from reion.prediction.emulator import Emulator
from reion.prediction.sessions import open_session
from reion.prediction.tiles import Tiling
from reion.prediction.trunks import KernelTrunk
from reion.simulation.contract import make_simulation
from reion.storage.store import write_simulation
from reion_exports import TOLERANCE, ModelCard, export

UNITS = {"n_igm": "g cm-3", "n_ion": "1e66 Mpc-3", "n_src": "1e48 s-1 Mpc-3"}
SMALL = {
    "name": "reion",
    "smoothing_cells": (3, 5),
    "diffusion_cells": (3, 5, 3),
    "width": 8,
    "hidden": 8,
    "blocks": 1,
}
UNET = {"name": "unet", "filters": (4, 6, 8)}
PINION = {"name": "pinion", "filters": (8, 8, 8), "mask_smoothing_cells": (3, 5)}
KINDS = {
    "reion": {"model": SMALL},
    "reion, instant, not symmetric": {
        "model": {**SMALL, "symmetric": False},
        "data": {"inputs": "instant"},
    },
    "unet": {"model": UNET},
    "unet, instant, average, batch normalisation": {
        "model": {**UNET, "pooling": "average", "batch_normalisation": True},
        "data": {"inputs": "instant"},
    },
    "pinion": {"model": PINION},
    "pinion, instant": {"model": PINION, "data": {"inputs": "instant"}},
    "patch": {"model": {"name": "patch"}},
    "patch, instant, maxima, own branches": {
        "model": {"name": "patch", "pooling": "max", "shared_branch": False},
        "data": {"inputs": "instant"},
    },
    "patch, normalised target": {
        "model": {"name": "patch", "target": "normalised"},
        "training": {"loss": {"kind": "mse"}},
    },
    "voxel": {"model": {"name": "voxel"}},
    "voxel, instant, asinh": {
        "model": {"name": "voxel", "transforms": {"n_igm": "none", "photons": "asinh"}},
        "data": {"inputs": "instant"},
    },
}
MAGNITUDE = {"n_igm": 4e-31, "n_ion": 50.0, "n_src": 1e5}


def untrained(kind, **more):
    """A network of that kind and its card, which says more."""
    parts = build_model(RunConfig.model_validate(KINDS[kind]))
    count = len(parts.stem.channels)
    normalizer = Normalizer(
        channels=tuple(parts.stem.channels),
        scale=parts.stem.scale,
        transform=parts.stem.transform,
        mean=(0.5,) * count,
        std=(2.0,) * count,
        redshift_mean=8.0,
        redshift_std=2.0,
        xi_mean=0.5,
        xi_std=0.3,
    )
    card = ModelCard(
        name="kind",
        version="1",
        inputs={name: UNITS[name] for name in parts.config.inputs},
        cell_size_mpc=2.0,
        redshift_range=(6.0, 12.0),
        receptive_radius_cells=parts.radius_cells,
        stride_cells=parts.stride_cells,
        symmetric=parts.symmetric,
        **more,
    )
    return build_network(parts, normalizer), card


def random_fields(card, shape):
    rng = np.random.default_rng(0)
    return {name: (MAGNITUDE[name] * rng.lognormal(0, 0.5, shape)).astype(np.float32) for name in card.inputs}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network(kind, tmp_path):
    network, card = untrained(kind)
    report = export(network, card, tmp_path / "kind.onnx")
    assert report.difference < TOLERANCE
    assert "BatchNormalization" not in report.operators

    mesh = (10, 9, 7) if card.stride_cells > 1 else (11, 6, 8)
    fields = random_fields(card, (1, *mesh))
    sim = make_simulation(fields, redshift=[12.0], box_size=[2.0 * n for n in mesh])
    emulator = Emulator(report.path, device="cpu", threads=1)
    whole = emulator.predict(sim)
    tiling = Tiling(
        mesh=mesh,
        tile=(4, 12, 4) if card.stride_cells > 1 else (4, 6, 5),
        halo_cells=card.receptive_radius_cells,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "fit_tiles", lambda *_: prediction.FittedTiles(tiling, keep_fields=True))
        prediction.predict(emulator, write_simulation(sim, tmp_path / "sim.zarr"), tmp_path / "xi.zarr")
    with xr.open_zarr(tmp_path / "xi.zarr") as stored:
        np.testing.assert_allclose(stored["xi"].values, whole.values, rtol=0, atol=1e-6)
    if card.symmetric:
        mean = emulator.predict(sim, symmetrise=48)
        np.testing.assert_allclose(mean.values, whole.values, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_network_that_has_not_learnt_runs_in_our_kernel(tmp_path):
    """Its file leaves out what convolutions add, because all of it is zero."""
    config = RunConfig.model_validate(KINDS["reion"]).model_dump(mode="json")
    network, card = untrained("reion", provenance={"config": config})
    emulator = Emulator(export(network, card, tmp_path / "new.onnx").path, device="cpu")
    assert isinstance(emulator.stages.runner, KernelTrunk)
    fields = random_fields(card, (1, 11, 6, 8))
    whole = open_session(emulator.file_content, "cpu", 1, None)
    expected = whole.run(["xi"], {**fields, "redshift": np.array([8.0], dtype=np.float32)})[0]
    received = emulator.predict_arrays(np.array([8.0]), **fields)
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_rolling_the_box_of_a_unet_by_its_stride_rolls_the_answer(tmp_path):
    network, card = untrained("unet")
    emulator = Emulator(export(network, card, tmp_path / "unet.onnx").path, device="cpu", threads=1)

    def deviation(mesh, shift):
        fields = random_fields(card, mesh)
        rolled = {name: np.roll(values, shift, axis=(0, 1, 2)) for name, values in fields.items()}
        xi = np.roll(emulator.predict_arrays(8.0, **fields), shift, axis=(0, 1, 2))
        return np.abs(emulator.predict_arrays(8.0, **rolled) - xi).max()

    assert deviation((8, 12, 4), (4, -4, 0)) < 1e-6
    assert deviation((8, 4, 12), (-4, 0, 8)) < 1e-6
    assert deviation((8, 12, 4), (1, 0, 0)) > 1e-4, "blocks are cut elsewhere"
    assert deviation((10, 12, 4), (4, 0, 0)) > 1e-4, "blocks are cut elsewhere behind the edge"
