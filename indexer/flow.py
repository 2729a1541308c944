"""What the threads of one run share: queues, the word to stop, timings, and what Ctrl-C does."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from engine.encoders import BATCH_WINDOWS
from engine.types import Space
from indexer.scan import Found
from indexer.writer import Message

T = TypeVar("T")

#: Bounds of the queues. A window of 2 s at 16 kHz is 128 kB, one of 10 s at 48 kHz is 1.9 MB: they count by size.
MAX_JOBS = 10_000
MAX_WINDOWS = 16 * BATCH_WINDOWS
MAX_WINDOW_BYTES = 64 << 20
MAX_WRITES = 64


def most_windows(space: Space) -> int:
    """How many windows may wait for the encoder: a batch at least."""
    return min(MAX_WINDOWS, max(BATCH_WINDOWS, MAX_WINDOW_BYTES // (4 * space.window_samples)))


@dataclass(slots=True)
class Flow:
    """The queues between the stages of one run; ``stop`` ends the reading, what has been encoded is still written."""

    jobs: queue.Queue[Found | None] = field(default_factory=lambda: queue.Queue(MAX_JOBS))
    heard: queue.Queue[Message | None] = field(default_factory=lambda: queue.Queue(MAX_WINDOWS))
    writes: queue.Queue[list[Message] | None] = field(default_factory=lambda: queue.Queue(MAX_WRITES))
    stop: threading.Event = field(default_factory=threading.Event)
    interrupted: bool = False
    errors: list[BaseException] = field(default_factory=list)
    stages_s: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self.lock:
                self.stages_s[stage] = self.stages_s.get(stage, 0.0) + time.perf_counter() - start

    def put(self, to: queue.Queue[T], item: T) -> bool:
        """Put unless the run is stopping; False if it is."""
        return _put(to, item, self.stop.is_set)

    def write(self, batch: list[Message]) -> bool:
        """Hand encoded messages to the writer, also when the run is stopping; False if the writer can't take them."""
        return _put(self.writes, batch, lambda: bool(self.errors))

    def interrupt(self) -> None:
        """Stop because somebody asked for it."""
        self.interrupted = True
        self.stop.set()

    def fail(self, error: BaseException) -> None:
        """Stop because of an error, which the calling thread will raise."""
        self.errors.append(error)
        self.stop.set()

    def thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Start a thread whose error stops the run and is raised by the caller."""

        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - handed to the calling thread, which raises it
                self.fail(error)

        thread = threading.Thread(target=guarded, name=f"earshot-{name}", daemon=True)
        thread.start()
        return thread

    @contextmanager
    def ctrl_c_stops(self) -> Iterator[None]:
        """Inside, Ctrl-C asks the run to stop instead of raising: once or often, what is in hand is saved.

        Only in the main thread, where Python delivers it, and only if the program has no handler of its own.
        """
        mine = threading.current_thread() is threading.main_thread()
        if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, lambda *_: self.interrupt())
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _put(to: queue.Queue[T], item: T, given_up: Callable[[], bool]) -> bool:
    while not given_up():
        try:
            to.put(item, timeout=0.2)
        except queue.Full:
            continue
        return True
    return False
