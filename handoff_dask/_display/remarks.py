"""Remarks about the results of runs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import islice

from handoff_dask._model.records import FunctionRecord
from handoff_dask._model.resources import MEMORY, is_auto

#: Functions to examine at most.
_MAX_EXAMINED = 10_000


def overbooking(records: Mapping[Hashable, FunctionRecord]) -> str:
    """Return a sentence if functions asked for more than twice the memory that they used, "" otherwise.

    Attempts count by their durations. Runs of less than a second say nothing.
    """
    asked = used = seconds = 0.0
    for record in islice(records.values(), _MAX_EXAMINED):
        for a in record.attempts:
            memory = (record.cost if a.cost is None else a.cost).get(MEMORY)
            if not memory or is_auto(memory):
                continue
            if a.peak_memory is not None and a.started is not None and a.stopped is not None:
                took = a.stopped - a.started
                seconds += took
                asked += memory * took
                used += min(a.peak_memory, memory) * took
    if seconds < 1 or asked <= 2 * used:
        return ""
    share = f"{used / asked:.0%} of the memory that they asked for"
    return f"Functions used {share}: see the records, or usage() of a history."
