"""Trunks: the trained second stage of each network, from normalised channels and conditions to xi.

Every function gets the Keras inputs `channels` (batch, x, y, z, channel) and `conditions` (batch, condition),
both normalised, and returns a valid (unpadded) fully convolutional `keras.Model` of the two, as
`reion.registry.register_network` describes it. The same network trains on crops and predicts whole boxes.
"""

from __future__ import annotations

import keras
from keras import layers, regularizers

from reion.models.layers import PointwiseConv3D, StopGradient, SymmetricConv3D, add_conditions
from reion.models.shapes import Channels, Conditions
from reion.networks import PatchModel, PinionModel, ReionModel, TransportModel, UNetModel, VoxelModel

LEAST_SPREAD, MOST_SPREAD = 1e-3, 0.6
"""Range of xi_std, the standard deviation of the error of xi that the network `transport` predicts."""


def voxel(config: VoxelModel, channels: Channels, conditions: Conditions) -> keras.Model:
    """A fully connected network on single cells, written as 1x1x1 convolutions."""
    penalty = regularizers.L2(config.l2) if config.l2 else None
    x = channels
    for index, width in enumerate(config.hidden):
        x = PointwiseConv3D(width, kernel_regularizer=penalty, name=f"dense_{index}")(x)
        if index == 0:
            x = add_conditions(x, conditions, "redshift")
        x = layers.LeakyReLU(0.01)(x)
        if config.dropout:
            x = layers.Dropout(config.dropout)(x)
    return keras.Model([channels, conditions], _target(x, config.target), name="voxel")


def patch(config: PatchModel, channels: Channels, conditions: Conditions) -> keras.Model:
    """The original project's network: a convolutional branch for each field, then a fully connected head.

    As in the original (EPFL 2021): one weight-sharing branch applied to each field (separate ones by
    `shared_branch=False`), two convolutions of 16 and 32 filters, LeakyReLU, batch normalisation, pooling by
    two, concatenation, and a head of 256-128-64-32-16-8-4-1 with dropout 0.1.

    It differs from the original: padding is valid and pooling has stride one, so that predicting many cells
    at once is exact, and the second kernel is 3 instead of 5 wide for that reason; the pooled neighbourhood
    enters the head through a convolution of its size instead of flattening; the redshift enters the head; the
    output is a sigmoid unless `target="normalised"`.
    """
    penalty = regularizers.L2(config.l2) if config.l2 else None
    pool = layers.AveragePooling3D if config.pooling == "average" else layers.MaxPooling3D

    def branch(index: str) -> list[keras.Layer]:
        stages: list[keras.Layer] = []
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
    for field in range(channels.shape[-1]):
        x = channels[..., field : field + 1]
        for layer in shared if config.shared_branch else branch(str(field)):
            x = layer(x)
        results.append(x)
    x = layers.Concatenate()(results)
    for index, width in enumerate(config.dense):
        kernel = 2 * (config.radius_cells - 4) + 1 if index == 0 else 1
        x = layers.Conv3D(width, kernel, kernel_regularizer=penalty, name=f"dense_{index}")(x)
        if index == 0:
            x = add_conditions(x, conditions, "redshift")
        x = layers.LeakyReLU(0.3)(x)
        if config.dropout:
            x = layers.Dropout(config.dropout)(x)
    return keras.Model([channels, conditions], _target(x, config.target), name="patch")


def pinion(config: PinionModel, channels: Channels, conditions: Conditions) -> keras.Model:
    """The network of PINION (Korber, Bianco, Tolley & Kneib 2023): three convolutions, then a dense head.

    As in the paper's code: valid 3x3x3 convolutions of 64, 128 and 256 filters, each followed by PReLU with
    one slope, batch normalisation and dropout of whole channels; the time appended; a head of 64-16-4-1-1.
    It has 1,130,252 trainable parameters.

    It differs from the paper: the time enters as the redshift, and is added, which is equivalent to appending
    it to the input of the head; fields are normalised with mean and σ after log1p instead of divided by their
    maximum (`transforms` switches log1p off); the mask has one comoving radius at all redshifts; the loss has
    no rate equation, because the data contract has no ionisation rates.
    """

    def activate(x: Channels, name: str, dropout: type[layers.Layer]) -> Channels:
        x = layers.PReLU(shared_axes=[1, 2, 3, 4], name=f"{name}_slope")(x)
        if config.batch_normalisation:
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_normalisation")(x)
        return dropout(config.dropout)(x) if config.dropout else x

    x = channels
    for stage, filters in enumerate(config.filters):
        name = f"convolution_{stage}"
        x = activate(layers.Conv3D(filters, 3, name=name)(x), name, layers.SpatialDropout3D)
    for index, width in enumerate(config.dense):
        name = f"dense_{index}"
        x = PointwiseConv3D(width, name=name)(x)
        if index == 0:
            time = layers.Dense(width, use_bias=False, name="time")(conditions)
            x = layers.Add(name="time_add")([x, layers.Reshape((1, 1, 1, width))(time)])
        x = activate(x, name, layers.Dropout)
    return keras.Model([channels, conditions], _target(x, "sigmoid"), name="pinion")


