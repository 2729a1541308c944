"""Taking turns: many who read at once, or one who changes what they read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock with two doors. Whoever waits to be alone comes before those who come to read after it.

    A thread that reads must not come to read again before it has left.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._taken = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Inside, nobody is alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, nobody reads, and nobody else is alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken)
            self._taken = True
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._readers)
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()
