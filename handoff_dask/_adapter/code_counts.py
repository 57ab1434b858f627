"""The functions of a run by code and state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from distributed.metrics import monotonic

from handoff_dask._adapter.run_progress import SHARE
from handoff_dask._adapter.texts import id_text
from handoff_dask._model.code_keys import name_in, split_key
from handoff_dask._scheduling.functions import State
from handoff_dask._scheduling.runs import Run

#: Maximum number of functions that are counted. Of larger runs, a sample is counted.
COUNTED = 200_000


class CodeCounts:
    """The number of a run's functions by code and state, counted no more often than :data:`SHARE` allows."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[State]] = {}
        self._due = 0.0
        self._seen: dict[State, int] = {}

    def at(self, run: Run) -> dict[str, Counter[State]]:
        """Return code → state → number of functions."""
        begin = monotonic()
        if run.counts != self._seen and (run.ended or begin >= self._due):
            step = sample_step(len(run.functions))
            states = [f.state for f in run.functions[::step]]
            codes = [code_text(kind.code) for kind in run.spec.kinds]
            self._counts = count_codes(codes, run.spec.kind_of[::step], states, step)
            self._seen = dict(run.counts)
            self._due = monotonic() + (monotonic() - begin) / SHARE
        return self._counts


def sample_step(functions: int) -> int:
    """Return how many functions each counted function stands for."""
    return math.ceil(functions / COUNTED) or 1


def count_codes(
    codes: Sequence[str], kind_of: Sequence[int], states: Sequence[State], step: int
) -> dict[str, Counter[State]]:
    """Count functions by code and state, each of them as ``step`` functions.

    Parameters
    ----------
    codes : sequence of str
        The code of each kind, as text.
    kind_of : sequence of int
        The kind of each function.
    states : sequence of State
        The state of each function.
    step : int
    """
    counts: dict[str, Counter[State]] = {}
    for (kind, state), n in Counter(zip(kind_of, states, strict=True)).items():
        counts.setdefault(codes[kind], Counter())[state] += n * step
    return counts


def code_text(key: str) -> str:
    """Return the code of a key as text: its name, followed by the stem of the ids if it is another word."""
    name, stem = name_in(key), split_key(key)[1]
    return id_text(name if not stem or stem == name else f"{name} ({stem})") or "function"