def unet(config: UNetModel, channels: Channels, conditions: Conditions) -> keras.Model:
    """A 3D U-Net (Ronneberger et al. 2015; Çiçek et al. 2016) with two valid 3x3x3 convolutions per level.

    Because its convolutions are valid, as in those papers, it is exact in tiles. The sides of its output are
    multiples of its stride. The redshift is added after the first convolution.
    """
    pool = layers.AveragePooling3D if config.pooling == "average" else layers.MaxPooling3D

    def convolve(x: Channels, filters: int, name: str) -> Channels:
        for index in range(2):
            x = layers.Conv3D(filters, 3, name=f"{name}_{index}")(x)
            if name == "down_0" and index == 0:
                x = add_conditions(x, conditions, "redshift")
            if config.batch_normalisation:
                x = layers.BatchNormalization(momentum=0.9, name=f"{name}_{index}_normalisation")(x)
            x = layers.LeakyReLU(0.1)(x)
        return layers.SpatialDropout3D(config.dropout)(x) if config.dropout else x

    x = channels
    skipped = []
    for level, filters in enumerate(config.filters[:-1]):
        x = convolve(x, filters, f"down_{level}")
        skipped.append(x)
        x = pool(2, name=f"pool_{level}")(x)
    x = convolve(x, config.filters[-1], "bottom")
    # Cells that the convolutions of the level below and of deeper levels remove on every side of that level.
    lost = 2
    for level in reversed(range(len(skipped))):
        filters = config.filters[level]
        x = layers.Conv3DTranspose(filters, 2, strides=2, name=f"rise_{level}")(x)
        x = layers.Concatenate()([layers.Cropping3D(2 * lost)(skipped[level]), x])
        x = convolve(x, filters, f"up_{level}")
        lost = 2 + 2 * lost + 2
    return keras.Model([channels, conditions], _target(x, "sigmoid"), name="unet")


def reion(config: ReionModel, channels: Channels, conditions: Conditions) -> keras.Model:
    """Residual 3x3x3 convolutions on the channels of the photon balance; exactly symmetric if `symmetric`."""
    x = PointwiseConv3D(config.width, name="mix")(channels)
    x = layers.Activation("silu")(add_conditions(x, conditions, "redshift"))
    for block in range(config.blocks):
        x = layers.Activation("silu")(_residual(x, config, f"block{block}"))
    x = PointwiseConv3D(16, activation="silu", name="head")(x)
    return keras.Model([channels, conditions], _target(x, "sigmoid"), name="reion")


def transport(config: TransportModel, channels: Channels, conditions: Conditions) -> keras.Model:
    """The trunk of `reion` on the channels of `Transport`; every block gets redshift, reach and cell size."""
    x = PointwiseConv3D(config.width, name="mix")(channels)
    x = layers.Activation("silu")(add_conditions(x, conditions, "conditions", hidden=32))
    for block in range(config.blocks):
        y = _residual(x, config, f"block{block}")
        x = layers.Activation("silu")(add_conditions(y, conditions, f"block{block}_conditions"))
    x = PointwiseConv3D(16, activation="silu", name="head")(x)
    xi = _target(x, "sigmoid")
    if config.spread:
        xi = layers.Concatenate(name="xi_and_spread")([xi, _spread(x)])
    return keras.Model([channels, conditions], xi, name="transport")


def _spread(features: Channels) -> Channels:
    """Predict the standard deviation of the error of xi from the features, without a gradient to them."""
    x = StopGradient(name="spread_features")(features)
    x = PointwiseConv3D(16, activation="silu", name="spread_hidden")(x)
    x = PointwiseConv3D(1, bias_initializer=keras.initializers.Constant(-3.0), name="spread_output")(x)
    # float32 for the same reason as in `_target`
    x = layers.Activation("sigmoid", dtype="float32", name="spread_sigmoid")(x)
    return layers.Rescaling(MOST_SPREAD - LEAST_SPREAD, LEAST_SPREAD, dtype="float32", name="spread")(x)


def _residual(x: Channels, config: ReionModel | TransportModel, name: str) -> Channels:
    """A 3x3x3 convolution to `hidden` channels and one back, added to the cropped input."""
    if config.symmetric:
        y = SymmetricConv3D(config.hidden, activation="silu", name=f"{name}_spread")(x)
    else:
        y = layers.Conv3D(config.hidden, 3, activation="silu", name=f"{name}_spread")(x)
    y = PointwiseConv3D(config.width, name=f"{name}_mix")(y)
    return layers.Add(name=f"{name}_add")([layers.Cropping3D(1)(x), y])


def _target(values: Channels, target: str) -> Channels:
    """The output channel from the last features: xi (`sigmoid`) or normalised xi."""
    values = PointwiseConv3D(1, name="output")(values)
    # Always float32: a sigmoid in half precision is too coarse near 0 and 1.
    activation = "sigmoid" if target == "sigmoid" else "linear"
    return layers.Activation(activation, dtype="float32", name="target")(values)
