"""Sessions of onnxruntime: their settings, and their errors as `InputError`."""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from reion.errors import InputError
from reion.jobs.resources import threads_to_use
from reion.prediction.model_file import UNCHANGED

if TYPE_CHECKING:
    import onnxruntime

Device = Literal["auto", "cpu", "cuda"]


def check_device(device: str, threads: int | None) -> None:
    """Raise `InputError` for an unknown device or a number of threads below one."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"expected device to be auto, cpu or cuda; received {device!r}")
    if threads is not None and threads < 1:
        raise InputError(f"expected at least one thread; received {threads}")


def may_use_cuda(device: Device) -> bool:
    """Whether a session for this device may run on a GPU: it was asked for, or a driver is installed."""
    if device == "cpu":
        return False
    if device == "cuda":
        return True
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and _has_nvidia_driver()


def open_session(
    content: bytes, device: Device, threads: int | None, file: str | None
) -> onnxruntime.InferenceSession:
    """Open a session for the bytes of a model.

    Raises
    ------
    InputError
        If onnxruntime refuses the model, or if `device` is `"cuda"` and the session does not run on a GPU.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # By default onnxruntime takes every core of the machine and binds a thread to each, whatever cores the
    # process was given.
    options.intra_op_num_threads = threads or threads_to_use()
    # The next level, blocked 2D convolutions, is hardly faster and keeps a second copy of its arrays.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    # The memory plan for one size of box doubles the memory of the next size, and saves no time.
    options.enable_mem_pattern = False
    # Threads that spin while they wait save no time on operators this large, and block cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    available = onnxruntime.get_available_providers()
    if device != "cpu" and "CUDAExecutionProvider" in available and _has_nvidia_driver():
        with contextlib.redirect_stdout(io.StringIO()):  # it prints which libraries it does not find
            onnxruntime.preload_dlls()
        # TF32 keeps only ten bits of each factor, too few to agree with the CPU.
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


@contextlib.contextmanager
def running(sides: tuple[int, ...], file: str | None) -> Iterator[None]:
    """Raise errors of onnxruntime in the block as `InputError`; `sides` are the cells that it runs on."""
    try:
        yield
    except Exception as error:  # the exceptions of onnxruntime have no common base
        if "allocate" in str(error):
            raise InputError(
                f"there is not enough memory to predict {sides} cells at once",
                hint="`reion predict --memory` goes through the box in tiles",
            ) from error
        raise InputError(
            f"onnxruntime cannot run the model: {str(error).splitlines()[0][:300]}", file=file, hint=UNCHANGED
        ) from error


def _has_nvidia_driver() -> bool:
    """Whether CUDA is worth a try: onnxruntime lists its provider even without a GPU, and complains then."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
