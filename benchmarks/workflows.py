"""Workflow traces replayed with functions that sleep: makespan over a lower bound, per engine.

    python benchmarks/workflows.py TRACES... [--engines plain,tuned,handoff,simulator]
        [--clusters equal,unequal] [--scale 20] [--repeats 1] [--json FILE] [--markdown]

TRACES are JSON files or folders of them; ``benchmarks/data`` has a small one, and ``benchmarks/synthetic.py``
generates more. Durations are scaled so that the lower bound is ``--scale`` seconds, but none is below 5 ms.
Every run has a fresh cluster, the engines alternate, and each run is checked: every function ran once, for
its full duration, after its inputs; no node's capacity was exceeded; the makespan is not below the lower
bound. The exit status is 1 if a run or a check failed.

Engines: ``plain`` is Dask with ``resources``; ``tuned`` is Dask with short stealing intervals and the true
mean duration; ``handoff`` is ``execute``; ``again`` is ``execute`` with the history of an earlier run;
``simulator`` is its decisions alone, with known durations; ``learner`` is its decisions alone, with durations
learnt during the run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from checks import find_violations
from common import BackgroundLoad, Table, geometric_mean, machine_line, silence_dask_logs
from engines import ENGINES, Outcome
from traces import Nodes, Trace, fit, load_trace, lower_bound, scale

CLUSTERS: dict[str, Nodes] = {
    "equal": {f"node{i}": {"cpu": 4, "memory": 16000} for i in range(1, 5)},
    "unequal": {
        "gpu": {"cpu": 8, "memory": 32000, "gpu": 2},
        "large": {"cpu": 8, "memory": 128000},
        "small1": {"cpu": 4, "memory": 8000},
        "small2": {"cpu": 4, "memory": 8000},
    },
}


@dataclass
class Row:
    """One trace on one cluster, with the outcomes of each engine."""

    trace: Trace
    cluster: str
    bound: float
    bounded_by: str
    outcomes: dict[str, list[Outcome]]
    problems: list[str] = field(default_factory=list)

    def ratio(self, engine: str) -> float | None:
        """Return the median makespan over the lower bound; None if no run ended."""
        makespans = [outcome.makespan for outcome in self.outcomes[engine]]
        return statistics.median(makespans) / self.bound if makespans else None

    @property
    def others(self) -> float:
        """The most cores that other processes used during one run."""
        return max((o.others or 0.0 for runs in self.outcomes.values() for o in runs), default=0.0)

    def to_dict(self) -> dict[str, object]:
        """Return the row for ``--json``."""
        return {
            "trace": self.trace.name,
            "cluster": self.cluster,
            "functions": len(self.trace.functions),
            "lower_bound": self.bound,
            "bounded_by": self.bounded_by,
            "makespans": {e: [o.makespan for o in runs] for e, runs in self.outcomes.items()},
            "others": {e: [o.others for o in runs] for e, runs in self.outcomes.items()},
            "problems": self.problems,
        }


def measure(trace: Trace, cluster: str, engines: Sequence[str], target: float, repeats: int) -> Row:
    nodes = CLUSTERS[cluster]
    trace = scale(fit(trace, nodes), nodes, target)
    bound, bounded_by = lower_bound(trace, nodes)
    row = Row(trace, cluster, bound, bounded_by, {engine: [] for engine in engines})
    for turn in range(repeats):
        for i in range(len(engines)):  # rotate the order, because going first may be an advantage
            engine = engines[(turn + i) % len(engines)]
            try:
                outcome = ENGINES[engine](trace, nodes, 10 * bound + 30)
            except Exception as error:  # continue with the other engines
                row.problems.append(f"{engine}: {type(error).__name__}: {error}")
                continue
            row.outcomes[engine].append(outcome)
            wrong = find_violations(trace, nodes, outcome.log, outcome.makespan, bound)
            row.problems += [f"{engine}: {text}" for text in wrong]
    return row


def find_traces(paths: Sequence[Path]) -> list[Trace]:
    files = [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    return [load_trace(file) for file in files]


def names_from(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    """Return an argument parser for comma-separated names, which refuses unknown ones."""

    def names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown name {unknown[0]!r} (known: {', '.join(known)})")
        return found

    return names


def format_ratio(value: float | None) -> str:
    return "failed" if value is None else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("traces", nargs="+", type=Path)
    parser.add_argument("--engines", type=names_from(ENGINES), default="plain,tuned,handoff,simulator")
    parser.add_argument("--clusters", type=names_from(CLUSTERS), default="equal,unequal")
    parser.add_argument("--scale", type=float, default=20, help="lower bound in seconds (default 20)")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every makespan to this file")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    traces = find_traces(options.traces)
    engines = options.engines

    silence_dask_logs()
    machine = machine_line()
    print(machine)
    print(f"makespan over lower bound; durations scaled to a lower bound of {options.scale:g} s\n")
    headings = ["trace", "cluster", "functions", "bounded by", *engines, "others"]
    table = Table(headings, [-26, -8, 9, -26, *[9] * len(engines), 6], options.markdown)
    rows = []
    with BackgroundLoad() as load:
        for cluster in options.clusters:
            for trace in traces:
                row = measure(trace, cluster, engines, options.scale, options.repeats)
                rows.append(row)
                cells = [format_ratio(row.ratio(engine)) for engine in engines]
                size = str(len(trace.functions))
                table.row(trace.name, cluster, size, row.bounded_by, *cells, f"{row.others:.1f}")
            here = [row for row in rows if row.cluster == cluster]
            means = [_mean([row.ratio(engine) for row in here]) for engine in engines]
            table.row("geometric mean", cluster, "", "", *map(format_ratio, means), "")
    if load.cores is not None:
        print(f"\nothers: the most cores that other processes used during a run; {load.cores:.1f} on average")
    problems = [f"{row.trace.name} on {row.cluster}: {text}" for row in rows for text in row.problems]
    for text in problems:
        print(text, file=sys.stderr)
    if options.json:
        settings = {"scale": options.scale, "repeats": options.repeats, "clusters": CLUSTERS}
        content = {"machine": machine, "settings": settings, "rows": [row.to_dict() for row in rows]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if problems else 0


def _mean(ratios: Sequence[float | None]) -> float | None:
    """Return the geometric mean; None if a run failed, because a mean of the others would flatter."""
    done = [ratio for ratio in ratios if ratio is not None]
    return geometric_mean(done) if len(done) == len(ratios) else None


if __name__ == "__main__":
    sys.exit(main())
