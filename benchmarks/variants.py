"""Makespans of the scheduling core with one of its rules changed at a time, on a virtual clock.

    python benchmarks/variants.py [--instances FOLDER] [--seeds 5] [--scale 20] [--markdown]

Workflow traces from the folder and generated ones, with durations that the scheduler knows and durations
that it learns, and the strategy ``best_fit``. Prints geometric means of makespan over lower bound for each
cluster. All results are deterministic.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import CHECKOUT, Table, geometric_mean, machine_line
from makespans import Key, simulate_all

from handoff_dask._scheduling import estimates, rank
from handoff_dask._scheduling.claims import Claims


def without_turns(*arguments: Any) -> Any:
    """Find bottlenecks as the core does, but extend no critical path."""
    _, bottlenecks = TAKE_TURNS(*arguments)
    return [], bottlenecks


TAKE_TURNS = rank._take_turns

#: Description → a context in which one rule differs.
VARIANTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "all rules": nullcontext,
    "functions in the order of their numbers": lambda: patch.object(rank, "_share", lambda *_: float("inf")),
    "critical path always first": lambda: patch.object(rank, "_share", lambda *_: 0.0),
    "no turns on scarce resources": lambda: patch.object(rank, "_take_turns", without_turns),
    "durations do not grow with the cost": lambda: patch.object(estimates, "SLOPE", 0.0),
    "unknown code counts as average": lambda: patch.object(estimates, "UNKNOWN", 1.0),
    "no claims": lambda: patch.object(Claims, "blocks", lambda *_: False),
}


def measure(folder: Path, seeds: int, scale: float) -> dict[Key, float]:
    """Return the mean for each kind of trace, cluster and knowledge of durations."""
    ratios = defaultdict(list)
    for key, ratio, problems in simulate_all(folder, seeds, scale, ["best_fit"]):
        assert not problems, problems
        ratios[key._replace(trace="")].append(ratio)
    return {key: geometric_mean(found) for key, found in ratios.items() if key.source != "case"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=Path, default=CHECKOUT / "benchmarks" / "data")
    parser.add_argument("--seeds", type=int, default=5, help="number of generated workflows (default 5)")
    parser.add_argument("--scale", type=float, default=20, help="lower bound in seconds (default 20)")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    print(f"{machine_line()}\n\ngeometric means of makespan over lower bound on the virtual clock\n")
    table: Table | None = None
    for name, variant in VARIANTS.items():
        with variant():
            means = measure(options.instances, options.seeds, options.scale)
        if table is None:
            columns = [f"{key.source}, {key.nodes}, {key.durations}" for key in means]
            table = Table(["variant", *columns], [-40, *[26] * len(columns)], options.markdown)
        table.row(name, *(f"{mean:.3f}" for mean in means.values()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
