"""The one module that writes: a file, a folder or JSON is at its place whole, or not at all.

What is being written lies beside its place under a name that says which process writes it,
`.partial.WRITER.NAME`. It is brought to the disk (fsync) and then renamed, so that a kill at any instant
leaves what was there before. What a new output replaces waits as `.replaced.WRITER.NAME` until the new one is
in its place: after a kill between these two renames, the next command for this output puts the old one back.
What a command needs only while it runs lies in `.scratch.WRITER.NAME`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from reion.errors import InputError

Record = TypeVar("Record")

_HOST = re.sub(r"[^\w-]", "-", socket.gethostname())
_START = secrets.token_hex(3)
"""Tells this process from an earlier one of the same number, which in containers is no rare thing."""

_TEMPORARY = re.compile(
    r"\.(?P<role>partial|replaced|scratch)\.(?P<writer>(?P<process>\d+)-[0-9a-f]{6}@(?P<host>[\w-]+))"
    r"\.(?P<name>.+)",
    re.DOTALL,
)
"""The names of all that lies beside an output while it is written: what it is, who writes it, the output."""

_LOCKED_BYTE = 1 << 30
"""Which byte of a lock file is locked on Windows: one behind the text, which others may then read."""


def write_whole(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Write a file (text as UTF-8) so that whoever looks finds the old content or the new one.

    Parameters
    ----------
    sync
        Bring it to the disk first, so that it also outlives a loss of power and not only a kill.

    Raises
    ------
    OSError
        If it cannot be written; what was there is then untouched.
    """
    with whole_file(path, sync=sync) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A path to write to, whose file replaces the one at `path` when the block ends without an error.

    For libraries that open files themselves. The path that is given ends as `path` does, because many of
    them choose the format by the ending.

    Raises
    ------
    OSError
        As `write_whole` does.
    """
    partial = _beside(path, "partial")
    try:
        yield partial
        if sync:
            _sync(partial)
        partial.replace(path)
        if sync:
            _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write into that replaces what is at `path` when the block ends without an error.

    Raises
    ------
    OSError
        As `write_whole` does.
    """
    partial = _beside(path, "partial")
    _remove(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        move_in(partial, path)
    finally:
        _remove(partial)


def move_in(whole: Path, path: Path) -> None:
    """Bring a folder or a file that is whole to the disk and to `path`, in place of what is there.

    Raises
    ------
    OSError
        If that fails; what was at `path` is then still there.
    """
    if whole.is_file():
        _sync(whole)
    for root, _, names in os.walk(whole):
        for name in names:
            _sync(Path(root) / name)
        _sync(Path(root))
    replaced = _beside(path, "replaced")
    if path.exists():
        path.rename(replaced)
    try:
        whole.rename(path)
    except OSError:
        if replaced.exists():
            replaced.rename(path)
        raise
    _sync(path.parent)
    if replaced.exists():
        # Under another name first: half removed, it must never be put back.
        leftover = _beside(path, "scratch")
        replaced.rename(leftover)
        _remove(leftover)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside the output `path`, for what only this command needs; removed with all in it.

    It lies where workers on other machines find it, and where there is room for the output.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    scratch = _beside(path, "scratch")
    _remove(scratch)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        _remove(scratch)


def write_json(path: Path, values: Mapping[str, Any], *, sync: bool = True) -> None:
    """Write a JSON file, whole or not at all. What is not finite, which JSON does not know, becomes null.

    Raises
    ------
    OSError
        As `write_whole` does.
    """
    write_whole(path, json_bytes(values), sync=sync)


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """What `write_json` writes."""
    return json.dumps(finite(values), indent=1, allow_nan=False).encode()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file.

    Raises
    ------
    InputError
        If there is none, it is no object, or it holds a number that is not finite.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        sound = isinstance(values, dict) and finite(values) == values
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"expected a JSON file; {error}", file=path) from error
    if not sound:
        raise InputError("expected a JSON object without NaN or infinite numbers", file=path)
    return values


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read a dataclass from a JSON file.

    Raises
    ------
    InputError
        If there is no such file, or it does not hold the values of `kind`, all of them (but for lists that
        are empty by default) and no others: what is wrong with each.
    """
    from pydantic import TypeAdapter, ValidationError

    values = read_json(path)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    expected = [item.name for item in fields]
    optional = {item.name for item in fields if item.default_factory is not dataclasses.MISSING}
    odd = sorted((set(values) ^ set(expected)) - (optional - set(values)))
    if odd:
        raise InputError(
            f"expected {', '.join(expected)} and nothing else; too many or missing: {', '.join(odd)}",
            file=path,
        )
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        wrong = "; ".join(
            ".".join(map(str, item["loc"])) + (": " if item["loc"] else "") + item["msg"]
            for item in error.errors()
        )
        raise InputError(f"holds a value that it cannot have: {wrong}", file=path) from error


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is one that is being written, replaced or used as scratch."""
    return _TEMPORARY.fullmatch(name) is not None


