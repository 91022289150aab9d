"""The emulator: an ONNX model file, opened, checked and run on physical fields."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.models.coverage import Outside
from reion.prediction.cells import at_cell_size, transport_of
from reion.prediction.inputs import check_arrays, check_fit, conditions_at, warn_of_arrays
from reion.prediction.model_file import UNCHANGED, card_of, read_model
from reion.prediction.probe import probe
from reion.prediction.sessions import Device, check_device, may_use_cuda, open_session, running
from reion.prediction.stages import stages_of
from reion.simulation.contract import AXES, DIMS, FIELDS, check_simulation, cubic_cell_size_mpc
from reion.simulation.photons import late_start_is_known
from reion.simulation.recombinations import with_photons_left
from reion_exports.card import ModelCard
from reion_exports.convert import OUTPUTS, PERIODIC

if TYPE_CHECKING:
    import onnxruntime

Orientations = Literal[0, 24, 48]
"""Number of orientations of the box to average over: 24 rotations, 48 with reflections, 0 for no average."""

_LONG_NAMES = dict(
    zip(
        OUTPUTS,
        (
            f"{FIELDS['xi'].long_name}, predicted",
            "standard deviation of the error of the predicted ionised fraction",
        ),
        strict=True,
    )
)

_ROUNDING = 1e-6
"""xi may lie this far outside of 0 to 1: onnxruntime's sigmoid may round to the next number above 1."""


_SHARED = ("_device", "_threads", "file_content", "_file_card", "file", "sha256", "provider")
"""Attributes that an emulator shares with the same model for other cells."""


