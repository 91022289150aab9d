"""Build a network from its schema: a fixed stem, a normalisation and a trained trunk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras

from reion.config import RunConfig
from reion.errors import InputError
from reion.models.layers import Standardise
from reion.models.normalizer import Normalizer
from reion.models.shapes import Channels
from reion.models.stems import Stem
from reion.models.transport import REFERENCE_CELL_SIZE_MPC, cell_size_condition, reach_condition
from reion.models.validity import radius_of
from reion.registry import STEMS


@dataclass(frozen=True)
class Model:
    """The parts of a network.

    Attributes
    ----------
    stem
        Computes channels from raw fields; it has no weights.
    trunk
        Predicts xi from normalised channels and conditions; training changes its weights.
    trunk_radius_cells
        Cells of channels that the trunk needs on every side of the cells that it predicts.
    symmetric
        Whether turning the box turns the prediction, for all 48 symmetries of the cube.
    cell_size_mpc
        Comoving side of the cells that the stem is for; only a stem that works in Mpc depends on it.
    stride_cells
        The sides of the predicted region are multiples of this; it is above 1 if the trunk halves the mesh.
    """

    config: RunConfig
    stem: Stem
    trunk: keras.Model
    trunk_radius_cells: int
    symmetric: bool
    cell_size_mpc: float
    stride_cells: int = 1

    def at_cell_size(self, cell_size_mpc: float) -> Model:
        """The same trunk after the stem for cells of this comoving side."""
        return replace(self, stem=_stem(self.config, cell_size_mpc), cell_size_mpc=cell_size_mpc)

    @property
    def any_cell_size(self) -> bool:
        """Whether the network serves any cell size: the stem follows the cell size, the trunk is the same."""
        return STEMS.find(self.config.network.stem).any_cell_size

    @property
    def radius_cells(self) -> int:
        """Cells of raw fields that the whole network needs on every side of the cells that it predicts."""
        return self.stem.radius_cells + self.trunk_radius_cells

    @property
    def target_normalised(self) -> bool:
        """Whether the trunk predicts (xi − mean) / σ instead of xi."""
        return getattr(self.config.model, "target", "sigmoid") == "normalised"


def build_model(
    config: RunConfig, *, precision: str = "float32", cell_size_mpc: float = REFERENCE_CELL_SIZE_MPC
) -> Model:
    """Build the network that the schema describes, with fresh weights from its seed.

    `precision` is the Keras dtype policy of the trunk: that of the training, or float32 for other uses.
    `cell_size_mpc` is the comoving side of the cells that the stem is for, if it works in Mpc.

    Raises
    ------
    InputError
        If Keras is set to another dtype or order of axes than its default, which would build another network;
        if the registered function returns no valid network.
    """
    _require_default_settings()
    keras.utils.set_random_seed(config.seed)
    stem = _stem(config, cell_size_mpc)
    network = config.network
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        channels = keras.Input((None, None, None, len(stem.channels)), name="channels")
        conditions = keras.Input((3 if config.conditions else 1,), name="conditions")
        trunk = network.function(config.model, channels, conditions)
    finally:
        keras.config.set_dtype_policy(policy)
    return Model(
        config,
        stem,
        trunk,
        trunk_radius_cells=radius_of(trunk, network.short, stride_cells=network.stride_cells),
        symmetric=network.symmetric(config.model),
        cell_size_mpc=cell_size_mpc,
        stride_cells=network.stride_cells,
    )


def _stem(config: RunConfig, cell_size_mpc: float) -> Stem:
    stem: Stem = STEMS.find(config.network.stem).function(config.model, config.inputs[1], cell_size_mpc)
    return stem


def _require_default_settings() -> None:
    """Refuse settings, from keras.json or a caller, that change the result of a layer or a loss."""
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
    """Join stem, normalisation and trunk to a network that predicts xi from raw fields, without padding.

    Inputs, by name, all float32: the two fields (batch, X, Y, Z) in the units of the data contract, redshift
    (batch,), and max_mfp (batch,) in Mpc if the model takes it. Output: xi (batch, X - 2 radius,
    Y - 2 radius, Z - 2 radius), float32; or, if the model learns the standard deviation of its error, a
    dictionary of `xi` and `xi_std`.
    """
    config = model.config
    fields = {name: keras.Input((None, None, None), name=name) for name in config.inputs}
    conditions = {name: keras.Input((), name=name) for name in ("redshift", *config.conditions)}
    values = model.stem({**fields, **{name: conditions[name] for name in config.conditions}})
    xi = trunk_on_channels(model, normalizer, values, conditions)
    name = re.sub(r"\W", "_", config.network.short)
    return keras.Model({**fields, **conditions}, xi, name=name)


def trunk_on_channels(
    model: Model, normalizer: Normalizer, values: Channels, conditions: Mapping[str, Any]
) -> Any:
    """Normalise channels and conditions and apply the trunk.

    Parameters
    ----------
    values
        The channels of the stem, (batch, X, Y, Z, channel).
    conditions
        redshift and, if the model takes it, max_mfp in Mpc, each (batch,). An entry `cell_size` replaces the
        `cell_size_condition` of the model's cells.

    Returns
    -------
    xi, (batch, X', Y', Z'), smaller by the trunk's radius on every side; or a dictionary, see
    `build_network`.
    """
    values = Standardise(normalizer.mean, normalizer.std, name="normalise")(values)
    column = keras.layers.Reshape((1,))
    told = Standardise([normalizer.redshift_mean], [normalizer.redshift_std], name="normalise_redshift")(
        column(conditions["redshift"])
    )
    if model.config.conditions:
        reach = reach_condition(column(conditions["max_mfp"]), log=keras.ops.log)
        cell_size = conditions.get("cell_size", cell_size_condition(model.cell_size_mpc))
        told = keras.ops.concatenate([told, reach, keras.ops.ones_like(reach) * cell_size], axis=-1)
    target = model.trunk([values, told])
    if model.target_normalised:
        target = keras.layers.Rescaling(normalizer.xi_std, normalizer.xi_mean, name="denormalise")(target)
        target = keras.layers.ReLU(max_value=1.0, name="clip")(target)
    if target.shape[-1] == 1:
        return target[..., 0]
    return {"xi": target[..., 0], "xi_std": target[..., 1]}
