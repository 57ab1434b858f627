"""What travels between a node and the processes of isolated functions, and what remains of killed ones."""

from __future__ import annotations

import os
import pickle
import signal
import struct
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from distributed.protocol import deserialize_bytes, serialize_bytelist
from helpers import until

from handoff_dask import FunctionCrashedError
from handoff_dask._adapter import child, process_pool
from handoff_dask._adapter.process_memory import resident

if sys.platform == "linux":
    import fcntl
    import termios

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

#: Elements of an array that is received into huge pages.
LARGE = 3 * child._HUGE // 16


def run(function, *args):
    return process_pool.run_in_process(function, args, None, None, object())


def add_in_place(*arrays):
    """Write to the arguments and return them; the process keeps nothing."""
    for array in arrays:
        array += 1
    return arrays


def process_id(*args):
    return os.getpid()


@pytest.mark.parametrize("large", [child._HUGE // 8 - 1, child._HUGE // 8, LARGE])
def test_arrays_arrive_whole_and_writable(large):
    sent = [np.arange(n) for n in (large, 0, 1000)]
    received = run(add_in_place, *sent).result
    for before, after in zip(sent, received, strict=True):
        np.testing.assert_array_equal(after, before + 1)
        after += 1  # it is writable here, too
        assert before.size == 0 or before[0] == 0, "what was sent is not shared with the process"


def test_a_large_pickle_without_buffers_arrives_whole():
    text = b"x" * (child._HUGE + 1)
    assert run(bytes.upper, text).result == text.upper()


def test_a_large_result_is_serialized_as_any_other_array():
    """Dask spills and sends it, and pickle copies it."""
    (result,) = run(add_in_place, np.arange(LARGE)).result
    np.testing.assert_array_equal(deserialize_bytes(b"".join(serialize_bytelist(result))), result)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(result[:10])), np.arange(1, 11))


@linux
def test_memory_of_a_large_result_is_freed_with_it():
    pid = run(process_id).result
    before = resident(os.getpid()), resident(pid)
    part = run(add_in_place, np.zeros(LARGE)).result[0][:1]
    size = LARGE * 8 / 2**20
    assert resident(os.getpid()) > before[0] + size - 1, "a view keeps all of it, as of any array"
    del part
    assert resident(os.getpid()) < before[0] + size / 2
    until(lambda: resident(pid) < before[1] + size / 2)


@linux
def test_a_large_argument_counts_once_even_if_the_function_writes_to_it():
    array = np.zeros(LARGE)
    size = LARGE * 8 / 2**20
    run(process_id)
    for function in (process_id, add_in_place):
        usage = run(function, array).usage
        assert usage.peak_exact
        assert size - 1 < usage.peak_memory < 1.5 * size


def write_in_a_fork(array):
    child = os.fork()
    if not child:
        array[0] = 1
        os._exit(0)
    os.waitpid(child, 0)
    return array[0]


@linux
def test_a_forked_process_has_its_own_large_argument():
    assert run(write_in_a_fork, np.zeros(LARGE)).result == 0


def open_files():
    return len(os.listdir("/proc/self/fd"))


@linux
def test_a_process_that_is_killed_while_it_receives_leaves_nothing():
    run(process_id)
    files, running = open_files(), len(process_pool._idle)
    pid = run(process_id).result
    os.kill(pid, signal.SIGSTOP)  # it will not read
    with ThreadPoolExecutor(1) as pool:
        attempt = pool.submit(run, process_id, np.zeros(LARGE))
        try:
            until(lambda: is_writing(pid))
        finally:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(FunctionCrashedError, match="SIGKILL"):
            attempt.result(60)
    assert_gone(pid)
    assert len(process_pool._idle) == running - 1
    assert run(process_id).result != pid
    assert open_files() <= files


@linux
def test_a_process_that_is_killed_while_it_sends_leaves_nothing(monkeypatch):
    run(process_id)
    files, memory = open_files(), resident(os.getpid())
    pid = run(process_id).result

    def allocate_and_kill(size):
        """Kill it after the first bytes: it has a pipe of 1 MiB for the rest."""
        frame = allocate(size)
        if size >= child._HUGE:
            os.kill(pid, signal.SIGKILL)
            frame[:] = b"x" * size
        return frame

    allocate = child._allocate
    monkeypatch.setattr(child, "_allocate", allocate_and_kill)
    with pytest.raises(FunctionCrashedError, match="SIGKILL"):
        run(np.zeros, LARGE)
    assert_gone(pid)
    assert resident(os.getpid()) < memory + LARGE * 8 / 2**21
    assert run(process_id).result != pid
    assert open_files() <= files


def test_a_result_for_which_there_is_no_memory_fails_its_attempt(monkeypatch):
    run(process_id)

    def fail(size):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(child, "_allocate", fail)
        with pytest.raises(FunctionCrashedError):
            run(process_id)
    assert run(process_id).result


def is_writing(pid):
    """Return whether much is on the way to a process that does not read."""
    for running in list(process_pool._running.values()):
        assert running.process.pid == pid
        waiting = fcntl.ioctl(running.process.stdin, termios.FIONREAD, b"\0" * 4)
        return struct.unpack("i", waiting)[0] > 2**15
    return False


def assert_gone(pid):
    until(lambda: not psutil.pid_exists(pid))
    until(lambda: not [t for t in threading.enumerate() if t.name.endswith(f"-{pid}")])
