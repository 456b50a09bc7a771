"""A process that makes batches by their number, and hands them over in memory that both map.

Only the bytes of arrays go through the memory; what is left of the pickle, some kilobytes, goes
through a socket. The memory is anonymous (`memfd_create`, of Linux alone): it has no name in a file
system that could be left behind, and the bound on /dev/shm, 64 MB in many containers, is not its
bound.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertsmith.errors import BertsmithError
from bertsmith.processes import end_with_parent

Bytes = npt.NDArray[np.uint8]
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_END = 5.0
_SETTINGS = {
    # Libraries would start a thread for each processor.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Freed memory stays with the process: glibc would give it back and ask anew for every batch,
    # 2,900 page faults of each (docs/speed.md).
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # the most that older ones take
}
_ALIGNMENT = 64  # bytes; of every array, so that it can be seen as any type
_LEFT_TO_PARENT = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")  # which writes a checkpoint then


class WorkerDied(Exception):  # noqa: N818 (not an error yet: others can do its work)
    """The process ended, or could not begin."""


class Header(NamedTuple):
    """An object without the bytes of its arrays, which lie one after the other in some memory."""

    pickled: bytes
    sizes: list[int]
    """Bytes of each array."""

    @property
    def offsets(self) -> list[int]:
        """Where each array begins, and the end of all."""
        offsets = [0]
        for size in self.sizes:
            offsets.append(offsets[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
        return offsets


class Packed(NamedTuple):
    """An object taken apart."""

    header: Header
    arrays: list[Bytes]
    """uint8 [bytes] each."""

    def write(self, memory: Bytes) -> None:
        """Copy the arrays to where `header` says, uint8 [`header.offsets[-1]`]."""
        for array, place in zip(self.arrays, self.header.offsets[:-1], strict=True):
            memory[place : place + len(array)] = array


def pack(value: Any) -> Packed:
    """Take an object apart, without a copy of its arrays.

    Args:
        value: can be pickled. What goes apart are tensors on the CPU without a gradient, and numpy
            arrays of plain values; tensors that share memory will not share it any more.
    """
    stream = io.BytesIO()
    apart: list[pickle.PickleBuffer] = []

    def stays(buffer: pickle.PickleBuffer) -> bool:
        """Whether its bytes stay in the pickle: those of other types, which have buffers, too."""
        return not apart or buffer is not apart[-1]

    pickler = _Pickler(stream, protocol=5, buffer_callback=stays)
    pickler.apart = apart
    pickler.dump(value)
    arrays = [np.asarray(buffer.raw()) for buffer in apart]
    return Packed(Header(stream.getvalue(), [len(array) for array in arrays]), arrays)


def unpack(header: Header, memory: Tensor) -> Any:
    """The object again; its arrays are views of `memory`, uint8 [`header.offsets[-1]` or more]."""
    parts = [
        memory[place : place + size]
        for place, size in zip(header.offsets[:-1], header.sizes, strict=True)
    ]
    # What is given as buffers goes as it is to `_tensor` and `_array`.
    return pickle.loads(header.pickled, buffers=parts)  # noqa: S301 (of a process of our own)


def pinned(value: Any) -> Any:
    """The object with its arrays where a GPU copies from on its own."""
    packed = pack(value)
    # One piece of PyTorch's, which does not give it out again before the GPU has copied from it.
    memory = torch.empty(packed.header.offsets[-1], dtype=torch.uint8, pin_memory=True)
    packed.write(memory.numpy())
    return unpack(packed.header, memory)


class _Pickler(pickle.Pickler):
    """Leaves the bytes of arrays out, as protocol 5 allows."""

    apart: list[pickle.PickleBuffer]
    """Their buffers."""

    def reducer_override(self, value: Any) -> Any:
        # PyTorch's own way writes a zip archive in memory for each tensor.
        if type(value) is Tensor and _is_plain(value):
            array = value.contiguous().reshape(-1).view(torch.uint8).numpy()
            return _tensor, (self._out(array), value.dtype, tuple(value.shape))
        if type(value) is np.ndarray and not value.dtype.hasobject:
            array = np.require(value, requirements=("C", "W")).reshape(-1).view(np.uint8)
            return _array, (self._out(array), value.dtype, value.shape)
        return NotImplemented

    def _out(self, array: Any) -> pickle.PickleBuffer:
        buffer = pickle.PickleBuffer(array)
        self.apart.append(buffer)
        return buffer


def _is_plain(tensor: Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.requires_grad
        and not tensor.is_quantized
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def _tensor(part: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return part.view(dtype).view(shape)


def _array(part: Tensor, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    return part.numpy().view(dtype).reshape(shape)


class Memory:
    """Bytes that every process sees that has the descriptor."""

    def __init__(self, descriptor: int | None = None, *, is_private: bool = False) -> None:
        """Map what `descriptor` names, or make it.

        Args:
            descriptor: of a `Memory` of another process; None: make a new one.
            is_private: what is written here is not seen elsewhere.
        """
        self.descriptor = os.memfd_create("bertsmith") if descriptor is None else descriptor
        self._flags = mmap.MAP_PRIVATE if is_private else mmap.MAP_SHARED
        self._bytes: Bytes = np.empty(0, dtype=np.uint8)

    def view(self, size: int) -> Bytes:
        """The first bytes, uint8 [size]; there are as many as are asked for."""
        if size > len(self._bytes):
            # Pages are taken when they are written: room to spare costs nothing.
            room = 1 << max(size - 1, mmap.PAGESIZE).bit_length()
            if os.fstat(self.descriptor).st_size < room:
                os.ftruncate(self.descriptor, room)
            self._bytes = np.frombuffer(mmap.mmap(self.descriptor, room, self._flags), np.uint8)
        return self._bytes[:size]

    def put(self, value: Any) -> Header:
        """Write the arrays of an object; its header tells the rest."""
        packed = pack(value)
        packed.write(self.view(packed.header.offsets[-1]))
        return packed.header

    def close(self) -> None:
        """Give the descriptor back; the memory goes with its last user."""
        os.close(self.descriptor)


class Worker:
    """A process that makes batches, or whatever is made by its number; one thread waits for it.

    Args:
        make: the function that makes them; its arrays are in `memory`, which workers share.
        memory: not to be written any more.
    """

    def __init__(self, make: Header, memory: Memory) -> None:
        self._memory = Memory()
        own, other = socket.socketpair()
        inherited = [other.fileno(), self._memory.descriptor, memory.descriptor]
        try:
            # Not by `multiprocessing`, which runs the user's script again in each process.
            code = f"from bertsmith.data.worker import serve; serve({os.getpid()}, *{inherited})"
            paths = os.pathsep.join(str(Path(path).absolute()) for path in sys.path)
            self.process = subprocess.Popen(  # noqa: S603 (ourselves)
                [sys.executable, "-P", "-c", code],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_SETTINGS, "PYTHONPATH": paths},
                # Ctrl-C on the terminal is the parent's. Not by a session: Linux would give each
                # as much of the processors as all of the parent's.
                process_group=0,
            )
        except OSError as error:
            own.close()
            self._memory.close()
            raise WorkerDied(f"cannot be started ({error})") from error
        finally:
            other.close()
        self._connection = Connection(own.detach())
        self._sent = make

    def wait_until_ready(self) -> None:
        """Return when it can be asked. Raises: `WorkerDied`."""
        if (error := self._ask(self._sent)) is not None:
            raise WorkerDied(f"cannot begin ({error})")

    def make(self, number: int, *, pin_memory: bool) -> Any:
        """What `make(number)` gives.

        Args:
            number: of the batch.
            pin_memory: lay its arrays where a GPU copies from on its own.

        Raises:
            WorkerDied: it ended.
            Exception: what making it raised.
        """
        found = self._ask(number)
        if isinstance(found, Exception):
            raise found
        size = found.offsets[-1]
        memory = torch.empty(size, dtype=torch.uint8, pin_memory=pin_memory)
        # Numpy's copy: PyTorch would start threads of its own for each thread that copies.
        np.copyto(memory.numpy(), self._memory.view(size))
        return unpack(found, memory)

    def _ask(self, question: Any) -> Any:
        try:
            self._connection.send(question)
            # Some other child of this process may hold on to the far end: its closing is no proof.
            while not self._connection.poll(_SECONDS_BETWEEN_LOOKS):
                if self.process.poll() is not None:
                    raise EOFError
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerDied(self._end()) from error

    def _end(self) -> str:
        """How it ended, of one that has or is about to."""
        try:
            code = self.process.wait(timeout=_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return "does not answer"
        if code >= 0:
            return f"ended with status {code}"
        guess = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{guess}"

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the process, which has nothing to lose."""
        self.process.kill()
        self.process.wait()
        self._connection.close()
        self._memory.close()


def serve(parent: int, descriptor: int, own_memory: int, memory_of_make: int) -> None:
    """Make what is asked for, until nobody asks any more; what a worker's process does.

    Args:
        parent: the process that asks.
        descriptor: of the socket.
        own_memory: of the memory that is written.
        memory_of_make: of the memory that has the arrays of what makes batches.
    """
    for name in _LEFT_TO_PARENT:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    end_with_parent(parent)
    torch.set_num_threads(1)
    memory = Memory(own_memory)
    with Connection(descriptor) as connection, suppress(EOFError, ConnectionError):
        header = connection.recv()
        try:
            shared = Memory(memory_of_make, is_private=True).view(header.offsets[-1])
            make: Callable[[int], Any] = unpack(header, torch.from_numpy(shared))
        except Exception as error:
            connection.send(f"{type(error).__name__}: {error}")
            return
        connection.send(None)
        while True:
            connection.send(_answer(make, connection.recv(), memory))


def _answer(make: Callable[[int], Any], number: int, memory: Memory) -> Header | Exception:
    try:
        return memory.put(make(number))
    except Exception as error:
        where = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)
        except Exception:
            return RuntimeError(where)
        if not isinstance(error, BertsmithError):  # which says all that the user needs
            error.add_note(where)
        return error
