"""The folder beside an output in which it grows, piece by piece: interrupted, it goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import xarray as xr

from reion.errors import InputError
from reion.jobs.outputs import alone_at, clear_stale, move_in, write_json, write_whole
from reion.jobs.workers import ClusterError, Job, Workers

Place = tuple[int, int]
"""A piece of a store: a snapshot, and a tile or block of it."""


@dataclass(frozen=True)
class Work:
    """`.OUT.VERB` beside the output: what grows in it, a plan, and a note of every piece that is whole.

    `plan.json` says what it will be. A file in `done/SNAPSHOT/` for each piece, put there by whoever did it
    once its values are in the store, holds what else came of it.
    """

    out: Path
    folder: Path

    @classmethod
    def beside(cls, out: Path, verb: str) -> Self:
        """The folder in which `out` grows."""
        return cls(out, out.with_name(f".{out.name}.{verb}"))

    @property
    def store(self) -> Path:
        """The Zarr store that will be moved to `out`."""
        return self.folder / "store.zarr"

    def plan(self) -> dict[str, Any]:
        """What was begun here; nothing if nothing was."""
        with contextlib.suppress(OSError, ValueError):
            known = json.loads((self.folder / "plan.json").read_text())
            if isinstance(known, dict):
                return known
        return {}

    def begin(self, plan: Mapping[str, Any], create: Callable[[Path], None], *, resume: bool = False) -> None:
        """Begin in place of whatever is here: `create` makes the store, still without values.

        Raises
        ------
        InputError
            If `resume` says that there must be something to go on with; if the folder cannot be written.
        """
        if resume:
            raise InputError(
                "expected the same command, interrupted; "
                + ("nothing was begun here" if not self.plan() else "what was begun here is something else"),
                file=self.out,
                hint="without --resume it begins anew",
            )
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            (self.folder / "done").mkdir(parents=True)
        except OSError as error:
            raise InputError(f"cannot be written: {error}", file=self.out) from error
        create(self.store)
        # Last: where there is a plan, there is a store.
        write_json(self.folder / "plan.json", plan)

    def done(self) -> set[Place]:
        """Every piece that is whole."""
        return {
            (int(place.parent.name), int(place.name))
            for place in (self.folder / "done").glob("*/*")
            if not place.name.startswith(".")
        }

    def note(self, piece: Place, result: Any) -> None:
        """Note that a piece is whole, and what came of it (as JSON)."""
        folder = self.folder / "done" / str(piece[0])
        folder.mkdir(exist_ok=True)
        # Not brought to the disk, as little as the values in the store: a kill, which is what notes must
        # outlive, undoes no write.
        write_whole(folder / str(piece[1]), json.dumps(result), sync=False)

    def result(self, piece: Place) -> Any:
        """What came of a piece that is whole."""
        return json.loads((self.folder / "done" / str(piece[0]) / str(piece[1])).read_text())

    def do(self, workers: Workers, job: Job[Place, Any], pieces: Sequence[Place]) -> Iterator[Place]:
        """Do the pieces that are not whole; yield each when it is."""
        for number, _ in workers.map(_Noted(job, self), pieces):
            yield pieces[number]

    @contextlib.contextmanager
    def growing(self) -> Iterator[None]:
        """Keep what is done when the block is interrupted; leave nothing when the input is at fault.

        Raises
        ------
        InputError
            If another process is at it, whose work is left alone; if something cannot be written.
        """
        with alone_at(self.out):
            try:
                clear_stale(self.out.parent, self.out.name)
                yield
            except ClusterError:
                raise
            except InputError:
                shutil.rmtree(self.folder, ignore_errors=True)
                raise
            except OSError as error:
                raise InputError(
                    f"cannot be written: {error}", file=self.out, hint="--resume keeps what is done"
                ) from error

    def finish(self, *, force: bool) -> None:
        """Move the store to its place."""
        if self.out.exists() and not force:
            raise InputError("appeared while it was being written", file=self.out)
        move_in(self.store, self.out)
        shutil.rmtree(self.folder, ignore_errors=True)


class _Noted(Job[Place, Any]):
    def __init__(self, job: Job[Place, Any], work: Work) -> None:
        self._job = job
        self._work = work

    def __call__(self, piece: Place) -> Any:
        result = self._job(piece)
        self._work.note(piece, result)
        return result


def fingerprint(sim: xr.Dataset, sources: Sequence[str | Path], **more: Any) -> str:
    """What interrupted work must have in common with what goes on with it."""
    known = {
        **more,
        "sources": [str(Path(path).resolve()) for path in sources],
        "changed": [Path(path).stat().st_mtime_ns for path in sources if Path(path).exists()],
        "box": {str(key): str(value) for key, value in sim.attrs.items()},
        "sizes": {str(key): value for key, value in sim.sizes.items()},
        "redshift": sim["redshift"].values.tolist(),
        "fields": {
            str(name): {str(key): str(value) for key, value in field.attrs.items()}
            for name, field in sim.data_vars.items()
        },
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
