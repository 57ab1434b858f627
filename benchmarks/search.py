"""Search for races: each seed draws the events on a simulated cluster, and the duration of each step.

Dask's scheduler, workers and clients, the plugin, ``submit`` and ``execute`` are real; the clock, the network
and the threads are simulated. The script prints each failing seed with the command that replays it.

    python benchmarks/search.py --seeds 1000
    python benchmarks/search.py --seconds 600 --start 100000
    python benchmarks/search.py --seed 42 --trace
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import time
from collections.abc import Sequence

#: Number of trace lines printed for a failing seed.
TRACE_LINES = 50

#: Seeds per process, a bound on the memory that discarded servers leak.
CHUNK = 500


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, help="number of seeds (default 200, or as many as --seconds allows)"
    )
    parser.add_argument("--start", type=int, default=0, help="first seed (default 0)")
    parser.add_argument("--seconds", type=float, help="stop after this many seconds")
    parser.add_argument("--seed", type=int, help="play only this seed")
    parser.add_argument("--trace", action="store_true", help="print the whole trace")
    parser.add_argument("--digests", action="store_true", help="print the digest of each seed's trace")
    parser.add_argument("--brief", action="store_true", help="print only the violations of failing seeds")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        options.start, options.seeds = options.seed, 1
    elif options.seeds is None:
        options.seeds = 200 if options.seconds is None else sys.maxsize
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Play seeds in this process; return 1 if one failed, otherwise 0."""
    options = parse(arguments)
    from simulated.clock import real_time
    from simulated.seed import Seed

    started, end, failing = real_time(), options.start + options.seeds, []
    gc.collect()
    gc.freeze()
    gc.disable()  # finalisers are part of the simulation, and must run at the same moments each time
    n = options.start
    while n < end and (options.seconds is None or real_time() - started < options.seconds):
        seed = Seed(n, None if options.trace else 400)
        seed.run()
        if options.trace:
            print(*seed.scenario.lines(), *seed.trace.lines, sep="\n")
        if options.digests:
            print(n, seed.trace.digest)
        if seed.trace.violations:
            failing.append(n)
            print(f"seed {n} failed: python benchmarks/search.py --seed {n} --trace")
            print(*(f"  {line}" for line in seed.trace.violations), sep="\n")
            if not options.brief and not options.trace:
                print(*seed.scenario.lines(), *list(seed.trace.lines)[-TRACE_LINES:], sep="\n", flush=True)
        n += 1
        del seed
        gc.collect()
        gc.freeze()  # most remaining objects live as long as the process: later collections can skip them
    print(f"{n - options.start} seeds in {real_time() - started:.1f} s, {len(failing)} failed: {failing}")
    return bool(failing)


def play_in_chunks(options: argparse.Namespace) -> int:
    """Play many seeds in consecutive processes."""
    flags = [f"--{name}" for name in ("trace", "digests", "brief") if getattr(options, name)]
    end, n, status = options.start + options.seeds, options.start, 0
    deadline = None if options.seconds is None else time.perf_counter() + options.seconds
    while n < end and (deadline is None or time.perf_counter() < deadline):
        size = min(CHUNK, end - n)
        command = [sys.executable, __file__, f"--start={n}", f"--seeds={size}", *flags]
        if deadline is not None:
            command.append(f"--seconds={deadline - time.perf_counter()}")
        status |= subprocess.run(command, check=False).returncode != 0
        n += size
    return status


def install_simulation() -> None:
    """Install the simulation in this process, before Dask is imported."""
    from simulated import clock

    clock.install()
    from simulated import cluster, monitor

    cluster.prepare()
    monitor.install()


def exit_process(status: int) -> None:
    """Exit the process without the exit handlers of discarded clusters."""
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    if (chosen := parse(None)).seeds > CHUNK:
        sys.exit(play_in_chunks(chosen))
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of the simulation
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    install_simulation()
    exit_process(main())
