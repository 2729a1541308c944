"""The writing path: decode threads -> batches across files -> encoder -> writer, with bounded queues between.

scan -> jobs -> [decode x N] -> windows -> [encode, calling thread] -> vectors -> [write] -> memory, then ledger

Each arrow is a bounded queue, so memory does not grow with the length of a file or the size of a library. Every
stage counts its own busy time. What each message means and how it is made durable is in ``writer.py``.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from engine.audio import open_clip
from engine.bundle import file_sha256
from engine.encoders import BATCH_WINDOWS, Encoders
from engine.errors import AudioError, EarshotError
from engine.memory.base import Memory
from engine.session import cpu_count
from engine.types import Space
from engine.windows import cut
from indexer.ledger import Ledger
from indexer.report import IndexReport, Progress
from indexer.scan import Found, ScanSummary, scan
from indexer.tags import read_tags
from indexer.writer import Content, Ended, Heard, Message, Same, Writer

T = TypeVar("T")

#: Bounds of the queues: a window of 2 s at 16 kHz is 128 kB, so a few hundred are some tens of megabytes.
MAX_JOBS = 10_000
MAX_WINDOWS = 16 * BATCH_WINDOWS
MAX_WRITES = 64


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """What one run of ``index`` was asked for."""

    jobs: int | None = None
    retry_failed: bool = False
    prune: bool = False


@dataclass(slots=True)
class _Run:
    """What the threads of one run share: the queues between them, the word to stop, errors and timings."""

    jobs: queue.Queue[Found | None] = field(default_factory=lambda: queue.Queue(MAX_JOBS))
    heard: queue.Queue[Message | None] = field(default_factory=lambda: queue.Queue(MAX_WINDOWS))
    writes: queue.Queue[list[Message] | None] = field(default_factory=lambda: queue.Queue(MAX_WRITES))
    stop: threading.Event = field(default_factory=threading.Event)
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
        while not self.stop.is_set():
            try:
                to.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Start a thread whose error stops the run and is raised by the caller."""

        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - handed to the calling thread, which raises it
                self.errors.append(error)
                self.stop.set()

        thread = threading.Thread(target=guarded, name=f"earshot-{name}", daemon=True)
        thread.start()
        return thread


