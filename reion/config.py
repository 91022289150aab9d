"""The schema of a training run, for the TOML file, the command line, Python calls and stored provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from reion.networks import ReionModel
from reion.registry import (
    AUGMENTATIONS,
    LOSSES,
    NETWORKS,
    STEMS,
    Network,
    NetworkSettings,
)
from reion.schema import Schema, load_schema

InputSet = Literal["history", "instant"]

PHOTON_FIELD: Mapping[InputSet, str] = {"history": "n_ion", "instant": "n_src"}
"""The photon field of each set of inputs."""


Options = Annotated[dict[str, Any], Field(validate_default=True)]
"""Settings of a loss or an augmentation, or arguments of a class of Keras."""


def _network_settings(values: Any) -> NetworkSettings:
    """The settings of a network, checked by the class that it was registered with."""
    if isinstance(values, NetworkSettings):
        network = _network_of(values)
        return values.model_copy(update={"name": network.name})
    if not isinstance(values, Mapping):
        raise ValueError(f"expected a table of settings; received {values!r}")  # noqa: TRY004 (pydantic's)
    network = NETWORKS.find(values.get("name"))
    return network.settings.model_validate({**values, "name": network.name})


def _network_of(settings: NetworkSettings) -> Network:
    if settings.name:
        return NETWORKS.find(settings.name)
    for network in NETWORKS:
        if network.settings is type(settings):
            return network
    raise ValueError(f"{type(settings).__name__} belongs to no network that is registered")


ModelConfig = Annotated[SerializeAsAny[NetworkSettings], BeforeValidator(_network_settings)]


class DataConfig(Schema):
    """The inputs of the network, and how training samples the boxes."""

    inputs: InputSet = "history"
    augmentation: Annotated[str, AfterValidator(lambda name: AUGMENTATIONS.find(name).name)] = "symmetries"
    """Name of the registered augmentation, which changes crops at random."""
    augmentation_options: Options = Field(default_factory=dict)
    """Settings of this augmentation."""
    validation_share: Annotated[float, Field(gt=0, le=0.5)] = 0.125
    """Share of every training box that is kept for validation: a slab across the x axis."""
    validation_margin_cells: Annotated[int, Field(ge=0)] = 2
    """Cells on either side of this slab that are also left out of the training."""
    redshift_jitter: Annotated[float, Field(ge=0)] | None = None
    """Half width of the uniform noise that training adds to the redshift. With noise, the network must look
    at photons and atoms and cannot learn the history of the training boxes by heart. Absent: 1 for
    `history`; 0 for `instant`, whose network infers from the redshift how long the sources have shone."""

    @field_validator("augmentation_options")
    @classmethod
    def _check_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "augmentation" not in info.data:
            return options
        entry = AUGMENTATIONS.find(info.data["augmentation"])
        return entry.settings.model_validate(options).model_dump(mode="json")

    @property
    def redshift_noise(self) -> float:
        """`redshift_jitter`, or its default for these inputs."""
        if self.redshift_jitter is not None:
            return self.redshift_jitter
        return 1.0 if self.inputs == "history" else 0.0


class LossConfig(Schema):
    """The registered loss `kind`, averaged over cells, plus two terms that keep bubble edges sharp.

    `options` are the settings of `kind`. `gradient` is the weight of the squared error of the differences
    between neighbouring cells. `power` is the weight of the squared logarithm of predicted over true variance
    on scales below three cells, averaged over crops. With the cross-entropy, `reion` and `transport` have
    both terms unless they are set to 0.
    """

    kind: Annotated[str, AfterValidator(lambda name: LOSSES.find(name).name)] = "binary_cross_entropy"
    options: Options = Field(default_factory=dict)
    gradient: Annotated[float, Field(ge=0)] = 0.0
    power: Annotated[float, Field(ge=0)] = 0.0

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "kind" not in info.data:
            return options
        return LOSSES.find(info.data["kind"]).settings.model_validate(options).model_dump(mode="json")


class OptimizerConfig(Schema):
    """A class of `keras.optimizers` and its arguments, as Keras names them."""

    name: str = "Adam"
    arguments: Options = Field(default_factory=dict)


class ScheduleConfig(Schema):
    """A class of `keras.optimizers.schedules` and its arguments, or `Constant`.

    The learning rate and the number of steps after the warm-up are passed to it beside these arguments.
    """

    name: str = "CosineDecay"
    arguments: Options = Field(default_factory=dict)


class TrainingConfig(Schema):
    """How long and how fast a network learns. A field without a default here takes that of the network."""

    steps: Annotated[int, Field(ge=1)] = 1000
    batch_size: Annotated[int, Field(ge=1)]
    crop_cells: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema_momentum: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay factor of the moving average of the weights in a step. The average is validated and kept."""
    loss: LossConfig = LossConfig()
    rehearsal: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the crops that repeat the answers of the network that the run starts from (`--from`)."""
    round_steps: Annotated[int, Field(ge=1)] = 50
    """Steps from one validation and checkpoint to the next."""
    patience_rounds: Annotated[int, Field(ge=1)] | None = None
    """Stop when the validation R² has not improved for this many rounds, and keep the best weights."""
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
        model, training = values.get("model", {}), values.get("training", {})
        if isinstance(model, Mapping):
            values["model"] = model = {"name": "reion", **model}
        elif not isinstance(model, NetworkSettings):
            return values
        if not isinstance(training, Mapping):
            return values
        network = NETWORKS.find(model["name"]) if isinstance(model, Mapping) else _network_of(model)
        training = {**network.training, **training}
        loss = training.get("loss", {})
        if isinstance(loss, Mapping) and loss.get("kind", "binary_cross_entropy") == "binary_cross_entropy":
            training["loss"] = {**network.loss, **loss}
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
        needed = STEMS.find(self.network.stem).inputs
        if needed not in (None, self.data.inputs):
            raise ValueError(f"model.name={self.model.name} needs data.inputs={needed}")
        return self

    @model_validator(mode="after")
    def _check_crop(self) -> RunConfig:
        stride = self.network.stride_cells
        if self.training.crop_cells % stride:
            raise ValueError(
                f"training.crop_cells of the {self.model.name}: expected a multiple of {stride}; "
                f"received {self.training.crop_cells}"
            )
        return self

    @property
    def network(self) -> Network:
        """The registered network."""
        return NETWORKS.find(self.model.name)

    @property
    def inputs(self) -> tuple[str, str]:
        """Names of the fields the network takes: n_igm and the photon field."""
        return ("n_igm", PHOTON_FIELD[self.data.inputs])

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the numbers, one for each snapshot, that the network takes beside the redshift."""
        return STEMS.find(self.network.stem).conditions


def load_config(
    file: Path | None = None,
    settings: Sequence[str] = (),
    *,
    base: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Build the schema from a TOML file and `key=value` settings such as `model.name=patch`.

    Settings override the file, which overrides `base`. Values are TOML; bare words are strings.

    Raises
    ------
    InputError
        If the file cannot be read, a key is unknown or a value is out of range. It names all such keys.
    """
    return load_schema(RunConfig, file, settings, base=base)


def differences(a: RunConfig, b: RunConfig) -> list[str]:
    """The keys in which two schemas differ, each as `KEY=VALUE_OF_A instead of VALUE_OF_B`."""
    first, second = flat(a.model_dump(mode="json")), flat(b.model_dump(mode="json"))
    return [
        f"{key}={first.get(key)} instead of {second.get(key)}"
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as one mapping, with keys such as `training.steps`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def write_config(config: RunConfig, path: Path) -> None:
    """Write the whole schema as TOML, so that `load_config(path)` gives the same object back."""
    values = config.model_dump(mode="json", exclude_none=True)  # TOML has no null
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
