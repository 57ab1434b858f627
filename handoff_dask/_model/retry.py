"""The retry policy: whether, when and where a failed function is retried."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from numbers import Integral

from handoff_dask._model.resources import to_units
from handoff_dask._suggest import suggest_fields


@suggest_fields
@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Whether, when and where a failed function is retried.

    A lost node does not count as a failure of the function and uses up no retry.

    Attributes
    ----------
    max_retries : int
        Maximum number of attempts after the first: 3 allows four attempts in total.
    delay : float
        Seconds before the first retry.
    backoff : float
        Factor by which the delay grows with each further retry; at least 1.
    max_delay : float
        Upper bound of a delay in seconds, jitter included.
    jitter : float
        Each delay is lengthened by a random fraction of itself between 0 and ``jitter`` (0.5: by up to half).
    retry_on : tuple of exception types
        Only failures with an exception of these types are retried. An exception that cannot reach the
        scheduler (it cannot be pickled, or the code could not be loaded) counts as an ``Exception``.
    elsewhere : bool
        Prefer a node on which this function has not failed yet.

    Raises
    ------
    TypeError, ValueError
        A field has the wrong type or is out of range.
    """

    max_retries: int = 3
    delay: float = 0.0
    backoff: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    elsewhere: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.retry_on, type):
            object.__setattr__(self, "retry_on", (self.retry_on,))
        if not isinstance(self.retry_on, Iterable):
            raise TypeError(f"RetryPolicy.retry_on takes exception types, not {self.retry_on!r}")
        object.__setattr__(self, "retry_on", tuple(self.retry_on))
        for kind in self.retry_on:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"RetryPolicy.retry_on takes exception types, not {kind!r}")
        check_max_retries(self.max_retries, "RetryPolicy.max_retries")
        for name in ("delay", "backoff", "max_delay", "jitter"):
            value = getattr(self, name)
            try:
                to_units(value)
            except ValueError as error:
                raise ValueError(f"RetryPolicy.{name} {error}") from None
            if type(value) not in (int, float):  # such as a Decimal, which cannot be multiplied by a float
                object.__setattr__(self, name, float(value))
        if self.backoff < 1:
            raise ValueError(f"RetryPolicy.backoff must be at least 1, but is {self.backoff!r}")
        if not isinstance(self.elsewhere, bool):
            raise TypeError(f"RetryPolicy.elsewhere must be True or False, not {self.elsewhere!r}")

    def allows(self, failures: int, error: BaseException | None = None) -> bool:
        """Return whether to retry after failure number ``failures`` (from 1), given its exception or None."""
        return failures <= self.max_retries and (error is None or isinstance(error, self.retry_on))

    def wait(self, failures: int, draw: float) -> float:
        """Return the delay in seconds after failure number ``failures`` (from 1).

        ``draw`` is a random number in [0, 1), which determines the jitter.
        """
        if not self.delay:
            return 0.0
        try:
            wait = float(self.delay * self.backoff ** (failures - 1))
        except OverflowError:
            wait = self.max_delay
        return float(min(self.max_delay, wait * (1.0 + self.jitter * draw)))

    def with_max_retries(self, max_retries: int) -> RetryPolicy:
        """Return a copy of the policy with another ``max_retries``."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return RetryPolicy(**{**values, "max_retries": max_retries})


def check_max_retries(value: object, what: str) -> None:
    """Raise TypeError or ValueError, naming ``what``, unless ``value`` is a non-negative integer."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{what} must be a whole number, not {value!r}")
    if value < 0:
        raise ValueError(f"{what} must not be negative, but is {value}")
