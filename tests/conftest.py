"""What every test starts from."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A shell that starts pytest in the background has it ignore Ctrl-C, and what it starts inherits that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
