"""The fixed first stage of a network: from raw physical fields to channels, nothing in it is learnt.

A stem is a Keras layer, so that it is part of the exported graph, with a twin in numpy (`prepare`) that
computes the same channels for a whole periodic box once, before training crops from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy import ndimage

from reion.config import FieldTransform, FieldTransforms, ReionModel
from reion.simulation import hydrogen_per_density
from reion_kernels import Transform

_REFERENCE_DENSITY = 4.2108e-31
"""n_igm in g cm-3 of gas at about the cosmic mean; a fixed unit, whatever the simulation."""

_AS_IT_IS: Transform = "none"
_SHINING_TIME = 1e-2
"""Photons for a rate: 1e48 s-1 over 1e16 s (about the age at z = 12), in 1e66."""


@keras.saving.register_keras_serializable(package="reion")
class RawFields(keras.layers.Layer):
    """Each field by itself, in working units and transformed: the channels of the cell-by-cell networks.

    Input: the two fields, each (batch, x, y, z), in the units of the data contract. Output:
    (batch, x, y, z, 2).
    """

    radius_cells = 0

    def __init__(
        self, photon_field: str, transforms: Mapping[str, str] | FieldTransforms, **options: Any
    ) -> None:
        super().__init__(**{**options, "trainable": False})
        if not isinstance(transforms, FieldTransforms):
            transforms = FieldTransforms.model_validate(dict(transforms))
        self.photon_field = photon_field
        self.transforms = transforms
        self.channels = ("n_igm", photon_field)
        self.transform = (_kernel_transform(transforms.n_igm), _kernel_transform(transforms.photons))
        self.scale = (1.0 / _REFERENCE_DENSITY, 1.0)

    def prepare(self, fields: Mapping[str, np.ndarray]) -> np.ndarray:
        """Stack one snapshot's raw fields, (channel, x, y, z) float32: `scale` and `transform` come later."""
        return np.stack([fields[name] for name in self.channels]).astype(np.float32, copy=False)

    def call(self, fields: Mapping[str, Any]) -> Any:
        functions = {"none": lambda x: x, "log1p": ops.log1p, "asinh": ops.arcsinh}
        channels = [
            functions[kind](ops.expand_dims(fields[name], -1) * scale)
            for name, scale, kind in zip(self.channels, self.scale, self.transform, strict=True)
        ]
        return ops.concatenate(channels, axis=-1)

    def compute_output_spec(self, fields: Mapping[str, Any]) -> Any:
        return keras.KerasTensor((*fields["n_igm"].shape, 2), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "photon_field": self.photon_field,
            "transforms": self.transforms.model_dump(),
        }


