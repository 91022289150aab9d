"""Check that a trunk is valid (unpadded) and treats every cell alike."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from reion.errors import InputError

_WINDOW_CELLS = 256
"""Side of the window with which the loss of cells is measured: wider than any receptive field."""

_TOLERANCE = 1e-4
"""Two windows agree in xi to this in float32: TensorFlow's order of additions depends on the shape."""


def radius_of(trunk: Any, name: str, *, stride_cells: int = 1) -> int:
    """Cells that a trunk needs on every side of the cells that it predicts, from the shapes of its layers.

    Raises
    ------
    InputError
        If the trunk is no `keras.Model` of channels and conditions, its output is no xi (batch, x, y, z,
        1 or 2) in float32, or it does not lose the same number of cells on every side.
    """
    if not isinstance(trunk, keras.Model) or len(trunk.inputs) != 2:
        raise InputError(
            f"the network {name}: expected its function to return keras.Model([channels, conditions], xi); "
            f"received {type(trunk).__name__}"
        )
    if (
        len(trunk.outputs) != 1
        or len(trunk.outputs[0].shape) != 5
        or trunk.outputs[0].shape[-1] not in (1, 2)
    ):
        shapes = ", ".join(str(output.shape) for output in trunk.outputs)
        raise InputError(
            f"the network {name}: expected one output (batch, x, y, z, 1), or 2 channels with a spread; "
            f"received {shapes}"
        )
    if keras.backend.standardize_dtype(trunk.outputs[0].dtype) != "float32":
        raise InputError(
            f"the network {name}: expected xi in float32; received {trunk.outputs[0].dtype}",
            hint='give its last layer dtype="float32"',
        )
    batch, conditions = [(1, *tensor.shape[1:]) for tensor in trunk.inputs]
    refused: Exception | None = None
    for extra in range(stride_cells):
        side = _WINDOW_CELLS + extra
        try:
            shape = trunk.compute_output_shape([(1, side, side, side, batch[-1]), conditions])
        except ValueError as error:  # a network that halves the mesh refuses sides that it cannot halve
            refused = error
            continue
        lost = {side - length for length in shape[1:4]}
        (cells, *others) = lost
        if others or cells < 0 or cells % 2:
            raise InputError(
                f"the network {name}: expected the same number of cells lost on all six sides; a window of "
                f"{side} cells a side became {shape[1:4]}",
                hint='use padding="valid" and odd kernels',
            )
        if (side - cells) % stride_cells == 0:
            return int(cells // 2)
    raise InputError(
        f"the network {name}: no window of {_WINDOW_CELLS} to {_WINDOW_CELLS + stride_cells - 1} cells gives "
        f"a multiple of its stride_cells={stride_cells}" + (f": {refused}" if refused else "")
    )


def require_valid(trunk: keras.Model, name: str, radius_cells: int, *, stride_cells: int = 1) -> None:
    """Refuse a trunk whose prediction for a cell depends on the window, so that tiles would not match.

    Raises
    ------
    InputError
        If the predictions of two windows differ: the trunk pads, or takes a statistic over the window.
    """
    rng = np.random.default_rng(0)
    side = 2 * radius_cells + 2 * stride_cells
    channels = rng.normal(size=(1, side, side, side, trunk.inputs[0].shape[-1])).astype(np.float32)
    conditions = rng.normal(size=(1, trunk.inputs[1].shape[-1])).astype(np.float32)

    def predict(window: np.ndarray) -> np.ndarray:
        xi = trunk([window, conditions], training=False)
        return np.asarray(keras.ops.convert_to_numpy(xi), dtype=np.float32)

    whole = predict(channels)
    part = predict(channels[:, stride_cells:, stride_cells:, stride_cells:])
    difference = float(np.abs(whole[:, stride_cells:, stride_cells:, stride_cells:] - part).max())
    tolerance = _TOLERANCE if trunk.compute_dtype == "float32" else 0.1
    if not difference <= tolerance * max(1.0, float(np.abs(whole).max())):
        raise InputError(
            f"the network {name} predicts a cell differently in another window, by {difference:.1e}",
            hint='use padding="valid" everywhere, and no statistic over the window (GlobalAveragePooling3D, '
            "GroupNormalization): a large box is predicted in tiles",
        )
