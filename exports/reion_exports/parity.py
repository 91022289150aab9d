"""The proof that an ONNX file and the Keras network it came from agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reion_exports.card import ModelCard
from reion_exports.convert import PERIODIC, Network

if TYPE_CHECKING:
    import onnxruntime

TOLERANCE = 1e-5
"""How far xi may differ, in any cell."""

ROUNDINGS = 10
"""How many times the effect of rounding the inputs is allowed: a network rounds at some hundred places, and
their effects add up like the square root of their number. For most networks that product is `TOLERANCE`."""

_DRAWS = 4
"""How often `own_rounding` draws the direction in which each number is moved."""

_TYPICAL = {
    "g cm-3": (4.2e-31, 1.0),
    "1e48 s-1 Mpc-3": (5e4, 0.02),
    "1e66 Mpc-3": (40, 0.05),
    "Mpc-3": (0.5, 0.02),
    "Msun Mpc-3": (1e10, 0.02),
    "1e18 s Mpc-3": (0.005, 0.05),
    "1e18 s Msun Mpc-3": (1e8, 0.05),
}
"""For each unit the magnitude in a cell that is not empty, and the share of such cells."""


_TYPICAL_RANGE = (15.0, 45.0)
"""Of the conditions, which are lengths in Mpc."""


@dataclass(frozen=True)
class Case:
    """One comparison of the file with the network.

    Parameters
    ----------
    batch, cells
        Boxes in the batch, and cells of a box.
    periodic
        Whether the file was given whole boxes; otherwise parts that carry their halo.
    difference
        The largest difference of xi in any cell; infinite where shapes differ or there are no numbers.
    lowest, highest
        Range of the network's xi.
    """

    batch: int
    cells: tuple[int, int, int]
    periodic: bool
    difference: float
    lowest: float
    highest: float


def realistic_fields(card: ModelCard, shape: tuple[int, ...], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Random raw fields of realistic magnitude with sparse sources: name to (batch, x, y, z) float32."""
    rng = np.random.default_rng(seed)
    fields = {}
    for name, units in card.inputs.items():
        magnitude, filled = _TYPICAL.get(units, (1.0, 1.0))
        values = magnitude * rng.lognormal(-0.1, 0.5, shape)
        fields[name] = np.where(rng.random(shape) < filled, values, 0.0).astype(np.float32)
    return fields


def compare(network: Network, session: onnxruntime.InferenceSession, card: ModelCard) -> Iterator[Case]:
    """Compare the file with the network at three shapes of the box, two of them in batches, and on a tile.

    The shapes are a cube, a box with three different sides, and one that is no multiple of the stride. All
    are narrower than most receptive fields, so that the wrap goes round more than once. The network gets its
    periodic halo from numpy, so that the wrap inside the graph is part of what is compared.
    """
    stride = card.stride_cells
    shapes: list[tuple[int, int, int]]
    shapes = [(4 * stride,) * 3, (2 * stride, 4 * stride, 6 * stride), (4 * stride + 1, 2 * stride + 3, 7)]
    for batch, cells in [(1, shapes[0]), (2, shapes[1]), (1, shapes[2])]:
        box = _inputs(card, batch, cells)
        haloed = haloed_inputs(card, batch, cells)
        expected = _xi(network, haloed)
        expected = expected[:, : cells[0], : cells[1], : cells[2]]
        (whole,) = session.run(["xi"], box)
        yield _case(whole, expected, cells, periodic=True)
        if all(n % stride == 0 for n in cells):
            tile: Mapping[str, Any] = {**haloed, PERIODIC: np.zeros(3, dtype=np.int64)}
            (interior,) = session.run(["xi"], tile)
            yield _case(interior, expected, cells, periodic=False)


def haloed_inputs(card: ModelCard, batch: int, cells: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """What the network is called with for boxes of that shape: (batch, x + 2 R, y + 2 R, z + 2 R) float32."""
    radius, stride = card.receptive_radius_cells, card.stride_cells
    width = [(0, 0), *((radius, radius + -n % stride) for n in cells)]
    box = _inputs(card, batch, cells)
    return {
        name: np.pad(values, width, mode="wrap") if name in card.inputs else values
        for name, values in box.items()
    }


def own_rounding(network: Network, inputs: Mapping[str, np.ndarray]) -> float:
    """The largest change of the network's xi when every number of its fields is moved by its last bit.

    That is 1e-6 for most networks. One whose sigmoid is nearly a step turns rounding into more.
    """
    expected = _xi(network, inputs)
    rng = np.random.default_rng(0)
    largest = 0.0
    for _ in range(_DRAWS):
        moved = {
            name: values
            if values.shape == inputs["redshift"].shape  # a number for each box, not a field
            else np.where(
                values == 0,
                values,
                np.nextafter(values, rng.choice(np.array([-np.inf, np.inf], dtype=np.float32), values.shape)),
            )
            for name, values in inputs.items()
        }
        change = np.abs(_xi(network, moved) - expected)
        largest = max(largest, float(change.max()))
    return largest


def _xi(network: Network, inputs: Mapping[str, Any]) -> np.ndarray:
    answer = network(inputs, training=False)
    return np.asarray(answer["xi"] if isinstance(answer, Mapping) else answer, dtype=np.float32)


def _inputs(card: ModelCard, batch: int, cells: tuple[int, int, int]) -> dict[str, np.ndarray]:
    redshift = np.linspace(*card.redshift_range, batch + 1, dtype=np.float32)[1:]
    numbers = {name: np.geomspace(*_TYPICAL_RANGE, batch, dtype=np.float32) for name in card.conditions}
    return {**realistic_fields(card, (batch, *cells), seed=batch), "redshift": redshift, **numbers}


def _case(received: np.ndarray, expected: np.ndarray, cells: tuple[int, ...], *, periodic: bool) -> Case:
    same_shape = received.shape == expected.shape
    difference = float(np.max(np.abs(received - expected))) if same_shape else float("inf")
    return Case(
        batch=expected.shape[0],
        cells=(cells[0], cells[1], cells[2]),
        periodic=periodic,
        difference=difference if np.isfinite(difference) else float("inf"),
        lowest=float(expected.min()),
        highest=float(expected.max()),
    )
