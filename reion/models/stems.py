"""Stems: the fixed first stage of a network, which computes channels from raw physical fields.

A stem is a Keras layer without weights, so that it is part of the exported graph. Its method `prepare`
computes the same channels for a whole periodic box at once, without Keras; training takes its crops from
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops
from scipy import ndimage

from reion.models.photon_plan import SHINING_TIME, SHINING_TIMES, plan_of_balance, plan_of_transport
from reion.models.shapes import BoxChannels, BoxField, Channels, Field
from reion.models.transport import FLOOR_PER_ATOM, REFERENCE_DENSITY, BoxFilter, Transport, output_steps
from reion.networks import (
    BalanceSettings,
    FieldsSettings,
    FieldTransform,
    FieldTransforms,
    MaskSettings,
    TransportSettings,
)
from reion.simulation.contract import hydrogen_per_density
from reion_kernels import Transform
from reion_kernels.photon_channels import PhotonPlan, photon_channels

_UNTRANSFORMED: Transform = "none"


class Stem(Protocol):
    """The interface of a stem: a Keras layer without weights, and the same computation without Keras.

    Attributes
    ----------
    channels
        Names of the channels.
    radius_cells
        Cells of the fields that it needs on every side of the cells of its output.
    scale, transform
        For each channel, a factor and then `none`, `log1p` or `asinh`. The layer applies them itself; to the
        channels that `prepare` returns they are applied when crops are read.
    """

    channels: Sequence[str]
    radius_cells: int
    scale: Sequence[float]
    transform: Sequence[Transform]

    def prepare(self, fields: Mapping[str, Any]) -> BoxChannels:
        """The channels of one whole periodic snapshot (channel, x, y, z), float32.

        `fields` holds n_igm and the photon field, each (x, y, z), in the units of the data contract, and
        max_mfp in Mpc if the stem takes it.
        """

    def __call__(self, fields: Mapping[str, Any]) -> Channels:
        """The same channels in a Keras graph, without padding: fields (batch, x, y, z), max_mfp (batch,).

        Returns (batch, x', y', z', channel), smaller by `radius_cells` on every side.
        """


@keras.saving.register_keras_serializable(package="reion")
class RawFields(keras.layers.Layer):
    """The fields themselves, scaled and transformed: the channels of the networks without physics.

    With `mask_smoothing_cells` there is a third channel, the propagation mask: the photon field averaged by
    box filters of these widths, one after the other. Together they are close to an average over a ball.

    Input: the two fields, each (batch, x, y, z), in the units of the data contract. Output:
    (batch, x', y', z', channel), smaller by `radius_cells` on every side.
    """

    def __init__(
        self,
        photon_field: str,
        transforms: Mapping[str, str] | FieldTransforms,
        mask_smoothing_cells: Sequence[int] = (),
        **options: Any,
    ) -> None:
        super().__init__(**{**options, "trainable": False})
        if not isinstance(transforms, FieldTransforms):
            transforms = FieldTransforms.model_validate(dict(transforms))
        self.photon_field = photon_field
        self.transforms = transforms
        self.mask_smoothing_cells = tuple(mask_smoothing_cells)
        self.radius_cells = _filter_radius_cells(self.mask_smoothing_cells)
        fields = ("n_igm", photon_field, photon_field)
        kinds = (transforms.n_igm, transforms.photons, transforms.photons)
        count = 3 if self.mask_smoothing_cells else 2
        self.channels = (*fields[:2], "mask")[:count]
        self.transform = tuple(_kernel_transform(kind) for kind in kinds[:count])
        self.scale = (1.0 / REFERENCE_DENSITY, 1.0, 1.0)[:count]

    def prepare(self, fields: Mapping[str, BoxField]) -> BoxChannels:
        """Stack the raw fields of one snapshot; `scale` and `transform` are applied when crops are read."""
        channels = [fields["n_igm"], fields[self.photon_field]]
        if self.mask_smoothing_cells:
            mask = fields[self.photon_field].astype(np.float64)
            for width in self.mask_smoothing_cells:
                mask = _box_filter(mask, width)
            channels.append(mask)
        return np.stack(channels).astype(np.float32, copy=False)

    def call(self, fields: Mapping[str, Field]) -> Channels:
        photons = ops.expand_dims(fields[self.photon_field], -1)
        channels = [ops.expand_dims(fields["n_igm"], -1), photons]
        channels = [_crop(values, self.radius_cells) for values in channels]
        if self.mask_smoothing_cells:
            for width in self.mask_smoothing_cells:
                photons = _average(photons, width)
            channels.append(photons)
        functions = {"none": lambda x: x, "log1p": ops.log1p, "asinh": ops.arcsinh}
        channels = [
            functions[kind](values * scale)
            for values, scale, kind in zip(channels, self.scale, self.transform, strict=True)
        ]
        return ops.concatenate(channels, axis=-1)

    def compute_output_spec(self, fields: Mapping[str, Field]) -> Channels:
        return _smaller(fields["n_igm"], self.radius_cells, len(self.channels), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "photon_field": self.photon_field,
            "transforms": self.transforms.model_dump(),
            "mask_smoothing_cells": list(self.mask_smoothing_cells),
        }


@keras.saving.register_keras_serializable(package="reion")
class PhotonBalance(keras.layers.Layer):
    """Compares photons with atoms around every cell, because their ratio decides whether gas is ionised.

    The channels are:

    - balance: the logarithm of photons over atoms, as in the excursion set (Furlanetto, Zaldarriaga &
      Hernquist 2004, ApJ 613, 1), in the cell and smoothed by box filters of `smoothing_cells` one after the
      other along each axis, so that the kernel tends to a Gaussian of variance Σ (w² - 1) / 12, whose
      top-hat radius is R = √5 σ;
    - diffusion: every cell's photons ionise its own atoms, one each; the photons that are left over spread by
      a box filter of the next width in `diffusion_cells`, ionise atoms that are still neutral, and so on.
      Photons are conserved, bubbles that touch share them, and gas behind a wall of atoms stays neutral.
      Every second step gives two channels: the ionised fraction, and the logarithm of the photons left over
      per atom. With rates instead of a history the shining time is unknown: the diffusion is then computed
      for each of `SHINING_TIMES`;
    - density: the logarithm of the cell's atoms.

    Every channel commutes with shifts by whole cells and with the 48 symmetries of the cube. The output is
    smaller than the input by `radius_cells` on every side.

    Input: n_igm (g cm-3) and the photon field, each (batch, x, y, z). Output: (batch, x', y', z', channel).

    Parameters
    ----------
    photon_field
        `n_ion` (1e66 Mpc-3) or `n_src` (1e48 s-1 Mpc-3), or either in other units.
    photons_per_source
        Ionising photons, in the units above, for each unit of the field.
    """

    def __init__(
        self,
        photon_field: str,
        smoothing_cells: Sequence[int],
        diffusion_cells: Sequence[int],
        photons_per_source: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**{**options, "trainable": False})
        self.photon_field = photon_field
        self.smoothing_cells = tuple(smoothing_cells)
        self.diffusion_cells = tuple(diffusion_cells)
        self.photons_per_source = photons_per_source
        self.shining_times = (1.0,) if photon_field == "n_ion" else SHINING_TIMES
        self.photons_scale = photons_per_source * (1.0 if photon_field == "n_ion" else SHINING_TIME)
        variance = np.cumsum([(width**2 - 1) / 12 for width in self.smoothing_cells])
        self.top_hat_radius_cells = tuple(float(r) for r in np.sqrt(5 * variance))
        self.output_steps = output_steps(len(self.diffusion_cells))
        self.channels = (
            *(f"balance_{level}" for level in range(len(self.smoothing_cells) + 1)),
            *(
                f"{what}_{time:g}_{step}"
                for time in self.shining_times
                for step in self.output_steps
                for what in ("ionised", "left")
            ),
            "density",
        )
        self.radius_cells = max(
            _filter_radius_cells(self.smoothing_cells), _filter_radius_cells(self.diffusion_cells)
        )
        self.scale = (1.0,) * len(self.channels)
        self.transform = (_UNTRANSFORMED,) * len(self.channels)
        self.atoms_scale = hydrogen_per_density()
        self.floor = FLOOR_PER_ATOM * self.atoms_scale * REFERENCE_DENSITY

    def prepare(self, fields: Mapping[str, BoxField]) -> BoxChannels:
        """Compute the channels of one whole periodic snapshot by the kernels."""
        widths = self.smoothing_cells, self.diffusion_cells
        plan = plan_of_balance(self.photon_field, *widths, self.photons_per_source)
        return _by_kernels(fields["n_igm"], fields[self.photon_field], plan)

    def call(self, fields: Mapping[str, Field]) -> Channels:
        photons = ops.expand_dims(fields[self.photon_field], -1) * self.photons_scale
        atoms = ops.expand_dims(fields["n_igm"], -1) * self.atoms_scale + self.floor
        inner_atoms = _crop(atoms, self.radius_cells)
        channels = [ops.log((_crop(photons, self.radius_cells) + self.floor) / inner_atoms)]
        # Photons and atoms are two channels, so that one filter serves both.
        smooth = ops.concatenate([photons + self.floor, atoms], axis=-1)
        margin = self.radius_cells
        for width in self.smoothing_cells:
            margin -= width // 2
            smooth = _average(smooth, width)
            inner = _crop(smooth, margin)
            channels.append(ops.log(inner[..., :1] / inner[..., 1:]))
        count = len(self.shining_times)
        left = photons * ops.convert_to_tensor(self.shining_times, dtype=photons.dtype)
        neutral = atoms if count == 1 else ops.concatenate([atoms] * count, axis=-1)
        used = ops.minimum(left, neutral)
        margin = self.radius_cells
        spread: list[Channels] = []  # two for each output step, each with a channel per shining time
        for step, width in enumerate(self.diffusion_cells, start=1):
            margin -= width // 2
            left = _average(left - used, width)
            neutral = _crop(neutral - used, width // 2)
            used = ops.minimum(left, neutral)
            if step in self.output_steps:
                spread.append(1.0 - _crop(neutral - used, margin) / inner_atoms)
                spread.append(ops.log((_crop(left - used, margin) + self.floor) / inner_atoms))
        for time in range(count):
            channels += [values if count == 1 else values[..., time : time + 1] for values in spread]
        return ops.concatenate([*channels, ops.log(inner_atoms)], axis=-1)

    def compute_output_spec(self, fields: Mapping[str, Field]) -> Channels:
        return _smaller(fields["n_igm"], self.radius_cells, len(self.channels), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "photon_field": self.photon_field,
            "smoothing_cells": list(self.smoothing_cells),
            "diffusion_cells": list(self.diffusion_cells),
            "photons_per_source": self.photons_per_source,
        }


@keras.saving.register_keras_serializable(package="reion")
class PhotonTransport(keras.layers.Layer):
    """Follows the photons around every cell in Mpc, up to their reach `max_mfp`: see `Transport`.

    Input: n_igm (g cm-3) and the photon field, each (batch, x, y, z), and max_mfp (batch,), Mpc. Output:
    (batch, x', y', z', channel), smaller by `radius_cells` on every side.
    """

    def __init__(self, photon_field: str, transport: Transport | Mapping[str, Any], **options: Any) -> None:
        super().__init__(**{**options, "trainable": False})
        if not isinstance(transport, Transport):  # as Keras stores it
            lists = ("smoothing_mpc", "diffusion_mpc")
            transport = Transport(**{**transport, **{name: tuple(transport[name]) for name in lists}})
        self.photon_field = photon_field
        self.transport = transport
        self.channels = transport.names
        self.radius_cells = transport.radius_cells
        self.scale = (1.0,) * len(self.channels)
        self.transform = (_UNTRANSFORMED,) * len(self.channels)

    def prepare(self, fields: Mapping[str, Any]) -> BoxChannels:
        """Compute the channels of one whole periodic snapshot by the kernels; `fields` has max_mfp too."""
        plan = plan_of_transport(self.transport, float(fields["max_mfp"]))
        return _by_kernels(fields["n_igm"], fields[self.photon_field], plan)

    def call(self, fields: Mapping[str, Field]) -> Channels:
        n_igm, photons = (ops.expand_dims(fields[name], -1) for name in ("n_igm", self.photon_field))
        reach = ops.reshape(fields["max_mfp"], (-1, 1, 1, 1, 1))
        return ops.concatenate(self.transport.channels(_Windows(), n_igm, photons, reach), axis=-1)

    def compute_output_spec(self, fields: Mapping[str, Field]) -> Channels:
        return _smaller(fields["n_igm"], self.radius_cells, len(self.channels), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "photon_field": self.photon_field,
            "transport": {
                name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.transport).items()
            },
        }


class _Windows:
    """The `Arithmetic` of a Keras graph on windows of one channel, (batch, x, y, z, 1)."""

    def mean(self, values: Channels, kernel: BoxFilter) -> Channels:
        """The mean under a box filter along each axis."""
        if not kernel.half:
            return values
        inner, half = 2 * kernel.half - 1, kernel.half
        for axis in range(3):
            middle = values if inner == 1 else _average_along(values, inner, axis)
            middle = _cut(middle, axis, 1, -1)
            ends = _cut(values, axis, 0, -2 * half) + _cut(values, axis, 2 * half, None)
            values = middle * (inner / kernel.weight) + ends * (kernel.end / kernel.weight)
        return values

    def squared_distance(self, marked: Channels, cells: int) -> Channels:
        """Squared distance in cells to the nearest marked cell, at most `cells` squared."""
        squares = ops.where(marked > 0, 0.0, float(cells**2))
        for axis in range(3):
            for step in range(1, cells + 1):
                nearer = ops.minimum(_cut(squares, axis, 0, -2), _cut(squares, axis, 2, None))
                squares = ops.minimum(_cut(squares, axis, 1, -1), nearer + (2.0 * step - 1.0))
        return squares

    def crop(self, values: Channels, cells: int) -> Channels:
        """The values without `cells` cells on every side."""
        return _crop(values, cells)

    log = staticmethod(ops.log)
    sqrt = staticmethod(ops.sqrt)
    minimum = staticmethod(ops.minimum)
    maximum = staticmethod(ops.maximum)


def fields(settings: FieldsSettings, photon_field: str, cell_size_mpc: float) -> RawFields:  # noqa: ARG001 (a stem's)
    """The stem `fields`."""
    return RawFields(photon_field, settings.transforms, name="stem")


def fields_and_mask(settings: MaskSettings, photon_field: str, cell_size_mpc: float) -> RawFields:  # noqa: ARG001 (a stem's)
    """The stem `fields_and_mask`."""
    return RawFields(photon_field, settings.transforms, settings.mask_smoothing_cells, name="stem")


def photon_balance(settings: BalanceSettings, photon_field: str, cell_size_mpc: float) -> PhotonBalance:  # noqa: ARG001 (a stem's)
    """The stem `photon_balance`."""
    photons = 1.0 if settings.photons_per_source is None else settings.photons_per_source
    widths = settings.smoothing_cells, settings.diffusion_cells
    return PhotonBalance(photon_field, *widths, photons, name="stem")


def photon_transport(settings: TransportSettings, photon_field: str, cell_size_mpc: float) -> PhotonTransport:
    """The stem `photon_transport`."""
    return PhotonTransport(photon_field, Transport.of_settings(settings, cell_size_mpc), name="stem")


def _kernel_transform(transform: FieldTransform) -> Transform:
    # The overdensity is linear in the density: after normalisation the two are equal.
    return "none" if transform == "overdensity" else transform


def _smaller(field: Field, radius_cells: int, channels: int, dtype: str) -> Channels:
    """The shape of a stem's output, without its values."""
    batch, *sides = field.shape
    smaller = [None if side is None else side - 2 * radius_cells for side in sides]
    return keras.KerasTensor((batch, *smaller, channels), dtype=dtype)


def _crop(values: Channels, cells: int) -> Channels:
    """The values without `cells` cells on every side."""
    if cells == 0:
        return values
    inner = slice(cells, -cells)
    return values[:, inner, inner, inner, :]


def _filter_radius_cells(widths: Sequence[int]) -> int:
    """Cells that box filters of these widths, one after the other, need on every side."""
    return sum(width // 2 for width in widths)


def _by_kernels(n_igm: BoxField, photons: BoxField, plan: PhotonPlan) -> BoxChannels:
    """The channels of one whole periodic snapshot (channel, x, y, z), float32."""
    density, emitted = (np.asarray(field, dtype=np.float32) for field in (n_igm, photons))
    return np.ascontiguousarray(np.moveaxis(photon_channels(density, emitted, plan), 1, 0))


def _box_filter(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over a cube of `width` cells around every cell of a periodic box (x, y, z), float64."""
    for axis in range(3):
        values = ndimage.uniform_filter1d(values, width, axis=axis, mode="wrap")
    # A running sum may round to slightly below zero.
    positive: np.ndarray = np.maximum(values, 0.0)
    return positive


def _average(values: Channels, width: int) -> Channels:
    """Mean over a cube of `width` cells, without padding: `width // 2` cells fewer on every side."""
    for axis in range(3):
        values = _average_along(values, width, axis)
    return values


def _average_along(values: Channels, width: int, axis: int) -> Channels:
    """The mean over `width` cells along one of the axes x, y, z, without padding."""
    size = [1, 1, 1]
    size[axis] = width
    return ops.average_pool(values, tuple(size), strides=1, padding="valid", data_format="channels_last")


def _cut(values: Channels, axis: int, start: int, stop: int | None) -> Channels:
    """The cells from `start` to `stop` along one of the axes x, y, z."""
    index = [slice(None)] * 5
    index[axis + 1] = slice(start, stop)
    return values[tuple(index)]
