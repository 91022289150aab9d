"""Training over several processes: how they meet, and how they average what each has computed.

Every worker holds the whole network and computes the gradients of its share of every batch. The chief (worker
0) adds them up, in the order of the workers, and hands the sum back, so that all take the same step. Nothing
but arrays of known size and text goes over the wire.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import Any, NoReturn

import keras
import numpy as np

from reion.errors import InputError
from reion.training.launch import Place

PATIENCE_S = 300.0
"""How long a worker waits for the others: to arrive, and at every step."""

_HELLO = struct.Struct("!8sI32s")
_MAGIC = b"reion-1\n"
_HEADER = struct.Struct("!cQ")
_DATA, _STOP = b"d", b"s"
_LONGEST_REASON = 4096
_RETRY_S = 0.2
_STRANGER_S = 5.0


class WorkerLostError(InputError):
    """A worker stopped, or did not answer in time; the run folder keeps the last good checkpoint."""


@dataclass
class _Peer:
    rank: int
    connection: socket.socket


class Workers:
    """The processes that train one network together, as one of them sees them.

    Use it as a context: when one leaves with an exception, the others are told, and raise WorkerLostError.

    Attributes
    ----------
    rank, count
        Number of this worker, from 0, and of all of them. Worker 0 is the chief: it alone reads and writes
        the run folder.
    failure
        What was raised here when another worker was lost: backends wrap what is raised inside a step.
    """

    def __init__(
        self,
        rank: int = 0,
        count: int = 1,
        peers: Sequence[_Peer] = (),
        *,
        patience_s: float = PATIENCE_S,
        launcher_pid: int | None = None,
    ) -> None:
        self.rank = rank
        self.count = count
        self.failure: WorkerLostError | None = None
        self._peers = list(peers)
        self._patience_s = patience_s
        self._launcher_pid = launcher_pid

    @classmethod
    def join(cls, place: Place | None, run: bytes, *, patience_s: float = PATIENCE_S) -> Workers:
        """Meet the others at the chief's address; without a place, or with one worker, train alone.

        `run` is a SHA-256 digest of what all must have in common: schema, data, version.

        Raises
        ------
        InputError
            If not all arrive in time, or one was started with something else.
        """
        if place is None or place.count == 1:
            return cls()
        meet = _gather if place.rank == 0 else _report
        peers = meet(place, run, patience_s)
        for peer in peers:
            peer.connection.settimeout(patience_s)
            peer.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return cls(place.rank, place.count, peers, patience_s=patience_s, launcher_pid=place.launcher_pid)

    @property
    def is_chief(self) -> bool:
        """Whether this worker keeps the run folder."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice:
        """Which rows of a batch are this worker's."""
        return slice(self.rank, batch_size, self.count)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum of an array over all workers, of the same shape and dtype, the same bits on each of them.

        Raises
        ------
        WorkerLostError
            If one of the others has stopped or does not answer.
        """
        if self.count == 1:
            return values
        values = np.asarray(values, order="C")
        self._check_launcher()
        if not self.is_chief:
            self._send(self._peers[0], values)
            return self._receive_like(self._peers[0], values)
        total = values.astype(np.float64)
        for peer in self._peers:
            total += self._receive_like(peer, values)
        result = total.astype(values.dtype)
        for peer in self._peers:
            self._send(peer, result)
        return result

    def broadcast(self, message: bytes) -> bytes:
        """Give every worker the chief's `message`; what the others pass is not looked at."""
        if self.count == 1:
            return message
        if self.is_chief:
            for peer in self._peers:
                self._send(peer, np.frombuffer(message, dtype=np.uint8))
            return message
        return bytes(self._receive(self._peers[0], None))

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            reason = error.message if isinstance(error, WorkerLostError) else self._says(error)
            for peer in self._peers:
                try:
                    content = reason.encode()[:_LONGEST_REASON]
                    peer.connection.settimeout(_STRANGER_S)
                    peer.connection.sendall(_HEADER.pack(_STOP, len(content)) + content)
                except OSError:
                    continue
        for peer in self._peers:
            peer.connection.close()

    def _says(self, error: BaseException) -> str:
        text = str(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, KeyboardInterrupt):
            text = "interrupted"
        return f"worker {self.rank} of {self.count} has stopped: {text}"

    def _check_launcher(self) -> None:
        if self._launcher_pid is not None and os.getppid() != self._launcher_pid:
            self._lose("the process that started the workers is gone")

    def _send(self, peer: _Peer, values: np.ndarray) -> None:
        try:
            peer.connection.sendall(_HEADER.pack(_DATA, values.nbytes))
            peer.connection.sendall(values.tobytes())
        except OSError as error:
            # It may have said why before it left.
            self._hear_last_words(peer)
            self._lose_peer(peer, error)

    def _receive_like(self, peer: _Peer, values: np.ndarray) -> np.ndarray:
        content = self._receive(peer, values.nbytes)
        return np.frombuffer(content, dtype=values.dtype).reshape(values.shape)

    def _receive(self, peer: _Peer, expected: int | None) -> bytearray:
        try:
            kind, size = _HEADER.unpack(_read(peer.connection, _HEADER.size))
            if kind == _STOP:
                self._lose(_read(peer.connection, min(size, _LONGEST_REASON)).decode(errors="replace"))
            if kind != _DATA or (expected is not None and size != expected):
                self._lose(f"worker {peer.rank} of {self.count} is out of step")
            return _read(peer.connection, size)
        except OSError as error:
            self._lose_peer(peer, error)

    def _hear_last_words(self, peer: _Peer) -> None:
        try:
            peer.connection.settimeout(_STRANGER_S)
            kind, size = _HEADER.unpack(_read(peer.connection, _HEADER.size))
            if kind == _STOP:
                self._lose(_read(peer.connection, min(size, _LONGEST_REASON)).decode(errors="replace"))
        except OSError:
            return

    def _lose_peer(self, peer: _Peer, error: OSError) -> NoReturn:
        slow = isinstance(error, TimeoutError)
        how = f"has not answered for {self._patience_s:.0f} s" if slow else "is gone"
        self._lose(f"worker {peer.rank} of {self.count} {how}")

    def _lose(self, reason: str) -> NoReturn:
        self.failure = WorkerLostError(
            reason,
            hint="the run is whole up to its last checkpoint: start all again, or fewer, with --resume",
        )
        raise self.failure


