"""A whole cluster in one thread on virtual time, to search for races.

Dask's scheduler, workers and clients, the plugin, ``submit`` and ``execute`` are real; the clock, the network
and the threads are simulated. A seed draws the events and the duration of each message and step. The same
seed gives the same trace in every process with ``PYTHONHASHSEED=0``.

:mod:`simulated.clock` must be installed before Dask is imported, because Dask imports clock functions by
name.
"""