def clear_stale(folder: Path, name: str | None = None, *, alone: bool = False) -> None:
    """Clear `folder` of what killed processes left there, of output `name` or of all.

    What was to be replaced is put back where nothing has taken its place; everything else is removed.

    Parameters
    ----------
    alone
        Whether this process holds the lock of the output, so that nobody else can be writing it. Otherwise
        only what processes of this machine left that have ended is cleared.
    """
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or name not in (None, found["name"]) or found["writer"] == _writer():
            continue
        if not alone and (found["host"] != _HOST or _is_running(int(found["process"]))):
            continue
        place = folder / found["name"]
        if found["role"] == "replaced" and not os.path.lexists(place):
            path.rename(place)
        else:
            _remove(path)


@contextlib.contextmanager
def alone_at(out: Path) -> Iterator[None]:
    """Hold the lock `.OUT.lock` beside an output while the block runs: one process at a time writes it.

    The system gives a lock back when its process ends, however it ends: what a killed process leaves is a
    file that the next one takes over. Where a file system has no locks, nothing is held. What killed
    processes left beside the output is cleared first.

    Raises
    ------
    InputError
        If another process holds it, or no file can be written there.
    """
    path = _lock_of(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, locked = _locked(path)
    except BlockingIOError as error:
        holder = ""
        with contextlib.suppress(OSError):
            holder = path.read_text(encoding="utf-8").strip()
        raise InputError(
            f"another command is writing this output: {holder or 'it does not say which'}",
            file=out,
            hint="wait until it is done, or give another --out",
        ) from error
    except OSError as error:
        raise InputError(f"cannot be written: {error}", file=out) from error
    try:
        try:
            clear_stale(out.parent, out.name, alone=locked)
        except OSError as error:
            raise InputError(f"cannot be written: {error}", file=out) from error
        yield
    finally:
        if os.name == "nt":  # where only a closed file can be removed, and not one that another has opened
            os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
        else:
            # Before it is given back: whoever waits for this file finds that it is no longer the lock.
            path.unlink(missing_ok=True)
            os.close(descriptor)


def clear_after_kill(out: Path, *leftovers: Path) -> None:
    """Clear what lies beside a whole output whose command was killed while it cleared up.

    The lock, which such a command leaves behind, says that there was one.

    Parameters
    ----------
    leftovers
        Further files and folders to remove.
    """
    if not _lock_of(out).exists() or is_being_written(out):
        return
    with contextlib.suppress(InputError), alone_at(out):  # somebody else may come first
        for path in leftovers:
            _remove(path)


def is_being_written(out: Path) -> bool:
    """Whether a process holds the lock of an output, or without locks, whether one has not removed it."""
    path = _lock_of(out)
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _lock(descriptor)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def _locked(path: Path) -> tuple[int, bool]:
    """A descriptor of the file at `path`, with this process written in, and whether it could be locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = _lock(descriptor)
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return descriptor, locked
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed the file after it was opened here and before it was locked


def _lock_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.lock")


def _lock(descriptor: int) -> bool:
    """Lock an open file for this process; False where the file system has no locks.

    Raises
    ------
    BlockingIOError
        If another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:
        import msvcrt

        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            raise BlockingIOError from error
        os.lseek(descriptor, 0, os.SEEK_SET)
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _beside(path: Path, role: str) -> Path:
    """The name beside `path` under which this process keeps what is `partial`, `replaced` or `scratch`."""
    return path.with_name(f".{role}.{_writer()}.{path.name}")


def _writer() -> str:
    return f"{os.getpid()}-{_START}@{_HOST}"


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _sync(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk."""
    if os.name == "nt" and path.is_dir():  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def finite(value: Any) -> Any:
    """The same values, in lists and mappings too, with None in place of every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
