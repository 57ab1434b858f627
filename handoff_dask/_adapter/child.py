"""The child process in which attempts of isolated functions run. Started by :mod:`process_pool`."""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import signal
import struct
import sys
import threading
from collections.abc import Sequence
from functools import partial
from typing import IO, Any

from distributed.protocol import pickle

from handoff_dask._adapter import current
from handoff_dask._adapter._dask.running import pickle_error
from handoff_dask._adapter.meter import ProcessMeter

_COUNT = struct.Struct("<Q")

#: Bytes from which a frame is received into huge pages. glibc never reuses freed memory for allocations of
#: this size, so every page would fault, which takes longer than all copies. Smaller frames need no help.
_HUGE = 2**25

#: First message of a child: it is ready to run functions.
READY = "ready"


def to_frames(value: Any) -> list[Any]:
    """Serialize a value to frames: its pickle, then its large buffers, which are not copied."""
    buffers: list[Any] = []
    data = pickle.dumps(value, buffer_callback=buffers.append)
    return [data, *(buffer.raw() for buffer in buffers)]


def from_frames(frames: Sequence[Any]) -> Any:
    """Deserialize the frames of :func:`to_frames`."""
    return pickle.loads(frames[0], buffers=frames[1:])


def write_frames(stream: IO[bytes], frames: Sequence[Any]) -> None:
    """Write frames and flush: their number, then each with its length in bytes before it."""
    stream.write(_COUNT.pack(len(frames)))
    for frame in frames:
        stream.write(_COUNT.pack(memoryview(frame).nbytes))
        stream.write(frame)
    stream.flush()


def read_frames(stream: IO[bytes]) -> list[bytearray | memoryview]:
    """Read frames.

    Raises
    ------
    EOFError
        The other end of the pipe is closed.
    """
    frames = []
    for _ in range(_read_count(stream)):
        frame = _allocate(_read_count(stream))
        _read_into(stream, frame)
        frames.append(frame)
    return frames


def _allocate(size: int) -> bytearray | memoryview:
    """Return writable memory for a frame, which is freed with the last object that refers to it.

    Raises
    ------
    MemoryError or OSError
        The system has not enough memory.
    """
    if size < _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return bytearray(size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    # Objects get a view, as from Dask's own messages. Some libraries take an mmap for that of a file.
    return memoryview(memory)


def _read_count(stream: IO[bytes]) -> int:
    data = bytearray(_COUNT.size)
    _read_into(stream, data)
    count: int = _COUNT.unpack(data)[0]
    return count


def _read_into(stream: IO[bytes], data: bytearray | memoryview) -> None:
    view = memoryview(data)
    while view:
        n = stream.readinto(view)  # type: ignore[attr-defined]
        if not n:
            raise EOFError
        view = view[n:]


def main() -> None:
    """Run the attempts that arrive on standard input, one after the other, until the node closes the pipe."""
    _die_with_node()
    requests_in = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    # Functions print to standard error, since standard output carries the replies, and read nothing.
    os.dup2(2, 1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    if hasattr(os, "register_at_fork"):
        # A process that a function forks may outlive this one, and must not keep the pipes open.
        os.register_at_fork(after_in_child=partial(_close, (requests_in.fileno(), replies.fileno())))
    requests: queue.SimpleQueue[Sequence[Any]] = queue.SimpleQueue()
    # A separate thread reads, so that this process notices the end of its node while a function runs.
    threading.Thread(target=_receive, args=(requests_in, requests), daemon=True).start()
    meter = ProcessMeter()
    write_frames(replies, to_frames(READY))
    while True:
        reply = _run(requests.get(), meter)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        write_frames(replies, reply)
        del reply  # free it while idle


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _receive(stream: IO[bytes], requests: queue.SimpleQueue[Sequence[Any]]) -> None:
    with contextlib.suppress(EOFError, OSError, MemoryError):
        while True:
            requests.put(read_frames(stream))
    os._exit(0)


def _run(frames: Sequence[Any], meter: ProcessMeter) -> list[Any]:
    """Run an attempt. Return the frames of (succeeded, result or pickled error, usage)."""
    paths, base = pickle.loads(frames[0])
    meter.begin(base)
    try:
        sys.path[:] = paths
        function, args, attempt = from_frames(frames[1:])
        current.local.current = attempt
        return to_frames((True, function(*args), meter.end()))
    except BaseException as error:
        return to_frames((False, pickle_error(error), meter.end()))
    finally:
        current.local.current = None


def _die_with_node() -> None:
    """Have the kernel kill this process when its node dies, even if a function holds the GIL. Linux only."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
