"""Checkpoints that are either whole or absent: each is a folder that is moved into place by renaming."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reion.jobs.outputs import sha256_of, whole_folder, write_json

_NAME = re.compile(r"step-(\d{9})")
_CHECKSUMS = "checksums.json"
_STATE = "state"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` steps.

    Attributes
    ----------
    arrays
        Groups of arrays by name, e.g. the variables of the network and of the optimiser, in order.
    state
        The remaining state of the run, JSON-ready.
    """

    step: int
    arrays: dict[str, list[np.ndarray]]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int = 2) -> Path:
    """Write a checkpoint into `folder` so that a kill at any instant leaves the older ones whole.

    The files are written and synced in a hidden folder, the checksums last, which is then renamed. Afterwards
    all but the newest `keep` checkpoints are removed, and those of later steps, which remain if a run had to
    go back to an older one. Returns the folder of the checkpoint.

    Raises
    ------
    OSError
        If the disk is full or not writable; earlier checkpoints are untouched.
    """
    place = folder / f"step-{checkpoint.step:09d}"
    with whole_folder(place) as partial:
        np.savez(partial / "arrays.npz", **_flat(checkpoint.arrays))  # type: ignore[arg-type]
        write_json(partial / "state.json", {"step": checkpoint.step, **checkpoint.state})
        sums = {path.name: sha256_of(path) for path in sorted(partial.iterdir())}
        write_json(partial / _CHECKSUMS, sums)
    steps = _steps(folder)
    written = steps.index(place)
    for old in steps[: max(0, written + 1 - keep)] + steps[written + 1 :]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def load_newest(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint in `folder` whose checksums are right; None if there is none."""
    for path in reversed(_steps(folder)):
        try:
            sums = json.loads((path / _CHECKSUMS).read_text(encoding="utf-8"))
            if any(sha256_of(path / name) != value for name, value in sums.items()):
                continue
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            with np.load(path / "arrays.npz", allow_pickle=False) as stored:
                arrays = _grouped(stored)
        except (OSError, ValueError, KeyError):
            continue
        return Checkpoint(int(state.pop("step")), arrays, state)
    return None


def pack(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as a message to other processes."""
    content = io.BytesIO()
    state = json.dumps({"step": checkpoint.step, **checkpoint.state}).encode()
    np.savez(content, **{_STATE: np.frombuffer(state, np.uint8)}, **_flat(checkpoint.arrays))  # type: ignore[arg-type]
    return content.getvalue()


def unpack(message: bytes) -> Checkpoint:
    """Inverse of `pack`."""
    with np.load(io.BytesIO(message), allow_pickle=False) as stored:
        arrays = _grouped(stored)
    (packed,) = arrays.pop(_STATE)
    state = json.loads(packed.tobytes())
    return Checkpoint(int(state.pop("step")), arrays, state)


def _flat(arrays: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays by names that keep group and order in an .npz file, e.g. `network/00003`."""
    return {
        f"{group}/{index:05d}": array
        for group, members in arrays.items()
        for index, array in enumerate(members)
    }


def _grouped(stored: np.lib.npyio.NpzFile) -> dict[str, list[np.ndarray]]:
    """Inverse of `_flat`."""
    arrays: dict[str, list[np.ndarray]] = {}
    for key in sorted(stored.files):
        arrays.setdefault(key.partition("/")[0], []).append(stored[key])
    return arrays


def _steps(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
