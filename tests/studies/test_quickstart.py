"""The whole way through the house, with a network small enough for a test."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("tf2onnx")

import reion
from reion.config import load_config, write_config
from reion.prediction.emulator import Emulator
from reion.simulation.photons import with_n_ion
from reion.storage.store import write_simulation
from reion.studies import quickstart

SMALL = (
    "model.smoothing_cells=[3,5,7,11]",
    "model.diffusion_cells=[3,3]",
    "model.width=12",
    "model.hidden=8",
    "model.blocks=1",
    "training.crop_cells=16",
    "training.steps=60",
    "training.round_steps=30",
    "training.learning_rate=0.01",
)


@pytest.mark.slow
def test_the_whole_way(tmp_path, command, no_figures):
    out = tmp_path / "quickstart"
    settings = [part for setting in SMALL for part in ("--set", setting)]
    code, printed, _ = command("quickstart", "--out", out, "--json", *settings)
    assert code == 0
    result = json.loads(printed)
    assert set(result) == {"seconds", "run", "model", "report", "evaluation"}
    evaluation = result["evaluation"]
    mean_field = evaluation["baselines"]["mean_field"]["pooled"]["r2"]
    assert evaluation["pooled"]["r2"] > max(0.75, mean_field)
    assert 0.7 < evaluation["baselines"]["excursion_set"]["pooled"]["r2"] < 0.9
    assert [row["redshift"] for row in evaluation["redshifts"]] == [12, 11, 10, 9, 8.5, 8, 7.5, 7, 6.5, 6]

    # The page is one file that fetches nothing.
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page

    # The file that was judged is the file that was written, and it agrees with the run it came from.
    held_out = with_n_ion(reion.load_sample().held_out).isel(redshift=[5])
    from_file = Emulator(out / "model.onnx").predict(held_out)
    code, printed, _ = command("evaluate", out / "run", "--json", out / "nowhere")
    assert code == 2
    assert json.loads(printed)["error"]["file"].endswith("nowhere")

    from reion.training.run_folder import load_run

    from_run = load_run(out / "run").predict(held_out)
    np.testing.assert_allclose(from_file.values, from_run.values, atol=1e-5)

    # A second one does not touch the first.
    before = (out / "model.onnx").read_bytes()
    code, _, said = command("quickstart", "--out", out, *settings)
    assert code == 2
    assert "--force" in said
    assert (out / "model.onnx").read_bytes() == before


@pytest.mark.parametrize(("setting", "calls"), [("seed=0", "export_run"), ("seed=1", "train")])
def test_a_finished_run_is_kept_only_if_it_is_the_run_that_was_asked_for(
    tmp_path, monkeypatch, setting, calls
):
    (tmp_path / "run").mkdir()
    write_config(load_config(), tmp_path / "run" / "config.toml")
    (tmp_path / "run" / "metrics.json").write_text("{}")

    def called(name):
        def stop(*_, **__):
            raise KeyboardInterrupt(name)

        return stop

    for name in ("train", "export_run"):
        monkeypatch.setattr(quickstart, name, called(name))
    with pytest.raises(KeyboardInterrupt, match=calls):
        quickstart.quickstart(tmp_path, config=load_config(settings=[setting]), resume=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["quickstart"],
        ["train", "SIM", "--out", "OUT"],
        ["export", "onnx", "RUN", "--out", "OUT"],
        ["evaluate", "RUN", "SIM"],
        ["bench", "train"],
        ["bench", "predict"],
    ],
)
def test_without_the_training_packages_it_says_what_to_install(arguments, tmp_path, toy):
    """In a process in which they cannot be imported, as after `pip install reion`."""
    write_simulation(toy(), tmp_path / "sim.zarr")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    places = {"SIM": tmp_path / "sim.zarr", "RUN": tmp_path / "run", "OUT": tmp_path / "out"}
    program = f"""
import sys
for name in ("tensorflow", "keras", "onnx", "tf2onnx"):
    sys.modules[name] = None
sys.argv = ["reion", *{[str(places.get(argument, argument)) for argument in arguments]!r}]
from reion.cli.main import main
main()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 2
    assert "pip install 'reion[train]'" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 2
    assert not (tmp_path / "out").exists()
