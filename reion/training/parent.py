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
from reion.errors import InputError, did_you_mean
from reion.jobs.outputs import sha256_of
from reion.models.build import build_model, build_network
from reion.models.coverage import Coverage
from reion.models.normalizer import Normalizer
from reion.networks import ReionModel, TransportModel
from reion.simulation.contract import MAX_MFP
from reion.training.boxes import rate_units, source_units
from reion.training.provenance import Ancestor
from reion.training.run_folder import load_run, load_weights

_STEPS = 300
_ROUND_STEPS = 50
_REHEARSAL = 0.5
_RATE_SHARE = 0.5
_RATE_SHARE_WITHOUT = 0.2
"""Defaults of a run that starts from a parent: its steps and those of a round, the share of its crops that
repeat the parent's answers if the network can tell worlds apart, and its share of the parent's learning rate
with such crops and without. At a higher rate a network fits the new boxes better and forgets the old ones."""


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A trained network that another run starts from.

    Attributes
    ----------
    name, sha256
        The name of the model or run, and the SHA-256 of its weights.
    config, normalizer, coverage
        Its schema, normalisation and coverage; the new run keeps the normalisation and extends the coverage.
    redshift_range, n_src_units
        Those of its training boxes, as in `reion.training.run_folder.Metrics`.
    training_data
        Checksums of the boxes that it, and the networks that it started from, were trained on.
    weights
        Weights of its trunk.

    A run may narrow the network: with fewer `model.hidden` channels between the two layers of a block it
    starts with those that matter most.
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
        """The default schema of a run that starts here: its network, fewer steps, a lower learning rate."""
        values: dict[str, Any] = self.config.model_dump(mode="json", exclude_none=True)
        training = values["training"]
        rehearsal, share = (
            (_REHEARSAL, _RATE_SHARE) if MAX_MFP in self.config.conditions else (0.0, _RATE_SHARE_WITHOUT)
        )
        training |= {
            "steps": _STEPS,
            "learning_rate": round(share * training["learning_rate"], 8),
            "round_steps": min(_ROUND_STEPS, training["round_steps"]),
            "rehearsal": rehearsal,
        }
        return values

    def require_fit(self, config: RunConfig) -> None:
        """Refuse a schema of another network, unless it is the same but narrower.

        Raises
        ------
        InputError
            If the model or the inputs differ in anything but fewer `model.hidden`.
        """
        model = self.config.model if self._is_narrower(config.model) is None else config.model
        if (model, self.config.data.inputs) != (config.model, config.data.inputs):
            other = self.config.model_copy(update={"seed": config.seed, "training": config.training})
            raise InputError(
                f"the run cannot start from {self.name}, whose network is another: "
                + ", ".join(differences(config, other)),
                hint="leave out what changes the network or its inputs; only fewer model.hidden are possible",
            )

    def _is_narrower(self, model: Any) -> int | None:
        """The hidden channels of a network that has fewer than the parent and is like it otherwise."""
        own = self.config.model
        if not isinstance(own, ReionModel | TransportModel) or type(model) is not type(own):
            return None
        like = model.model_copy(update={"hidden": own.hidden}) == own
        return int(model.hidden) if like and model.hidden < own.hidden else None

    def trunk(self) -> keras.Model:
        """The trunk of the parent."""
        trunk: keras.Model = build_model(self.config).trunk
        trunk.set_weights(self.weights)
        return trunk

    def weights_for(self, config: RunConfig) -> list[np.ndarray]:
        """The weights with which a run of a schema that fits starts.

        In a narrower network the hidden channels of each block are those with the largest product of the
        norms of the weights that lead to the channel and from it.
        """
        hidden = self._is_narrower(config.model)
        if hidden is None:
            return self.weights
        paths = [variable.path for variable in build_model(self.config).trunk.weights]
        named = dict(zip(paths, self.weights, strict=True))
        for path in paths:
            if not path.endswith("_spread/kernel"):
                continue
            block = path.removesuffix("_spread/kernel")
            into, out = named[path], named[f"{block}_mix/kernel"]
            strength = np.linalg.norm(into.reshape(-1, into.shape[-1]), axis=0)
            strength = strength * np.linalg.norm(out.reshape(-1, out.shape[-1]), axis=1)
            kept = np.sort(np.argsort(strength, kind="stable")[-hidden:])
            named[path], named[f"{block}_mix/kernel"] = into[..., kept], out[..., kept, :]
            named[f"{block}_spread/bias"] = named[f"{block}_spread/bias"][kept]
        return [named[path] for path in paths]

    def require_sources(self, config: RunConfig, simulations: Sequence[xr.Dataset]) -> None:
        """Refuse boxes whose sources have another unit than those of the parent's training boxes.

        Its normalisation, and the photons that it counts for each unit of the sources, hold for one unit.

        Raises
        ------
        InputError
            If the sources of a simulation have another unit.
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
        """The record of the parent in the provenance of the run."""
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
        If it is neither, or a file of it is damaged.
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
            f"({', '.join(shipped) or 'there is none'})" + did_you_mean(str(source), shipped),
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
