"""A whole cluster in one thread on virtual time, for finding races by search.

Everything is real but the clock, the network and the threads: Dask's scheduler, workers and clients, the
plugin, ``submit`` and ``execute``. A seed draws what happens and how long each message and each step takes;
the same seed gives the same trace in every process with ``PYTHONHASHSEED=0``.

:mod:`simulated.clock` has to be installed before Dask is imported, which takes its clocks by name.
"""
