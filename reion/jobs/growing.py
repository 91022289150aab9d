"""Stores that grow piece by piece beside their place, so that an interrupted command can go on."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reion.errors import BadValuesError, InputError
from reion.jobs.outputs import alone_at, clear_after_kill, move_in, write_json, write_whole
from reion.jobs.places import Kind, refuse_existing
from reion.jobs.sources import SourceFiles
from reion.jobs.workers import ClusterError, Job, Workers

StorePiece = tuple[int, int]
"""A piece of a store: the number of a snapshot, and the number of a tile or block in this snapshot."""

_PACKED = "packed"
"""Name of the file that is moved to `out` where `out` is a file and not a store."""

_HALF_A_CHUNK = "*.partial"
"""Names of the files into which zarr writes chunks until they are whole. Killed processes leave them."""

_GOES_ON = "--resume goes on with the pieces that are done"


@dataclass(frozen=True)
class GrowingStore:
    """A Zarr store that grows in the folder `.OUT.VERB` beside its place `out`.

    The folder holds:

    - `store.zarr`: the store, which is moved to `out` when all pieces are done. Where `out` is a file, `pack`
      writes this file as `packed`, which is moved instead;
    - `done/SNAPSHOT/NUMBER`: the result, as JSON, of a piece whose values are in the store;
    - `conditions.json`: what a later command must share with the first (the model, the files, ...) in order
      to go on. It is written as soon as the store is created.

    An error keeps the pieces that are done, except a `BadValuesError`: no command could go on with them,
    because the source files must change.

    Parameters
    ----------
    out, kind
        The place of the output, and its kind.
    verb
        A word for the work, such as `converting`.
    force
        Replace an output of this kind that reion wrote.
    pack
        Writes the store at its first argument as the file at its second; None if the output is the store.
    """

    out: Path
    kind: Kind
    verb: str
    force: bool = False
    pack: Callable[[Path, Path], None] | None = None

    @property
    def folder(self) -> Path:
        """The folder in which the store grows."""
        return self.out.with_name(f".{self.out.name}.{self.verb}")

    @property
    def store(self) -> Path:
        """The store, until it is moved to `out`."""
        return self.folder / "store.zarr"

    @property
    def _whole(self) -> Path:
        """The store or file that is moved to `out`."""
        return self.store if self.pack is None else self.folder / _PACKED

    def conditions(self) -> dict[str, Any]:
        """The content of `conditions.json`; empty if there is none."""
        with contextlib.suppress(OSError, ValueError):
            conditions = json.loads((self.folder / "conditions.json").read_text(encoding="utf-8"))
            if isinstance(conditions, dict):
                return conditions
        return {}

    def is_moved_in(self) -> bool:
        """Whether `out` is this store, moved in by a command that was killed before it cleared the folder."""
        written = self.conditions().get("written_ns")
        return written is not None and not self._whole.exists() and written == _written_ns(self.out)

    def refuse_existing(self) -> None:
        """Refuse to write over an output at `out`, unless it is this store, already moved in.

        Raises
        ------
        InputError
            As `reion.jobs.places.refuse_existing` does.
        """
        if self.is_moved_in():
            return
        try:
            refuse_existing(self.out, self.kind, force=self.force)
        except InputError:
            if not self.conditions():  # no command can go on with this folder
                clear_after_kill(self.out, self.folder)
            raise

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the output for this process while the block runs.

        Raises
        ------
        InputError
            If another process is writing the output, or `out` may not be replaced; in place of any OSError.
        """
        with alone_at(self.out):
            self.refuse_existing()
            try:
                yield
            except BadValuesError:
                self._discard()
                raise
            except ClusterError as error:
                if self.done():
                    error.hint = f"{error.hint}; {_GOES_ON}"
                raise
            except OSError as error:
                hint = _GOES_ON if self.done() else None
                raise InputError(f"cannot be written: {error}", file=self.out, hint=hint) from error
            finally:
                if not self.is_moved_in() and not self._holds_work():
                    self._discard()

    def begin(
        self, conditions: Mapping[str, Any], create: Callable[[Path], None], *, resume: bool = False
    ) -> None:
        """Go on with a store that was begun under the same conditions, or begin anew in its place.

        Parameters
        ----------
        conditions
            Values for JSON, each under the name that a message gives it where it differs.
        create
            Called with a path, at which it creates the store without the values of its fields.
        resume
            Refuse to begin anew.

        Raises
        ------
        InputError
            With `resume`, if no store was begun or its conditions differ; all pieces done are kept.
        """
        earlier = self.conditions()
        wanted = json.loads(json.dumps(conditions))
        differing = [name for name in wanted if name not in earlier or earlier[name] != wanted[name]]
        if not differing and (self.store.exists() or self.is_moved_in()):
            return
        if resume:
            raise InputError(
                "expected the same command, interrupted; "
                + (
                    f"it was begun with other {', '.join(differing)}"
                    if earlier and differing
                    else "nothing was begun here"
                ),
                file=self.out,
                hint="without --resume it begins anew",
            )
        refuse_existing(self.out, self.kind, force=self.force)
        self._discard()
        (self.folder / "done").mkdir(parents=True)
        create(self.store)
        write_json(self.folder / "conditions.json", wanted)

    def done(self) -> set[StorePiece]:
        """The pieces that are done."""
        return {
            (int(note.parent.name), int(note.name))
            for note in (self.folder / "done").glob("*/*")
            if not note.name.startswith(".")
        }

    def do(
        self, workers: Workers, job: Job[StorePiece, Any], pieces: Sequence[StorePiece]
    ) -> Iterator[StorePiece]:
        """Do pieces, whose results must fit into JSON; yield each piece when it is done."""
        for number, _ in workers.map(_NotedJob(job, self), pieces):
            yield pieces[number]

    def note(self, piece: StorePiece, result: Any) -> None:
        """Note that a piece is done, with its result."""
        folder = self.folder / "done" / str(piece[0])
        folder.mkdir(exist_ok=True)
        # No fsync: a note, like the values in the store, must outlive a kill, which undoes no write.
        write_whole(folder / str(piece[1]), json.dumps(result), sync=False)

    def result(self, piece: StorePiece) -> Any:
        """The result of a piece that is done."""
        return json.loads((self.folder / "done" / str(piece[0]) / str(piece[1])).read_text(encoding="utf-8"))

    def move_in(self, sources: SourceFiles | None = None) -> None:
        """Move the store, all pieces of which are done, to its place, and remove the folder.

        After a kill at any instant, the same command finds either all pieces done or the store in its place.

        Raises
        ------
        InputError
            If a file among the `sources` has changed since they were listed.
        OSError
            If the store cannot be moved.
        """
        if not self.is_moved_in():
            if sources is not None:
                sources.check_unchanged()
            refuse_existing(self.out, self.kind, force=self.force)
            for leftover in self.store.rglob(_HALF_A_CHUNK):
                leftover.unlink()
            if self.pack is not None:
                self.pack(self.store, self._whole)
            conditions = {**self.conditions(), "written_ns": _written_ns(self._whole)}
            write_json(self.folder / "conditions.json", conditions)
            move_in(self._whole, self.out)
        for entry in self.folder.iterdir():
            if entry.name != "conditions.json":
                shutil.rmtree(entry, ignore_errors=True)
        # conditions.json goes last: until then it says that the store is in its place.
        shutil.rmtree(self.folder, ignore_errors=True)

    def _holds_work(self) -> bool:
        """Whether the folder holds a piece that is done, or files that pieces need."""
        if bool(self.done()) or not self.folder.exists():
            return True
        return any(
            entry.name not in ("store.zarr", "done", "conditions.json", _PACKED)
            for entry in self.folder.iterdir()
        )

    def _discard(self) -> None:
        # conditions.json goes first: without it, no command goes on with a store that is half removed.
        (self.folder / "conditions.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


class _NotedJob(Job[StorePiece, Any]):
    """Does a piece as `job` does, and notes that it is done."""

    def __init__(self, job: Job[StorePiece, Any], growing: GrowingStore) -> None:
        self._job = job
        self._growing = growing

    def __call__(self, piece: StorePiece) -> Any:
        result = self._job(piece)
        self._growing.note(piece, result)
        return result


def _written_ns(store: Path) -> int | None:
    """When a file, or the metadata of a store, was last written, in ns; moving keeps it. None if missing."""
    try:
        return (store if store.is_file() else store / "zarr.json").stat().st_mtime_ns
    except OSError:
        return None
