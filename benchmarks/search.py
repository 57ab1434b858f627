"""Search for races: seeds that draw what happens on a simulated cluster, and how long everything takes.

Dask's scheduler, workers and clients, the plugin, ``submit`` and ``execute`` are the real ones; the clock,
the network and the threads are not. A seed that goes wrong is printed with the command that plays it again.

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

#: Lines of the trace that are shown of a seed that went wrong.
SHOWN = 50

#: Seeds that one process plays: servers that were thrown away leave some memory behind.
CHUNK = 500


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, help="how many (default 200, or as many as --seconds allows)")
    parser.add_argument("--start", type=int, default=0, help="the first (default 0)")
    parser.add_argument("--seconds", type=float, help="for so long")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    parser.add_argument("--digests", action="store_true", help="print the digest of each seed's trace")
    parser.add_argument("--brief", action="store_true", help="of what goes wrong, print only the complaints")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        options.start, options.seeds = options.seed, 1
    elif options.seeds is None:
        options.seeds = 200 if options.seconds is None else sys.maxsize
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Play seeds in this process; the exit status is 1 when one went wrong."""
    options = parse(arguments)
    from simulated.clock import real_time
    from simulated.seed import Seed

    started, end, wrong = real_time(), options.start + options.seeds, []
    gc.collect()
    gc.freeze()
    gc.disable()  # it would come at different moments each time, and what it finalises is part of the play
    n = options.start
    while n < end and (options.seconds is None or real_time() - started < options.seconds):
        seed = Seed(n, None if options.trace else 400)
        seed.run()
        if options.trace:
            print(*seed.scenario.lines(), *seed.trace.lines, sep="\n")
        if options.digests:
            print(n, seed.trace.digest)
        if seed.trace.complaints:
            wrong.append(n)
            print(f"seed {n} went wrong: python benchmarks/search.py --seed {n} --trace")
            print(*(f"  {line}" for line in seed.trace.complaints), sep="\n")
            if not options.brief and not options.trace:
                print(*seed.scenario.lines(), *list(seed.trace.lines)[-SHOWN:], sep="\n", flush=True)
        n += 1
        del seed
        gc.collect()
        gc.freeze()  # most of what is left belongs to the process: collections of a seed need not look at it
    print(f"{n - options.start} seeds in {real_time() - started:.1f} s, {len(wrong)} went wrong: {wrong}")
    return bool(wrong)


def play_in_chunks(options: argparse.Namespace) -> int:
    """Play many seeds, in one process after the other."""
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


def begin() -> None:
    """Make this process one for searching: before Dask is imported."""
    from simulated import clock

    clock.install()
    from simulated import cluster, watch

    cluster.prepare()
    watch.install()


def leave(status: int) -> None:
    """End the process: what clusters thrown away have left for its exit is of no use."""
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    if (chosen := parse(None)).seeds > CHUNK:
        sys.exit(play_in_chunks(chosen))
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of the play
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    begin()
    leave(main())
