"""What `evaluate` returns: its numbers, its JSON, the baselines, and no number where none is defined."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import reion
from reion import InputError, check_simulation, with_n_ion
from reion.evaluation.evaluate import evaluate, render
from reion.metrics import (
    BANDS,
    betti_numbers,
    brightness_temperature,
    bubble_sizes,
    cross_coefficient,
    cross_correlation,
    mass_mean,
    mse,
    optical_depth,
    power_ratio,
    power_spectrum,
    r2,
)
from reion.physics import excursion_set
from reion.simulation.contract import AXES, cosmology, hydrogen_density
from reion.sky.signal import signal


@pytest.fixture
def true(toy):
    return toy(shape=(12, 12, 12))


def disturbed(true, seed=0):
    """The true xi with noise, within 0 and 1."""
    rng = np.random.default_rng(seed)
    values = np.clip(true["xi"].values + rng.normal(0, 0.1, true["xi"].shape), 0, 1)
    return true["xi"].copy(data=values.astype(np.float32))


def test_the_shape_others_rely_on(true):
    result = reion.evaluate(disturbed(true), true).to_json()
    json.loads(json.dumps(result, allow_nan=False))
    for method in (result, result["baselines"]["excursion_set"], result["baselines"]["mean_field"]):
        assert [row["redshift"] for row in method["redshifts"]] == true["redshift"].values.tolist()
        for row in (method["pooled"], *method["redshifts"]):
            assert {"r2", "mse", "mean_xi_true", "mean_xi_pred"} <= set(row)
            assert tuple(row["power_ratio"]) == tuple(row["cross_correlation"]) == BANDS


def test_the_json_has_the_stored_names_and_numbers(toy):
    """`toy_evaluation.json` was written when the result was a plain dictionary. New names may come to it.

    Changed since: a pooled true bubble size is null where the predicted one, its pair, is defined nowhere.
    """
    true = toy(shape=(8, 8, 8), redshift=(12.0, 8.0, 7.0))
    values = true["xi"].values.copy()
    values[0] = 0
    true = true.assign(xi=true["xi"].copy(data=values))
    ours, theirs = disturbed(true).isel(redshift=[0, 1]), disturbed(true, seed=1)
    results = {
        "history": evaluate({"ours": ours, "theirs": theirs}, true),
        "without_gas": evaluate(ours, true.drop_vars(["n_igm", "n_src"])),
    }
    stored = json.loads((Path(__file__).parent / "toy_evaluation.json").read_text(encoding="utf-8"))
    for name, result in results.items():
        values = json.loads(json.dumps(result.to_json(), allow_nan=False))
        found, expected = list(leaves(values)), list(leaves(stored[name]))
        # Names and their order, and what is null, to the letter; numbers to the rounding of another machine.
        stored_paths = [path for path, _ in expected]
        found = [(path, value) for path, value in found if path in set(stored_paths)]
        assert [path for path, _ in found] == stored_paths
        for (path, value), (_, old) in zip(found, expected, strict=True):
            if isinstance(old, float):
                assert value == pytest.approx(old, rel=1e-6, abs=1e-9), path
            else:
                assert value == old, path


def leaves(values, path=""):
    """Path and value of everything in a JSON value, in its order; an empty list or object has a path too."""
    if isinstance(values, dict | list):
        pairs = values.items() if isinstance(values, dict) else enumerate(values)
        yield path, f"{type(values).__name__} of {len(values)}"
        for key, value in pairs:
            yield from leaves(value, f"{path}/{key}")
    else:
        yield path, values


def test_methods_have_one_order_and_names_for_people(true):
    predictions = {f"model {number}": disturbed(true, seed=number) for number in range(9)}
    methods = evaluate(predictions, true).methods
    assert [method.label for method in methods] == [*predictions, "excursion set", "mean field"]
    styles = [method.line_style for method in methods]
    # Rivals take six styles in turn; none is the truth's, the first prediction's or the excursion set's.
    assert styles == [1, 3, 4, 5, 6, 7, 8, 3, 4, 2, 0]


def test_the_numbers_are_those_of_the_metrics(true):
    pred = disturbed(true)
    result = evaluate(pred, true)
    scores = result.snapshots[2]
    p, t = pred[2].values, true["xi"][2].values
    assert scores.r2 == pytest.approx(r2(p, t))
    assert scores.mse == pytest.approx(mse(p, t))
    assert scores.mean_xi_true == pytest.approx(t.mean(dtype=np.float64))
    assert scores.power_ratio == pytest.approx(power_ratio(p, t, 24.0))
    assert scores.cross_correlation == pytest.approx(cross_correlation(p, t, 24.0))


def test_pooled_leaves_out_what_is_early_or_uniform(toy):
    true = toy(shape=(12, 12, 12), redshift=(12.0, 11.0, 9.0, 7.0))
    values = true["xi"].values.copy()
    values[1] = 5e-4
    values[3] = 0.9999
    values[3, 0, 0, 0] = 0.2
    true = true.assign(xi=true["xi"].copy(data=values))
    pred = disturbed(true)
    result = evaluate(pred, true)
    p, t = pred.values[2], values[2]
    assert result.pooled.r2 == pytest.approx(r2(p, t))
    assert result.pooled.mse == pytest.approx(mse(p, t))
    assert result.pooled.power_ratio == pytest.approx(power_ratio(p, t, 24.0))
    assert result.snapshots[1].r2 is None
    assert result.snapshots[1].power_ratio["1.0"] is None


def test_pooled_bubble_sizes_are_over_the_snapshots_that_both_have(true):
    """A prediction that finds no bubble in the first half says nothing of their size there."""
    late = disturbed(true)
    first = int(np.flatnonzero([(xi > 0.5).any() for xi in true["xi"].values])[0])
    late[: first + 1] = 0.0
    result = evaluate(late, true)
    whole = [s for s in result.snapshots[first + 1 :] if s.is_pooled]
    assert result.snapshots[first].is_pooled
    assert result.pooled.bubble_size_mpc_true == pytest.approx(
        np.mean([bubble_sizes(true["xi"].values[first + 1 + i], 24.0).mean_mpc for i in range(len(whole))])
    )
    assert result.pooled.bubble_size_mpc_pred == pytest.approx(
        np.mean([s.pred.bubble_size_mpc for s in whole])
    )
    assert result.mean_field.pooled.bubble_size_mpc_true is None


def test_pooled_r2_is_over_all_cells_together(toy):
    true = toy(shape=(12, 12, 12), redshift=(11.4, 9.0, 8.0, 7.0))
    pred = disturbed(true)
    pooled = evaluate(pred, true).pooled
    use = [i for i in range(4) if 1e-3 <= true["xi"].values[i].mean() <= 1 - 1e-3]
    p, t = pred.values[use].astype(np.float64), true["xi"].values[use].astype(np.float64)
    assert pooled.r2 == pytest.approx(1 - np.sum((p - t) ** 2) / np.sum((t - t.mean()) ** 2), rel=1e-9)


def test_baselines_are_the_mean_and_the_excursion_set(true):
    result = evaluate(disturbed(true), true, excursion_threshold=2.0, excursion_inputs="instant")
    mean_field = result.mean_field.snapshots[2]
    assert mean_field.r2 == pytest.approx(0, abs=1e-9)
    assert mean_field.power_ratio["1.0"] == 0
    assert mean_field.cross_correlation["1.0"] is None
    photons = list(excursion_set.photons(true, "instant"))[2]
    ionised = excursion_set.ionised(photons, hydrogen_density(true["n_igm"][2].values), threshold=2.0)
    scores = result.excursion_set.snapshots[2]
    assert scores.mean_xi_pred == pytest.approx(ionised.mean())
    assert scores.r2 == pytest.approx(r2(ionised, true["xi"][2].values))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda true: true.drop_vars("n_src"), "n_ion or n_src"),
        (lambda true: true.drop_vars("n_igm"), "n_igm"),
        (
            lambda true: true.assign(n_src=true["n_src"].assign_attrs(units="Msun Mpc-3")),
            "photons; n_src is in Msun Mpc-3",
        ),
    ],
)
def test_an_excursion_set_that_cannot_be_is_null_and_says_why(true, change, reason):
    true = change(true)
    result = evaluate(disturbed(true), true)
    assert result.excursion_set is None
    assert [method.label for method in result.methods] == ["prediction", "mean field"]
    baseline = result.to_json()["baselines"]["excursion_set"]
    assert baseline["pooled"] is None
    assert reason in baseline["missing"]
    assert reason in " ".join(text(render(result)).split())


def test_flat_cells_have_no_excursion_set_but_everything_else(true):
    lengths = [24.0, 24.0, 48.0]
    fields = {name: true[name].values for name in ("n_igm", "n_src", "xi")}
    flat = reion.make_simulation(fields, redshift=true["redshift"].values, box_size=lengths)
    result = evaluate(disturbed(flat), flat)
    assert "cubic cells" in result.excursion_set_missing
    expected = power_ratio(disturbed(flat)[2].values, flat["xi"][2].values, lengths)
    assert result.snapshots[2].power_ratio == pytest.approx(expected)


def test_rivals_are_compared_on_the_redshifts_all_have(true):
    ours, theirs = disturbed(true, seed=1), disturbed(true, seed=2).isel(redshift=[3, 1])
    result = evaluate({"ours": ours, "theirs": theirs}, true)
    assert result.name == "ours"
    assert [scores.redshift for scores in result.snapshots] == [10.0, 7.0]
    assert result.left_out == (12.0, 8.0)
    rival = result.predictions["theirs"].snapshots[0]
    assert rival.mse == pytest.approx(mse(theirs[1].values, true["xi"][1].values))
    assert "theirs" in text(render(result))


def test_a_perfect_prediction(true):
    pooled = evaluate(true["xi"], true).pooled
    assert pooled.r2 == 1.0
    assert pooled.mse == 0.0
    assert pooled.power_ratio["1.0"] == pytest.approx(1.0)


def test_bad_predictions_are_refused(true):
    pred = disturbed(true)
    with pytest.raises(InputError, match="mesh"):
        evaluate(pred.isel(x=slice(6)), true)
    elsewhere = pred.assign_coords({axis: 1.1 * pred[axis] for axis in AXES})
    for axis in AXES:
        elsewhere[axis].attrs["units"] = "Mpc"
    with pytest.raises(InputError, match="prediction: expected the simulation's box of 24 x 24 x 24 Mpc"):
        evaluate(elsewhere, true)
    evaluate(elsewhere.drop_vars(AXES), true)
    numbered = pred.assign_coords({axis: np.arange(12) for axis in AXES})
    evaluate(numbered, true)
    with pytest.raises(InputError, match="redshift that the truth"):
        evaluate(pred.assign_coords(redshift=pred["redshift"] + 0.1), true)
    with pytest.raises(InputError, match="expected dimensions"):
        evaluate(pred.transpose("x", "y", "z", "redshift"), true)
    with pytest.raises(InputError, match="coordinate 'redshift'"):
        evaluate(pred.drop_vars("redshift"), true)
    with pytest.raises(InputError, match="expected finite"):
        evaluate(pred.where(pred["redshift"] > 9), true)
    with pytest.raises(InputError, match="from 0 to 1"):
        evaluate(pred + 0.5, true)
    with pytest.raises(InputError, match="needs xi"):
        evaluate(pred, true.drop_vars("xi"))
    with pytest.raises(InputError, match="at least one prediction"):
        evaluate({}, true)
    with pytest.raises(InputError, match="box size is missing"):
        evaluate(pred, true.drop_attrs(deep=False))


def test_the_table_shows_every_method_and_dashes(true):
    output = text(render(evaluate({"reion": disturbed(true)}, true)), width=80)
    for word in ("reion", "exc.", "mean", "pooled", " - "):
        assert word in output
    assert "…" not in output


def text(table, width=160):
    console = Console(width=width, file=None, record=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_progress_counts_snapshots(true):
    seen = []
    evaluate(disturbed(true), true, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_curves_and_history(true):
    result = evaluate(disturbed(true), true)
    scores = result.snapshots[2]
    p, t = disturbed(true)[2].values, true["xi"][2].values
    spectrum = power_spectrum(t, 24.0)
    assert scores.bins.k == pytest.approx(spectrum.k)
    assert scores.true.spectrum.power == pytest.approx(spectrum.dimensionless)
    assert scores.cross_correlation_spectrum == pytest.approx(cross_coefficient(p, t, 24.0)[1])
    density = true["n_igm"][2].values / true["n_igm"][2].values.mean(dtype=np.float64)
    with_density = cross_coefficient(t, density, 24.0)[1]
    assert scores.true.spectrum.density_correlation == pytest.approx(with_density)
    model = cosmology(true)
    signal = brightness_temperature(p, density - 1, scores.redshift, model)
    power = power_spectrum(signal, 24.0).dimensionless
    assert scores.pred.spectrum.brightness_power == pytest.approx(power)
    assert scores.true.bubble_size_mpc == pytest.approx(bubble_sizes(t, 24.0).mean_mpc)
    assert scores.pred.betti == betti_numbers(p)
    history = [mass_mean(xi, n) for xi, n in zip(true["xi"].values, true["n_igm"].values, strict=True)]
    expected = optical_depth(true["redshift"].values, history, model)
    assert result.pooled.optical_depth_true == pytest.approx(expected)


def test_turning_the_box_turns_nothing_in_the_scores(true):
    pred = disturbed(true)
    turned = evaluate(pred.copy(data=np.rot90(pred.values, axes=(1, 2))), turn(true))
    straight = evaluate(pred, true)
    for name in ("r2", "mse", "calibration_error", "optical_depth_pred"):
        assert getattr(turned.pooled, name) == pytest.approx(getattr(straight.pooled, name), rel=1e-5), name
    for band in ("1.0", "nyquist"):
        for name in ("power_ratio", "cross_correlation"):
            there, here = (getattr(result.pooled, name)[band] for result in (turned, straight))
            assert there == pytest.approx(here, rel=1e-5)
    assert turned.excursion_set.pooled.r2 == pytest.approx(straight.excursion_set.pooled.r2)


def turn(sim):
    """The simulation turned by ninety degrees about z."""
    return sim.assign(
        {name: sim[name].copy(data=np.rot90(sim[name].values, axes=(1, 2))) for name in sim.data_vars}
    )


def test_arguments_of_another_type_are_refused_in_words(simulation, tmp_path):
    xi = simulation["xi"]
    for call in (
        lambda: evaluate({"a": xi.values}, simulation),
        lambda: evaluate(xi.values, simulation),
        lambda: evaluate({"a": xi}, simulation, spreads={"a": xi.values}),
    ):
        with pytest.raises(
            InputError, match=r"DataArray .*; received numpy.ndarray of shape \(4, 12, 10, 8\)"
        ):
            call()
    for wrong in (xi.values, str(tmp_path), tmp_path, None, xi):
        for call in (
            lambda wrong: evaluate({"a": xi}, wrong),
            check_simulation,
            with_n_ion,
            lambda wrong: signal(wrong, 0),
        ):
            with pytest.raises(
                InputError, match=r"expected a Simulation, which is an xarray.Dataset; received"
            ):
                call(wrong)
