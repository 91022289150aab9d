"""The one schema of a training run: TOML file, command-line flags, Python call and stored provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, Field, model_validator

from reion.schema import Schema, load_schema

FieldTransform = Literal["none", "log1p", "asinh", "overdensity"]
Augmentation = Literal["none", "rotations", "symmetries"]
InputSet = Literal["history", "instant"]

PHOTON_FIELD: Mapping[InputSet, str] = {"history": "n_ion", "instant": "n_src"}
"""The field that says, in each set of inputs, how many photons there are."""


def _odd(width: int) -> int:
    if width % 2 == 0:
        raise ValueError(f"the width of a box filter must be odd; received {width}")
    return width


OddWidth = Annotated[int, Field(ge=3), AfterValidator(_odd)]

Length = Annotated[float, Field(gt=0)]
"""Comoving Mpc."""


def _rising(radii: tuple[float, ...]) -> tuple[float, ...]:
    if any(next_one <= one for one, next_one in pairwise(radii)):
        raise ValueError(f"the radii must rise; received {radii}")
    return radii


Radii = Annotated[tuple[Length, ...], Field(min_length=1), AfterValidator(_rising)]


class FieldTransforms(Schema):
    """The function applied to each field before it is normalised with mean and σ.

    n_igm enters in units of the cosmic mean (`overdensity` also subtracts one), the photon field in its own
    units.
    """

    n_igm: FieldTransform = "log1p"
    photons: FieldTransform = "log1p"


class VoxelModel(Schema):
    """The fully connected network on one cell: the limit the original project starts from."""

    name: Literal["voxel"] = "voxel"
    hidden: tuple[int, ...] = (16, 16, 8)
    transforms: FieldTransforms = FieldTransforms()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    l2: Annotated[float, Field(ge=0)] = 0.0
    target: Literal["sigmoid", "normalised"] = "sigmoid"


class PatchModel(Schema):
    """The original project's network: a convolutional branch for each field, pooling, a dense head."""

    name: Literal["patch"] = "patch"
    radius_cells: Annotated[int, Field(ge=4, le=16)] = 4
    filters: tuple[int, int] = (16, 32)
    dense: tuple[int, ...] = (256, 128, 64, 32, 16, 8, 4)
    pooling: Literal["average", "max"] = "average"
    shared_branch: bool = True
    batch_normalisation: bool = True
    transforms: FieldTransforms = FieldTransforms()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    l2: Annotated[float, Field(ge=0)] = 1e-4
    target: Literal["sigmoid", "normalised"] = "sigmoid"


class PinionModel(Schema):
    """The network of PINION (Korber et al. 2023): density, sources and their propagation mask, 7^3 cells.

    The mask is the photon field averaged by box filters of `mask_smoothing_cells` one after the other, close
    to a ball of 14 cells.
    """

    name: Literal["pinion"] = "pinion"
    filters: tuple[int, int, int] = (64, 128, 256)
    dense: tuple[int, ...] = (64, 16, 4, 1)
    mask_smoothing_cells: tuple[OddWidth, ...] = (3, 3, 5, 7, 9, 11, 13)
    batch_normalisation: bool = True
    transforms: FieldTransforms = FieldTransforms()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class UNetModel(Schema):
    """A 3D U-Net on the raw fields: three levels, each half as fine as the one before.

    Without batch normalisation: it is trained on one large crop at a time, whose mean is not the boxes'.
    """

    name: Literal["unet"] = "unet"
    filters: tuple[int, int, int] = (16, 32, 64)
    pooling: Literal["average", "max"] = "max"
    batch_normalisation: bool = False
    transforms: FieldTransforms = FieldTransforms()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class ReionModel(Schema):
    """The default: photons against atoms around every cell, refined by a small convolutional trunk.

    `smoothing_cells` and `diffusion_cells` are the widths of the box filters that smooth both and that spread
    the photons left over, one after the other (see `reion.models.stems.PhotonBalance`).
    """

    name: Literal["reion"] = "reion"
    smoothing_cells: tuple[OddWidth, ...] = (3, 3, 5, 7, 9, 11, 13, 15)
    diffusion_cells: tuple[OddWidth, ...] = (3, 3, 3, 5, 3, 7, 3, 9, 3, 11, 3, 9, 3, 7, 3, 5, 3, 3)
    photons_per_source: Annotated[float, Field(gt=0)] | None = None
    """Ionising photons per unit of the source field: 1 for photon rates; fitted where sources are counted in
    other units and this is absent."""
    width: Annotated[int, Field(ge=1)] = 32
    hidden: Annotated[int, Field(ge=1)] = 24
    blocks: Annotated[int, Field(ge=0)] = 4
    symmetric: bool = True


