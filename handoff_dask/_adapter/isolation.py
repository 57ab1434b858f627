"""What the process of an isolated attempt sees of its node: as many cores and devices as it has booked."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace

from handoff_dask._adapter.current import Current
from handoff_dask._model.resources import CPU, GPU

#: Variables from which libraries read how many threads to start, when they are imported.
_THREAD_COUNTS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)

#: Variables that list the devices a process may use, of NVIDIA and of AMD.
_DEVICE_LISTS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def environment_of(current: Current) -> dict[str, str]:
    """Return the environment variables that confine libraries to what an attempt has booked.

    Libraries read them when they are imported or first used, so they must be set before the process starts.

    Returns
    -------
    dict of str to str
        Thread counts for ``cpu``, rounded up, and visible devices for ``gpu``. Empty if the attempt has
        booked neither.
    """
    environment = {}
    cpu = current.cost.get(CPU)
    if cpu:
        environment = dict.fromkeys(_THREAD_COUNTS, str(max(1, math.ceil(cpu))))
    devices = current.devices.get(GPU)
    if devices:
        for name in _DEVICE_LISTS:
            environment[name] = ",".join(_visible(name, index, os.environ) for index in devices)
    return environment


def _visible(name: str, index: int, environment: Mapping[str, str]) -> str:
    """Return what a list of devices calls the device that is ``index`` for this process."""
    listed = [device.strip() for device in environment.get(name, "").split(",") if device.strip()]
    return listed[index] if index < len(listed) else str(index)


def as_seen_inside(current: Current) -> Current:
    """Return the attempt as its own process sees it: its devices are counted among the visible ones."""
    if not current.devices.get(GPU):
        return current
    devices = {name: list(indices) for name, indices in current.devices.items()}
    devices[GPU] = list(range(len(devices[GPU])))
    return replace(current, devices=devices)
