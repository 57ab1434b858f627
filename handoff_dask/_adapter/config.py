"""What an administrator sets in Dask's configuration under ``handoff:``, read once.

The defaults are in ``handoff.yaml``, which becomes part of Dask's configuration when this module is imported.
"""

from __future__ import annotations

from importlib.resources import files

import dask
import yaml
from dask.utils import parse_bytes, parse_timedelta

from handoff_dask._scheduling.decisions import Settings

# Into memory only: dask.config.ensure_file would leave a copy in the home directory of whoever imports this.
dask.config.update_defaults(yaml.safe_load(files("handoff_dask").joinpath("handoff.yaml").read_text("utf-8")))

# Defaults are repeated below: code that swaps Dask's whole configuration for another, as Dask's own tests do,
# takes those of the file away.


def read_stream_interval() -> float:
    """Seconds between batches of messages between scheduler and workers, from ``handoff.stream-interval``.

    1 ms unless set. 0 leaves Dask's own.
    """
    seconds: float = parse_timedelta(dask.config.get("handoff.stream-interval", "1ms"), "s")
    return seconds


def read_archive_bounds() -> tuple[int, int]:
    """How much is remembered of runs that have ended and that no client has a handle of any more.

    ``handoff.recent-runs``
        Runs (default 100); 0 remembers none.
    ``handoff.recent-functions``
        Functions of these runs altogether (default 100,000).
    """
    runs = int(dask.config.get("handoff.recent-runs", 100))
    return runs, int(dask.config.get("handoff.recent-functions", 100_000))


def read_client_grace() -> float:
    """Seconds for which runs go on whose client has lost its connection, from ``handoff.client-grace``.

    30 s unless set: as long as Dask's client tries to come back. 0 ends them at once.
    """
    seconds: float = parse_timedelta(dask.config.get("handoff.client-grace", "30s"), "s")
    return seconds


def wants_dashboard() -> bool:
    """Whether a scheduler's dashboard gets a page: ``handoff.dashboard`` (default true)."""
    return bool(dask.config.get("handoff.dashboard", True))


def read_settings() -> Settings:
    """The settings in force here.

    ``handoff.node-timeout``
        How long a function waits when no node is left that could ever hold it (default 30 s).
    ``handoff.prefetch.horizon``
        Work that a node may prefetch (default 10 ms); 0 turns prefetching off.
    ``handoff.prefetch.limit``
        Functions that a node may prefetch (default 40).
    ``distributed.scheduler.bandwidth``
        Bytes per second between nodes (Dask's default: 100 MB/s).
    """
    default = Settings()
    return Settings(
        node_timeout=parse_timedelta(dask.config.get("handoff.node-timeout", default.node_timeout), "s"),
        prefetch_horizon=parse_timedelta(
            dask.config.get("handoff.prefetch.horizon", default.prefetch_horizon), "s"
        ),
        prefetch_limit=int(dask.config.get("handoff.prefetch.limit", default.prefetch_limit)),
        bandwidth=parse_bytes(dask.config.get("distributed.scheduler.bandwidth", default.bandwidth)),
    )
