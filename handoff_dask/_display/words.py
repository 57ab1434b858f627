"""Numbers as people read them."""

from __future__ import annotations


def seconds(value: float | None) -> str:
    """A duration: ``0.12 ms``, ``26.4 ms``, ``5 s``, ``1 min 3 s``, ``2 h 2 min``; of None nothing.

    It is the same wherever durations are shown, so that two of them can be compared. Dask's ``format_time``
    writes two decimals whatever the size, ``us``, and seconds up to ten minutes.
    """
    if value is None:
        return ""
    if value <= 0:
        return "0 s"  # clocks of two machines can disagree a little
    if value < 0.9995:  # what is more reads 1 s
        return f"{value * 1000:.{2 if value < 0.001 else 3}g} ms"
    if value < 59.95:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,d} h {minutes} min" if hours else f"{minutes} min {rest} s"
