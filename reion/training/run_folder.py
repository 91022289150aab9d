"""A run folder, read back: predict with it, export it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import xarray as xr

import reion
from reion.config import RunConfig, load_config
from reion.errors import InputError
from reion.jobs.outputs import read_json, write_whole
from reion.models.build import Model, build_model, build_network
from reion.models.normalizer import Normalizer
from reion.simulation.contract import DENSITY_UNITS, DIMS, n_ion_units, require_fields, with_n_ion

LICENCE = "MIT"


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes
    ----------
    network
        Raw fields in, xi out, as `reion.models.build.build_network` describes it.
    metrics, provenance
        What metrics.json and provenance.json hold.
    """

    folder: Path
    config: RunConfig
    model: Model
    normalizer: Normalizer
    network: keras.Model
    metrics: dict[str, Any]
    provenance: dict[str, Any]

    def predict(self, sim: xr.Dataset) -> xr.DataArray:
        """Predict xi of every snapshot with Keras, whole boxes at once.

        For boxes that do not fit in memory, export the run and use `reion.prediction.emulator.Emulator`.
        """
        names = self.config.inputs
        if "n_ion" in names:
            sim = with_n_ion(sim)
        require_fields(sim, names, purpose="prediction")
        radius = self.model.radius_cells
        xi = np.empty(sim[names[0]].shape, dtype=np.float32)
        for index, redshift in enumerate(sim["redshift"].values):
            # Up to the stride the box goes on periodically; what lies beyond it is dropped.
            width = [(radius, radius + -n % self.model.stride_cells) for n in xi.shape[1:]]
            inputs = {name: np.pad(sim[name][index].values, width, mode="wrap")[None] for name in names}
            inputs["redshift"] = np.array([redshift], dtype=np.float32)
            answer = keras.ops.convert_to_numpy(self.network(inputs, training=False))[0]
            xi[index] = answer[tuple(map(slice, xi.shape[1:]))]
        attrs = {"units": "1", "model": str(self.folder)}
        return xr.DataArray(
            xi, dims=DIMS, coords={dim: sim.coords[dim] for dim in DIMS}, name="xi", attrs=attrs
        )


def load_run(folder: str | Path) -> Run:
    """Read a finished run folder.

    Raises
    ------
    InputError
        If it is not one, or its training has not finished.
    """
    folder = Path(folder)
    if not (folder / "config.toml").is_file():
        raise InputError("expected a run folder, as `reion train --out` writes it", file=folder)
    if not (folder / "metrics.json").is_file():
        raise InputError(
            "this run has not finished",
            file=folder,
            hint="finish it: the same `reion train` with --resume",
        )
    config = load_config(folder / "config.toml")
    normalizer = Normalizer.from_dict(read_json(folder / "normalizer.json"))
    model = build_model(config)
    network = build_network(model, normalizer)
    try:
        network.load_weights(folder / "model.keras")
    except (OSError, ValueError) as error:
        raise InputError(f"the weights do not fit the configuration: {error}", file=folder) from error
    metrics, provenance = read_json(folder / "metrics.json"), read_json(folder / "provenance.json")
    return Run(folder, config, model, normalizer, network, metrics, provenance)


def export_run(
    folder: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    scores: Mapping[str, Any] | None = None,
    half: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Export a finished run as a self-contained ONNX file.

    Parameters
    ----------
    folder, out
        The run folder and the file to write.
    name
        Of the model, in the file's metadata; the default is the file's name.
    scores
        Held-out scores for the metadata (see `held_out_scores`); by default the training's own validation
        score, named as such.
    half
        Store weights in float16 where parity allows.

    Returns
    -------
    dict
        `output`, `bytes`, `sha256`, `nodes`, `max_difference` from Keras.

    Raises
    ------
    InputError
        If the run is not finished, the file is there, or file and Keras disagree; nothing is written then.
    """
    from reion_exports import ExportError, ModelCard, export

    run = load_run(folder)
    out = Path(out)
    n_src_units = run.metrics["n_src_units"]
    units = {"n_igm": DENSITY_UNITS, "n_src": n_src_units, "n_ion": n_ion_units(n_src_units)}
    low, high = run.metrics["redshift_range"]
    card = ModelCard(
        name=name or out.stem,
        version=reion.__version__,
        inputs={field: units[field] for field in run.config.inputs},
        cell_size_mpc=run.metrics["cell_size_mpc"],
        redshift_range=(low, high),
        receptive_radius_cells=run.model.radius_cells,
        stride_cells=run.model.stride_cells,
        normalizer=run.normalizer.to_dict(),
        training_data=tuple(item["sha256"] for item in run.provenance["data"]),
        scores=dict(scores or {"validation_r2": run.metrics["validation_r2"]}),
        excursion_set_threshold=run.metrics["excursion_set_threshold"],
        symmetric=run.model.symmetric,
        licence=LICENCE,
        provenance={"training": run.provenance, "config": run.config.model_dump(mode="json")},
    )
    try:
        report = export(run.network, card, out, half=half, force=force, write=write_whole)
    except FileExistsError as error:
        raise InputError("the file is already there", file=out, hint="--force replaces it") from error
    except ExportError as error:
        raise InputError(f"the network does not export: {error}", file=folder) from error
    return {
        "output": str(out),
        "bytes": report.bytes,
        "sha256": report.sha256,
        "nodes": report.nodes,
        "max_difference": report.difference,
    }


def held_out_scores(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of an evaluation (`reion evaluate --json`) that a model file carries.

    Raises
    ------
    InputError
        If it is not an evaluation.
    """
    kept = ("redshift", "r2", "mean_xi_true", "mean_xi_pred", "power_ratio", "cross_correlation")
    try:
        rows = [{name: row[name] for name in kept} for row in evaluation["redshifts"]]
        pooled = {name: evaluation["pooled"][name] for name in kept[1:]}
        excursion_set = evaluation["baselines"]["excursion_set"]["pooled"]["r2"]
    except (KeyError, TypeError) as error:
        raise InputError(f"expected the JSON of `reion evaluate`; missing {error}") from error
    return {"pooled": pooled, "redshifts": rows, "excursion_set_r2": excursion_set}
