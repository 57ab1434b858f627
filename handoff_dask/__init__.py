"""Run DAGs of functions with different resource needs on Dask clusters of unequal machines."""

from __future__ import annotations

from handoff_dask import _wiring
from handoff_dask._adapter.checkpoint import Checkpoint
from handoff_dask._adapter.cluster import local_cluster
from handoff_dask._adapter.current import Current, current
from handoff_dask._client.cluster_runs import run_records, runs
from handoff_dask._client.execute import execute, submit
from handoff_dask._client.history import CodeDurations, History
from handoff_dask._client.local import execute_local
from handoff_dask._client.nodes import discover_nodes, register_node, resources_available
from handoff_dask._client.result import Result
from handoff_dask._client.results import Results
from handoff_dask._client.run import Run
from handoff_dask._client.simulate import Schedule, simulate
from handoff_dask._client.usage import CodeUsage, Usage
from handoff_dask._display.timeline import Timeline
from handoff_dask._model.allocator import Allocator, ReadyFunction
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Argument, Collocated, Function
from handoff_dask._model.need import Need
from handoff_dask._model.records import Attempt, Event, FunctionRecord, Records, Shortfall
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._model.runinfo import RunInfo
from handoff_dask._version import __version__
from handoff_dask.exceptions import (
    AllocationError,
    AllocatorError,
    CheckpointError,
    ClusterNotReadyError,
    CostError,
    CyclicDependencyError,
    DuplicateFunctionError,
    FunctionCrashedError,
    FunctionFailedError,
    FunctionMemoryError,
    FunctionTimeoutError,
    HandoffError,
    HistoryError,
    InvalidCollocationError,
    InvalidCostError,
    InvalidDAGError,
    InvalidFunctionError,
    MissingFunctionError,
    NodeNotFoundError,
    RunCancelledError,
    RunEndedError,
    RunError,
    RunNotFoundError,
    RunTimeoutError,
    SerializationError,
)

_wiring.connect()

__all__ = [
    "DAG",
    "AllocationError",
    "Allocator",
    "AllocatorError",
    "Argument",
    "Attempt",
    "Checkpoint",
    "CheckpointError",
    "ClusterNotReadyError",
    "CodeDurations",
    "CodeUsage",
    "Collocated",
    "CostError",
    "Current",
    "CyclicDependencyError",
    "DuplicateFunctionError",
    "Event",
    "Function",
    "FunctionCrashedError",
    "FunctionFailedError",
    "FunctionMemoryError",
    "FunctionRecord",
    "FunctionTimeoutError",
    "HandoffError",
    "History",
    "HistoryError",
    "InvalidCollocationError",
    "InvalidCostError",
    "InvalidDAGError",
    "InvalidFunctionError",
    "MissingFunctionError",
    "Need",
    "NodeNotFoundError",
    "ReadyFunction",
    "Records",
    "Result",
    "Results",
    "RetryPolicy",
    "Run",
    "RunCancelledError",
    "RunEndedError",
    "RunError",
    "RunInfo",
    "RunNotFoundError",
    "RunTimeoutError",
    "Schedule",
    "SerializationError",
    "Shortfall",
    "Timeline",
    "Usage",
    "__version__",
    "current",
    "discover_nodes",
    "execute",
    "execute_local",
    "local_cluster",
    "register_node",
    "resources_available",
    "run_records",
    "runs",
    "simulate",
    "submit",
]
