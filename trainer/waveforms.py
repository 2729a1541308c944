"""Decoded clips on disk, each content once, memory-mapped to be read from anywhere.

A folder holds, for one sample rate::

    *.pcm           16-bit samples of many clips, end to end; *.draft while one is written
    index.sqlite    which file has which content, and where in which ``.pcm`` a content lies
    lock            held by the process that fills it; others wait, and then find all done

A ``.pcm`` is written, flushed to the disk and renamed, and only then entered: killed at any instruction, what is
entered is whole, and the next run goes on there. Every ``STEP`` samples have a scale of their own, so a faint clip
keeps 16 bits and a loud one does not clip: the error is at most 1/65534 of the loudest sample of its step.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.errors import AudioError
from engine.types import FloatArray
from trainer.examples import DataError, Example
from trainer.waveform_index import Index, Waveform

STEP = 32_768
#: A ``.pcm`` is closed when it has reached this size: what a kill can cost, some 2 h at 16 kHz.
SHARD_BYTES = 256 << 20
MOST_OPEN = 64
_LOUDEST = 32_767

#: ``(what is being done, how many are done, of how many)``.
OnProgress: TypeAlias = Callable[[str, int, int], None]


def no_progress(step: str, done: int, total: int) -> None:
    """Where nobody watches."""


class Waveforms:
    """The decoded clips of one folder at one rate."""

    def __init__(self, folder: Path, sample_rate_hz: int) -> None:
        self.folder = folder / f"waveforms-{sample_rate_hz}"
        self.sample_rate_hz = sample_rate_hz
        self._mapped = lru_cache(MOST_OPEN)(self._map)

    def fill(self, examples: Sequence[Example], on_progress: OnProgress = no_progress) -> list[Waveform | AudioError]:
        """Decode what is not here yet; of each example its waveform, or why it can't be heard.

        Raises ``DataError`` where the folder can't be written or its disk is full: what was decoded until then stays.
        """
        with _said(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / "lock"), closing(Index(self.folder / "index.sqlite")) as index:
                self._tidy(index)
                hashes = _hashes(examples, index, on_progress)
                missing: dict[str, Example] = {}
                for example, sha in zip(examples, hashes, strict=True):
                    if isinstance(sha, str) and sha not in index.known:
                        missing.setdefault(sha, example)
                failed = self._decode(missing, index, on_progress)
                entered = index.waveforms({sha for sha in hashes if isinstance(sha, str)})
        return [sha if isinstance(sha, AudioError) else entered.get(sha) or failed[sha] for sha in hashes]

    def hashes(self, examples: Sequence[Example], on_progress: OnProgress = no_progress) -> list[str | AudioError]:
        """Of each example its content's sha256, or why it can't be read; nothing is decoded. Raises ``DataError``."""
        with _said(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / "lock"), closing(Index(self.folder / "index.sqlite")) as index:
                return _hashes(examples, index, on_progress)

    def read(self, waveform: Waveform, first: int, count: int) -> FloatArray:
        """Samples ``[count]`` from number ``first`` on; ``first + count <= waveform.samples``."""
        start = waveform.start + first
        found = self._mapped(waveform.shard)[start : start + count].astype(np.float32)
        for step in range(first // STEP, -(-(first + count) // STEP)):
            found[max(0, step * STEP - first) : (step + 1) * STEP - first] *= waveform.scales[step]
        return found

    def _map(self, shard: str) -> NDArray[np.int16]:
        return np.memmap(self.folder / shard, "<i2", "r")

    def _tidy(self, index: Index) -> None:
        """Remove what a killed run left, and forget what somebody removed."""
        there = {path.name: path.stat().st_size for path in self.folder.glob("*.pcm")}
        index.forget_all_but(there)
        for path in [*self.folder.glob("*.draft"), *(self.folder / name for name in there.keys() - index.shards)]:
            path.unlink()

    def _decode(self, missing: dict[str, Example], index: Index, on_progress: OnProgress) -> dict[str, AudioError]:
        """Decode, in as many threads as there are cores (the decoders release Python's lock); what failed, and why."""
        failed: dict[str, AudioError] = {}
        queue, lock, stop = iter(missing.items()), threading.Lock(), threading.Event()
        done = 0

        def step(writer: _Writer) -> bool:
            nonlocal done
            with lock:
                sha, example = next(queue, ("", None))
            if example is None or stop.is_set():
                return False
            try:
                writer.add(sha, example.open(self.sample_rate_hz).blocks)
            except AudioError as error:
                failed[sha] = error
            with lock:
                done += 1
                on_progress("decoding", done, len(missing))
            return True

        def work() -> None:
            try:
                with _Writer(self.folder, index) as writer:
                    while step(writer):
                        pass
            except BaseException:
                stop.set()  # a disk that is full for one is full for all
                raise

        cores = min(len(os.sched_getaffinity(0)), len(missing))
        with ThreadPoolExecutor(max(1, cores)) as threads:
            futures = [threads.submit(work) for _ in range(cores)]
            try:
                for future in futures:
                    future.result()
            finally:
                stop.set()
        return failed


class _Writer:
    """Writes one ``.pcm`` after another; at its end, also by an error, what is whole is kept."""

    def __init__(self, folder: Path, index: Index) -> None:
        self._folder, self._index = folder, index
        self._stream: FileIO | None = None
        self._draft = folder
        self._whole: list[Waveform] = []
        self._at = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._seal()

    def add(self, sha256: str, blocks: Iterable[FloatArray]) -> None:
        """Append a clip. Raises ``AudioError`` if it breaks off or has no samples; then nothing of it stays."""
        if self._stream is None:
            self._draft = self._folder / f"{uuid.uuid4().hex}.draft"
            # Unbuffered: what a full disk refuses must not come back when the rest is closed.
            self._stream, self._at = self._draft.open("wb", buffering=0), 0
        scales: list[np.float32] = []
        samples = 0
        try:
            for ints, scale in _quantised(blocks):
                _write(self._stream, ints)
                scales.append(scale)
                samples += len(ints)
            if not samples:
                raise AudioError("no samples", "a sound", "check whether the file plays")
        except BaseException:
            self._stream.seek(2 * self._at)
            self._stream.truncate()
            raise
        shard = self._draft.with_suffix(".pcm").name
        self._whole.append(Waveform(sha256, shard, self._at, samples, np.array(scales, np.float32)))
        self._at += samples
        if 2 * self._at >= SHARD_BYTES:
            self._seal()

    def _seal(self) -> None:
        if self._stream is None:
            return
        stream, whole, self._stream, self._whole = self._stream, self._whole, None, []
        with stream:
            os.fsync(stream.fileno())
        if not whole:
            self._draft.unlink()
            return
        self._draft.rename(self._draft.with_suffix(".pcm"))
        sync_folder(self._folder)
        self._index.enter(whole)


def _write(stream: FileIO, ints: NDArray[np.int16]) -> None:
    left = memoryview(ints.tobytes())
    while left:
        left = left[stream.write(left) :]


def _quantised(blocks: Iterable[FloatArray]) -> Iterator[tuple[NDArray[np.int16], np.float32]]:
    """The same signal in steps of ``STEP``, each as integers and what to multiply them by."""
    held = np.empty(0, np.float32)
    for block in blocks:
        held = np.concatenate((held, block))
        whole = len(held) - len(held) % STEP
        for start in range(0, whole, STEP):
            yield _quantise(held[start : start + STEP])
        held = held[whole:]
    if len(held):
        yield _quantise(held)


def _quantise(samples: FloatArray) -> tuple[NDArray[np.int16], np.float32]:
    scale = np.float32(np.abs(samples).max() / _LOUDEST)
    if not scale:  # silence, or fainter than a float32 can say
        return np.zeros(len(samples), "<i2"), scale
    return np.rint(samples / scale).clip(-_LOUDEST, _LOUDEST).astype("<i2"), scale


def _hashes(examples: Sequence[Example], index: Index, on_progress: OnProgress) -> list[str | AudioError]:
    """Of each example its content's sha256, or why it can't be read."""
    fresh: list[tuple[Example, os.stat_result, str]] = []

    def hashed(example: Example) -> tuple[str | AudioError, os.stat_result | None]:
        try:
            stat = example.audio.stat()
            return example.content_sha256(), stat
        except (AudioError, OSError) as error:
            return error if isinstance(error, AudioError) else AudioError(str(error), "a file", "check the path"), None

    def known(example: Example) -> str | None:
        try:
            return index.sha256_of(example, example.audio.stat())
        except OSError:
            return None

    found: list[str | AudioError] = [known(example) or "" for example in examples]
    unknown = [number for number, sha in enumerate(found) if not sha]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        try:
            results = threads.map(hashed, (examples[number] for number in unknown))
            for done, (number, (sha, stat)) in enumerate(zip(unknown, results, strict=True), 1):
                found[number] = sha
                if isinstance(sha, str) and stat is not None:
                    fresh.append((examples[number], stat, sha))
                on_progress("hashing", done, len(unknown))
        finally:
            threads.shutdown(cancel_futures=True)
    index.remember(fresh)
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone in the folder; whoever comes second waits."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    """Say what a system's error means here."""
    try:
        yield
    except sqlite3.Error as error:
        if "full" in str(error):
            raise _full(folder) from error
        raise DataError(
            f"{folder}, whose index can't be used ({error})", "decoded sounds", "remove the folder: it is made again"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(folder) from error
        raise DataError(
            f"{folder}: {error.strerror or error}", "a folder to write to", "choose another --out"
        ) from error


def _full(folder: Path) -> DataError:
    return DataError(
        f"no space left for decoded sounds in {folder}",
        "2 bytes a sample",
        "make room, or choose another --out; what is decoded stays",
    )


def sync_folder(folder: Path) -> None:
    """Flush a folder's names to the disk: what was renamed in it stays so when the power goes."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
