"""The border with Dask: the only package that uses Dask's undocumented internals.

All other modules import Dask's public modules, call documented methods, and read documented attributes of the
scheduler, its tasks, workers and clients. Code that writes such attributes, moves tasks between states,
replaces handlers, sends Dask's own messages or uses undocumented names is a function in this package.

Each function's docstring says which internals it reaches, why no public API suffices, and the first version
of Dask for which this holds. Each has a test in ``tests/adapter/border``, whose failure message names the
code that relies on it.

Each module reaches into one kind of object:

- ``hooks``: the scheduler's handlers and methods
- ``tasks``: tasks on the scheduler
- ``clients``: clients, on the scheduler
- ``workers``: workers, on the scheduler and on the worker itself
- ``worker_log``: the log that a worker writes about failed tasks
- ``running``: the task that a worker's thread runs
- ``client``: a client, in its own process
- ``forked``: objects that a forked process inherits
- ``dashboard``: the scheduler's dashboard
- ``graphs``: tasks in graphs
"""
