"""The thread that ends attempts over their memory, between the ends and starts of attempts."""

from __future__ import annotations

import threading

from helpers import until

from handoff_dask._adapter import memory_guard


def test_an_attempt_that_has_ended_meanwhile_is_spared_and_so_is_the_next(monkeypatch):
    """Both run in the same process, one after the other."""
    looking, go_on = threading.Event(), threading.Event()
    looks = []

    def memory_of(pid, enough):
        looks.append(pid)
        looking.set()
        go_on.wait(10)
        return 1e6

    monkeypatch.setattr(memory_guard, "memory_of", memory_of)
    guard = memory_guard.MemoryGuard()
    exceeded = []
    with guard.watch(1, 0.0, 10.0, exceeded.append):
        assert looking.wait(10)
    with guard.watch(1, 0.0, 1e9, exceeded.append):
        go_on.set()
        until(lambda: len(looks) >= 3)
    assert not exceeded


def test_memory_from_before_the_attempt_does_not_count(monkeypatch):
    monkeypatch.setattr(memory_guard, "memory_of", lambda pid, enough: 150.0)
    guard = memory_guard.MemoryGuard()
    exceeded = []
    with (
        guard.watch(1, 100.0, 60.0, lambda used: exceeded.append(("within", used))),
        guard.watch(2, 100.0, 40.0, lambda used: exceeded.append(("over", used))),
    ):
        until(lambda: exceeded)
    assert exceeded == [("over", 50.0)]
