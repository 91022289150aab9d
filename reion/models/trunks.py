"""The learnt stage of each network: normalised channels and redshift in, ionised fraction out.

Every trunk is a valid (unpadded) fully convolutional `keras.Model`: inputs `channels`
(batch, x, y, z, channel) and `redshift` (batch, 1), both normalised; output (batch, x', y', z', 1), smaller
by the trunk's radius on every side. The same network is trained on neighbourhoods and run on boxes.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, regularizers

from reion.config import PatchModel, ReionModel, VoxelModel
from reion.models.layers import SymmetricConv3D, add_redshift


def voxel(config: VoxelModel, channels: int) -> keras.Model:
    """The fully connected network on one cell, as 1x1x1 convolutions."""
    values, redshift = _inputs(channels)
    penalty = regularizers.L2(config.l2) if config.l2 else None
    x = values
    for index, width in enumerate(config.hidden):
        x = layers.Conv3D(width, 1, kernel_regularizer=penalty, name=f"dense_{index}")(x)
        if index == 0:
            x = add_redshift(x, redshift, "redshift")
        x = layers.LeakyReLU(0.01)(x)
        if config.dropout:
            x = layers.Dropout(config.dropout)(x)
    return keras.Model([values, redshift], _target(x, config.target), name="voxel")


def patch(config: PatchModel, channels: int) -> keras.Model:
    """The original project's network: a convolutional branch for each field, then a fully connected head.

    As in the original (EPFL 2021): one weight-sharing branch applied to each field (separate ones by
    `shared_branch=False`), two convolutions of 16 and 32 filters, LeakyReLU, batch normalisation, pooling by
    two, concatenation, and a head of 256-128-64-32-16-8-4-1 with dropout 0.1. What differs: padding is valid
    inside the neighbourhood and pooling has stride one, so that dense evaluation is exact; the second kernel
    is 3 instead of 5 wide for that reason; what the pools leave of the neighbourhood enters the head through
    a convolution of its size instead of flattening; the redshift enters the head; the output is a sigmoid
    unless `target="normalised"`.
    """
    values, redshift = _inputs(channels)
    penalty = regularizers.L2(config.l2) if config.l2 else None
    pool = layers.AveragePooling3D if config.pooling == "average" else layers.MaxPooling3D

    def branch(index: str) -> list[Any]:
        stages: list[Any] = []
        for stage, (filters, kernel) in enumerate(zip(config.filters, (5, 3), strict=True)):
            name = f"branch{index}_{stage}"
            stages.append(
                layers.Conv3D(filters, kernel, kernel_regularizer=penalty, name=f"{name}_convolution")
            )
            stages.append(layers.LeakyReLU(0.3))
            if config.batch_normalisation:
                stages.append(layers.BatchNormalization(name=f"{name}_normalisation"))
            stages.append(pool(2, strides=1, name=f"{name}_pool"))
        return stages

    shared = branch("")
    results = []
    for field in range(channels):
        x = values[..., field : field + 1]
        for layer in shared if config.shared_branch else branch(str(field)):
            x = layer(x)
        results.append(x)
    x = layers.Concatenate()(results)
    for index, width in enumerate(config.dense):
        kernel = 2 * (config.radius_cells - 4) + 1 if index == 0 else 1
        x = layers.Conv3D(width, kernel, kernel_regularizer=penalty, name=f"dense_{index}")(x)
        if index == 0:
            x = add_redshift(x, redshift, "redshift")
        x = layers.LeakyReLU(0.3)(x)
        if config.dropout:
            x = layers.Dropout(config.dropout)(x)
    return keras.Model([values, redshift], _target(x, config.target), name="patch")


def reion(config: ReionModel, channels: int) -> keras.Model:
    """Residual 3x3x3 convolutions over the photon balance; exactly symmetric unless `symmetric=False`."""
    values, redshift = _inputs(channels)
    x = layers.Conv3D(config.width, 1, name="mix")(values)
    x = layers.Activation("silu")(add_redshift(x, redshift, "redshift"))
    for block in range(config.blocks):
        if config.symmetric:
            y = SymmetricConv3D(config.hidden, activation="silu", name=f"block{block}_spread")(x)
        else:
            y = layers.Conv3D(config.hidden, 3, activation="silu", name=f"block{block}_spread")(x)
        y = layers.Conv3D(config.width, 1, name=f"block{block}_mix")(y)
        x = layers.Add(name=f"block{block}_add")([layers.Cropping3D(1)(x), y])
        x = layers.Activation("silu")(x)
    x = layers.Conv3D(16, 1, activation="silu", name="head")(x)
    return keras.Model([values, redshift], _target(x, "sigmoid"), name="reion")


def _inputs(channels: int) -> tuple[Any, Any]:
    return (
        keras.Input((None, None, None, channels), name="channels"),
        keras.Input((1,), name="redshift"),
    )


def _target(values: Any, target: str) -> Any:
    values = layers.Conv3D(1, 1, name="output")(values)
    # float32 whatever the precision of the rest: a half-precision sigmoid has no room near 0 and 1.
    activation = "sigmoid" if target == "sigmoid" else "linear"
    return layers.Activation(activation, dtype="float32", name="target")(values)
