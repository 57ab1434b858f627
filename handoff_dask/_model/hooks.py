"""Registry through which a layer reaches the layers above it: reprs, drawings, exports, Dask graphs.

A layer imports only from the layers below it. The few methods that are implemented in a higher layer, such as
``_repr_html_``, look up their module here by its purpose. :mod:`handoff_dask._wiring` states which purposes
exist, and which modules serve them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

_modules: dict[str, str] = {}


def register(modules: Mapping[str, str]) -> None:
    """Add modules to the registry: purpose → module name."""
    _modules.update(modules)


def module_for(purpose: str) -> Any:
    """Return the module registered for a purpose, importing it at the first call."""
    return import_module(_modules[purpose])
