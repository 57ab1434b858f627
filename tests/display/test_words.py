"""Durations read the same wherever they are shown."""

from __future__ import annotations

import pytest

from handoff_dask._cli import cluster, demo, run, simulate
from handoff_dask._display import dashboard_text, html, progress, timeline, words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (-0.002, "0 s"),
        (0, "0 s"),
        (0.0000267, "0.027 ms"),
        (0.0123456, "12.3 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (1.234, "1.23 s"),
        (5.0, "5 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (63.2, "1 min 3 s"),
        (3599.7, "1 h 0 min"),
        (7322, "2 h 2 min"),
        (36_000_000, "10,000 h 0 min"),
    ],
)
def test_durations(value, text):
    assert words.seconds(value) == text


def test_there_is_one_way_to_say_how_long_something_took():
    for module in (cluster, demo, run, simulate, dashboard_text, html, progress, timeline):
        assert module.seconds is words.seconds, module