@keras.saving.register_keras_serializable(package="reion")
class PhotonBalance(keras.layers.Layer):
    """Photons against atoms around every cell, at many radii: what decides whether gas is ionised.

    The excursion-set picture (Furlanetto, Zaldarriaga & Hernquist 2004, ApJ 613, 1) says that a cell is
    ionised when some region around it holds more photons than atoms; Mesinger & Furlanetto (2007, ApJ 669,
    663) paint the whole region, not its centre alone. Here both come as smooth fields, from which a network
    learns what the picture leaves out:

    - balance: log of photons over atoms, smoothed by box filters of `smoothing_cells` applied one after the
      other along each axis, so that the kernel tends to a Gaussian of variance Σ (w² - 1) / 12 and its
      top-hat radius is R = √5 σ;
    - painted balance: its maximum over a cube of half side `reach` · R, for R above two cells, without the
      largest smoothing;
    - log density of the cell.

    Every channel commutes with shifts by whole cells and with the 48 symmetries of the cube. Valid: output
    is smaller than the input by `radius_cells` on every side.

    Input: n_igm (g cm-3) and the photon field, each (batch, x, y, z). Output: (batch, x', y', z', channel).
    """

    floor_per_atom = 1e-3
    """Added to photons and atoms alike, in atoms at mean density, so that empty cells stay finite."""

    def __init__(
        self, photon_field: str, smoothing_cells: Sequence[int], reaches: Sequence[float], **options: Any
    ) -> None:
        super().__init__(**{**options, "trainable": False})
        self.photon_field = photon_field
        self.smoothing_cells = tuple(smoothing_cells)
        self.reaches = tuple(reaches)
        variance = np.cumsum([(width**2 - 1) / 12 for width in self.smoothing_cells])
        self.top_hat_radius_cells = tuple(float(r) for r in np.sqrt(5 * variance))
        self.support_cells = (0, *(int(s) for s in np.cumsum([width // 2 for width in self.smoothing_cells])))
        self.painted: tuple[tuple[int, int], ...] = tuple(
            (level, round(reach * radius))
            for level, radius in enumerate(self.top_hat_radius_cells, start=1)
            if radius > 2 and level < len(self.smoothing_cells)
            for reach in self.reaches
        )
        self.channels = (
            *(f"balance_{level}" for level in range(len(self.smoothing_cells) + 1)),
            *(f"painted_{level}_{half}" for level, half in self.painted),
            "density",
        )
        self.radius_cells = max(
            [self.support_cells[-1], *(self.support_cells[level] + half for level, half in self.painted)]
        )
        self.scale = (1.0,) * len(self.channels)
        self.transform = (_AS_IT_IS,) * len(self.channels)
        atoms = hydrogen_per_density()
        self.photons_scale = 1.0 if photon_field == "n_ion" else _SHINING_TIME
        self.atoms_scale = atoms
        self.floor = self.floor_per_atom * atoms * _REFERENCE_DENSITY

    def prepare(self, fields: Mapping[str, np.ndarray]) -> np.ndarray:
        """Channels of one whole periodic snapshot, (channel, x, y, z) float32, computed in float64."""
        # Averaging keeps a constant: the floor is added once, before all smoothing.
        photons = fields[self.photon_field].astype(np.float64) * self.photons_scale + self.floor
        atoms = fields["n_igm"].astype(np.float64) * self.atoms_scale + self.floor
        density = np.log(atoms)
        balances = [np.log(photons / atoms)]
        for width in self.smoothing_cells:
            # A running sum may round to a little below the smallest of its terms.
            photons = np.maximum(_along_axes(ndimage.uniform_filter1d, photons, width), self.floor)
            atoms = np.maximum(_along_axes(ndimage.uniform_filter1d, atoms, width), self.floor)
            balances.append(np.log(photons / atoms))
        painted = [
            _along_axes(ndimage.maximum_filter1d, balances[level], 2 * half + 1)
            for level, half in self.painted
        ]
        return np.stack([*balances, *painted, density]).astype(np.float32)

    def call(self, fields: Mapping[str, Any]) -> Any:
        photons = ops.expand_dims(fields[self.photon_field], -1) * self.photons_scale + self.floor
        atoms = ops.expand_dims(fields["n_igm"], -1) * self.atoms_scale + self.floor
        density = ops.log(_crop(atoms, self.radius_cells))
        channels, painted = [], []
        for level, support_cells in enumerate(self.support_cells):
            if level > 0:
                width = self.smoothing_cells[level - 1]
                photons, atoms = (_pool_along_axes(ops.average_pool, x, width) for x in (photons, atoms))
            halves = [half for of_level, half in self.painted if of_level == level]
            margin = max(halves, default=0)
            cut = self.radius_cells - support_cells - margin
            balance = ops.log(_crop(photons, cut) / _crop(atoms, cut))
            channels.append(_crop(balance, margin))
            painted += [
                _pool_along_axes(ops.max_pool, _crop(balance, margin - half), 2 * half + 1) for half in halves
            ]
        return ops.concatenate([*channels, *painted, density], axis=-1)

    def compute_output_spec(self, fields: Mapping[str, Any]) -> Any:
        batch, *sides = fields["n_igm"].shape
        smaller = [None if side is None else side - 2 * self.radius_cells for side in sides]
        return keras.KerasTensor((batch, *smaller, len(self.channels)), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "photon_field": self.photon_field,
            "smoothing_cells": list(self.smoothing_cells),
            "reaches": list(self.reaches),
        }


def build_stem(model: Any, photon_field: str) -> RawFields | PhotonBalance:
    """The stem that a model of the schema asks for."""
    if isinstance(model, ReionModel):
        return PhotonBalance(photon_field, model.smoothing_cells, model.reaches, name="stem")
    return RawFields(photon_field, model.transforms, name="stem")


def _kernel_transform(transform: FieldTransform) -> Transform:
    # The overdensity is affine in the density: once normalised, it is the density itself.
    return "none" if transform == "overdensity" else transform


def _crop(values: Any, cells: int) -> Any:
    if cells == 0:
        return values
    inner = slice(cells, -cells)
    return values[:, inner, inner, inner, :]


def _along_axes(filter1d: Any, values: np.ndarray, width: int) -> np.ndarray:
    for axis in range(3):
        values = filter1d(values, width, axis=axis, mode="wrap")
    return values


def _pool_along_axes(pool: Any, values: Any, width: int) -> Any:
    if width == 1:
        return values
    for axis in range(3):
        size = [1, 1, 1]
        size[axis] = width
        values = pool(values, tuple(size), strides=1, padding="valid", data_format="channels_last")
    return values
