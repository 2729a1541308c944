"""The `earshot` command: how it starts and how it ends. What it can do is in ``commands``.

Whatever happens, the user reads one line and a program gets an exit status; a traceback is for ``EARSHOT_DEBUG=1``.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

EXIT_FAILED = 1
EXIT_FAILED_FILES = 3
EXIT_INTERRUPTED = 130
STOPPED = "Stopped: nothing is lost, the same command goes on from here."


class Through(BaseException):
    """Carries its cause past Typer, which would end in silence on Ctrl-C and on a reader that has gone."""


def main() -> None:
    """The console script."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal's encoding lacks is shown as an escape, rather than ending the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    raise SystemExit(guarded(_run))


def _run() -> None:
    from earshot.commands import app  # within the guard: Ctrl-C may come while modules are loaded

    app()


def guarded(run: Callable[[], None]) -> int:
    """Run, turning whatever ends it into one line at most and an exit status."""
    try:
        status = _status_of(run)
        sys.stdout.flush()  # a full disk or a closed pipe is met here, not after the last line of Python
    except KeyboardInterrupt:
        return _stopped()
    except Through as through:
        return _stopped() if isinstance(through.__cause__, KeyboardInterrupt) else _reader_gone()
    except BrokenPipeError:
        return _reader_gone()
    except Exception as error:
        if os.environ.get("EARSHOT_DEBUG"):
            raise
        _discard_output()
        with suppress(OSError):
            _print_error(error)
        return EXIT_FAILED
    return status


def _status_of(run: Callable[[], None]) -> int:
    try:
        run()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0


def _stopped() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C must not cut the goodbye short
    with suppress(OSError):
        sys.stderr.write(f"{STOPPED}\n")
        sys.stderr.flush()
    _discard_output()
    return EXIT_INTERRUPTED


def _reader_gone() -> int:
    """Such as `| head`: nothing more to say to it, and nothing wrong."""
    _discard_output()
    return 0


def _discard_output() -> None:
    """Print what is still held back if that is possible, and nothing at exit, where Python would complain itself."""
    with suppress(OSError, ValueError):
        try:
            sys.stdout.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


def _print_error(error: Exception) -> None:
    from earshot import show

    show.error(describe(error))


def describe(error: Exception) -> str:
    """An error in one line, as far as possible with what it was about."""
    import sqlite3

    from engine.errors import EarshotError

    if isinstance(error, EarshotError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
        return f"{where}{error.strerror or error}"
    if isinstance(error, sqlite3.Error):
        return f"the library's ledger can't be used: {error}"
    return f"a fault in earshot ({type(error).__name__}: {error}); EARSHOT_DEBUG=1 shows where, please report it"
