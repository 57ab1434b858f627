"""The border with Dask: the only place that reaches what Dask does not document.

Elsewhere handoff_dask imports Dask's public modules, calls documented methods, and reads documented
attributes of the scheduler, its tasks, workers and clients. Whatever writes such attributes, moves tasks
from state to state, replaces a handler, sends one of Dask's own messages, or uses an undocumented name is a
function here. Each docstring says what the function reaches, why there is no public way, and from which
version of Dask it holds; ``tests/adapter/test_border.py`` has a test for each, which names what relies on it.

Modules by the object they reach into:

- ``hooks``: tables of handlers and methods of the scheduler
- ``tasks``: tasks on the scheduler
- ``clients``: clients as the scheduler sees them
- ``workers``: workers, from the scheduler and on the worker itself
- ``running``: the task that a worker's thread runs
- ``client``: a client in its own process
- ``forked``: what a forked process inherits
- ``dashboard``: the scheduler's dashboard
- ``graphs``: tasks of graphs
"""
