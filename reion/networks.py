"""The networks that come with reion: their settings, their defaults, and the stems that they are built on.

They are registered like the networks of a user. The functions that build them need Keras, and are imported
when they are first called.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from reion.registry import (
    NetworkSettings,
    deferred,
    only_turned,
    register_augmentation,
    register_loss,
    register_network,
    register_stem,
)
from reion.schema import Schema

FieldTransform = Literal["none", "log1p", "asinh", "overdensity"]


def _odd(width: int) -> int:
    if width % 2 == 0:
        raise ValueError(f"the width of a box filter must be odd; received {width}")
    return width


OddWidth = Annotated[int, Field(ge=3), AfterValidator(_odd)]

Length = Annotated[float, Field(gt=0)]
"""A comoving length in Mpc."""


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


class FieldsSettings(NetworkSettings):
    """Settings of a network on the stem `fields`, whose channels are the fields themselves."""

    transforms: FieldTransforms = FieldTransforms()


class MaskSettings(FieldsSettings):
    """Settings of a network on the stem `fields_and_mask`, which adds the propagation mask to the fields.

    The mask is the photon field averaged by box filters of the widths `mask_smoothing_cells`, one after the
    other; by default that is close to an average over a ball of 14 cells.
    """

    mask_smoothing_cells: tuple[OddWidth, ...] = (3, 3, 5, 7, 9, 11, 13)


class PhotonSettings(NetworkSettings):
    """Settings of a network that compares photons with atoms."""

    photons_per_source: Annotated[float, Field(gt=0)] | None = None
    """Ionising photons for each unit of the source field: 1 for photon rates. For sources in other units it
    is fitted to the training boxes unless it is given."""


class BalanceSettings(PhotonSettings):
    """Settings of a network on the stem `photon_balance`, which compares photons with atoms around each cell.

    `smoothing_cells` are the widths of the box filters that smooth photons and atoms, one after the other;
    `diffusion_cells` those of the filters that spread the photons left over (see
    `reion.models.stems.PhotonBalance`).
    """

    smoothing_cells: tuple[OddWidth, ...] = (3, 3, 5, 7, 9, 11, 13, 15)
    diffusion_cells: tuple[OddWidth, ...] = (3, 3, 3, 5, 3, 7, 3, 9, 3, 11, 3, 9, 3, 7, 3, 5, 3, 3)


class TransportSettings(PhotonSettings):
    """Settings of a network on the stem `photon_transport`, which follows photons in Mpc up to `max_mfp`.

    `smoothing_mpc` are the top-hat radii on which photons and atoms are compared; `diffusion_mpc` those by
    which the photons left over spread, one after the other; distances to the nearest source are measured up
    to `farthest_mpc` (see `reion.models.transport.Transport`).
    """

    smoothing_mpc: Radii = (3.7, 5.2, 8.2, 12.0, 16.5, 22.0, 28.0, 34.0, 45.0)
    diffusion_mpc: Annotated[tuple[Length, ...], Field(min_length=1)] = (
        *(3.6, 3.6, 3.6, 6.3, 3.6, 9.0, 3.6, 11.5, 3.6, 14.0),
        *(3.6, 11.5, 3.6, 9.0, 3.6, 6.3, 3.6, 3.6, 20.0, 36.0),
    )
    farthest_mpc: Length = 40.0


class VoxelModel(FieldsSettings):
    """A fully connected network on single cells: the simplest network of the original project."""

    name: Literal["voxel"] = "voxel"
    hidden: tuple[int, ...] = (16, 16, 8)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    l2: Annotated[float, Field(ge=0)] = 0.0
    target: Literal["sigmoid", "normalised"] = "sigmoid"


class PatchModel(FieldsSettings):
    """The original project's network: a convolutional branch for each field, pooling, a dense head."""

    name: Literal["patch"] = "patch"
    radius_cells: Annotated[int, Field(ge=4, le=16)] = 4
    filters: tuple[int, int] = (16, 32)
    dense: tuple[int, ...] = (256, 128, 64, 32, 16, 8, 4)
    pooling: Literal["average", "max"] = "average"
    shared_branch: bool = True
    batch_normalisation: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    l2: Annotated[float, Field(ge=0)] = 1e-4
    target: Literal["sigmoid", "normalised"] = "sigmoid"