def index(
    roots: Sequence[Path],
    encoders: Encoders,
    memory: Memory,
    ledger: Ledger,
    options: IndexOptions,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> IndexReport:
    """Hear every new or changed sound under ``roots`` into the memory; known ones are skipped.

    A file that can't be heard is recorded with its reason and the run goes on. Ctrl-C finishes the batch in hand and
    returns a report with ``interrupted`` set. Raises ``LibraryError`` if a root is missing, and whatever the encoder
    or the memory raise; what had been written by then stays, and the next run goes on from there.
    """
    started = time.perf_counter()
    run, report, summary = _Run(), IndexReport(), ScanSummary()
    found = summary.sift(scan(roots))
    progress = Progress(report, started)
    workers = options.jobs or cpu_count()
    writer = Writer(encoders.space, memory, ledger, report)
    decoder = _Decoder(run, encoders.space, writer)

    def feed() -> None:
        _feed(run, found, ledger, options, progress)
        for _ in range(workers):
            run.put(run.jobs, None)

    readers = [run.thread("scan", feed)]
    readers += [run.thread(f"decode-{n}", decoder.work) for n in range(workers)]
    readers += [run.thread("closer", lambda: _close_when_done(run, readers[1 : workers + 1]))]
    writing = run.thread("write", lambda: _write(run, writer))
    try:
        _encode(run, encoders, lambda: on_progress(progress))
    except KeyboardInterrupt:
        report.interrupted = True
    except BaseException as error:  # noqa: BLE001 - raised below, once the writer has saved what is whole
        run.errors.append(error)
    run.stop.set()
    for thread in readers:
        thread.join()
    _finish_writing(run, writing)
    if run.errors:
        raise run.errors[0]
    if not report.interrupted:
        with run.timed("write"):
            writer.tidy(roots if options.prune else ())
        with run.timed("optimise"):
            memory.optimise()
    report.left_out = dict(summary.left_out)
    report.stages_s = {stage: round(run.stages_s.get(stage, 0.0), 3) for stage in STAGES}
    report.wall_s = time.perf_counter() - started
    on_progress(progress)
    return report


def _finish_writing(run: _Run, writing: threading.Thread) -> None:
    """Let the writer drain and save what it was given, even when the run is stopping."""
    while writing.is_alive():
        try:
            run.writes.put(None, timeout=0.2)
        except queue.Full:
            continue
        writing.join()


STAGES = ("scan", "hash", "decode", "encode", "write", "optimise")


def _feed(run: _Run, found: Iterator[Found], ledger: Ledger, options: IndexOptions, progress: Progress) -> None:
    """Scan, skip what is known, and queue the rest."""
    while True:
        with run.timed("scan"):
            file = next(found, None)
            row = ledger.file(file.path) if file else None
        if file is None:
            break
        unchanged = row is not None and (row.size_bytes, row.mtime_ns) == (file.size_bytes, file.mtime_ns)
        if row and unchanged and not (row.reason and options.retry_failed):
            progress.report.skipped += 1
            progress.report.skipped_failed += row.reason is not None
            continue
        progress.to_do_bytes += file.size_bytes
        progress.to_do_files += 1
        if not run.put(run.jobs, file):
            return
    progress.scanned = True


@dataclass(frozen=True, slots=True)
class _Decoder:
    """What a decode thread does with one file."""

    run: _Run
    space: Space
    writer: Writer

    def work(self) -> None:
        while not self.run.stop.is_set():
            try:
                file = self.run.jobs.get(timeout=0.2)
            except queue.Empty:
                continue
            if file is None:
                return
            for message in self._hear(file):
                if not self.run.put(self.run.heard, message):
                    return

    def _hear(self, file: Found) -> Iterator[Message]:
        """One file: ``Same`` if its content is known, otherwise its windows and their end."""
        try:
            with self.run.timed("hash"):
                sha256 = file_sha256(file.path)
        except OSError as error:
            reason = AudioError(error.strerror or str(error), "a readable file", "check its permissions")
            yield Ended(Content("", file, None, None), 0, 0.0, str(reason))
            return
        if not self.writer.claim(sha256):
            yield Same(file, sha256)
            return
        content = Content(sha256, file, None, None)
        windows, end_s = 0, 0.0
        try:
            with self.run.timed("decode"):
                clip = open_clip(file.path, self.space.sample_rate_hz)
                content = Content(sha256, file, clip, read_tags(file.path))
                stream = cut(clip.blocks, self.space)
            while True:
                with self.run.timed("decode"):
                    window = next(stream, None)
                if window is None:
                    break
                windows, end_s = windows + 1, window.end_s
                yield Heard(content, window)
            _check_unchanged(file)
        except EarshotError as error:
            yield Ended(content, windows, end_s, str(error))
            return
        except Exception as error:  # noqa: BLE001 - whatever a decoder throws, one bad file never stops a run
            yield Ended(content, windows, end_s, f"{type(error).__name__}: {error}")
            return
        yield Ended(content, windows, end_s, None)


def _check_unchanged(file: Found) -> None:
    status = os.stat(file.path)
    if (status.st_size, status.st_mtime_ns) != (file.size_bytes, file.mtime_ns):
        raise AudioError("a file that changed while it was heard", "one at rest", "index it again when it is finished")


def _close_when_done(run: _Run, decoders: Sequence[threading.Thread]) -> None:
    for thread in decoders:
        thread.join()
    run.put(run.heard, None)


def _encode(run: _Run, encoders: Encoders, on_batch: Callable[[], None]) -> None:
    """Fill batches across files, encode them, and pass all on in order."""
    batch: list[Message] = []
    waiting = 0
    while not run.stop.is_set():
        try:
            message = run.heard.get(timeout=0.1)
        except queue.Empty:
            on_batch()
            continue
        if message is not None:
            batch.append(message)
            waiting += isinstance(message, Heard)
        if message is None or waiting == BATCH_WINDOWS or len(batch) >= 8 * BATCH_WINDOWS:
            with run.timed("encode"):
                _encode_batch(encoders, [m for m in batch if isinstance(m, Heard)])
            if not run.put(run.writes, batch):
                return
            batch, waiting = [], 0
            on_batch()
        if message is None:
            return


def _encode_batch(encoders: Encoders, heard: list[Heard]) -> None:
    if heard:
        vectors = encoders.audio.encode_audio(np.stack([message.window.samples for message in heard]))
        for message, vector in zip(heard, vectors, strict=True):
            message.encoded(vector)


def _write(run: _Run, writer: Writer) -> None:
    while (batch := run.writes.get()) is not None:
        with run.timed("write"):
            writer.take(batch)
    with run.timed("write"):
        writer.save()