class Emulator:
    """A model file, ready to predict. It may be used from several threads at once.

    Parameters
    ----------
    source
        Path of an ONNX file that `reion export onnx` wrote, its bytes, or the name of a shipped model
        (`shipped_models()`).
    device
        `"cpu"`, `"cuda"` (an error if no GPU can be used) or `"auto"` (a GPU if one can be used).
    threads
        CPU threads for one prediction; by default as many as this process may use.

    Attributes
    ----------
    file_content, file, sha256
        The bytes of the file, the file they were read from (None for bytes), and their checksum.
    card
        The metadata of the model: its inputs, units, cell size, coverage and scores.
    provider
        The execution provider of onnxruntime that runs the model.
    stages
        On a CPU, the model as `reion.prediction.stages` runs it: the stem by kernels of reion, and the trunk
        too if they know its form. None if onnxruntime runs the whole file: on a GPU, and for a network whose
        stem the kernels do not know. The predictions differ by less than 1e-5.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a model file of reion, was changed after it was written, refers
        to data or code outside of it, or contradicts its own metadata; if `device="cuda"` and no GPU can be
        used.
    """

    def __init__(
        self, source: str | Path | bytes, *, device: Device = "auto", threads: int | None = None
    ) -> None:
        check_device(device, threads)
        self._device: Device = device
        self._threads = threads
        self._fitted: dict[float, Emulator] = {}
        self.file_content, self.file = read_model(source)
        self.card = self._file_card = card_of(self.file_content, self.file)
        self.sha256 = hashlib.sha256(self.file_content).hexdigest()
        # Only a session tells whether a GPU works. On a GPU the whole file is run.
        alone = not may_use_cuda(device) or self._session.get_providers()[0] == "CPUExecutionProvider"
        self.stages = (
            stages_of(self.file_content, self.card, threads=threads, file=self.file) if alone else None
        )
        if self.stages is None:
            self.provider: str = self._session.get_providers()[0]
        else:
            self.provider = "CPUExecutionProvider"
            self.stages.open()
        probe(self)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        """The whole file, opened and checked."""
        session = open_session(self.content, self._device, self._threads, self.file)
        _check_session(session, self.card, self.file)
        return session

    @cached_property
    def content(self) -> bytes:
        """The bytes of the file or, for other cells than those of its card, of the file fitted to them."""
        if self.card.cell_size_mpc == self._file_card.cell_size_mpc:
            return self.file_content
        return at_cell_size(self.file_content, self._file_card, self.card.cell_size_mpc)

    @property
    def has_spread(self) -> bool:
        """Whether the model predicts `xi_std`, the standard deviation of the error of xi."""
        if self.stages is not None:
            return self.stages.has_spread
        return OUTPUTS[1] in {item.name for item in self._session.get_outputs()}

    def __repr__(self) -> str:
        inputs = ", ".join(self.card.inputs)
        return f"<Emulator {self.card.name} {self.card.version}: {inputs} to xi, {self.provider}>"

    def predict(self, sim: xr.Dataset, *, symmetrise: Orientations = 0) -> xr.DataArray:
        """Predict the ionised fraction of every snapshot of a Simulation.

        Parameters
        ----------
        sim
            A Simulation with the fields of `card.inputs`; n_ion is derived from n_src if it is absent.
        symmetrise
            Return the mean over this number of orientations of the box.

        Returns
        -------
        `xi`, dims (redshift, x, y, z), float32, with the coordinates of the simulation; the attributes name
        the model, its file and the box.

        Raises
        ------
        InputError
            As `check` does; if a field has impossible values.

        Warns
        -----
        UserWarning
            As `check` does.
        """
        fitted, sim = self._fit(sim)
        xi = np.empty(tuple(sim.sizes[dim] for dim in DIMS), dtype=np.float32)
        for index, redshift in enumerate(sim["redshift"].values):
            arrays, numbers = check_arrays(self.card, redshift, self._snapshot(sim, index))
            xi[index] = fitted._whole_boxes(numbers, arrays, symmetrise)[0]
        attrs = self.provenance(sim, symmetrise=symmetrise)
        coords = {dim: sim.coords[dim] for dim in DIMS}
        return xr.DataArray(xi, dims=DIMS, coords=coords, name="xi", attrs=attrs)

    def predict_with_spread(self, sim: xr.Dataset) -> xr.Dataset:
        """Predict the ionised fraction and its error bar.

        Returns
        -------
        `xi` as `predict` returns it, and `xi_std`, the standard deviation of its error in every cell.

        Raises
        ------
        InputError
            As `predict` does; if the model does not predict its error.
        """
        self.require_spread()
        fitted, sim = self._fit(sim)
        answers = np.empty((len(OUTPUTS), *(sim.sizes[dim] for dim in DIMS)), dtype=np.float32)
        for index, redshift in enumerate(sim["redshift"].values):
            arrays, numbers = check_arrays(self.card, redshift, self._snapshot(sim, index))
            answers[:, index] = fitted._run(numbers, arrays, (1, 1, 1), spread=True)[:, 0]
        return xr.Dataset(
            {
                name: (DIMS, values, self.provenance(sim, output=name))
                for name, values in zip(OUTPUTS, answers, strict=True)
            },
            coords={dim: sim.coords[dim] for dim in DIMS},
        )

    def _fit(self, sim: xr.Dataset) -> tuple[Emulator, xr.Dataset]:
        """Check a simulation; return the model for its cells, and the simulation with n_ion if needed."""
        self.check(check_simulation(sim, values=False))
        with late_start_is_known():
            known = with_photons_left(sim) if "n_ion" in self.card.inputs else sim
        return self.for_cells_of(sim), known

    def _snapshot(self, sim: xr.Dataset, index: int) -> dict[str, Any]:
        """The fields and conditions of a snapshot, as arguments of `predict_arrays`."""
        fields = {name: sim[name][index].values for name in self.card.inputs}
        return {**fields, **conditions_at(self.card, sim, index)}

    def require_spread(self) -> None:
        """Raise `InputError` if the model does not predict `xi_std`."""
        if not self.has_spread:
            raise InputError(
                f"the model {self.card.name} does not say how far its xi is off",
                hint="`reion models` lists the models; rt-worlds does",
            )

    def for_cells_of(self, sim: xr.Dataset) -> Emulator:
        """The model for the cells of a simulation: this one if it fits, otherwise one with another stem.

        Raises
        ------
        InputError
            If the cells are no cubes, or the model cannot be fitted to them.
        """
        cell_size = cubic_cell_size_mpc(sim)
        if self.card.trunk_radius_cells is None or math.isclose(
            cell_size, self.card.cell_size_mpc, rel_tol=1e-4
        ):
            return self
        return self.at_cell_size(cell_size)

    def at_cell_size(self, cell_size_mpc: float) -> Emulator:
        """The model for cells of another comoving side; the emulator for each side is built only once.

        Raises
        ------
        InputError
            As `reion.prediction.cells.at_cell_size` does.
        """
        if cell_size_mpc not in self._fitted:
            self._fitted[cell_size_mpc] = self._fitted_to(cell_size_mpc)
        return self._fitted[cell_size_mpc]

    def _fitted_to(self, cell_size_mpc: float) -> Emulator:
        radius = transport_of(self.card, cell_size_mpc).radius_cells + (self.card.trunk_radius_cells or 0)
        fitted = object.__new__(Emulator)
        vars(fitted).update({name: vars(self)[name] for name in _SHARED})
        fitted._fitted = {}
        fitted.card = dataclasses.replace(
            self.card, cell_size_mpc=cell_size_mpc, receptive_radius_cells=radius
        )
        if self.stages is None:
            fitted.stages = None
            fitted.card = card_of(fitted.content, self.file)  # the card also holds the memory of the graph
        else:
            fitted.stages = self.stages.at_cell_size(cell_size_mpc)
        return fitted

    def check(self, sim: xr.Dataset) -> list[Outside]:
        """Check that this model can predict a Simulation: see `reion.prediction.inputs.check_fit`."""
        return check_fit(self.card, sim)

    def predict_arrays(
        self,
        redshift: float | Sequence[float] | np.ndarray,
        *,
        symmetrise: Orientations = 0,
        **fields: Any,
    ) -> np.ndarray:
        """Predict the ionised fraction of whole periodic boxes from plain arrays.

        A model that serves any cell size predicts for the cells of its card: see `for_cells_of`.

        Parameters
        ----------
        redshift
            One number, or one for each box of the batch.
        symmetrise
            As in `predict`.
        fields
            The fields of `card.inputs` in the units given there, (x, y, z) or (batch, x, y, z), as float32,
            float64 or integers; and the conditions of the card (`max_mfp`, Mpc), each like the redshift.

        Returns
        -------
        xi, float32, with the shape of the fields.

        Raises
        ------
        InputError
            As `reion.prediction.inputs.check_arrays` does; if there is not enough memory.

        Warns
        -----
        UserWarning
            As `reion.prediction.inputs.warn_of_arrays` does.
        """
        arrays, numbers = check_arrays(self.card, redshift, fields)
        warn_of_arrays(self.card, arrays, numbers)
        xi = self._whole_boxes(numbers, arrays, symmetrise)
        return xi.reshape(np.shape(fields[next(iter(self.card.inputs))]))

    def _whole_boxes(
        self,
        numbers: Mapping[str, np.ndarray],
        arrays: Mapping[str, np.ndarray],
        symmetrise: Orientations,
    ) -> np.ndarray:
        """Predict xi (batch, x, y, z) of periodic boxes that passed `check_arrays`."""
        if not symmetrise:
            return self._run(numbers, arrays, (1, 1, 1))
        from reion_kernels import inverse, symmetry

        if symmetrise not in (24, 48):
            raise InputError(f"expected symmetrise to be 0, 24 or 48; received {symmetrise!r}")
        total = np.zeros(next(iter(arrays.values())).shape, dtype=np.float32)
        for index in range(symmetrise):
            turned = {name: symmetry(values, index) for name, values in arrays.items()}
            total += symmetry(self._run(numbers, turned, (1, 1, 1)), inverse(index))
        mean: np.ndarray = total / np.float32(symmetrise)
        return mean

    def predict_window(
        self,
        redshift: float,
        fields: Mapping[str, np.ndarray],
        *,
        periodic: Sequence[int] = (0, 0, 0),
        conditions: Mapping[str, float] | None = None,
        spread: bool = False,
    ) -> np.ndarray:
        """Predict the interior of a window that includes its halo.

        Parameters
        ----------
        redshift
            Redshift of the window.
        fields
            The fields of `card.inputs`, (X + 2 R, Y + 2 R, Z + 2 R) float32, where R is the card's receptive
            radius and X, Y, Z are multiples of its stride. Their values are not checked: check the box before
            you cut windows from it.
        periodic
            For each axis, 1 if the window is the whole periodic box, without a halo, otherwise 0.
        conditions
            The conditions of the card, by name.
        spread
            Return xi_std too.

        Returns
        -------
        xi, shape (X, Y, Z), float32; with `spread` xi and xi_std, shape (2, X, Y, Z).
        """
        arrays = {name: fields[name][None] for name in self.card.inputs}
        numbers = {"redshift": redshift, **(conditions or {})}
        columns = {name: np.array([number], dtype=np.float32) for name, number in numbers.items()}
        answer = self._run(columns, arrays, periodic, spread=spread)
        window: np.ndarray = answer[:, 0] if spread else answer[0]
        return window

    def provenance(self, sim: xr.Dataset, *, symmetrise: int = 0, output: str = "xi") -> dict[str, Any]:
        """Return the attributes of a predicted output: units, model, file, and the box it belongs to."""
        import onnxruntime

        from reion import __version__

        return {
            "units": FIELDS["xi"].units[0],
            "long_name": _LONG_NAMES[output],
            "model": f"{self.card.name} {self.card.version}",
            "model_sha256": self.sha256,
            "model_provenance": json.dumps(dict(self.card.provenance)),
            "symmetrise": int(symmetrise),
            "reion_version": __version__,
            "onnxruntime_version": onnxruntime.__version__,
            "provider": self.provider,
            **sim.attrs,
        }

    def _run(
        self,
        numbers: Mapping[str, np.ndarray],
        fields: Mapping[str, np.ndarray],
        periodic: Sequence[int],
        *,
        spread: bool = False,
    ) -> np.ndarray:
        """Return xi (batch, x, y, z) for fields (batch, x, y, z), which have a halo where `periodic` is 0.

        `numbers` are redshift and conditions, each (batch,). With `spread`, xi and xi_std are returned along
        a new first axis.
        """
        inputs = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in fields.items()}
        batch, *sides = next(iter(inputs.values())).shape
        halo = 2 * self.card.receptive_radius_cells
        cells = [side if whole else side - halo for side, whole in zip(sides, periodic, strict=True)]
        outputs = OUTPUTS if spread else OUTPUTS[:1]
        answers = np.empty((len(outputs), batch, *cells), dtype=np.float32)
        if self.stages is None:
            self._run_whole({**inputs, **numbers}, periodic, dict(zip(outputs, answers, strict=True)))
        else:
            self.stages.run(numbers, inputs, periodic, answers)
        if not (answers.min() >= -_ROUNDING and answers.max() <= 1.0 + _ROUNDING):
            raise InputError(
                "expected ionised fractions from 0 to 1; the model returned others, or no numbers at all",
                file=self.file,
                hint=UNCHANGED,
            )
        return answers if spread else answers[0]

    def _run_whole(
        self,
        inputs: Mapping[str, np.ndarray],
        periodic: Sequence[int],
        outputs: Mapping[str, np.ndarray],
    ) -> None:
        """Run the whole file; inputs and outputs are bound to our arrays, which saves copies."""
        binding = self._session.io_binding()
        wraps = np.asarray(periodic, dtype=np.int64)
        for name, values in {**inputs, PERIODIC: wraps}.items():
            binding.bind_input(name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data)
        for name, values in outputs.items():
            binding.bind_output(name, "cpu", 0, np.float32, values.shape, values.ctypes.data)
        with running(next(iter(inputs.values())).shape[1:], self.file):
            self._session.run_with_iobinding(binding)


