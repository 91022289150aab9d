"""Writes outputs whole or not at all: files, folders and JSON.

- `.partial.WRITER.NAME`, beside the place NAME, is an output that the process WRITER is writing. It is
  brought to the disk (fsync) and then renamed, so that a kill at any instant leaves the previous output.
- `.replaced.WRITER.NAME` is the previous output until the new one is in its place. After a kill between the
  two renames, the next command for this output puts it back.
- `.scratch.WRITER.NAME` holds files that a command needs only while it runs.
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
"""Tells this process from an earlier one of the same number, which is common in containers."""

_TEMPORARY = re.compile(
    r"\.(?P<role>partial|replaced|scratch)\.(?P<writer>(?P<process>\d+)-[0-9a-f]{6}@(?P<host>[\w-]+))"
    r"\.(?P<name>.+)",
    re.DOTALL,
)
"""Names of the temporary files beside an output: their role, the process that writes, the output."""

_LOCKED_BYTE = 1 << 30
"""The byte of a lock file that is locked on Windows: one behind the text, which others may then read."""


def write_whole(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Write a file (text as UTF-8) so that a reader finds either the old content or the new one.

    Parameters
    ----------
    sync
        Bring the content to the disk first, so that it also outlives a loss of power and not only a kill.

    Raises
    ------
    OSError
        If the file cannot be written. The old content is then untouched.
    """
    with whole_file(path, sync=sync) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a path to write to. Its file replaces the one at `path` when the block ends without an error.

    This is for libraries that open files themselves. The yielded path has the ending of `path`, because many
    libraries choose the format by the ending.

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
    """Yield a folder to write into. It replaces what is at `path` when the block ends without an error.

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
    """Bring a finished folder or file to the disk, and move it to `path` in place of what is there.

    Raises
    ------
    OSError
        If that fails. What was at `path` is then still there.
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
        # Renamed first, because a half-removed output must never be put back.
        leftover = _beside(path, "scratch")
        replaced.rename(leftover)
        _remove(leftover)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside the output `path`, and remove it with its files when the block ends.

    Beside the output, workers on other machines find the folder, and the disk has room.

    Raises
    ------
    OSError
        If the folder cannot be made.
    """
    scratch = _beside(path, "scratch")
    _remove(scratch)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        _remove(scratch)


def write_json(path: Path, values: Mapping[str, Any], *, sync: bool = True) -> None:
    """Write a JSON file, whole or not at all. A number that is not finite becomes null.

    Raises
    ------
    OSError
        As `write_whole` does.
    """
    write_whole(path, json_bytes(values), sync=sync)


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """The bytes that `write_json` writes."""
    return json.dumps(finite(values), indent=1, allow_nan=False).encode()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file.

    Raises
    ------
    InputError
        If the file is missing or no JSON, or holds no object or a number that is not finite.
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
        If the file does not hold exactly the fields of `kind` (fields with a default factory may be missing),
        or a value has the wrong type. The message names each.
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
    """Whether this is the name of a temporary file or folder: partial, replaced or scratch."""
    return _TEMPORARY.fullmatch(name) is not None


def clear_stale(folder: Path, name: str | None = None, *, alone: bool = False) -> None:
    """Clear the temporary files that killed processes left in `folder`, of output `name` or of all outputs.

    A replaced output is put back if nothing has taken its place. All other files are removed.

    Parameters
    ----------
    alone
        Whether this process holds the lock of the output, so that no other process can be writing it.
        Otherwise only files of processes that ran on this machine and have ended are cleared.
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
    """Hold the lock `.OUT.lock` beside an output while the block runs, so that one process at a time writes.

    The system releases a lock when its process ends, even by a kill; the file that is then left is taken over
    by the next process. Where a file system has no locks, nothing is held. Temporary files that killed
    processes left beside the output are cleared first.

    Raises
    ------
    InputError
        If another process holds the lock, or no file can be written there.
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
        if os.name == "nt":  # Windows removes only files that no process has open
            os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
        else:
            # Removed before it is released: a process that waits for it then sees that it is not the lock.
            path.unlink(missing_ok=True)
            os.close(descriptor)


def clear_after_kill(out: Path, *leftovers: Path) -> None:
    """Clear what a command left beside its whole output when it was killed while it cleared up.

    The lock file that the command left shows that there was such a command.

    Parameters
    ----------
    leftovers
        Further files and folders to remove.
    """
    if not _lock_of(out).exists() or is_being_written(out):
        return
    with contextlib.suppress(InputError), alone_at(out):  # another process may take the lock first
        for path in leftovers:
            _remove(path)


def is_being_written(out: Path) -> bool:
    """Whether a process holds the lock of an output; without locks, whether its file exists."""
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
    """A descriptor of the lock file at `path`, which now names this process, and whether it is locked."""
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
        os.close(descriptor)  # its holder removed the file between the open and the lock: try again


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
    """The temporary name beside `path` for this process in the role `partial`, `replaced` or `scratch`."""
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
    """The same values, also in lists and mappings, with None for each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
