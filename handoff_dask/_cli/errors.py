"""Exit codes, and how errors become one message on standard error."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import click

from handoff_dask.exceptions import (
    AllocationError,
    CheckpointError,
    ClusterNotReadyError,
    FunctionFailedError,
    HandoffError,
    HistoryError,
    InvalidDAGError,
    RunError,
    RunNotFoundError,
)


class ExitCode(IntEnum):
    """With what the command ends."""

    #: It did what it was asked for.
    DONE = 0
    #: The run failed: a function did for good, it took too long, or it was cancelled from elsewhere.
    FAILED = 1
    #: Nothing was run: wrong usage, an invalid DAG, a file that cannot be used, a package that is missing.
    INVALID = 2
    #: Nothing was run: a function fits on none of the nodes.
    UNPLACEABLE = 3
    #: The cluster does not answer, or cannot run handoff DAGs.
    NOT_READY = 4
    #: Anything else, such as a bug in handoff_dask.
    UNEXPECTED = 70
    #: Ctrl-C.
    INTERRUPTED = 130


class Failure(click.ClickException):
    """An error with a message for people and an exit code for scripts."""

    def __init__(self, message: str, code: ExitCode = ExitCode.INVALID) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # click reads it of the instance


def code_of(error: BaseException) -> ExitCode:
    """The exit code for an exception of handoff_dask."""
    match error:
        case AllocationError():
            return ExitCode.UNPLACEABLE
        case RunError():
            return ExitCode.FAILED
        case ClusterNotReadyError():
            return ExitCode.NOT_READY
        case InvalidDAGError() | HistoryError() | CheckpointError() | RunNotFoundError() | ImportError():
            return ExitCode.INVALID
        case HandoffError():
            return ExitCode.FAILED
        case _:
            return ExitCode.UNEXPECTED


def message_of(error: BaseException) -> str:
    """What went wrong, in words."""
    if isinstance(error, AllocationError):
        # The advice of the exception is for Python.
        return str(error).replace("wait_for_nodes=SECONDS", "--wait-for-nodes SECONDS")
    if isinstance(error, (HandoffError, ImportError)):
        return str(error)
    return (
        f"{type(error).__name__}: {error}\nThis should not happen. Please report it with what --debug prints."
    )


@contextmanager
def checked() -> Iterator[None]:
    """For calls that raise TypeError or ValueError when what the user gave is wrong."""
    try:
        yield
    except HandoffError:
        raise
    except (TypeError, ValueError) as error:
        raise Failure(str(error)) from error


class Group(click.Group):
    """Commands whose exceptions become a message and an exit code; with ``--debug`` a traceback as well."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            with _without_logs(ctx):
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            # Whoever read our output has seen enough. Python would complain about it once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(ExitCode.DONE) from None
        except click.ClickException:
            self._trace(ctx)
            raise
        except KeyboardInterrupt:
            self._trace(ctx)
            click.echo("Interrupted.", err=True)
            raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None
        except Exception as error:
            self._trace(ctx)
            message = message_of(error)
            if isinstance(error, FunctionFailedError) and not _debug(ctx):
                message += "\n--debug shows where it was raised."
            raise Failure(message, code_of(error)) from error

    @staticmethod
    def _trace(ctx: click.Context) -> None:
        error = sys.exception()
        if _debug(ctx) and not isinstance(error, click.UsageError):
            click.echo("".join(traceback.format_exception(error)), err=True)
        if _debug(ctx) and isinstance(error, FunctionFailedError):
            for failure in error.failures:
                # The exceptions themselves come from the nodes without their tracebacks.
                if failure.attempts and (text := failure.attempts[-1].traceback):
                    click.echo(f"Function {failure.function_id!r}, its last attempt:\n{text}", err=True)


@contextmanager
def _without_logs(ctx: click.Context) -> Iterator[None]:
    """Keep Dask from logging in full what is raised anyway, such as a scheduler that does not answer."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio")]
    before = [logger.level for logger in loggers]
    ctx.meta["handoff_dask.loggers"] = list(zip(loggers, before, strict=True))
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    if _debug(ctx):
        _restore(ctx)
    try:
        yield
    finally:
        _restore(ctx)


def _restore(ctx: click.Context) -> None:
    for logger, level in ctx.meta.get("handoff_dask.loggers", ()):
        logger.setLevel(level)


def _debug(ctx: click.Context) -> bool:
    """Whether --debug was given, before or after the name of the command."""
    return bool(ctx.find_root().meta.get("handoff_dask.debug"))


def _remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["handoff_dask.debug"] = True
        _restore(ctx)  # given after the name of the command, it comes later than the silence


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_remember,
    help="Show the traceback of an error, and what Dask logs.",
)
