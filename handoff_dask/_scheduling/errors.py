"""Errors of the core. Each is a bug in handoff_dask."""


class IllegalTransition(AssertionError):
    """A function was to make an illegal transition. Please report it."""


class LedgerError(AssertionError):
    """An allocation broke an invariant of the ledger. Please report it."""
