"""The ``handoff`` section of Dask's configuration.

Importing this module adds the defaults in ``handoff.yaml`` to Dask's configuration.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import dask
import yaml
from dask.utils import parse_bytes, parse_timedelta

from handoff_dask._scheduling.decisions import Settings
from handoff_dask._suggest import suggestion

logger = logging.getLogger(__name__)

# In memory only: dask.config.ensure_file would leave a copy in the user's home directory.
DEFAULTS = yaml.safe_load(files("handoff_dask").joinpath("handoff.yaml").read_text("utf-8"))
dask.config.update_defaults(DEFAULTS)

# The functions below repeat the defaults, because code that replaces Dask's whole configuration, as Dask's
# own tests do, discards those of the file.


def unknown_keys() -> list[str]:
    """Return a text for each unknown key under ``handoff``, with the key that was probably meant."""
    known = list(_keys_of(DEFAULTS["handoff"]))
    wrong = [key for key in _keys_of(dask.config.get("handoff", None)) if key not in known]
    return [
        f"unknown key {key!r} under 'handoff' in the configuration{suggestion(key, known)}" for key in wrong
    ]


def _keys_of(values: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all values in a section of the configuration."""
    if not isinstance(values, Mapping):
        return
    for name, value in values.items():
        key = prefix + str(name).replace("_", "-")  # Dask takes both for the same key
        if isinstance(value, Mapping):
            yield from _keys_of(value, f"{key}.")
        else:
            yield key


def read_stream_interval() -> float:
    """Return ``handoff.stream-interval``: seconds between batches of messages between scheduler and workers.

    The default is 1 ms. 0 keeps Dask's own interval.
    """
    seconds: float = parse_timedelta(dask.config.get("handoff.stream-interval", "1ms"), "s")
    return seconds


def read_archive_bounds() -> tuple[int, int]:
    """Return how many ended runs to keep in the archive, and how many functions of these runs in total.

    The archive contains runs without handles in any client.

    ``handoff.recent-runs``
        Runs (default 100); 0 keeps none.
    ``handoff.recent-functions``
        Functions of all these runs together (default 100,000).
    """
    runs = int(dask.config.get("handoff.recent-runs", 100))
    return runs, int(dask.config.get("handoff.recent-functions", 100_000))


def read_client_grace() -> float:
    """Return ``handoff.client-grace``: seconds that runs continue after their client's connection breaks.

    The default is 30 s, for which Dask's client tries to reconnect. 0 ends the runs at once.
    """
    seconds: float = parse_timedelta(dask.config.get("handoff.client-grace", "30s"), "s")
    return seconds


def read_cost_timeout() -> float:
    """Return ``handoff.cost-timeout``: seconds for which a cost that is a callable may run (default 10 s)."""
    seconds: float = parse_timedelta(dask.config.get("handoff.cost-timeout", "10s"), "s")
    return seconds


def read_cgroup() -> str | None:
    """Return ``handoff.cgroup``: a folder of cgroup v2 for isolated functions, or None (the default).

    Unlike the other settings, it is read in the process of each node.
    """
    folder = dask.config.get("handoff.cgroup", None)
    return os.fspath(folder) if folder else None


def wants_dashboard() -> bool:
    """Return ``handoff.dashboard``: whether to add a page to the scheduler's dashboard (default true)."""
    return bool(dask.config.get("handoff.dashboard", True))


def wants_full_tracebacks() -> bool:
    """Return ``handoff.full-tracebacks``: whether tracebacks of failures keep all frames (default false).

    Unlike the other settings, it is read in the client's process.
    """
    return bool(dask.config.get("handoff.full-tracebacks", False))


def wants_metrics() -> bool:
    """Return ``handoff.metrics``: whether to add metrics to the scheduler's ``/metrics`` (default true)."""
    return bool(dask.config.get("handoff.metrics", True))


def read_settings() -> Settings:
    """Return the settings of the scheduling core, and log a warning for each unknown key under ``handoff``.

    ``handoff.node-timeout``
        How long a function waits before it fails if no remaining node could ever hold it (default 30 s).
    ``handoff.auto.memory``, ``handoff.auto.cpu``
        Fraction of the largest node for which a function with the cost ``"auto"`` asks while nothing is known
        of its code (default 0.25 and 1).
    ``handoff.prefetch.horizon``
        Seconds of work that a node may prefetch (default 10 ms); 0 turns prefetching off.
    ``handoff.prefetch.limit``
        Functions that a node may prefetch at most (default 40).
    ``distributed.scheduler.bandwidth``
        Bytes per second between nodes (Dask's default: 100 MB/s).
    """
    for text in unknown_keys():
        logger.warning(text)
    default = Settings()
    return Settings(
        node_timeout=parse_timedelta(dask.config.get("handoff.node-timeout", default.node_timeout), "s"),
        prefetch_horizon=parse_timedelta(
            dask.config.get("handoff.prefetch.horizon", default.prefetch_horizon), "s"
        ),
        prefetch_limit=int(dask.config.get("handoff.prefetch.limit", default.prefetch_limit)),
        first_memory=_fraction(
            "handoff.auto.memory", dask.config.get("handoff.auto.memory", default.first_memory)
        ),
        first_cpu=_fraction("handoff.auto.cpu", dask.config.get("handoff.auto.cpu", default.first_cpu)),
        bandwidth=parse_bytes(dask.config.get("distributed.scheduler.bandwidth", default.bandwidth)),
    )


def _fraction(key: str, value: Any) -> float:
    """Return the value of a setting as a fraction above 0 and at most 1.

    Raises
    ------
    ValueError
        It is not.
    """
    try:
        fraction = float(value)
    except (TypeError, ValueError):
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise ValueError(f"{key} must be a fraction above 0 and at most 1, not {value!r}")
    return fraction
