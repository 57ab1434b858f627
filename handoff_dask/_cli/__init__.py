"""The command line, ``handoff-dask``."""
