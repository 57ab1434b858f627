"""What lower layers need of higher ones: reprs, drawings, exports, what Dask knows.

A layer imports only from those below it. Where it needs one above, because somebody looks at a value, it asks
here for a module by its purpose. :mod:`handoff_dask._wiring` states which module serves which purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

_modules: dict[str, str] = {}


def register(modules: Mapping[str, str]) -> None:
    """State which modules serve which purposes: purpose → name of the module."""
    _modules.update(modules)


def module_for(purpose: str) -> Any:
    """Import the module that serves a purpose, which takes time at the first call only."""
    return import_module(_modules[purpose])