class TransportModel(Schema):
    """One network for many worlds: photons are followed in Mpc, as far as the snapshot's `max_mfp`.

    `smoothing_mpc` are the top-hat radii on which photons and atoms are compared; the photons left over
    spread by `diffusion_mpc`, one after the other; the distance to the nearest source is known up to
    `farthest_mpc` (see `reion.models.transport.Transport`). The trunk is that of `reion`, told reach and cell
    size, so that its weights serve any cell.
    """

    name: Literal["transport"] = "transport"
    smoothing_mpc: Radii = (3.7, 5.2, 8.2, 12.0, 16.5, 22.0, 28.0, 34.0, 45.0)
    diffusion_mpc: Annotated[tuple[Length, ...], Field(min_length=1)] = (
        *(3.6, 3.6, 3.6, 6.3, 3.6, 9.0, 3.6, 11.5, 3.6, 14.0),
        *(3.6, 11.5, 3.6, 9.0, 3.6, 6.3, 3.6, 3.6, 20.0, 36.0),
    )
    farthest_mpc: Length = 40.0
    photons_per_source: Annotated[float, Field(gt=0)] | None = None
    """As for `reion`."""
    width: Annotated[int, Field(ge=1)] = 32
    hidden: Annotated[int, Field(ge=1)] = 24
    blocks: Annotated[int, Field(ge=0)] = 4
    symmetric: bool = True
    spread: bool = True
    """Learn beside xi how far it is off, the standard deviation of its error in every cell."""


ModelConfig = Annotated[
    VoxelModel | PatchModel | PinionModel | UNetModel | ReionModel | TransportModel,
    Field(discriminator="name"),
]
MODEL_NAMES = ("reion", "transport", "unet", "pinion", "patch", "voxel")

UNET_STRIDE_CELLS = 4
"""What the U-Net predicts has sides that are multiples of this: it halves the mesh twice."""

TRAINING_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "reion": {"crop_cells": 24, "batch_size": 4, "learning_rate": 3e-3},
    "transport": {"crop_cells": 24, "batch_size": 4, "learning_rate": 3e-3},
    "unet": {"crop_cells": 32, "batch_size": 1, "learning_rate": 1e-3},
    "pinion": {"crop_cells": 4, "batch_size": 32, "learning_rate": 1e-2},
    "patch": {"crop_cells": 1, "batch_size": 256, "learning_rate": 1e-3},
    "voxel": {"crop_cells": 1, "batch_size": 4096, "learning_rate": 3e-3},
}
LOSS_TERMS: Mapping[str, Mapping[str, float]] = {
    "reion": {"gradient": 2.0, "power": 0.01},
    "transport": {"gradient": 2.0, "power": 0.01},
}
"""Default weights of terms that are added to the cross-entropy. With mse they are off, because the sigmoid
would saturate."""


class DataConfig(Schema):
    """The inputs of the network, and how training samples the boxes."""

    inputs: InputSet = "history"
    augmentation: Augmentation = "symmetries"
    validation_share: Annotated[float, Field(gt=0, le=0.5)] = 0.125
    """Share of every training box, a slab across the x axis, that is kept for early stopping and progress."""
    validation_margin_cells: Annotated[int, Field(ge=0)] = 2
    """Cells on either side of that slab that are not trained on either."""
    redshift_jitter: Annotated[float, Field(ge=0)] | None = None
    """Half width of the uniform noise on the redshift that training gives the network, which must then look
    at photons and atoms instead of learning these boxes' history by heart. Absent: 1 for the history, 0 for
    `instant`: from the redshift that network works out how long the sources have been shining."""

    @property
    def redshift_noise(self) -> float:
        """`redshift_jitter`, or its default for these inputs."""
        if self.redshift_jitter is not None:
            return self.redshift_jitter
        return 1.0 if self.inputs == "history" else 0.0


class LossConfig(Schema):
    """A mean over cells, `kind`, plus terms that keep bubble edges sharp, each times its weight.

    `gradient`: the squared error of the differences between neighbouring cells. `power`: the squared
    logarithm of predicted over true variance on scales below three cells, crop by crop. The default
    network with the cross-entropy has both unless they are set to 0.
    """

    kind: Literal["mse", "binary_cross_entropy", "focal"] = "binary_cross_entropy"
    gradient: Annotated[float, Field(ge=0)] = 0.0
    power: Annotated[float, Field(ge=0)] = 0.0


