"""A trained network that another run starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import keras
import numpy as np
import xarray as xr
from pydantic import ValidationError

from reion.config import RunConfig, differences
from reion.errors import InputError
from reion.jobs.outputs import sha256_of
from reion.models.build import build_model, build_network
from reion.models.coverage import Coverage
from reion.models.normalizer import Normalizer
from reion.training.boxes import rate_units, source_units
from reion.training.provenance import Ancestor
from reion.training.run_folder import load_run, load_weights

_STEPS = 300
_RATE_SHARE = 0.2
"""A run that starts from another takes so many steps by default, at this share of its learning rate. At a
half, and more so at the whole rate, it learns its own world better and forgets the others."""


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A trained network that another run starts from.

    Attributes
    ----------
    name, sha256
        The model's or the run's name, and the checksum of its weights.
    config, normalizer, coverage
        Its schema, normalisation and coverage, which the run takes over.
    redshift_range, n_src_units
        Of the boxes that it was trained on, as in `reion.training.run_folder.Metrics`.
    training_data
        Checksums of those boxes, and of those of the networks before it, from which it started.
    weights
        Of its trunk.
    """

    name: str
    sha256: str
    config: RunConfig
    normalizer: Normalizer
    coverage: Coverage
    redshift_range: tuple[float, float]
    n_src_units: str
    training_data: tuple[str, ...]
    weights: list[np.ndarray]

    def defaults(self) -> dict[str, Any]:
        """What the schema of a run that starts here is by default: the same network, trained more gently."""
        values: dict[str, Any] = self.config.model_dump(mode="json", exclude_none=True)
        training = values["training"]
        training |= {
            "steps": _STEPS,
            "learning_rate": round(_RATE_SHARE * training["learning_rate"], 8),
            "round_steps": min(_STEPS, training["round_steps"]),
        }
        return values

    def require_fit(self, config: RunConfig) -> None:
        """Refuse a schema of another network.

        Raises
        ------
        InputError
            If model or inputs differ.
        """
        if (self.config.model, self.config.data.inputs) != (config.model, config.data.inputs):
            other = self.config.model_copy(update={"seed": config.seed, "training": config.training})
            raise InputError(
                f"the run cannot start from {self.name}, whose network is another: "
                + ", ".join(differences(config, other)),
                hint="leave out what changes the network or its inputs",
            )

    def require_sources(self, config: RunConfig, simulations: Sequence[xr.Dataset]) -> None:
        """Refuse boxes whose sources are in another unit than those that it has learnt from.

        Its normalisation, and the photons that it counts for each unit of the sources, are for that one.

        Raises
        ------
        InputError
            If one is.
        """
        for sim in simulations:
            units = source_units(sim, config.data.inputs)
            if units != self.n_src_units:
                raise InputError(
                    f"the run cannot start from {self.name}, which has learnt from sources in "
                    f"{self.n_src_units}; received sources in {units}",
                    hint="bring the sources to that unit, or train a fresh network",
                )

    @property
    def ancestor(self) -> Ancestor:
        """What the provenance of the run says of it."""
        return Ancestor(name=self.name, weights_sha256=self.sha256, training_data=list(self.training_data))


def load_parent(source: str | Path) -> Parent:
    """Read a network to start from.

    Parameters
    ----------
    source
        A finished run folder, or the name of a shipped model that comes with its weights.

    Raises
    ------
    InputError
        If it is neither.
    """
    folder = resources.files("reion") / "weights"
    shipped = sorted(
        item.name.removesuffix(".keras") for item in folder.iterdir() if item.name.endswith(".keras")
    )
    if str(source) in shipped:
        with (
            resources.as_file(folder / f"{source}.onnx") as file,
            resources.as_file(folder / f"{source}.keras") as weights,
        ):
            return _shipped(str(source), file, weights)
    if not Path(source).is_dir():
        raise InputError(
            "expected a finished run folder, or a shipped model that can be trained further "
            f"({', '.join(shipped) or 'there is none'})",
            file=source,
        )
    run = load_run(source)
    return Parent(
        name=run.folder.name,
        sha256=sha256_of(run.folder / "model.keras"),
        config=run.config,
        normalizer=run.normalizer,
        coverage=Coverage.from_json(run.metrics.coverage),
        redshift_range=run.metrics.redshift_range,
        n_src_units=run.metrics.n_src_units,
        training_data=run.provenance.training_data,
        weights=run.model.trunk.get_weights(),
    )


def _shipped(name: str, file: Path, weights: Path) -> Parent:
    from reion_exports import CardError, HostileFileError, read_card

    try:
        card, _ = read_card(file.read_bytes())
        config = RunConfig.model_validate(card.provenance["config"])
        normalizer = Normalizer.from_dict(dict(card.normalizer))
    except (CardError, HostileFileError, ValidationError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"the model does not say what its network is: {error}", file=file) from error
    sha256 = sha256_of(weights)
    if card.provenance.get("weights_sha256") != sha256:
        raise InputError(
            f"are not the weights that {name} was exported from: the file is damaged, or was changed",
            file=weights,
            hint="install reion again",
        )
    model = build_model(config, cell_size_mpc=card.cell_size_mpc)
    network: keras.Model = build_network(model, normalizer)
    load_weights(network, weights)
    return Parent(
        name=name,
        sha256=sha256,
        config=config,
        normalizer=normalizer,
        coverage=Coverage.from_json(card.coverage),
        redshift_range=card.redshift_range,
        n_src_units=rate_units(card.inputs["n_ion"]) if "n_ion" in card.inputs else card.inputs["n_src"],
        training_data=card.training_data,
        weights=model.trunk.get_weights(),
    )
