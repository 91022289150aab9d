"""A trained model as a function of physical fields: the ONNX file, opened, checked and run."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.jobs.resources import threads_to_use
from reion.models.coverage import Outside
from reion.prediction.cells import at_cell_size
from reion.prediction.inputs import check_arrays, check_fit, conditions_at
from reion.prediction.model_file import UNCHANGED, card_of, read_model
from reion.prediction.probe import probe
from reion.simulation.contract import AXES, DIMS, FIELDS, check_simulation, cubic_cell_size_mpc
from reion.simulation.photons import with_n_ion
from reion_exports.card import ModelCard
from reion_exports.convert import OUTPUTS, PERIODIC

if TYPE_CHECKING:
    import onnxruntime

Device = Literal["auto", "cpu", "cuda"]

Orientations = Literal[0, 24, 48]
"""Over how many orientations of the box to average: none, all rotations, or reflections too."""

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
"""How far outside of 0 to 1 xi may lie: onnxruntime's sigmoid may round to the next number above 1."""


class Emulator:
    """A model file, ready to predict. It may be used from several threads at once.

    Parameters
    ----------
    source
        Path of an ONNX file that `reion export onnx` wrote, its bytes, or the name of a shipped model
        (`shipped_models()`).
    device
        `"cuda"` is an error where the GPU cannot be used; `"auto"` takes it if it can be.
    threads
        CPU threads for one prediction; by default as many as this process may use.

    Attributes
    ----------
    content, file, sha256
        The bytes of the file, where they were read, and their checksum.
    card
        What the model is and needs.
    provider
        The execution provider of onnxruntime that runs it.

    Raises
    ------
    InputError
        If the file is not there, damaged, not a model of ours, was changed after it was written, has data or
        code outside of it, or contradicts its own metadata; if `device="cuda"` did not get one.
    """

    def __init__(
        self, source: str | Path | bytes, *, device: Device = "auto", threads: int | None = None
    ) -> None:
        self._device: Device = device
        self._threads = threads
        self._fitted: dict[float, Emulator] = {}
        self.content, self.file = read_model(source)
        self.card: ModelCard = card_of(self.content, self.file)
        self.sha256 = hashlib.sha256(self.content).hexdigest()
        self._session = _open(self.content, device, threads, self.file)
        self.provider: str = self._session.get_providers()[0]
        _check_session(self._session, self.card, self.file)
        probe(self)

    @property
    def has_spread(self) -> bool:
        """Whether the model says how far its xi is off."""
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
            Return the mean over that many orientations of the box.

        Returns
        -------
        `xi`, dims (redshift, x, y, z), float32, with the simulation's coordinates; attributes say which
        model, which file and what box it came from.

        Raises
        ------
        InputError
            As `check` does; if a field has values that it cannot have.

        Warns
        -----
        UserWarning
            As `check` does.
        """
        fitted, sim = self._fit(sim)
        xi = np.empty(tuple(sim.sizes[dim] for dim in DIMS), dtype=np.float32)
        for index, redshift in enumerate(sim["redshift"].values):
            given = self._snapshot(sim, index)
            xi[index] = fitted.predict_arrays(float(redshift), symmetrise=symmetrise, **given)
        attrs = self.provenance(sim, symmetrise=symmetrise)
        coords = {dim: sim.coords[dim] for dim in DIMS}
        return xr.DataArray(xi, dims=DIMS, coords=coords, name="xi", attrs=attrs)

    def predict_with_spread(self, sim: xr.Dataset) -> xr.Dataset:
        """Predict the ionised fraction and how far it is off.

        Returns
        -------
        `xi` as `predict` gives it, and `xi_std`, the standard deviation of its error in every cell.

        Raises
        ------
        InputError
            As `predict` does; if the model has not learnt its error.
        """
        self.require_spread()
        fitted, sim = self._fit(sim)
        answers = np.empty((len(OUTPUTS), *(sim.sizes[dim] for dim in DIMS)), dtype=np.float32)
        for index, redshift in enumerate(sim["redshift"].values):
            arrays, numbers = check_arrays(self.card, redshift, self._snapshot(sim, index))
            answers[:, index] = fitted._run(numbers, arrays, (1, 1, 1), spread=True)[:, 0]
        coords = {dim: sim.coords[dim] for dim in DIMS}
        return xr.Dataset(
            {
                name: (DIMS, values, self.provenance(sim, output=name))
                for name, values in zip(OUTPUTS, answers, strict=True)
            },
            coords=coords,
        )

    def _fit(self, sim: xr.Dataset) -> tuple[Emulator, xr.Dataset]:
        """The model for the cells of a simulation, which is checked, and the simulation with its history."""
        self.check(check_simulation(sim, values=False))
        return self.for_cells_of(sim), with_n_ion(sim) if "n_ion" in self.card.inputs else sim

    def _snapshot(self, sim: xr.Dataset, index: int) -> dict[str, Any]:
        """Fields and conditions of a snapshot, as `predict_arrays` takes them."""
        fields = {name: sim[name][index].values for name in self.card.inputs}
        return {**fields, **conditions_at(self.card, sim, index)}

    def require_spread(self) -> None:
        """Raise `InputError` if the model does not say how far its xi is off."""
        if not self.has_spread:
            raise InputError(
                f"the model {self.card.name} does not say how far its xi is off",
                hint="`reion models` lists the models; rt-worlds does",
            )

    def for_cells_of(self, sim: xr.Dataset) -> Emulator:
        """The model for the cells of a simulation: itself where it fits, or with another first stage.

        Raises
        ------
        InputError
            If the cells are no cubes, or the model is for other cells and cannot be fitted to these.
        """
        cell_size = cubic_cell_size_mpc(sim)
        if self.card.trunk_radius_cells is None or math.isclose(
            cell_size, self.card.cell_size_mpc, rel_tol=1e-4
        ):
            return self
        return self.at_cell_size(cell_size)

    def at_cell_size(self, cell_size_mpc: float) -> Emulator:
        """The model for cells of another comoving side; a second call for the same cells gives the same.

        Raises
        ------
        InputError
            As `reion.prediction.cells.at_cell_size` does.
        """
        if cell_size_mpc not in self._fitted:
            content = at_cell_size(self.content, self.card, cell_size_mpc)
            self._fitted[cell_size_mpc] = Emulator(content, device=self._device, threads=self._threads)
        return self._fitted[cell_size_mpc]

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
            The fields of `card.inputs` in their units, (x, y, z) or (batch, x, y, z), as float32, float64 or
            integers; and the conditions of the card (`max_mfp`, Mpc), each like the redshift.

        Returns
        -------
        xi, float32, shape of the fields.

        Raises
        ------
        InputError
            As `reion.prediction.inputs.check_arrays` does; if there is not enough memory.
        """
        arrays, numbers = check_arrays(self.card, redshift, fields)
        if symmetrise:
            from reion_kernels import inverse, symmetry

            if symmetrise not in (24, 48):
                raise InputError(f"expected symmetrise to be 0, 24 or 48; received {symmetrise!r}")
            total = np.zeros(next(iter(arrays.values())).shape, dtype=np.float32)
            for index in range(symmetrise):
                turned = {name: symmetry(values, index) for name, values in arrays.items()}
                total += symmetry(self._run(numbers, turned, (1, 1, 1)), inverse(index))
            xi = total / np.float32(symmetrise)
        else:
            xi = self._run(numbers, arrays, (1, 1, 1))
        return xi.reshape(np.shape(fields[next(iter(self.card.inputs))]))

    def predict_window(
        self,
        redshift: float,
        fields: Mapping[str, np.ndarray],
        *,
        periodic: Sequence[int] = (0, 0, 0),
        conditions: Mapping[str, float] | None = None,
        spread: bool = False,
    ) -> np.ndarray:
        """Predict the interior of a window that carries its own halo.

        Parameters
        ----------
        redshift
            Of the window.
        fields
            The fields of `card.inputs`, (X + 2 R, Y + 2 R, Z + 2 R) float32, where R is the card's receptive
            radius and X, Y, Z are multiples of its stride. Their values are not checked: whoever cuts windows
            from a box has checked the box.
        periodic
            For each axis, 1 where the window is the whole periodic box, without a halo, 0 otherwise.
        conditions
            Those of the card, by name.
        spread
            Return the spread of the error too.

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
        """Return xi (batch, x, y, z) of fields (batch, x, y, z), with their halo where `periodic` is 0.

        `numbers` are redshift and conditions, each (batch,). With `spread` come xi and xi_std, along a first
        axis.
        """
        # Inputs and output are bound to arrays of ours, so that onnxruntime makes no copies of them.
        inputs = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in fields.items()}
        batch, *sides = next(iter(inputs.values())).shape
        halo = 2 * self.card.receptive_radius_cells
        cells = [side if whole else side - halo for side, whole in zip(sides, periodic, strict=True)]
        outputs = OUTPUTS if spread else OUTPUTS[:1]
        answers = np.empty((len(outputs), batch, *cells), dtype=np.float32)
        inputs |= numbers
        inputs[PERIODIC] = np.asarray(periodic, dtype=np.int64)
        binding = self._session.io_binding()
        for name, values in inputs.items():
            binding.bind_input(name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data)
        for name, values in zip(outputs, answers, strict=True):
            binding.bind_output(name, "cpu", 0, np.float32, values.shape, values.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            if "allocate" in str(error):
                raise InputError(
                    f"there is not enough memory to predict {tuple(sides)} cells at once",
                    hint="`reion predict --memory` goes through the box in tiles",
                ) from error
            raise InputError(
                f"onnxruntime cannot run the model: {str(error).splitlines()[0][:300]}",
                file=self.file,
                hint=UNCHANGED,
            ) from error
        if not (answers.min() >= -_ROUNDING and answers.max() <= 1.0 + _ROUNDING):
            raise InputError(
                "expected ionised fractions from 0 to 1; the model returned others, or no numbers at all",
                file=self.file,
                hint=UNCHANGED,
            )
        return answers if spread else answers[0]


def _open(
    content: bytes, device: Device, threads: int | None, file: str | None
) -> onnxruntime.InferenceSession:
    import onnxruntime

    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"expected device to be auto, cpu or cuda; received {device!r}")
    if threads is not None and threads < 1:
        raise InputError(f"expected at least one thread; received {threads}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Said explicitly: left to itself, onnxruntime takes every core of the machine and binds a thread to each,
    # whatever cores the process was given.
    options.intra_op_num_threads = threads or threads_to_use()
    # The next level, blocked 2D convolutions, is hardly faster and keeps a second copy of what it touches.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    # A plan of memory made for one size of box doubles what the next one needs, and saves no time.
    options.enable_mem_pattern = False
    # Threads that wait spinning gain nothing on operators this large and take the core from others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    available = onnxruntime.get_available_providers()
    if device != "cpu" and "CUDAExecutionProvider" in available and _has_nvidia_driver():
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()
        # TF32 keeps ten bits of a product, too few to agree with the CPU.
        cuda = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
        providers.insert(0, ("CUDAExecutionProvider", cuda))
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:
        raise InputError(
            f"onnxruntime cannot open the model: {str(error).splitlines()[0][:300]}", file=file
        ) from error
    live = session.get_providers()
    if device == "cuda" and live[0] != "CUDAExecutionProvider":
        raise InputError(
            f"expected a CUDA device; the live session has {', '.join(live)}",
            hint="onnxruntime-gpu and a CUDA 12 driver are needed; `--device cpu` works everywhere",
        )
    return session


def _has_nvidia_driver() -> bool:
    """Whether CUDA is worth a try: onnxruntime lists its provider everywhere and complains where it fails."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _check_session(session: onnxruntime.InferenceSession, card: ModelCard, file: str | None) -> None:
    """Check that the graph takes and returns what the card says."""
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
