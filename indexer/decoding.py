"""Decoding in processes of its own: whatever a file does to a decoder, it does not do to the run.

A worker decodes one file after another and sends mono blocks through a socket, which also holds it back when nobody
reads. It sets its own bounds, and the system keeps them: so much memory, so much time for a block. A worker that dies
costs the file it was at; one whose run has ended, killed or not, finds its socket closed and ends.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from engine.audio import decoder_said, open_clip
from engine.errors import AudioError, EarshotError
from engine.types import Clip, FloatArray
from indexer.tags import Tags, read_tags

#: Work for one block of 10 s takes some tens of milliseconds; a decoder that takes this long is caught in the file.
BLOCK_CPU_S = 10.0
#: Waiting is the disk's fault, not the file's: one that was asleep, or a network that was away.
BLOCK_WAIT_S = 60.0
#: Writable memory of a worker. With the libraries' code it stays below 1 GB.
WORKER_BYTES = 768 << 20
_LOOK_UP_S = 0.2
_START = "import sys; sys.path[:] = sys.argv[2:]; from indexer.decoding import serve; serve(int(sys.argv[1]))"
_READY, _CLIP, _BLOCK, _END, _ERROR = b"r", b"c", b"b", b"e", b"x"


class StoppedError(Exception):
    """The run was stopped while a worker was at work."""


class Worker:
    """One decode process, to be used by one thread at a time."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        """Start it. Raises ``EarshotError`` if that fails."""
        self.stop = stop
        self._answering = False
        self._connection, theirs = Pipe()
        command = [sys.executable, "-c", _START, str(theirs.fileno()), *sys.path]
        quiet = None if os.environ.get("EARSHOT_DEBUG") else subprocess.DEVNULL  # decoders talk to stderr
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=quiet,
                stderr=quiet,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is for the run, which then ends its workers
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        try:
            self._receive()
        except EOFError as error:
            status = self._process.wait()
            raise EarshotError(
                f"a decode process that ended at its start with status {status}",
                "one that waits for files",
                "EARSHOT_DEBUG=1 shows why",
            ) from error

    def open(self, path: Path, sample_rate_hz: int) -> tuple[Clip, Tags]:
        """As ``engine.audio.open_clip`` and ``read_tags``, in the worker. The blocks must be read before the next call.

        Raises ``AudioError``, also for a file that ends the worker, and ``StoppedError`` when the run is stopping; from
        a system error where the path, not the content, is at fault.
        """
        assert not self._answering, "the answer before this one has been read to its end"
        self._answering = True
        try:
            self._connection.send_bytes(struct.pack("<I", sample_rate_hz) + os.fsencode(path))
        except OSError as error:
            raise self._lost() from error
        opened = json.loads(self._expect(_CLIP)[1])
        remarks: list[str] = []
        return Clip(self._blocks(remarks), **opened["clip"], remarks=remarks), Tags(**opened["tags"])

    def _blocks(self, remarks: list[str]) -> Iterator[FloatArray]:
        """The rest of the answer."""
        kind, body = self._expect(_BLOCK, _END)
        while kind == _BLOCK:
            yield np.frombuffer(body, np.float32)
            kind, body = self._expect(_BLOCK, _END)
        remarks += json.loads(body)

    def _expect(self, *kinds: bytes) -> tuple[bytes, bytes]:
        """The next message, of one of these kinds, and its body. Raises as ``open`` does."""
        try:
            message = self._receive()
        except EOFError:
            raise self._lost() from self._cause()
        kind, body = message[:1], message[1:]
        self._answering = kind in (_CLIP, _BLOCK)
        if kind == _ERROR:
            said = json.loads(body)
            raise AudioError(*said["parts"]) from (OSError(said["parts"][0]) if said["transient"] else None)
        assert kind in kinds, f"a worker that says {kind!r}"
        return kind, body

    def _receive(self) -> bytes:
        try:
            while not self._connection.poll(_LOOK_UP_S):
                if self.stop():
                    self.close()
                    raise StoppedError
            return self._connection.recv_bytes()
        except ConnectionError as error:
            raise EOFError from error

    def _lost(self) -> AudioError:
        """What to say of the file at which the worker ended."""
        status = self._status()
        self.close()
        if status == -signal.SIGPROF:
            found = f"a file at which its decoder worked for {BLOCK_CPU_S:.0f} s without a sound"
        elif status == -signal.SIGALRM:
            found = f"a file of which nothing came for {BLOCK_WAIT_S:.0f} s"
            return AudioError(found, "a disk that answers", "check its disk, then index it again")
        elif status < 0:
            found = f"a file at which its decoder crashed ({_signal_name(-status)})"
        else:
            found = f"a file at which its decoder ended (status {status})"
        return AudioError(found, "a file that can be decoded", "convert it or copy it again")

    def _cause(self) -> OSError | None:
        """Of an end that says nothing about the file: a disk that did not answer, or somebody who killed the worker."""
        passing = (-signal.SIGALRM, -signal.SIGKILL, -signal.SIGTERM)
        return OSError(errno.ETIMEDOUT, "") if self._status() in passing else None

    def _status(self) -> int:
        return self._process.wait()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be used again: it has not died, nor is it still sending an answer that nobody reads."""
        return not (self._connection.closed or self._answering) and self._process.poll() is None

    def close(self) -> None:
        """End the process. Twice is fine."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


_idle: list[Worker] = []
_lock = threading.Lock()


@contextmanager
def borrowed(stop: Callable[[], bool]) -> Iterator[Worker]:
    """A worker that waits for work, or a new one; kept for the next run unless it has died.

    ``stop`` says whether the run is stopping: a worker at work is then ended.
    """
    with _lock:
        worker = _idle.pop() if _idle else None
    if worker and not worker.alive:  # killed while it waited
        worker.close()
        worker = None
    worker = worker or Worker(stop)
    worker.stop = stop
    try:
        yield worker
    finally:
        worker.stop = bool  # never
        if worker.alive:
            with _lock:
                _idle.append(worker)
        else:
            worker.close()


@atexit.register
def end_workers() -> None:
    """End the workers that wait; new ones start when they are needed."""
    with _lock:
        while _idle:
            _idle.pop().close()


os.register_at_fork(after_in_child=_idle.clear)  # they answer the parent


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# What follows runs in the worker.


def serve(handle: int) -> None:
    """Decode what is asked for on this socket until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(ValueError, OSError):  # where the system sets a lower bound, or none can be set
        resource.setrlimit(resource.RLIMIT_DATA, (WORKER_BYTES, WORKER_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(handle)
    with suppress(EOFError, ConnectionError):
        connection.send_bytes(_READY)
        while True:
            request = connection.recv_bytes()
            path, rate_hz = Path(os.fsdecode(request[4:])), struct.unpack_from("<I", request)[0]
            for message in _messages(path, rate_hz):
                connection.send_bytes(message)


def _messages(path: Path, sample_rate_hz: int) -> Iterator[bytes]:
    """What the worker says about one file."""
    try:
        with _bounded():
            clip = open_clip(path, sample_rate_hz)
            said = {field: getattr(clip, field) for field in _CLIP_FIELDS}
            opened = json.dumps({"clip": said, "tags": asdict(read_tags(path))})
        yield _CLIP + opened.encode()
        while True:
            with _bounded():
                block = next(clip.blocks, None)
            if block is None:
                break
            if len(block):
                yield _BLOCK + np.ascontiguousarray(block, np.float32).tobytes()
        yield _END + json.dumps(clip.remarks).encode()
    except Exception as error:  # noqa: BLE001 - whatever a decoder throws is about the file, and is said
        yield _ERROR + json.dumps(_described(error)).encode()


_CLIP_FIELDS = ("sample_rate_hz", "source_rate_hz", "channels", "format")


def _described(error: Exception) -> dict[str, Any]:
    transient = any(_is_of_the_system(e) for e in (error, error.__cause__))
    if isinstance(error, EarshotError):
        parts = [error.found, error.expected, error.action]
    elif isinstance(error, MemoryError):
        found = f"a file to decode which takes more than {WORKER_BYTES >> 20} MiB"
        parts = [found, "a file that takes less", "check what made it, or convert it"]
    else:
        found = f"a file at which its decoder failed ({type(error).__name__}: {decoder_said(error)})"
        parts = [found, "a file that can be decoded", "convert it or copy it again"]
    return {"parts": parts, "transient": transient}


def _is_of_the_system(error: BaseException | None) -> bool:
    """FFmpeg says "input/output error" of malformed files too; this one has just been read whole, for its hash."""
    return isinstance(error, OSError) and not type(error).__module__.startswith("av.")


@contextmanager
def _bounded() -> Iterator[None]:
    """Inside, the system ends this process after too much work or too long a wait, whoever holds Python's lock."""
    signal.setitimer(signal.ITIMER_PROF, BLOCK_CPU_S)
    signal.setitimer(signal.ITIMER_REAL, BLOCK_WAIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
