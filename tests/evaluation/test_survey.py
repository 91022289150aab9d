"""The report of an ionised fraction without a truth says what the evaluation says of it with one."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import xarray as xr
import zarr

from reion import InputError, evaluate
from reion.evaluation.report.survey_page import half_redshift, survey_headline, write_survey_report
from reion.evaluation.survey import survey
from reion.metrics import brightness_temperature, optical_depth, power_spectrum
from reion.simulation.contract import DIMS, box_size_mpc, cosmology, hydrogen_density
from reion.simulation.photons import with_n_ion
from reion.storage.single_file import packing_of
from reion.storage.store import consolidate, write_simulation


@pytest.fixture(scope="module")
def found(toy):
    sim = toy()
    return survey({"mine": sim["xi"], "theirs": sim["xi"].clip(0.1, 0.9)}, sim.drop_vars("xi"))


def test_every_number_is_that_of_the_evaluation(toy, found):
    sim = toy()
    judged = evaluate({"mine": sim["xi"], "theirs": sim["xi"].clip(0.1, 0.9)}, sim)
    for name, scores in found.fields.items():
        for own, other in zip(scores.snapshots, judged.predictions[name].snapshots, strict=True):
            assert own.redshift == other.redshift
            assert own.pred.mean_xi == other.pred.mean_xi
            assert own.pred.mass_weighted_xi == other.pred.mass_weighted_xi
            assert own.pred.bubble_size_mpc == other.pred.bubble_size_mpc
            assert own.pred.betti == other.pred.betti
            if own.pred.spectrum is not None and other.pred.spectrum is not None:
                assert np.array_equal(own.pred.spectrum.power, other.pred.spectrum.power)
        assert scores.optical_depth[0] == judged.predictions[name].pooled.optical_depth_pred


def test_optical_depth_below_a_redshift_grows_with_it(toy, found):
    depth = found.fields["mine"].optical_depth
    assert (np.diff(depth) < 0).all()
    # Below the last snapshot all is ionised.
    assert depth[-1] == pytest.approx(optical_depth([7.0], [1.0], cosmology(toy())), rel=0.1)


def test_photons_are_counted_for_each_atom(toy, found):
    sim = with_n_ion(toy())
    expected = [
        float(sim["n_ion"][i].mean(dtype=np.float64))
        / hydrogen_density(sim["n_igm"][i].values).mean(dtype=np.float64)
        for i in range(4)
    ]
    assert found.photons_per_atom == pytest.approx(expected, rel=1e-5)
    assert survey({"mine": toy()["xi"]}, toy()[["xi"]]).photons_per_atom is None


def test_the_headline_says_what_its_optical_depth_takes_for_granted(toy):
    sim = toy()
    whole = xr.ones_like(sim["xi"]) * xr.DataArray([0.0, 0.2, 0.7, 1.0], dims="redshift")
    part = whole[1:3]  # from z = 10 to z = 8
    assert "With" not in survey_headline(survey({"mine": whole}, sim))
    said = survey_headline(survey({"mine": part}, sim))
    assert "With no gas ionised above z = 10 and all gas ionised below z = 8, its optical depth is" in said


def test_half_is_passed_between_the_right_snapshots(toy):
    sim = toy()
    means = sim["xi"].mean(dim=("x", "y", "z")).values
    found = survey({"mine": sim["xi"]}, sim)
    half = half_redshift(found)
    if means.max() < 0.5:
        assert half is None
    else:
        after = int(np.argmax(means >= 0.5))
        assert sim["redshift"][after] <= half <= sim["redshift"][after - 1]


def test_only_common_redshifts_are_measured(toy):
    sim = toy()
    found = survey({"mine": sim["xi"].isel(redshift=[1, 3])}, sim)
    assert [snapshot.redshift for snapshot in found.snapshots] == [10.0, 7.0]
    assert found.left_out == (12.0, 8.0)
    with pytest.raises(InputError, match="expected a redshift"):
        survey({"mine": toy(redshift=(11.0, 9.0))["xi"]}, sim)


@pytest.mark.slow
def test_report_is_whole(toy, found, tmp_path):
    sim = toy()
    fields = {"mine": sim["xi"], "theirs": sim["xi"].clip(0.1, 0.9)}
    page = write_survey_report(found, sim.drop_vars("xi"), fields, tmp_path / "report")
    html = page.read_text(encoding="utf-8")
    assert "Planck 2018" in html
    assert "excursion set" not in html.partition("<script")[0]
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
    assert data["judged"] is False
    assert [method["name"] for method in data["methods"]] == ["mine", "theirs"]
    assert set(data["slices"]["scales"]) == {"density", "sources", "pred"}
    names = {path.stem for path in (page.parent / "figures").iterdir()}
    assert names == {"history", "regions", "slices", "power_spectrum", "bubble_sizes", "granulometry"}
    with (page.parent / "numbers" / "survey.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert float(rows[3]["mean_xi"]) == pytest.approx(float(sim["xi"][3].mean(dtype=np.float64)), rel=1e-6)
    with pytest.raises(InputError, match="exists already"):
        write_survey_report(found, sim, fields, tmp_path / "report")


def test_before_the_first_bubble_the_21_cm_signal_has_a_spectrum_and_xi_has_none(toy, tmp_path):
    sim = toy()
    values = sim["xi"].values.copy()
    values[0], values[3] = 0.0, 1.0
    sim = sim.assign(xi=sim["xi"].copy(data=values))
    found = survey({"mine": sim["xi"]}, sim.drop_vars("xi"))
    neutral, ionised = found.fields["mine"].snapshots[0], found.fields["mine"].snapshots[-1]
    assert neutral.featureless
    assert neutral.pred.spectrum.power is None
    assert neutral.pred.spectrum.density_correlation is None
    density = sim["n_igm"][0].values / sim["n_igm"][0].values.mean(dtype=np.float64) - 1
    signal = brightness_temperature(np.zeros_like(density), density, 12.0, cosmology(sim))
    expected = power_spectrum(signal, box_size_mpc(sim)).dimensionless
    assert neutral.pred.spectrum.brightness_power == pytest.approx(expected, rel=1e-4)
    assert ionised.featureless
    assert ionised.pred.spectrum is None
    page = write_survey_report(found, sim.drop_vars("xi"), {"mine": sim["xi"]}, tmp_path / "report")
    assert "only that of the 21-cm signal is drawn" in page.read_text(encoding="utf-8")
    with (page.parent / "numbers" / "spectrum.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if float(row["redshift"]) == 12.0]
    assert [float(row["brightness_power"]) for row in rows] == pytest.approx(expected, rel=1e-4)
    assert {row["power"] for row in rows} == {""}


def test_command_reports_on_several_xi(command, toy, tmp_path):
    sim = toy(shape=(8, 8, 8))
    write_simulation(sim.drop_vars("xi"), tmp_path / "sim.zarr")
    for name, low in (("mine", 0.0), ("theirs", 0.1)):
        write_simulation(sim[["xi"]].clip(low, 1.0, keep_attrs=True), tmp_path / f"{name}.zarr")
    code, printed, said = command(
        "report", tmp_path / "mine.zarr", tmp_path / "sim.zarr", "--against", tmp_path / "theirs.zarr",
        "--report", tmp_path / "page.html", "--json",
    )  # fmt: skip
    assert code == 0, said
    result = json.loads(printed)
    assert list(result["fields"]) == ["mine", "theirs"]
    assert len(result["photons_per_atom"]) == 4
    code, _, said = command("report", tmp_path / "sim.zarr", "--report", tmp_path / "other.html")
    assert code == 2
    assert "needs xi" in said


@pytest.mark.parametrize("kind", ["xi.zarr", "xi.h5", "xi.nc", "xi.npz"])
def test_command_refuses_the_xi_of_another_box(command, toy, tmp_path, kind):
    sim = toy(shape=(8, 8, 8), redshift=(12.0, 8.0))
    ours = write_simulation(sim, tmp_path / "sim.zarr")
    theirs = write_simulation(
        toy(shape=(8, 8, 8), redshift=(12.0, 8.0), cell_mpc=3.0)[["xi"]], tmp_path / "xi.zarr"
    )
    pack = packing_of(kind)
    if pack is not None:
        pack(theirs, tmp_path / kind)
        theirs = tmp_path / kind
    page = tmp_path / "report.html"
    for arguments in (
        ("report", theirs, ours, "--report", page),
        ("report", ours, "--against", theirs, "--report", page),
        ("evaluate", theirs, ours),
        ("evaluate", ours, ours, "--against", theirs, "--report", page),
        ("evaluate", theirs, ours, "--dry-run"),
    ):
        code, _, said = command(*arguments)
        assert code == 2, arguments
        assert (
            f"{theirs}: expected the simulation's box of 16 x 16 x 16 Mpc; received one of 24 x 24 x 24"
            in said
        )
    assert not page.exists()


@pytest.mark.parametrize("kind", ["xi.zarr", "xi.h5", "xi.nc", "xi.npz"])
def test_command_shows_error_bars_and_warnings_of_a_prediction(command, toy, tmp_path, kind):
    sim = toy(shape=(8, 8, 8), redshift=(9.0, 8.0))
    place = write_simulation(sim[["xi"]], tmp_path / "xi.zarr")
    group = zarr.open_group(place, mode="r+")
    group["xi"].attrs["warnings"] = "max_mfp is 5 Mpc at z = 9; the training had 15 to 30 Mpc"
    spread = group.create_array("xi_std", data=0.1 * sim["xi"].values, dimension_names=DIMS)
    spread.attrs["units"] = "1"
    consolidate(group)
    pack = packing_of(kind)
    if pack is not None:
        pack(place, tmp_path / kind)
        place = tmp_path / kind
    code, _, said = command("report", place, "--report", tmp_path / "report.html")
    assert code == 0, said
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "What xi warned of" in html
    assert "the training had 15 to 30 Mpc" in html
    slices = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])["slices"]
    assert slices["scales"]["spread"]["high"] == pytest.approx(0.1 * float(sim["xi"].max()))
    assert slices["methods"][0]["spread"]
