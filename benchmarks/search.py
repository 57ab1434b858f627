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
import sys
from collections.abc import Sequence

#: Lines of the trace that are shown of a seed that went wrong.
SHOWN = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Play seeds; the exit status is 1 when one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--start", type=int, default=0, help="the first (default 0)")
    parser.add_argument("--seconds", type=float, help="for so long, instead of a number of seeds")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    parser.add_argument("--digests", action="store_true", help="print the digest of each seed's trace")
    parser.add_argument("--brief", action="store_true", help="of what goes wrong, print only the complaints")
    options = parser.parse_args(arguments)
    from simulated.clock import real_time
    from simulated.seed import Seed

    if options.seed is not None:
        options.start, options.seeds = options.seed, 1
    begin, n, wrong = real_time(), options.start, []
    gc.collect()
    gc.freeze()
    gc.disable()  # it would come at different moments each time, and what it finalises is part of the play
    while (
        n < options.start + options.seeds
        if options.seconds is None
        else real_time() - begin < options.seconds
    ):
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
        gc.freeze()  # what is left belongs to the process: the next collections need not look at it
    print(f"{n - options.start} seeds in {real_time() - begin:.1f} s, {len(wrong)} went wrong: {wrong}")
    return bool(wrong)


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
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of the play
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    begin()
    leave(main())
