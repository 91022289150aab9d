"""The networks: a fixed stem, a normalisation and a learnt trunk, under one `build_model(config)`."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from reion.config import (
    UNET_STRIDE_CELLS,
    PatchModel,
    PinionModel,
    ReionModel,
    RunConfig,
    UNetModel,
    VoxelModel,
)
from reion.errors import InputError
from reion.models import trunks
from reion.models.layers import Standardise
from reion.models.normalizer import Normalizer
from reion.models.stems import PhotonBalance, RawFields, build_stem


@dataclass(frozen=True)
class Model:
    """A network in its parts.

    Attributes
    ----------
    stem
        Makes channels of raw fields, and learns nothing.
    trunk
        Makes xi of normalised channels and redshift; training changes its weights.
    trunk_radius_cells
        Cells that the trunk needs on every side of what it predicts.
    symmetric
        Whether turning the box turns the prediction, for all 48 symmetries of the cube.
    stride_cells
        The sides of what the trunk predicts are multiples of this: 1 for all but the U-Net.
    """

    config: RunConfig
    stem: RawFields | PhotonBalance
    trunk: keras.Model
    trunk_radius_cells: int
    symmetric: bool
    stride_cells: int = 1

    @property
    def radius_cells(self) -> int:
        """Cells of raw fields that the whole network needs on every side of what it predicts."""
        return self.stem.radius_cells + self.trunk_radius_cells

    @property
    def target_normalised(self) -> bool:
        """Whether the trunk predicts (xi − mean) / σ instead of xi."""
        return getattr(self.config.model, "target", "sigmoid") == "normalised"


def build_model(config: RunConfig, *, precision: str = "float32") -> Model:
    """Build the network that the schema describes, with fresh weights from its seed.

    `precision` is the Keras dtype policy of the trunk: training's, or float32 for everything else.

    Raises
    ------
    InputError
        If Keras has been set to other numbers or another order of axes, which would build another network.
    """
    _require_default_settings()
    keras.utils.set_random_seed(config.seed)
    stem = build_stem(config.model, config.inputs[1])
    channels = len(stem.channels)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        match config.model:
            case VoxelModel():
                return Model(config, stem, trunks.voxel(config.model, channels), 0, symmetric=True)
            case PatchModel():
                trunk = trunks.patch(config.model, channels)
                return Model(config, stem, trunk, config.model.radius_cells, symmetric=False)
            case PinionModel():
                trunk = trunks.pinion(config.model, channels)
                return Model(config, stem, trunk, len(config.model.filters), symmetric=False)
            case UNetModel():
                trunk = trunks.unet(config.model, channels)
                radius = trunks.UNET_RADIUS_CELLS
                return Model(config, stem, trunk, radius, symmetric=False, stride_cells=UNET_STRIDE_CELLS)
            case ReionModel():
                trunk = trunks.reion(config.model, channels)
                return Model(config, stem, trunk, config.model.blocks, symmetric=config.model.symmetric)
    finally:
        keras.config.set_dtype_policy(policy)


def _require_default_settings() -> None:
    """Refuse settings, from keras.json or a caller, that change what a layer or a loss computes."""
    expected = {"floatx": "float32", "image_data_format": "channels_last", "epsilon": 1e-7}
    received = {name: getattr(keras.config, name)() for name in expected}
    expected["dtype_policy"], received["dtype_policy"] = "float32", keras.config.dtype_policy().name
    wrong = [name for name, value in expected.items() if received[name] != value]
    if wrong:
        raise InputError(
            "Keras is set to " + ", ".join(f"{name} {received[name]}" for name in wrong),
            hint="reion's networks need "
            + ", ".join(f"keras.config.set_{name}({expected[name]!r})" for name in wrong)
            + ", or a keras.json without it",
        )


def build_network(model: Model, normalizer: Normalizer) -> keras.Model:
    """Join stem, normalisation and trunk: raw fields in, xi out, without padding, float32.

    Inputs, by name: the two fields (batch, X, Y, Z) in the units of the data contract and redshift (batch,);
    output xi (batch, X - 2 radius, Y - 2 radius, Z - 2 radius).
    """
    fields = {name: keras.Input((None, None, None), name=name) for name in model.config.inputs}
    redshift = keras.Input((), name="redshift")
    values = model.stem(fields)
    values = Standardise(normalizer.mean, normalizer.std, name="normalise")(values)
    when = Standardise([normalizer.redshift_mean], [normalizer.redshift_std], name="normalise_redshift")(
        keras.layers.Reshape((1,))(redshift)
    )
    target = model.trunk([values, when])
    if model.target_normalised:
        target = keras.layers.Rescaling(normalizer.xi_std, normalizer.xi_mean, name="denormalise")(target)
        target = keras.layers.ReLU(max_value=1.0, name="clip")(target)
    return keras.Model({**fields, "redshift": redshift}, target[..., 0], name=model.config.model.name)
