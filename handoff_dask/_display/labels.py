"""Durations, states and amounts as text: the same wording in notebook, terminal, dashboard and timeline."""

from __future__ import annotations

from handoff_dask._model.labels import WAITING_FOR_NODE, capacity_text, state_label, used_text

__all__ = [
    "WAITING_FOR_NODE",
    "attempt_used_text",
    "capacity_text",
    "duration_text",
    "memory_text",
    "state_label",
    "used_text",
]


def memory_text(megabytes: float | None, exact: bool = True) -> str:
    """Return memory in MB as text: ``212 MB``, ``~212 MB`` for an estimate; None becomes the empty string."""
    if megabytes is None:
        return ""
    if megabytes < 0.05:
        return "0 MB"
    return f"{'' if exact else '~'}{megabytes:,.{0 if megabytes >= 9.95 else 1}f} MB"


def duration_text(seconds: float | None) -> str:
    """Return a duration as text: ``0.12 ms``, ``26.4 ms``, ``5 s``, ``1 min 3 s``, ``2 h 2 min``.

    None becomes the empty string. All displays use this format, so their durations are easy to compare.
    Dask's ``format_time`` always writes two decimals, ``us`` for microseconds, and seconds up to ten minutes.
    """
    if seconds is None:
        return ""
    if seconds <= 0:
        return "0 s"  # the clocks of two machines can disagree slightly
    if seconds < 0.9995:  # longer durations round to 1 s
        return f"{seconds * 1000:.{2 if seconds < 0.001 else 3}g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,d} h {minutes} min" if hours else f"{minutes} min {rest} s"


def attempt_used_text(cpu_seconds: float | None, peak_memory: float | None, peak_exact: bool) -> str:
    """Return what an attempt used: ``1.2 s of cpu, ~212 MB``; a hyphen if nothing was measured."""
    cpu = duration_text(cpu_seconds)
    return ", ".join(filter(None, (cpu and f"{cpu} of cpu", memory_text(peak_memory, peak_exact)))) or "-"