def average_gradients(trunk: keras.Model, workers: Workers, weight: float) -> None:
    """Let the compiled `trunk` step along the mean of all workers' gradients.

    It is taken before the optimiser sees them: loss scaling, clipping and the schedule then act on the
    gradient of the whole batch, as they do for one process. `weight` is this worker's share of the batch.
    """
    optimizer = trunk.optimizer
    apply = optimizer.apply

    def mean(flat: Any) -> np.ndarray:
        return workers.sum(np.asarray(flat) * np.float32(weight))

    def apply_mean(gradients: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> Any:
        arrays = [_values(gradient) for gradient in gradients]
        flat = keras.ops.concatenate([keras.ops.reshape(array, (-1,)) for array in arrays])
        flat = _call_from_graph(mean, flat)
        ends = np.cumsum([int(np.prod(array.shape)) for array in arrays])[:-1]
        parts = keras.ops.split(flat, [int(end) for end in ends])
        averaged = [keras.ops.reshape(part, array.shape) for part, array in zip(parts, arrays, strict=True)]
        return apply(
            [_with_values(gradient, values) for gradient, values in zip(gradients, averaged, strict=True)],
            trainable_variables,
        )

    optimizer.apply = apply_mean


def _values(gradient: Any) -> Any:
    # TensorFlow's gradient of a lookup is a list of slices, not yet added up, the same ones on every worker;
    # adding them up here would change what clipping measures.
    return gradient.values if hasattr(gradient, "dense_shape") else gradient


def _with_values(gradient: Any, values: Any) -> Any:
    if hasattr(gradient, "dense_shape"):
        return type(gradient)(values, gradient.indices, gradient.dense_shape)
    return values


def _call_from_graph(function: Callable[[Any], np.ndarray], flat: Any) -> Any:
    """Call a function of NumPy arrays, of equal shape and dtype, from inside a compiled step."""
    match keras.backend.backend():
        case "tensorflow":
            result = import_module("tensorflow").numpy_function(function, [flat], flat.dtype)
            result.set_shape(flat.shape)
            return result
        case "jax":
            shape = import_module("jax").ShapeDtypeStruct(flat.shape, flat.dtype)
            return import_module("jax.experimental").io_callback(function, shape, flat, ordered=True)
        case _:
            return keras.ops.convert_to_tensor(function(keras.ops.convert_to_numpy(flat)))


def _gather(place: Place, run: bytes, patience_s: float) -> list[_Peer]:
    """The chief's side of meeting: wait for every other worker."""
    deadline = time.monotonic() + patience_s
    found: dict[int, _Peer] = {}
    with _listen(place) as server, ExitStack() as connections:
        while len(found) < place.count - 1:
            server.settimeout(max(deadline - time.monotonic(), 1e-3))
            try:
                connection, _ = server.accept()
            except TimeoutError as error:
                missing = [rank for rank in range(1, place.count) if rank not in found]
                raise InputError(
                    f"expected {place.count} workers at {place.host}:{place.port}; after {patience_s:.0f} s "
                    f"there is no worker {', '.join(map(str, missing))}",
                    hint="start them all with the same command; to train alone, give --workers 1",
                ) from error
            connections.enter_context(connection)
            try:
                connection.settimeout(_STRANGER_S)
                magic, rank, theirs = _HELLO.unpack(_read(connection, _HELLO.size))
            except OSError:
                connection.close()
                continue
            if magic != _MAGIC or rank in found or not 1 <= rank < place.count:
                connection.close()
                continue
            if theirs != run:
                connection.sendall(b"\0")
                raise _different(rank, place)
            connection.sendall(b"\1")
            found[rank] = _Peer(rank, connection)
        connections.pop_all()
    return [found[rank] for rank in sorted(found)]


def _listen(place: Place) -> socket.socket:
    try:
        return socket.create_server((place.host, place.port), backlog=place.count)
    except OSError as error:
        raise InputError(
            f"the workers cannot meet at {place.host}:{place.port}: {error}",
            hint="give another address: MASTER_ADDR and MASTER_PORT",
        ) from error


def _report(place: Place, run: bytes, patience_s: float) -> list[_Peer]:
    """The others' side of meeting: find the chief, which may start later."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            connection = socket.create_connection((place.host, place.port), timeout=_STRANGER_S)
            with ExitStack() as on_failure:
                on_failure.enter_context(connection)
                connection.settimeout(max(deadline - time.monotonic(), _RETRY_S))
                connection.sendall(_HELLO.pack(_MAGIC, place.rank, run))
                answer = bytes(_read(connection, 1))
                on_failure.pop_all()
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"worker {place.rank} of {place.count} has not found the chief at "
                    f"{place.host}:{place.port} in {patience_s:.0f} s: {error}",
                    hint="start all workers with the same command; to train alone, give --workers 1",
                ) from error
            time.sleep(_RETRY_S)
    if answer != b"\1":
        connection.close()
        raise _different(place.rank, place)
    return [_Peer(0, connection)]


def _different(rank: int, place: Place) -> InputError:
    return InputError(
        f"worker {rank} of {place.count} was started with another configuration, other simulations or "
        "another version than the chief",
        hint="start them all with the same command",
    )


def _read(connection: socket.socket, size: int) -> bytearray:
    content = bytearray(size)
    view = memoryview(content)
    while view:
        received = connection.recv_into(view)
        if received == 0:
            message = "the connection was closed"
            raise ConnectionResetError(message)
        view = view[received:]
    return content
