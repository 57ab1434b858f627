"""Counts of attempts, failures and runs that have ended since the core was created, for metrics."""

from __future__ import annotations


class Totals:
    """What has ended, including the functions of runs that are forgotten. Counts never decrease.

    Attributes
    ----------
    attempts : dict of str to int
        Outcome → number of attempts. An attempt that finished, but whose result could not be moved, counts as
        both finished and failed.
    failures : int
        Number of functions that failed permanently.
    runs : dict of str to int
        Final status → number of runs.
    """

    __slots__ = ("attempts", "failures", "runs")

    def __init__(self) -> None:
        self.attempts: dict[str, int] = dict.fromkeys(("finished", "failed", "lost", "cancelled"), 0)
        self.failures = 0
        self.runs: dict[str, int] = dict.fromkeys(("finished", "failed", "cancelled"), 0)