def _check_session(session: onnxruntime.InferenceSession, card: ModelCard, file: str | None) -> None:
    """Check that the inputs and outputs of the graph are those of the card."""
    field, number = ("tensor(float)", 4), ("tensor(float)", 1)  # element type, and number of axes
    expected = {**dict.fromkeys(card.inputs, field), **dict.fromkeys(("redshift", *card.conditions), number)}
    received = {item.name: (item.type, len(item.shape)) for item in session.get_inputs()}
    optional = {item.name: (item.type, item.shape) for item in session.get_overridable_initializers()}
    outputs = {item.name: (item.type, len(item.shape)) for item in session.get_outputs()}
    gives = [dict.fromkeys(OUTPUTS[:count], field) for count in (1, 2)]
    if received != expected or optional != {PERIODIC: ("tensor(int64)", [3])} or outputs not in gives:
        raise InputError(
            f"the model's metadata promise the inputs {', '.join(expected)} and the output xi, as float32 "
            f"boxes of (batch, {', '.join(AXES)}); the graph has {received} and {outputs}",
            file=file,
            hint=UNCHANGED,
        )
    fixed = [
        item.name
        for item in (*session.get_inputs(), *session.get_outputs())
        if any(isinstance(size, int) for size in item.shape)
    ]
    if fixed:
        raise InputError(
            f"expected a graph for any size of box; {', '.join(fixed)} has a fixed one", file=file
        )
