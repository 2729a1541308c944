"""The first stage: a file -> its windows, or that its content is known, or why it can't be heard."""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from engine.audio import regular
from engine.errors import AudioError
from engine.eventless import looked_at
from engine.types import Space
from engine.windows import cut
from indexer.decoding import StoppedError, Worker, borrowed
from indexer.flow import Flow
from indexer.scan import Found
from indexer.writer import Content, Ended, Heard, Message, Same, Writer

_HASH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Decoder:
    """What a decode thread does with one file after another, in a process that it lends itself when it needs one."""

    flow: Flow
    space: Space
    writer: Writer

    def work(self) -> None:
        """Until the jobs end or the run stops."""
        with ExitStack() as held:
            worker: Worker | None = None
            while not self.flow.stop.is_set():
                try:
                    file = self.flow.jobs.get(timeout=0.2)
                except queue.Empty:
                    continue
                if file is None:
                    return
                try:
                    sha256 = self._claimed(file)
                    if sha256 is None:
                        continue
                    if worker is None or not worker.alive:
                        worker = held.enter_context(borrowed(self.flow.stop.is_set))
                    if not self._hear(file, sha256, worker):
                        return
                except StoppedError:
                    return

    def _claimed(self, file: Found) -> str | None:
        """The file's sha256 if it is to be heard here; otherwise what is known of it has been passed on."""
        try:
            with self.flow.timed("hash"):
                sha256 = sha256_of(file.path, self.flow.stop.is_set)
        except OSError as error:
            self._put(Ended(Content("", file, None, None), 0, 0.0, str(_unreadable(error)), transient=True))
            return None
        if self.writer.claim(sha256):
            return sha256
        self._put(Same(file, sha256))
        return None

    def _hear(self, file: Found, sha256: str, worker: Worker) -> bool:
        """Pass on the file's windows and their end, or why it can't be heard; False if the run is stopping."""
        content = Content(sha256, file, None, None)
        windows, end_s = 0, 0.0
        reason, transient = None, False
        try:
            with self.flow.timed("decode"):
                clip, tags = worker.open(file.path, self.space.sample_rate_hz)
                content = Content(sha256, file, clip, tags)
                stream = looked_at(cut(clip.blocks, self.space), self.space.sample_rate_hz)
            while True:
                with self.flow.timed("decode"):
                    window = next(stream, None)
                if window is None:
                    break
                windows, end_s = windows + 1, window.end_s
                if not self._put(Heard(content, window)):
                    return False
        except AudioError as error:
            reason, transient = str(error), isinstance(error.__cause__, OSError)
        changed = _change(file)
        return self._put(Ended(content, windows, end_s, changed or reason, transient or bool(changed)))

    def _put(self, message: Message) -> bool:
        return self.flow.put(self.flow.heard, message)


def sha256_of(path: Path, stop: Callable[[], bool]) -> str:
    """The sha256 of a regular file, in hex. Raises ``StoppedError`` soon after ``stop`` says so, ``OSError``."""
    with regular(path) as stream:
        digest, buffer = hashlib.sha256(), bytearray(_HASH_BYTES)
        while count := stream.readinto(buffer):
            if stop():
                raise StoppedError
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def _change(file: Found) -> str | None:
    """What has happened to the file since it was found, if anything."""
    try:
        status = file.path.stat()
    except OSError as error:
        return str(_unreadable(error))
    if (status.st_size, status.st_mtime_ns) == (file.size_bytes, file.mtime_ns):
        return None
    return str(AudioError("a file that changed while it was heard", "one at rest", "index it again when it is whole"))


def _unreadable(error: OSError) -> AudioError:
    return AudioError(error.strerror or str(error), "a readable file", "check the path and its permissions")
