"""Rays of a time step traced by several workers, each of which has a share of the sources."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reion.jobs.resources import thread_limit
from reion.jobs.workers import Job, ThisProcess, Workers
from reion_kernels import Rays, trace_rays

SOURCES_A_PIECE = 256
"""Sources that a worker traces at a time; the same for any number of workers, so that sums have the same
bits."""


class SharedTracing:
    """Traces rays like `reion_kernels.trace_rays`, with the sources divided among workers.

    Neutral hydrogen and rates are exchanged as files in a folder that all workers see; sums are added in the
    order of the sources. Workers in this process need no files.

    Parameters
    ----------
    workers
        The workers that trace the rays.
    folder
        Folder for the files of a time step.
    """

    def __init__(self, workers: Workers, folder: Path) -> None:
        self._workers = workers
        self._folder = folder

    def __call__(self, n_hi: np.ndarray, positions: np.ndarray, rates: np.ndarray, **how: Any) -> Rays:
        """Trace the rays of all sources; the arguments are those of `trace_rays`."""
        if isinstance(self._workers, ThisProcess) or len(rates) <= SOURCES_A_PIECE:
            return trace_rays(n_hi, positions, rates, **how)
        how.pop("threads", None)
        folder = Path(tempfile.mkdtemp(prefix="rays-", dir=self._folder))
        try:
            np.save(folder / "n_hi.npy", n_hi)
            np.save(folder / "positions.npy", positions)
            np.save(folder / "rates.npy", rates)
            pieces = list(range(math.ceil(len(rates) / SOURCES_A_PIECE)))
            parts = dict(self._workers.map(_TraceSome(folder, how, len(pieces)), pieces))
            gamma = np.zeros(n_hi.shape)
            for piece in pieces:
                gamma += np.load(folder / f"gamma-{piece}.npy")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        in_order = [parts[piece] for piece in pieces]
        return Rays(
            gamma=gamma,
            emitted=math.fsum(part["emitted"] for part in in_order),
            absorbed=math.fsum(part["absorbed"] for part in in_order),
            lost=math.fsum(part["lost"] for part in in_order),
            # For a source of another share, `escaped` is 0 and `created` is 1.
            escaped=np.sum([part["escaped"] for part in in_order], axis=0),
            created=np.prod([part["created"] for part in in_order], axis=0),
        )


class _TraceSome(Job[int, Mapping[str, Any]]):
    """Traces the rays of some of the sources into `gamma-PIECE.npy`; returns the rest of `Rays`."""

    def __init__(self, folder: Path, how: Mapping[str, Any], pieces: int) -> None:
        self._folder = folder
        self._how = how
        self._pieces = pieces

    def __call__(self, piece: int) -> Mapping[str, Any]:
        rays = trace_rays(
            np.load(self._folder / "n_hi.npy"),
            np.load(self._folder / "positions.npy"),
            np.load(self._folder / "rates.npy"),
            share=(piece, self._pieces),
            threads=thread_limit(),
            **self._how,
        )
        np.save(self._folder / f"gamma-{piece}.npy", rays.gamma)
        return {
            "emitted": rays.emitted,
            "absorbed": rays.absorbed,
            "lost": rays.lost,
            "escaped": rays.escaped,
            "created": rays.created,
        }