class PinionModel(MaskSettings):
    """The network of PINION (Korber et al. 2023): density, sources and their propagation mask, 7^3 cells."""

    name: Literal["pinion"] = "pinion"
    filters: tuple[int, int, int] = (64, 128, 256)
    dense: tuple[int, ...] = (64, 16, 4, 1)
    batch_normalisation: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class UNetModel(FieldsSettings):
    """A 3D U-Net on the raw fields: three levels, each with cells twice as large as the one before.

    It has no batch normalisation: each step trains on one large crop, whose mean is not that of the boxes.
    """

    name: Literal["unet"] = "unet"
    filters: tuple[int, int, int] = (16, 32, 64)
    pooling: Literal["average", "max"] = "max"
    batch_normalisation: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class ReionModel(BalanceSettings):
    """The default: photons against atoms around every cell, followed by a small convolutional trunk."""

    name: Literal["reion"] = "reion"
    width: Annotated[int, Field(ge=1)] = 32
    hidden: Annotated[int, Field(ge=1)] = 24
    blocks: Annotated[int, Field(ge=0)] = 4
    symmetric: bool = True


class TransportModel(TransportSettings):
    """One network for many kinds of boxes: the trunk of `reion`, which also takes reach and cell size."""

    name: Literal["transport"] = "transport"
    width: Annotated[int, Field(ge=1)] = 32
    hidden: Annotated[int, Field(ge=1)] = 24
    blocks: Annotated[int, Field(ge=0)] = 4
    symmetric: bool = True
    spread: bool = True
    """Whether the network also learns the standard deviation of the error of xi in every cell."""


_stems, _trunks, _losses = "reion.models.stems", "reion.models.trunks", "reion.training.losses"
register_stem("fields", settings=FieldsSettings)(deferred(f"{_stems}:fields"))
register_stem("fields_and_mask", settings=MaskSettings)(deferred(f"{_stems}:fields_and_mask"))
register_stem("photon_balance", settings=BalanceSettings)(deferred(f"{_stems}:photon_balance"))
register_stem(
    "photon_transport",
    settings=TransportSettings,
    conditions=("max_mfp",),
    inputs="history",
    any_cell_size=True,
)(deferred(f"{_stems}:photon_transport"))

_SHARP_EDGES = {"gradient": 2.0, "power": 0.01}
"""Weights of the loss terms that keep edges sharp. With mse they are off by default: they would saturate the
sigmoid."""
register_network(
    "reion",
    settings=ReionModel,
    training={"crop_cells": 24, "batch_size": 4, "learning_rate": 3e-3},
    loss=_SHARP_EDGES,
    symmetric=lambda settings: settings.symmetric,
)(deferred(f"{_trunks}:reion"))
register_network(
    "transport",
    settings=TransportModel,
    stem="photon_transport",
    training={"crop_cells": 24, "batch_size": 4, "learning_rate": 3e-3},
    loss=_SHARP_EDGES,
    symmetric=lambda settings: settings.symmetric,
)(deferred(f"{_trunks}:transport"))
register_network(
    "unet",
    settings=UNetModel,
    stem="fields",
    training={"crop_cells": 32, "batch_size": 1, "learning_rate": 1e-3},
    stride_cells=4,  # it halves the mesh twice
)(deferred(f"{_trunks}:unet"))
register_network(
    "pinion",
    settings=PinionModel,
    stem="fields_and_mask",
    training={"crop_cells": 4, "batch_size": 32, "learning_rate": 1e-2},
)(deferred(f"{_trunks}:pinion"))
register_network(
    "patch",
    settings=PatchModel,
    stem="fields",
    training={"crop_cells": 1, "batch_size": 256, "learning_rate": 1e-3},
)(deferred(f"{_trunks}:patch"))
register_network(
    "voxel",
    settings=VoxelModel,
    stem="fields",
    training={"crop_cells": 1, "batch_size": 4096, "learning_rate": 3e-3},
    symmetric=True,
)(deferred(f"{_trunks}:voxel"))

for _name in ("mse", "binary_cross_entropy", "focal"):
    register_loss(_name)(deferred(f"{_losses}:{_name}"))
register_augmentation("none", orientations=1)(only_turned)
register_augmentation("rotations", orientations=24)(only_turned)
register_augmentation("symmetries", orientations=48)(only_turned)
