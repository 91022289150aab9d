"""Small simulations that every test can use."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from reion.simulation.contract import make_simulation


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: no process is left with a long one when the others have none."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def _program_of_its_own() -> Iterator[None]:
    """What is left of `--memory` does not depend on what the tests before have taken of this process."""
    with pytest.MonkeyPatch.context() as patch:  # of its own: a test may undo what it patched itself
        patch.setattr("reion.prediction.memory.resident_memory_bytes", lambda: 256 << 20)
        yield


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without their figures, which take most of their time; tests/evaluation draws them."""
    for page in ("page", "survey_page"):
        monkeypatch.setattr(f"reion.evaluation.report.{page}.save_figure", lambda *_: None)


def toy_simulation(shape=(12, 10, 8), redshift=(12.0, 10.0, 8.0, 7.0), cell_mpc=2.0, seed=0) -> xr.Dataset:
    """A box with every field, smooth enough to look like one: bubbles grow around random sources."""
    rng = np.random.default_rng(seed)
    snapshots = len(redshift)
    n_igm = 4.2e-31 * rng.lognormal(-0.1, 0.4, (1, *shape)).astype(np.float32)
    n_igm = np.repeat(n_igm, snapshots, axis=0)
    n_src = np.where(rng.random((snapshots, *shape)) < 0.02, rng.lognormal(3, 1, (snapshots, *shape)), 0.0)
    centre = rng.integers(0, shape, size=(4, 3))
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    distance = np.min(
        [
            np.linalg.norm((grid - c + np.array(shape) // 2) % shape - np.array(shape) // 2, axis=-1)
            for c in centre
        ],
        axis=0,
    )
    radius = np.linspace(0.0, 0.4 * min(shape), snapshots)
    xi = 1.0 / (1.0 + np.exp(2.0 * (distance[None] - radius[:, None, None, None])))
    return make_simulation(
        {"n_igm": n_igm, "n_src": n_src.astype(np.float32), "xi": xi.astype(np.float32)},
        redshift=redshift,
        box_size=[n * cell_mpc for n in shape],
        cosmology={"H0": 67.66, "Om0": 0.30964, "Ob0": 0.04897},
        source_code="toy",
    )


@pytest.fixture
def simulation() -> xr.Dataset:
    return toy_simulation()


@pytest.fixture(scope="session")
def toy() -> Callable[..., xr.Dataset]:
    """`toy_simulation`, for tests that choose its shape, redshifts or seed."""
    return toy_simulation


def build_toy_network(*, stride: int = 1) -> tuple[Any, Any]:
    """A small network of every kind of layer the models have, and its card, for export and inference."""
    import keras
    from keras import layers, ops

    from reion_exports import ModelCard

    keras.utils.set_random_seed(1)
    n_igm = keras.Input((None, None, None), name="n_igm")
    n_ion = keras.Input((None, None, None), name="n_ion")
    redshift = keras.Input((), name="redshift")
    density = layers.Rescaling(1 / 4.2e-31, name="density")(ops.expand_dims(n_igm, -1))
    photons = layers.Rescaling(1e-2, name="photons")(ops.expand_dims(n_ion, -1))
    near = ops.log(photons / density + 1e-2)
    far = photons
    for size in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):
        far = layers.AveragePooling3D(size, strides=1, padding="valid")(far)
    far = ops.log(far + 1e-2)
    age = ops.zeros_like(far) + ops.reshape(redshift, (-1, 1, 1, 1, 1)) * 0.1
    x = layers.Concatenate()([layers.Cropping3D(1)(near), far, age])
    x = layers.Conv3D(8, 1, activation="silu")(x)
    y = layers.BatchNormalization(name="norm")(layers.Conv3D(8, 3, activation="leaky_relu", name="conv")(x))
    x = layers.Cropping3D(1)(x) + y
    radius = 2
    if stride > 1:
        y = layers.AveragePooling3D(stride)(x)
        x = x + layers.UpSampling3D(stride)(layers.Conv3D(8, 1)(y))
    xi = ops.squeeze(layers.Conv3D(1, 1, activation="sigmoid", name="xi")(x), -1)
    network = keras.Model({"n_igm": n_igm, "n_ion": n_ion, "redshift": redshift}, xi, name="toy")
    norm = network.get_layer("norm")
    norm.moving_mean.assign(np.linspace(-0.2, 0.2, 8))
    norm.moving_variance.assign(np.linspace(0.5, 2.0, 8))
    card = ModelCard(
        name="toy",
        version="1",
        inputs={"n_igm": "g cm-3", "n_ion": "1e66 Mpc-3"},
        cell_size_mpc=2.0,
        redshift_range=(6.0, 12.0),
        receptive_radius_cells=radius,
        stride_cells=stride,
        licence="MIT",
    )
    return network, card


@pytest.fixture(scope="session")
def toy_network() -> tuple[Any, Any]:
    return build_toy_network()


@pytest.fixture(scope="session")
def strided_toy_network() -> tuple[Any, Any]:
    return build_toy_network(stride=4)


@pytest.fixture(scope="session")
def toy_model(toy_network: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy network as an ONNX file."""
    from reion_exports import export

    network, card = toy_network
    return export(network, card, tmp_path_factory.mktemp("toy") / "toy.onnx").path


@pytest.fixture(scope="session")
def strided_toy_model(strided_toy_network: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The strided toy network as an ONNX file."""
    from reion_exports import export

    network, card = strided_toy_network
    return export(network, card, tmp_path_factory.mktemp("strided") / "strided.onnx").path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the command line: exit code, what it printed, what it said on stderr."""
    from reion.cli.main import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["reion", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
