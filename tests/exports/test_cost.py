"""What a graph costs, against what can be counted by hand."""

import pytest

from reion_exports import ModelCard
from reion_exports.convert import to_onnx
from reion_exports.cost import convolution_flops, working_bytes


@pytest.fixture(scope="module")
def model():
    """Two 3x3x3 convolutions, 1 to 4 to 1 channels: window W, then (W - 2)³ x 4, then (W - 4)³."""
    import keras

    field = keras.Input((None, None, None), name="n_igm")
    redshift = keras.Input((), name="redshift")
    # Keras before 3.14 wants every input to be used.
    x = keras.ops.expand_dims(field + 0.0 * keras.ops.reshape(redshift, (-1, 1, 1, 1)), -1)
    x = keras.layers.Conv3D(4, 3)(x)
    x = keras.layers.Conv3D(1, 3)(x)
    network = keras.Model({"n_igm": field, "redshift": redshift}, keras.ops.squeeze(x, -1))
    card = ModelCard(
        name="two",
        version="1",
        inputs={"n_igm": "g cm-3"},
        cell_size_mpc=1.0,
        redshift_range=(6.0, 12.0),
        receptive_radius_cells=2,
    )
    return to_onnx(network, card)


@pytest.mark.parametrize("window", [(14, 14, 14), (9, 20, 5)])
def test_operations_of_convolutions(model, window):
    x, y, z = window
    first = (x - 2) * (y - 2) * (z - 2) * 4 * 27
    # Of the second, two planes more are computed than there are in the end.
    second = (x - 2) * (y - 4) * (z - 4) * 4 * 27
    assert convolution_flops(model, window) == 2 * (first + second)


def test_working_memory_holds_what_is_alive_at_once(model):
    per_window_cell, per_cell = working_bytes(model, radius_cells=2, stride_cells=1)
    for side in (8, 32, 100, 400):
        window = side + 4
        # The first: three shifted copies of the field, beside each other too. The second: four channels in,
        # its three planes out.
        first = 2 * 3 * (window - 2) * window**2
        second = 4 * (window - 2) ** 3 + 3 * (window - 2) * side**2
        alive = 4 * max(first, second)
        bound = per_window_cell * window**3 + per_cell * side**3
        assert alive <= bound * (1 + 1e-9)
        assert bound < 1.7 * alive
