"""A trained model as a function of physical fields: the ONNX file, opened, checked and run."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.simulation.contract import (
    AXES,
    CELL_SIZE_TOLERANCE,
    DIMS,
    FIELDS,
    cell_size_mpc,
    check_simulation,
    check_values,
    cubic_cell_size_mpc,
    n_ion_units,
    require_fields,
)
from reion.simulation.photons import with_n_ion
from reion.simulation.regridding import how_to_regrid
from reion_exports.anatomy import HostileFileError, dissect
from reion_exports.card import CardError, ModelCard
from reion_exports.convert import PERIODIC

if TYPE_CHECKING:
    import onnxruntime

Device = Literal["auto", "cpu", "cuda"]

MAX_FILE_BYTES = 2**31
"""ONNX files from this size on need external data, which no model of ours has."""


_ROUNDING = 1e-6

_UNCHANGED = "expected a file that `reion export onnx` wrote, unchanged"


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
        CPU threads for one prediction; by default one a core.

    Raises
    ------
    InputError
        If the file is not there, damaged, not a model of ours, has data or code outside of it, or
        contradicts its own metadata; if `device="cuda"` did not get one.
    """

    def __init__(
        self, source: str | Path | bytes, *, device: Device = "auto", threads: int | None = None
    ) -> None:
        self.content, self.file = _read(source)
        self.card = _check_file(self.content, self.file)
        self.sha256 = hashlib.sha256(self.content).hexdigest()
        self._session = _open(self.content, device, threads, self.file)
        self.provider: str = self._session.get_providers()[0]
        _check_session(self._session, self.card, self.file)

    def __repr__(self) -> str:
        inputs = ", ".join(self.card.inputs)
        return f"<Emulator {self.card.name} {self.card.version}: {inputs} to xi, {self.provider}>"

    def predict(self, sim: xr.Dataset, *, symmetrise: Literal[0, 24, 48] = 0) -> xr.DataArray:
        """Predict the ionised fraction of every snapshot of a Simulation.

        Parameters
        ----------
        sim
            A Simulation with the fields of `card.inputs`; n_ion is derived from n_src if it is absent.
        symmetrise
            Mean over so many orientations of the box: 24 rotations, or 48 with reflections.

        Returns
        -------
        `xi`, dims (redshift, x, y, z), float32, with the simulation's coordinates; attributes say which
        model, which file and what box it came from.

        Raises
        ------
        InputError
            If fields are missing, units or cell size differ from those of the training data.

        Warns
        -----
        UserWarning
            If a redshift lies outside the range the model was trained on.
        """
        self.check(check_simulation(sim, values=False))
        if "n_ion" in self.card.inputs:
            sim = with_n_ion(sim)
        xi = np.empty(tuple(sim.sizes[dim] for dim in DIMS), dtype=np.float32)
        for index, redshift in enumerate(sim["redshift"].values):
            fields = {name: sim[name][index].values for name in self.card.inputs}
            xi[index] = self.predict_arrays(float(redshift), symmetrise=symmetrise, **fields)
        attrs = self.provenance(sim, symmetrise=symmetrise)
        coords = {dim: sim.coords[dim] for dim in DIMS}
        return xr.DataArray(xi, dims=DIMS, coords=coords, name="xi", attrs=attrs)

    def check(self, sim: xr.Dataset) -> None:
        """Check that this model can predict a Simulation: fields, units, cells and redshifts.

        n_ion counts as there if n_src is, from which it can be derived.

        Raises
        ------
        InputError
            See `predict`.

        Warns
        -----
        UserWarning
            See `predict`.
        """
        card = self.card
        received = {name: sim[name].attrs["units"] for name in FIELDS if name in sim.data_vars}
        if "n_src" in received:
            received.setdefault("n_ion", n_ion_units(received["n_src"]))
        wanted = [name for name in card.inputs if name not in received]
        require_fields(sim, wanted, purpose=f"the model {card.name}")
        for name, units in card.inputs.items():
            if received[name] != units:
                raise InputError(
                    f"{name}: the model {card.name} was trained on {units!r}; received {received[name]!r}",
                    hint="convert the data to the units of the training, or train on these",
                )
        sides = cell_size_mpc(sim)
        if any(abs(side / card.cell_size_mpc - 1.0) > CELL_SIZE_TOLERANCE for side in sides):
            received_sides = " x ".join(dict.fromkeys(f"{side:g}" for side in sides))
            raise InputError(
                f"the model {card.name} was trained on cells of {card.cell_size_mpc:g} Mpc; "
                f"received cells of {received_sides} Mpc",
                hint=how_to_regrid(sim, card.cell_size_mpc),
            )
        cubic_cell_size_mpc(sim)  # refuses other cells than cubes
        lowest, highest = card.redshift_range
        outside = [z for z in sim["redshift"].values.tolist() if not lowest <= z <= highest]
        if outside:
            warnings.warn(
                f"the model {card.name} was trained at z = {lowest:g} to {highest:g}; its answer at "
                f"z = {', '.join(f'{z:g}' for z in outside)} is an extrapolation",
                stacklevel=3,
            )

    def predict_arrays(
        self,
        redshift: float | Sequence[float] | np.ndarray,
        *,
        symmetrise: Literal[0, 24, 48] = 0,
        **fields: np.ndarray,
    ) -> np.ndarray:
        """Predict the ionised fraction of whole periodic boxes from plain arrays.

        Parameters
        ----------
        redshift
            One number, or one for each box of the batch.
        symmetrise
            As in `predict`.
        fields
            The fields of `card.inputs` in their units, shape (x, y, z) or (batch, x, y, z).

        Returns
        -------
        xi, float32, shape of the fields.

        Raises
        ------
        InputError
            If the fields are not those of the card, or have different shapes or values they cannot have.
        """
        arrays, redshifts = self._check_arrays(redshift, fields)
        if symmetrise:
            from reion_kernels import inverse, symmetry

            if symmetrise not in (24, 48):
                raise InputError(f"expected symmetrise to be 0, 24 or 48; received {symmetrise!r}")
            total = np.zeros(next(iter(arrays.values())).shape, dtype=np.float32)
            for index in range(symmetrise):
                turned = {name: symmetry(values, index) for name, values in arrays.items()}
                total += symmetry(self._run(redshifts, turned, (1, 1, 1)), inverse(index))
            xi = total / np.float32(symmetrise)
        else:
            xi = self._run(redshifts, arrays, (1, 1, 1))
        first = next(iter(fields.values()))
        return xi.reshape(np.shape(first))

    def predict_window(
        self, redshift: float, fields: Mapping[str, np.ndarray], *, periodic: Sequence[int] = (0, 0, 0)
    ) -> np.ndarray:
        """Predict the interior of a window that carries its own halo.

        Parameters
        ----------
        redshift
            Of the window.
        fields
            The fields of `card.inputs`, shape (X + 2 R, Y + 2 R, Z + 2 R), float32, R the card's receptive
            radius; X, Y, Z multiples of its stride. Not checked cell by cell: whoever cuts windows from a
            box has checked the box.
        periodic
            For each axis, 1 where the window is the whole periodic box, without a halo, 0 otherwise.

        Returns
        -------
        xi, shape (X, Y, Z), float32.
        """
        arrays = {name: fields[name][None] for name in self.card.inputs}
        xi: np.ndarray = self._run(np.array([redshift], dtype=np.float32), arrays, periodic)[0]
        return xi

    def provenance(self, sim: xr.Dataset, *, symmetrise: int = 0) -> dict[str, Any]:
        """Return the attributes of a prediction: units, model, file, and the box it belongs to."""
        import onnxruntime

        from reion import __version__

        return {
            "units": FIELDS["xi"].units[0],
            "long_name": f"{FIELDS['xi'].long_name}, predicted",
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
        self, redshift: np.ndarray, fields: Mapping[str, np.ndarray], periodic: Sequence[int]
    ) -> np.ndarray:
        # Bound, the inputs go to the device once and xi comes back into an array of ours: no copies between.
        inputs = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in fields.items()}
        batch, *sides = next(iter(inputs.values())).shape
        halo = 2 * self.card.receptive_radius_cells
        cells = [side if whole else side - halo for side, whole in zip(sides, periodic, strict=True)]
        xi = np.empty((batch, *cells), dtype=np.float32)
        inputs["redshift"] = redshift
        inputs[PERIODIC] = np.asarray(periodic, dtype=np.int64)
        binding = self._session.io_binding()
        for name, values in inputs.items():
            binding.bind_input(name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data)
        binding.bind_output("xi", "cpu", 0, np.float32, xi.shape, xi.ctypes.data)
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
                hint=_UNCHANGED,
            ) from error
        # onnxruntime's sigmoid rounds to one unit in the last place beyond 1.
        if not (xi.min() >= -_ROUNDING and xi.max() <= 1.0 + _ROUNDING):
            raise InputError(
                "expected ionised fractions from 0 to 1; the model returned others, or no numbers at all",
                file=self.file,
                hint=_UNCHANGED,
            )
        return xi

    def _check_arrays(
        self, redshift: float | Sequence[float] | np.ndarray, fields: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        if set(fields) != set(self.card.inputs):
            wanted = ", ".join(self.card.inputs)
            raise InputError(
                f"the model {self.card.name} takes {wanted}; received {', '.join(fields) or 'nothing'}"
            )
        shapes = {name: np.shape(fields[name]) for name in self.card.inputs}
        shape = next(iter(shapes.values()))
        if len(set(shapes.values())) != 1 or len(shape) not in (3, 4) or 0 in shape:
            raise InputError(
                "expected fields of one shape, (x, y, z) or (batch, x, y, z); received "
                + ", ".join(f"{name} {size}" for name, size in shapes.items())
            )
        batch = shape[0] if len(shape) == 4 else 1
        redshifts = np.atleast_1d(np.asarray(redshift, dtype=np.float32))
        if redshifts.shape not in ((1,), (batch,)) or not np.all(np.isfinite(redshifts)):
            raise InputError(
                f"expected one finite redshift, or one for each of {batch} boxes; received {redshift!r}"
            )
        redshifts = np.ascontiguousarray(np.broadcast_to(redshifts, (batch,)))
        arrays = {}
        for name in self.card.inputs:
            values = np.asarray(fields[name], dtype=np.float32).reshape(batch, *shape[-3:])
            if name in FIELDS:
                for box, z in zip(values, redshifts, strict=True):
                    check_values(name, box, redshift=float(z))
            arrays[name] = values
        return arrays, redshifts


def shipped_models() -> tuple[str, ...]:
    """Names of the models that come with reion."""
    folder = resources.files("reion") / "weights"
    names = (item.name for item in folder.iterdir()) if folder.is_dir() else ()
    return tuple(sorted(name.removesuffix(".onnx") for name in names if name.endswith(".onnx")))


def read_card(source: str | Path | bytes) -> tuple[ModelCard, str]:
    """The card of a model file and the file's SHA-256, without opening the model.

    Raises
    ------
    InputError
        As `Emulator` does for a file that is not there, damaged or not a model of ours.
    """
    content, file = _read(source)
    return _check_file(content, file), hashlib.sha256(content).hexdigest()


def _read(source: str | Path | bytes) -> tuple[bytes, str | None]:
    if isinstance(source, bytes):
        return source, None
    if str(source) in shipped_models():
        return (resources.files("reion") / "weights" / f"{source}.onnx").read_bytes(), f"{source}.onnx"
    path = Path(source)
    if not path.is_file():
        shipped = ", ".join(shipped_models())
        raise InputError(
            "expected an ONNX file" + (f" or the name of a shipped model ({shipped})" if shipped else ""),
            file=path,
            hint="`reion export onnx RUN --out MODEL.onnx` makes one from a run folder",
        )
    if path.stat().st_size >= MAX_FILE_BYTES:
        raise InputError("expected a self-contained ONNX file, which is smaller than 2 GiB", file=path)
    return path.read_bytes(), str(path)


def _check_file(content: bytes, file: str | None) -> ModelCard:
    """Look at the bytes before anything runs them, and read the card."""
    try:
        anatomy = dissect(content)
        card = ModelCard.from_metadata(anatomy.metadata)
    except (HostileFileError, CardError) as error:
        raise InputError(str(error), file=file, hint=_UNCHANGED) from None
    return card


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
    options.intra_op_num_threads = threads or 0
    # Without the last level, blocked 2D convolutions: hardly faster, with a second copy of all they touch.
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
    box, one = ("tensor(float)", 4), ("tensor(float)", 1)
    expected = {**dict.fromkeys(card.inputs, box), "redshift": one}
    received = {item.name: (item.type, len(item.shape)) for item in session.get_inputs()}
    optional = {item.name: (item.type, item.shape) for item in session.get_overridable_initializers()}
    outputs = {item.name: (item.type, len(item.shape)) for item in session.get_outputs()}
    if received != expected or optional != {PERIODIC: ("tensor(int64)", [3])} or outputs != {"xi": box}:
        raise InputError(
            f"the model's metadata promise the inputs {', '.join(expected)} and the output xi, as float32 "
            f"boxes of (batch, {', '.join(AXES)}); the graph has {received} and {outputs}",
            file=file,
            hint=_UNCHANGED,
        )
    dynamic = [item.name for item in (*session.get_inputs(), *session.get_outputs()) if _fixed(item.shape)]
    if dynamic:
        raise InputError(
            f"expected a graph for any size of box; {', '.join(dynamic)} has a fixed one", file=file
        )


def _fixed(shape: Sequence[object]) -> bool:
    return any(isinstance(size, int) for size in shape)
