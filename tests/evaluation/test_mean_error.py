"""`reion calibrate`: the error bar of mean xi, measured on simulations that a model has not learnt from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from reion.evaluation.mean_error import calibrate
from reion.prediction.emulator import Emulator
from reion.prediction.predict import predict
from reion.simulation.contract import with_max_mfp
from reion.storage.store import write_simulation

MODEL = "rt-worlds-fast"

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # the toys are outside of the training


def box(toy, seed: int) -> xr.Dataset:
    return with_max_mfp(toy(redshift=(11.0, 9.0, 8.0, 7.0), seed=seed), [15.0] * 4)


def test_the_share_is_the_one_that_two_thirds_of_the_snapshots_stay_below(toy, tmp_path, command):
    boxes = [box(toy, 1), box(toy, 2)]
    for number, sim in enumerate(boxes):
        write_simulation(sim, tmp_path / f"box{number}.zarr")
    out = tmp_path / "mine.onnx"
    code, printed, said = command(
        "calibrate", MODEL, tmp_path / "box0.zarr", tmp_path / "box1.zarr", "--out", out, "--json"
    )
    assert code == 0, said

    ratios = []
    for sim in boxes:
        answer = Emulator(MODEL).predict_with_spread(sim).astype(np.float64).mean(("x", "y", "z"))
        true = sim["xi"].astype(np.float64).mean(("x", "y", "z"))
        partly = (true > 0.001) & (true < 0.999)
        ratios += (abs(answer["xi"] - true) / answer["xi_std"])[partly].values.tolist()
    share = np.quantile(ratios, 0.683)
    told = json.loads(printed)
    assert told["mean_error_share"] == pytest.approx(share, rel=1e-5)
    assert told["snapshots"] == len(ratios)
    assert told["before"] == Emulator(MODEL).card.mean_error_share

    # What predicts is unchanged; the error bar of mean xi follows the new share, the card says from what.
    old, new = (predict(model, tmp_path / "box0.zarr", tmp_path / name, uncertainty=True) for model, name in (
        (MODEL, "old.zarr"), (out, "new.zarr")
    ))  # fmt: skip
    xr.testing.assert_equal(xr.open_zarr(old.output).load(), xr.open_zarr(new.output).load())
    scaled = [row.mean_xi_std * told["mean_error_share"] / told["before"] for row in old.history]
    assert [row.mean_xi_std for row in new.history] == pytest.approx(scaled)
    measured = Emulator(out).card.provenance["mean_error"]
    assert measured == {"snapshots": len(ratios), "simulations": ["toy", "toy"]}


def test_what_it_does_not_take(toy, tmp_path):
    sim, out = box(toy, 1), tmp_path / "mine.onnx"
    refused = [
        (MODEL, [sim.drop_vars("xi")], "true ionised fraction xi; toy has none"),
        ("rt64-history", [sim], "does not say how far"),
        (MODEL, [sim.isel(redshift=[0, 1])], "expected at least 5 snapshots"),
    ]
    for model, sims, message in refused:
        with pytest.raises(ValueError, match=message):
            calibrate(model, sims, out)
        assert list(tmp_path.iterdir()) == []
    out.write_text("mine")
    with pytest.raises(ValueError, match=r"mine\.onnx"):
        calibrate(MODEL, [sim], out, force=True)
    assert out.read_text() == "mine"
