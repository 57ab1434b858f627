"""Measuring attempts in threads, where functions may do anything to their process."""

from __future__ import annotations

import os
import tempfile
import time

from helpers import until

from handoff_dask._adapter import meter


def test_a_function_may_close_the_files_of_the_process(monkeypatch):
    """The number of the closed file may since belong to another one."""
    monkeypatch.setattr(meter, "_sampler", meter._Sampler())
    measurement = meter.Measurement()
    with tempfile.TemporaryFile() as other:
        other.write(b"not what was there")
        other.flush()
        if meter._sampler._file is not None:
            os.dup2(other.fileno(), meter._sampler._file)
        used = measurement.end()
    assert used.peak_memory is not None
    assert 0 <= used.peak_memory < 1000
    assert meter._sampler._file is None
    assert meter.Measurement().end().peak_memory is not None


def test_the_sampler_rests_while_nothing_is_measured(monkeypatch):
    sampler = meter._Sampler()
    monkeypatch.setattr(meter, "_sampler", sampler)
    measurement = meter.Measurement()
    until(lambda: sampler.samples >= 2)
    measurement.end()
    until(lambda: not sampler._awake.is_set())
    seen = sampler.samples
    time.sleep(0.2)
    assert sampler.samples == seen
    measurement = meter.Measurement()
    until(lambda: sampler.samples > seen, what="it wakes again")
    measurement.end()


def test_the_peak_of_short_attempts_is_unknown(monkeypatch):
    monkeypatch.setattr(meter, "_sampler", meter._Sampler())
    of_thread = meter.ThreadMeter()
    of_thread.begin()
    used = of_thread.end()
    assert used.cpu_seconds is not None
    of_thread.begin()
    before = meter._sampler.samples
    until(lambda: meter._sampler.samples > before)
    assert of_thread.end().peak_memory is not None
    of_thread.close()
    assert not meter._sampler.measured
