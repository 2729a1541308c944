"""The writing path: decode processes -> batches across files -> encoder -> writer, with bounded queues between.

scan -> jobs -> [decode x N] -> windows -> [encode, calling thread] -> vectors -> [write] -> memory, then ledger

Each arrow is a bounded queue (``flow.py``), so memory does not grow with the length of a file or the size of a
library. Every stage counts its own busy time. What each message means and how it is made durable is in ``writer.py``.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import numpy as np

from engine.encoders import BATCH_WINDOWS, Encoders
from engine.memory.base import Memory, Patient
from engine.session import cpu_count
from indexer.captions import Captioning, captioned_beside
from indexer.flow import Flow, most_windows
from indexer.hearing import Decoder
from indexer.ledger import Ledger
from indexer.report import IndexReport, Progress
from indexer.scan import Found, LeftOut, ScanSummary, absolute, scan
from indexer.tidy import doubt, mend, present_roots, prune, remove_orphans
from indexer.writer import Heard, Message, Writer

STAGES = ("scan", "hash", "decode", "encode", "write", "optimise")


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """What one run of ``index`` was asked for."""

    jobs: int | None = None
    retry_failed: bool = False
    prune: bool = False
    prune_anyway: bool = False
    captions: Captioning | None = None


def index(
    roots: Sequence[Path],
    encoders: Encoders,
    memory: Memory,
    ledger: Ledger,
    options: IndexOptions,
    on_progress: Callable[[Progress], None] = lambda _: None,
    listed: Iterable[Found | LeftOut] | None = None,
) -> IndexReport:
    """Hear every new or changed sound under ``roots`` into the memory; known ones are skipped.

    With ``listed``, those files instead of what lies under ``roots``. Without any root nothing is heard, and captions
    are made of all that is known.

    A file that can't be heard is recorded with its reason and the run goes on. What the memory has lost since it was
    heard, wholly or in part, is heard again. Ctrl-C, once or often, lets the batch in the encoder finish, saves every
    file that is whole, drops the others, and returns a report with ``interrupted`` set; a ``KeyboardInterrupt`` that
    is raised all the same (by ``on_progress``, or by a handler of the program's own) drops that batch too.

    Where files are to be forgotten that may only seem gone (see ``doubt``), none is, and the report says so in
    ``refused``; with ``prune_anyway`` all are.

    Raises ``LibraryError`` if a root is missing (see ``present_roots``), and whatever the encoder or the memory raise;
    what had been written by then stays, and the next run goes on from there.
    """
    started = time.perf_counter()
    flow, report, summary = Flow(heard=queue.Queue(most_windows(encoders.space))), IndexReport(), ScanSummary()
    if listed is None:
        listed = scan(present_roots(roots, ledger, options.prune_anyway) if options.prune else roots)
    found = summary.sift(listed)
    progress = Progress(report, started)
    writer = Writer(encoders.space, memory, ledger, report)
    with flow.timed("write"):
        report.lost = mend(memory, ledger)
    waits = memory.until(flow.stop.is_set) if isinstance(memory, Patient) else nullcontext()
    where = [Path(absolute(root)) for root in roots] or [Path(os.sep)]
    captioned = captioned_beside(flow, options.captions, memory, ledger, where, report)
    with flow.ctrl_c_stops(), waits, captioned as finish_captions:
        files: Iterable[Found] = _news(flow, found, ledger, options, progress)
        while files and not flow.stop.is_set():
            _hear(flow, files, options.jobs or cpu_count(), encoders, writer, lambda: on_progress(progress))
            files = writer.unheard()
        with flow.timed("write"):
            if options.prune and not flow.interrupted:
                report.refused = None if options.prune_anyway else doubt(roots, ledger)
                report.pruned = 0 if report.refused else prune(roots, memory, ledger)
            remove_orphans(memory, ledger)
        finish_captions(lambda: on_progress(progress))
        if options.captions and (by := options.captions.by):
            report.captioned_otherwise = ledger.captioned_otherwise(where, by)
        if flow.errors:
            raise flow.errors[0]
    if not flow.interrupted:
        _optimise(flow, memory)
    report.interrupted = flow.interrupted
    report.left_out = dict(summary.left_out)
    stages = (*STAGES, "caption") if options.captions else STAGES
    report.stages_s = {stage: round(flow.stages_s.get(stage, 0.0), 3) for stage in stages}
    report.wall_s = time.perf_counter() - started
    on_progress(progress)
    return report


def _optimise(flow: Flow, memory: Memory) -> None:
    """Build the index. All that was heard is saved by now: Ctrl-C ends the building, the next run begins it anew."""
    with flow.timed("optimise"):
        try:
            memory.optimise()
        except KeyboardInterrupt:
            flow.interrupt()


def _news(
    flow: Flow, found: Iterator[Found], ledger: Ledger, options: IndexOptions, progress: Progress
) -> Iterator[Found]:
    """What is to be heard: all that was found but what is known, or has failed for a reason that won't pass."""
    while True:
        with flow.timed("scan"):
            file = next(found, None)
            row = ledger.file(file.path) if file else None
        if file is None:
            break
        unchanged = row is not None and (row.size_bytes, row.mtime_ns) == (file.size_bytes, file.mtime_ns)
        if row and unchanged and not (row.reason and (row.transient or options.retry_failed)):
            progress.report.skipped += 1
            progress.report.skipped_failed += row.reason is not None
            continue
        progress.to_do_bytes += file.size_bytes
        progress.to_do_files += 1
        yield file
    progress.scanned = True


def _hear(
    flow: Flow,
    files: Iterable[Found],
    workers: int,
    encoders: Encoders,
    writer: Writer,
    on_batch: Callable[[], None],
) -> None:
    """Bring these files through all stages; whatever happens, threads have ended and whole files are saved after it."""

    def feed() -> None:
        for file in files:
            if not flow.put(flow.jobs, file):
                return
        for _ in range(workers):
            flow.put(flow.jobs, None)

    decoder = Decoder(flow, encoders.space, writer)
    readers = [flow.thread("scan", feed)]
    readers += [flow.thread(f"decode-{n}", decoder.work) for n in range(workers)]
    readers += [flow.thread("closer", lambda: _close_when_done(flow, readers[1 : workers + 1]))]
    writing = flow.thread("write", lambda: _write(flow, writer))
    try:
        _encode(flow, encoders, on_batch)
    except KeyboardInterrupt:
        flow.interrupt()
    except BaseException as error:  # noqa: BLE001 - raised below, once the writer has saved what is whole
        flow.fail(error)
    for thread in readers:
        thread.join()
    _finish_writing(flow, writing)
    if flow.errors:
        raise flow.errors[0]


def _finish_writing(flow: Flow, writing: Thread) -> None:
    """Let the writer drain and save what it was given, even when the run is stopping."""
    while writing.is_alive():
        try:
            flow.writes.put(None, timeout=0.2)
        except queue.Full:
            continue
        writing.join()


def _close_when_done(flow: Flow, decoders: Sequence[Thread]) -> None:
    for thread in decoders:
        thread.join()
    flow.put(flow.heard, None)


def _encode(flow: Flow, encoders: Encoders, on_batch: Callable[[], None]) -> None:
    """Fill batches across files, encode them, and pass all on in order."""
    batch: list[Message] = []
    waiting = 0
    while not flow.stop.is_set():
        try:
            message = flow.heard.get(timeout=0.1)
        except queue.Empty:
            on_batch()
            continue
        if message is not None:
            batch.append(message)
            waiting += isinstance(message, Heard)
        if message is None or waiting == BATCH_WINDOWS or len(batch) >= 8 * BATCH_WINDOWS:
            with flow.timed("encode"):
                _encode_batch(encoders, [m for m in batch if isinstance(m, Heard)])
            if not flow.write(batch):
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


def _write(flow: Flow, writer: Writer) -> None:
    while (batch := flow.writes.get()) is not None:
        with flow.timed("write"):
            writer.take(batch)
    with flow.timed("write"):
        writer.save()
