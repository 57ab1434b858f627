"""A process of a node's own that runs attempts which may have to be killed. Started by :mod:`killable`."""

from __future__ import annotations

import contextlib
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
from handoff_dask._adapter._dask.running import packed_error

_COUNT = struct.Struct("<Q")

#: First message of a child: it can run functions.
READY = "ready"


def packed(value: Any) -> list[Any]:
    """A value as frames: its pickle, and large buffers in it without a copy."""
    buffers: list[Any] = []
    data = pickle.dumps(value, buffer_callback=buffers.append)
    return [data, *(buffer.raw() for buffer in buffers)]


def unpacked(frames: Sequence[Any]) -> Any:
    """The value that :func:`packed` was given."""
    return pickle.loads(frames[0], buffers=frames[1:])


def write(stream: IO[bytes], frames: Sequence[Any]) -> None:
    """Send frames."""
    stream.write(_COUNT.pack(len(frames)))
    for frame in frames:
        stream.write(_COUNT.pack(memoryview(frame).nbytes))
        stream.write(frame)
    stream.flush()


def read(stream: IO[bytes]) -> list[bytearray]:
    """Receive frames.

    Raises
    ------
    EOFError
        The other side is gone.
    """
    frames = []
    for _ in range(_read_count(stream)):
        frame = bytearray(_read_count(stream))
        _read_into(stream, frame)
        frames.append(frame)
    return frames


def _read_count(stream: IO[bytes]) -> int:
    data = bytearray(_COUNT.size)
    _read_into(stream, data)
    count: int = _COUNT.unpack(data)[0]
    return count


def _read_into(stream: IO[bytes], data: bytearray) -> None:
    view = memoryview(data)
    while view:
        n = stream.readinto(view)  # type: ignore[attr-defined]
        if not n:
            raise EOFError
        view = view[n:]


def main() -> None:
    """Run what comes on standard input, one after the other, until the node is gone."""
    _die_with_node()
    requests_in = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    # What functions print does not belong among the replies, and what they read is not ours.
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    if hasattr(os, "register_at_fork"):
        # What a function forks is none of those that talk to the node, however long it lives.
        os.register_at_fork(after_in_child=partial(_close, (requests_in.fileno(), replies.fileno())))
    requests: queue.SimpleQueue[list[bytearray]] = queue.SimpleQueue()
    # Reading on in a thread of its own, so as to notice that the node is gone while a function runs.
    threading.Thread(target=_receive, args=(requests_in, requests), daemon=True).start()
    write(replies, packed(READY))
    while True:
        reply = _run(requests.get())
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        write(replies, reply)
        del reply


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _receive(stream: IO[bytes], requests: queue.SimpleQueue[list[bytearray]]) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            requests.put(read(stream))
    os._exit(0)


def _run(frames: Sequence[Any]) -> list[Any]:
    try:
        sys.path[:] = pickle.loads(frames[0])
        function, args, facts = unpacked(frames[1:])
        current.local.current = facts
        return packed((True, function(*args)))
    except BaseException as error:
        return packed((False, packed_error(error)))
    finally:
        current.local.current = None


def _die_with_node() -> None:
    """Have the kernel end this process with its node, even in the midst of code that holds all threads up."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
