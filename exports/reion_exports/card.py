"""The model card: the description of a model that is stored in its ONNX file."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

FORMAT = 2
"""Version of the layout of the metadata; files with another version are refused."""

PREFIX = "reion."


_MOST_CHARACTERS = 1000
_MOST_RADIUS_CELLS = 2000
_MOST_STRIDE_CELLS = 64
_MOST_BYTES_A_CELL = 1e9
"""Upper bounds, far above any model, of the length of a name, receptive radius and stride, and memory."""


class CardError(ValueError):
    """The model card is incomplete, or a value is invalid."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The description of a model: its inputs, training and scores.

    Parameters
    ----------
    name, version
        Name of the model, and version of reion that exported it.
    inputs
        The units that the graph expects for each field, in the order of the graph's inputs, e.g.
        `{"n_igm": "g cm-3", "n_ion": "1e66 Mpc-3"}`. `redshift` is always an input and not listed.
    cell_size_mpc
        Comoving side of the cubic cells that the file is for.
    redshift_range
        Lowest and highest redshift of the training.
    receptive_radius_cells
        Distance, along each axis, up to which the prediction in a cell depends on the inputs.
    conditions
        Names of the inputs besides the redshift that are one number per box: `max_mfp`, in comoving Mpc.
    trunk_radius_cells
        The part of the receptive radius that belongs to the trunk, in a file whose stem can be written anew
        for other cells; None in all other files.
    coverage
        The coverage of the training: for each quantity rows of redshift, lowest and highest value.
    stride_cells
        Side of the blocks that the network works on: 1 for all networks but those that pool.
    normalizer
        The numbers of the normalisation inside the graph.
    training_data
        Names or checksums of the boxes that the network, and the networks that it started from, were trained
        on.
    scores
        Held-out scores, or the validation score of the training, under a name that says so.
    excursion_set_threshold
        Photons per hydrogen atom at which the excursion set ionises, fitted to the same training data.
    mean_error_share
        Standard deviation of the error of the mean of xi in a box, divided by the mean of xi_std; None for a
        file without that output.
    symmetric
        Whether the prediction turns with the box, for all 48 symmetries of the cube.
    licence
        Licence of the weights.
    provenance
        Versions, seed, commit and configuration of the training.
    working_bytes
        Memory that the graph takes: bytes per cell of its window (halo included) and bytes per cell of xi.
        `export` computes it.

    Raises
    ------
    CardError
        If a value is invalid.
    """

    name: str
    version: str
    inputs: Mapping[str, str]
    cell_size_mpc: float
    redshift_range: tuple[float, float]
    receptive_radius_cells: int
    conditions: tuple[str, ...] = ()
    trunk_radius_cells: int | None = None
    coverage: Mapping[str, Any] = field(default_factory=dict)
    stride_cells: int = 1
    normalizer: Mapping[str, Any] = field(default_factory=dict)
    training_data: tuple[str, ...] = ()
    scores: Mapping[str, Any] = field(default_factory=dict)
    excursion_set_threshold: float | None = None
    mean_error_share: float | None = None
    symmetric: bool = False
    licence: str = "unknown"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    working_bytes: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for key in ("name", "version", "licence"):
            text = getattr(self, key)
            self._expect(
                key, isinstance(text, str) and 0 < len(text) <= _MOST_CHARACTERS, "a text, not too long"
            )
        for key in ("normalizer", "coverage", "scores", "provenance"):
            self._expect(key, isinstance(getattr(self, key), Mapping), "a mapping")
        units = self.inputs
        self._expect(
            "inputs",
            isinstance(units, Mapping)
            and bool(units)
            and all(isinstance(k, str) and isinstance(v, str) for k, v in units.items())
            and "redshift" not in units,
            "a mapping of field names to units, without redshift",
        )
        self._expect("cell_size_mpc", _is_number(self.cell_size_mpc) and self.cell_size_mpc > 0, "a length")
        limits = self.redshift_range
        self._expect(
            "redshift_range",
            len(limits) == 2 and all(map(_is_number, limits)) and -1 < limits[0] <= limits[1],
            "the lowest and the highest redshift",
        )
        radius, stride = self.receptive_radius_cells, self.stride_cells
        self._expect(
            "receptive_radius_cells",
            _is_integer(radius) and 0 <= radius <= _MOST_RADIUS_CELLS,
            f"an integer from 0 to {_MOST_RADIUS_CELLS}",
        )
        self._expect(
            "stride_cells",
            _is_integer(stride) and 1 <= stride <= _MOST_STRIDE_CELLS,
            f"an integer from 1 to {_MOST_STRIDE_CELLS}",
        )
        trunk = self.trunk_radius_cells
        self._expect(
            "trunk_radius_cells",
            trunk is None or (_is_integer(trunk) and 0 <= trunk <= radius),
            "an integer from 0 to the receptive radius, or nothing",
        )
        self._expect(
            "conditions",
            all(isinstance(name, str) and name not in ("redshift", *units) for name in self.conditions),
            "a list of names",
        )
        for key in ("excursion_set_threshold", "mean_error_share"):
            value = getattr(self, key)
            self._expect(
                key, value is None or (_is_number(value) and value > 0), "a positive number or nothing"
            )
        self._expect("symmetric", isinstance(self.symmetric, bool), "true or false")
        working = self.working_bytes
        self._expect(
            "working_bytes",
            len(working) == 2
            and all(_is_number(part) and 0 <= part <= _MOST_BYTES_A_CELL for part in working),
            "two numbers of bytes",
        )
        self._expect(
            "training_data", all(isinstance(name, str) for name in self.training_data), "a list of texts"
        )

    def _expect(self, key: str, fulfilled: bool, what: str) -> None:
        if not fulfilled:
            received = repr(getattr(self, key))[:80]
            raise CardError(f"model card: expected {key} to be {what}; received {received}")

    def to_metadata(self) -> dict[str, str]:
        """Return the card as ONNX metadata: a JSON text for each key `reion.<key>`."""
        values: dict[str, Any] = {"format": FORMAT}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            values[item.name] = dict(value) if isinstance(value, Mapping) else value
        try:
            return {PREFIX + key: json.dumps(value, allow_nan=False) for key, value in values.items()}
        except (TypeError, ValueError) as error:
            msg = f"model card: expected values that JSON can hold; {error}"
            raise CardError(msg) from None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Read a card back from ONNX metadata.

        Raises
        ------
        CardError
            If a key is missing, or its value is no JSON or invalid.
        """
        names = [item.name for item in dataclasses.fields(cls)]
        missing = [PREFIX + name for name in ("format", *names) if PREFIX + name not in metadata]
        if missing:
            raise CardError(f"expected the metadata of a reion model; missing {', '.join(missing)}")
        values = {}
        for name in ("format", *names):
            text = metadata[PREFIX + name]
            try:
                values[name] = json.loads(text)
            except (ValueError, RecursionError):
                raise CardError(f"expected JSON under {PREFIX + name}; received {text[:80]!r}") from None
        if values.pop("format") != FORMAT:
            raise CardError(
                f"expected metadata of format {FORMAT}; received {metadata[PREFIX + 'format'][:80]}"
            )
        for name in ("redshift_range", "conditions", "training_data", "working_bytes"):
            if not isinstance(values[name], list):
                raise CardError(f"expected a list under {PREFIX + name}; received {values[name]!r}")
            values[name] = tuple(values[name])
        return cls(**values)


def _is_number(value: object) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
