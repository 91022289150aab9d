"""Check that an ONNX file agrees with the Keras network that it was exported from."""

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
"""Largest allowed difference of xi or xi_std in any cell."""

ROUNDINGS = 10
"""Allowed multiple of the effect of rounding the inputs. A network rounds at some hundred places, whose
effects add up like the square root of their number. For most networks the product is about `TOLERANCE`."""

_DRAWS = 4
"""Number of times that `own_rounding` draws the direction in which each number is moved."""

_TYPICAL = {
    "g cm-3": (4.2e-31, 1.0),
    "1e48 s-1 Mpc-3": (5e4, 0.02),
    "1e66 Mpc-3": (40, 0.05),
    "Mpc-3": (0.5, 0.02),
    "Msun Mpc-3": (1e10, 0.02),
    "1e18 s Mpc-3": (0.005, 0.05),
    "1e18 s Msun Mpc-3": (1e8, 0.05),
}
"""For each unit, the typical magnitude in a cell that is not empty, and the share of such cells."""


_TYPICAL_RANGE = (15.0, 45.0)
"""Typical range of the conditions, which are lengths in Mpc."""


@dataclass(frozen=True)
class Case:
    """One comparison of the file with the network.

    Parameters
    ----------
    batch, cells
        Boxes in the batch, and cells of a box.
    periodic
        Whether the file got whole boxes; otherwise it got parts with their halo.
    differences
        Largest difference of each output in any cell, by name; infinite if one side lacks the output, shapes
        differ, or a value is not finite.
    lowest, highest
        Range of xi of the network.
    """

    batch: int
    cells: tuple[int, int, int]
    periodic: bool
    differences: Mapping[str, float]
    lowest: float
    highest: float

    @property
    def difference(self) -> float:
        """The largest difference of any output."""
        return max(self.differences.values())


def realistic_fields(card: ModelCard, shape: tuple[int, ...], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Random raw fields of realistic magnitude with sparse sources, by name, of this shape, float32."""
    rng = np.random.default_rng(seed)
    fields = {}
    for name, units in card.inputs.items():
        magnitude, filled = _TYPICAL.get(units, (1.0, 1.0))
        values = magnitude * rng.lognormal(-0.1, 0.5, shape)
        fields[name] = np.where(rng.random(shape) < filled, values, 0.0).astype(np.float32)
    return fields


def compare(network: Network, session: onnxruntime.InferenceSession, card: ModelCard) -> Iterator[Case]:
    """Compare all outputs of the file and of the network, for boxes of three shapes and for tiles.

    The shapes are a cube, a box with three different sides, in a batch of two, and a box whose sides are no
    multiples of the stride. All are narrower than most receptive fields, so that the wrap goes round several
    times. The network gets its periodic halo from NumPy, so that the wrap inside the graph is tested too.
    """
    stride = card.stride_cells
    shapes: list[tuple[int, int, int]]
    shapes = [(4 * stride,) * 3, (2 * stride, 4 * stride, 6 * stride), (4 * stride + 1, 2 * stride + 3, 7)]
    for batch, cells in [(1, shapes[0]), (2, shapes[1]), (1, shapes[2])]:
        box = _inputs(card, batch, cells)
        haloed = haloed_inputs(card, batch, cells)
        expected = {
            name: values[:, : cells[0], : cells[1], : cells[2]]
            for name, values in _answers(network, haloed).items()
        }
        yield _case(_outputs(session, box), expected, cells, periodic=True)
        if all(n % stride == 0 for n in cells):
            tile: Mapping[str, Any] = {**haloed, PERIODIC: np.zeros(3, dtype=np.int64)}
            yield _case(_outputs(session, tile), expected, cells, periodic=False)


def haloed_inputs(card: ModelCard, batch: int, cells: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Inputs of the network for boxes of this shape: fields (batch, x + 2 R, y + 2 R, z + 2 R) float32."""
    radius, stride = card.receptive_radius_cells, card.stride_cells
    width = [(0, 0), *((radius, radius + -n % stride) for n in cells)]
    box = _inputs(card, batch, cells)
    return {
        name: np.pad(values, width, mode="wrap") if name in card.inputs else values
        for name, values in box.items()
    }


def own_rounding(network: Network, inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The largest change of each output if the last bit of every number in the fields is changed.

    It is 1e-6 for most networks, and larger for a network whose sigmoid is nearly a step.
    """
    expected = _answers(network, inputs)
    rng = np.random.default_rng(0)
    largest = dict.fromkeys(expected, 0.0)
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
        changed = _answers(network, moved)
        for name, values in expected.items():
            largest[name] = max(largest[name], float(np.abs(changed[name] - values).max()))
    return largest


def _answers(network: Network, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The outputs of the network, by the names that they have in the file."""
    answer = network(inputs, training=False)
    by_name = answer if isinstance(answer, Mapping) else {"xi": answer}
    return {name: np.asarray(values, dtype=np.float32) for name, values in by_name.items()}


def _outputs(session: onnxruntime.InferenceSession, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def _inputs(card: ModelCard, batch: int, cells: tuple[int, int, int]) -> dict[str, np.ndarray]:
    redshift = np.linspace(*card.redshift_range, batch + 1, dtype=np.float32)[1:]
    numbers = {name: np.geomspace(*_TYPICAL_RANGE, batch, dtype=np.float32) for name in card.conditions}
    return {**realistic_fields(card, (batch, *cells), seed=batch), "redshift": redshift, **numbers}


def _case(
    received: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    cells: tuple[int, ...],
    *,
    periodic: bool,
) -> Case:
    differences = dict.fromkeys({**expected, **received}, float("inf"))
    for name in expected.keys() & received.keys():
        if received[name].shape == expected[name].shape:
            difference = float(np.max(np.abs(received[name] - expected[name])))
            differences[name] = difference if np.isfinite(difference) else float("inf")
    xi = expected["xi"]
    return Case(
        batch=xi.shape[0],
        cells=(cells[0], cells[1], cells[2]),
        periodic=periodic,
        differences=differences,
        lowest=float(xi.min()),
        highest=float(xi.max()),
    )
