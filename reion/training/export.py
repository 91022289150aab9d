"""A finished run as one self-contained ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import reion
from reion.errors import InputError
from reion.jobs.outputs import sha256_of, write_whole
from reion.jobs.places import MODEL_FILE, claimed
from reion.models.build import Model, build_network, trunk_on_channels
from reion.models.normalizer import Normalizer
from reion.models.stems import PhotonTransport
from reion.simulation.contract import DENSITY_UNITS, n_ion_units
from reion.training.run_folder import Run, load_run

if TYPE_CHECKING:
    from reion_exports import ModelCard

LICENCE = "MIT"


@dataclass(frozen=True)
class Export:
    """An ONNX file that was written.

    Attributes
    ----------
    output, bytes, sha256
        The file, its size and its checksum.
    nodes
        Number of nodes of its graph.
    max_difference
        The largest difference in xi between the file and Keras that the check found.
    """

    output: Path
    bytes: int
    sha256: str
    nodes: int
    max_difference: float

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "output": str(self.output)}


def export_run(
    folder: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    scores: Mapping[str, Any] | None = None,
    cell_size_mpc: float | None = None,
    force: bool = False,
) -> Export:
    """Export a finished run as a self-contained ONNX file.

    Parameters
    ----------
    folder, out
        The run folder and the file to write.
    name
        Name of the model in the file's metadata; the default is the file's name.
    scores
        Held-out scores for the metadata (see `held_out_scores`); by default the validation R² of the
        training, as `validation_r2`.
    cell_size_mpc
        Comoving side of the cells that the file is for, if the network serves any cell size; by default that
        of the training.
    force
        Replace a model file of reion that is there.

    Raises
    ------
    InputError
        If the run is not finished, `out` is there (with `force`: and is no model file of reion), the network
        does not take `cell_size_mpc`, or file and Keras disagree. Nothing is written then.
    """
    from reion_exports import ExportError, Stages, export

    run = load_run(folder)
    model, network, stages = run.model, run.network, None
    if model.any_cell_size:
        model = model.at_cell_size(cell_size_mpc or run.metrics.cell_size_mpc)
        network = build_network(model, run.normalizer)
    elif cell_size_mpc is not None:
        raise InputError(
            f"the network {run.config.model.name} serves the cells that it was trained on, of "
            f"{run.metrics.cell_size_mpc:g} Mpc",
            hint="leave out --cell-size, or train --set model.name=transport",
        )
    out = Path(out)
    card = _card(run, model, name or out.stem, cell_size_mpc or run.metrics.cell_size_mpc, scores)
    if isinstance(model.stem, PhotonTransport):
        stages = Stages(
            trunk=partial(_trunk, model, run.normalizer),
            stem=model.stem.transport,
            channels=len(model.stem.channels),
        )
        network = partial(_on_boxes, model, run.normalizer)
    with claimed(out, MODEL_FILE, force=force) as out:
        try:
            report = export(network, card, out, stages=stages, force=True, write=write_whole)
        except ExportError as error:
            raise InputError(f"the network does not export: {error}", file=folder) from error
    return Export(out, report.bytes, report.sha256, report.nodes, report.difference)


def _card(
    run: Run, model: Model, name: str, cell_size_mpc: float, scores: Mapping[str, Any] | None
) -> ModelCard:
    """The card of the model file of a run, for cells of this size."""
    from reion_exports import ModelCard

    n_src_units = run.metrics.n_src_units
    units = {"n_igm": DENSITY_UNITS, "n_src": n_src_units, "n_ion": n_ion_units(n_src_units)}
    return ModelCard(
        name=name,
        version=reion.__version__,
        inputs={field: units[field] for field in run.config.inputs},
        conditions=run.config.conditions,
        coverage=run.metrics.coverage,
        cell_size_mpc=cell_size_mpc,
        redshift_range=run.metrics.redshift_range,
        receptive_radius_cells=model.radius_cells,
        trunk_radius_cells=model.trunk_radius_cells if isinstance(model.stem, PhotonTransport) else None,
        stride_cells=model.stride_cells,
        normalizer=run.normalizer.to_dict(),
        training_data=run.provenance.training_data,
        scores=dict(scores or {"validation_r2": run.metrics.validation_r2}),
        excursion_set_threshold=run.metrics.excursion_set_threshold,
        mean_error_share=run.metrics.mean_error_share,
        symmetric=model.symmetric,
        licence=LICENCE,
        provenance={
            "training": run.provenance.to_json(),
            "config": run.config.model_dump(mode="json"),
            "weights_sha256": sha256_of(run.folder / "model.keras"),
        },
    )


def _trunk(model: Model, normalizer: Normalizer, inputs: Mapping[str, Any], *, training: bool) -> Any:  # noqa: ARG001 (a network's)
    """The trunk on the channels of the stem, with the signature that `reion_exports.Stages` expects."""
    return trunk_on_channels(model, normalizer, inputs["channels"], inputs)


def _on_boxes(model: Model, normalizer: Normalizer, inputs: Mapping[str, Any], *, training: bool) -> Any:  # noqa: ARG001 (a network's)
    """The network, with channels of the periodic box without its halo, as in training.

    Keras would compute the channels on box and halo, which is a hundred times the work for a small box.
    """
    halo, trunk_halo = model.radius_cells, model.trunk_radius_cells
    numbers = {name: values for name, values in inputs.items() if np.ndim(values) == 1}
    inner = slice(halo, -halo)
    fields = {name: values[:, inner, inner, inner] for name, values in inputs.items() if name not in numbers}
    channels = [
        model.stem.prepare({name: values[index] for name, values in {**fields, **numbers}.items()})
        for index in range(len(numbers["redshift"]))
    ]
    wrapped = np.pad(np.stack(channels), [(0, 0), (0, 0), *[(trunk_halo, trunk_halo)] * 3], mode="wrap")
    return trunk_on_channels(model, normalizer, np.moveaxis(wrapped, 1, -1), numbers)


def held_out_scores(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of an evaluation (`reion evaluate --json`) that a model file carries.

    Raises
    ------
    InputError
        If `evaluation` is not the JSON of an evaluation.
    """
    kept = ("redshift", "r2", "mean_xi_true", "mean_xi_pred", "power_ratio", "cross_correlation")
    try:
        rows = [{name: row[name] for name in kept} for row in evaluation["redshifts"]]
        pooled = {name: evaluation["pooled"][name] for name in kept[1:]}
        excursion_set = evaluation["baselines"]["excursion_set"]["pooled"]["r2"]
    except (KeyError, TypeError) as error:
        raise InputError(f"expected the JSON of `reion evaluate`; missing {error}") from error
    return {"pooled": pooled, "redshifts": rows, "excursion_set_r2": excursion_set}