class TrainingConfig(Schema):
    """How long and how fast a network learns. Fields without a default take that of `TRAINING_DEFAULTS`."""

    steps: Annotated[int, Field(ge=1)] = 1000
    batch_size: Annotated[int, Field(ge=1)]
    crop_cells: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    loss: LossConfig = LossConfig()
    round_steps: Annotated[int, Field(ge=1)] = 50
    """Steps from one validation and checkpoint to the next."""
    patience_rounds: Annotated[int, Field(ge=1)] | None = None
    """Stop when the validation R² has not improved for that many rounds, and keep the best weights."""
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    """`auto` is mixed_bfloat16 on a GPU that is made for it and float32 everywhere else."""


class RunConfig(Schema):
    """Everything that decides what a training run computes."""

    seed: Annotated[int, Field(ge=0)] = 0
    data: DataConfig = DataConfig()
    model: ModelConfig = ReionModel()
    training: TrainingConfig

    @model_validator(mode="before")
    @classmethod
    def _model_defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        model = values.get("model", {})
        if isinstance(model, Mapping):
            values["model"] = model = {"name": "reion", **model}
        name = model.get("name") if isinstance(model, Mapping) else getattr(model, "name", None)
        training = values.get("training", {})
        if name not in MODEL_NAMES or not isinstance(training, Mapping):
            return values
        training = {**TRAINING_DEFAULTS[name], **training}
        loss = training.get("loss", {})
        if isinstance(loss, Mapping) and loss.get("kind", "binary_cross_entropy") == "binary_cross_entropy":
            training["loss"] = {**LOSS_TERMS.get(name, {}), **loss}
        values["training"] = training
        return values

    @model_validator(mode="after")
    def _check_loss(self) -> RunConfig:
        training, loss = self.training, self.training.loss
        for term, weight, cells in (("power", loss.power, 3), ("gradient", loss.gradient, 2)):
            if weight and training.crop_cells < cells:
                raise ValueError(
                    f"training.loss.{term} needs training.crop_cells of {cells} or more; received "
                    f"{training.crop_cells}; training.loss.{term}=0 goes without it"
                )
        target = getattr(self.model, "target", "sigmoid")
        if target == "normalised" and (loss.kind != "mse" or loss.power):
            raise ValueError(
                "model.target=normalised needs training.loss.kind=mse and training.loss.power=0; received "
                f"{loss.kind} and {loss.power:g}"
            )
        return self

    @model_validator(mode="after")
    def _check_inputs(self) -> RunConfig:
        if isinstance(self.model, TransportModel) and self.data.inputs != "history":
            raise ValueError("model.name=transport needs data.inputs=history")
        return self

    @model_validator(mode="after")
    def _check_crop(self) -> RunConfig:
        if isinstance(self.model, UNetModel) and self.training.crop_cells % UNET_STRIDE_CELLS:
            raise ValueError(
                f"training.crop_cells of the unet: expected a multiple of {UNET_STRIDE_CELLS}; "
                f"received {self.training.crop_cells}"
            )
        return self

    @property
    def inputs(self) -> tuple[str, str]:
        """Names of the fields the network takes: n_igm and the photon field."""
        return ("n_igm", PHOTON_FIELD[self.data.inputs])

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the numbers, one a snapshot, that the network takes beside the redshift."""
        return ("max_mfp",) if isinstance(self.model, TransportModel) else ()


def load_config(
    file: Path | None = None,
    settings: Sequence[str] = (),
    *,
    base: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Build the schema from a TOML file and `key=value` settings such as `model.name=patch`.

    Settings win over the file, the file over `base`; values are TOML, bare words are strings.

    Raises
    ------
    InputError
        For an unreadable file, an unknown key or a value out of range, naming all of them.
    """
    return load_schema(RunConfig, file, settings, base=base, unnamed=MODEL_NAMES)


def differences(a: RunConfig, b: RunConfig) -> list[str]:
    """Where two schemas differ, as `key=value of a instead of value of b`."""
    first, second = _flat(a.model_dump(mode="json")), _flat(b.model_dump(mode="json"))
    return [
        f"{key}={first.get(key)} instead of {second.get(key)}"
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def write_config(config: RunConfig, path: Path) -> None:
    """Write the whole schema as TOML, so that `load_config(path)` gives the same object back."""
    values = config.model_dump(mode="json", exclude_none=True)  # in TOML what is absent has no line
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
