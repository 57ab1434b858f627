"""A warning about ``dask.annotate``, which the functions of a DAG ignore."""

from __future__ import annotations

import sys
import warnings

#: Annotations of Dask → the fields of a function that have the same purpose.
_FIELDS = {"resources": "cost", "workers": "node", "retries": "max_retries", "priority": "priority"}


def warn_if_annotated() -> None:
    """Warn, at the line of the caller's caller, if it is within a ``dask.annotate`` block.

    Annotations that have no equivalent in a function, such as ``span``, are ignored.
    """
    # The model does not import Dask. A program that has not imported it has no annotations either.
    dask = sys.modules.get("dask")
    annotations = dask.get_annotations() if dask is not None else None
    if not annotations:
        return
    instead = [f"{_FIELDS[n]}= instead of {n}=" for n in _FIELDS if annotations.get(n) is not None]
    if instead:
        text = f"the functions of a DAG ignore dask.annotate: give them {', '.join(instead)}"
        warnings.warn(text, stacklevel=3)
