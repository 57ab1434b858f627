"""Durations and states have the same labels in every display."""

from __future__ import annotations

import pytest

from handoff_dask._cli import cluster, demo, run, simulate
from handoff_dask._display import colouring, dashboard_text, html, labels, markup, progress, table, timeline
from handoff_dask._scheduling import explain


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
    assert labels.duration_text(value) == text


def test_every_display_formats_durations_with_the_same_function():
    for module in (cluster, demo, run, simulate, dashboard_text, html, progress, table, timeline):
        assert module.duration_text is labels.duration_text, module


@pytest.mark.parametrize(
    ("state", "label"),
    [
        ("waiting", "waiting for inputs"),
        ("ready", "waiting for a node"),
        ("delayed", "waiting to retry"),
        ("running", "running"),
        ("finished", "finished"),
    ],
)
def test_labels_of_states(state, label):
    assert labels.state_label(state) == label


def test_every_display_labels_states_with_the_same_function():
    for module in (table, colouring, dashboard_text, html, markup, progress):
        assert module.state_label is labels.state_label, module


@pytest.mark.parametrize(
    ("resource", "used", "capacity", "text"),
    [
        ("cpu", 6, 8, "6 of 8 used"),
        ("licence", 0.3, 0.5, "0.3 of 0.5 used"),
        ("memory", 20000, 64000, "20,000 of 64,000 MB used"),
        ("memory", 1234567.25, 2e9, "1,234,567.25 of 2,000,000,000 MB used"),
        ("gpu", 3, 2, "3 of 2 used"),  # the node's capacity has shrunk
    ],
)
def test_used_amounts(resource, used, capacity, text):
    assert labels.used_text(resource, used, capacity) == text


def test_every_display_formats_used_amounts_with_the_same_function():
    for module in (dashboard_text, explain, progress):
        assert module.used_text is labels.used_text, module
