"""The first stage: a file -> its windows, or that its content is known, or why it can't be heard."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import dataclass

from engine.audio import open_clip
from engine.bundle import file_sha256
from engine.errors import AudioError, EarshotError
from engine.types import Space
from engine.windows import cut
from indexer.flow import Flow
from indexer.scan import Found
from indexer.tags import read_tags
from indexer.writer import Content, Ended, Heard, Message, Same, Writer


@dataclass(frozen=True, slots=True)
class Decoder:
    """What a decode thread does with one file after another."""

    flow: Flow
    space: Space
    writer: Writer

    def work(self) -> None:
        """Until the jobs end or the run stops."""
        while not self.flow.stop.is_set():
            try:
                file = self.flow.jobs.get(timeout=0.2)
            except queue.Empty:
                continue
            if file is None:
                return
            for message in self._hear(file):
                if not self.flow.put(self.flow.heard, message):
                    return

    def _hear(self, file: Found) -> Iterator[Message]:
        """One file: ``Same`` if its content is known, otherwise its windows and their end."""
        try:
            with self.flow.timed("hash"):
                sha256 = file_sha256(file.path)
        except OSError as error:
            yield Ended(Content("", file, None, None), 0, 0.0, str(_unreadable(error)), transient=True)
            return
        if not self.writer.claim(sha256):
            yield Same(file, sha256)
            return
        content = Content(sha256, file, None, None)
        windows, end_s = 0, 0.0
        try:
            with self.flow.timed("decode"):
                clip = open_clip(file.path, self.space.sample_rate_hz)
                content = Content(sha256, file, clip, read_tags(file.path))
                stream = cut(clip.blocks, self.space)
            while True:
                with self.flow.timed("decode"):
                    window = next(stream, None)
                if window is None:
                    break
                windows, end_s = windows + 1, window.end_s
                yield Heard(content, window)
        except Exception as error:  # noqa: BLE001 - whatever a decoder throws, one bad file never stops a run
            changed = _change(file)
            reason = changed or (str(error) if isinstance(error, EarshotError) else f"{type(error).__name__}: {error}")
            transient = bool(changed) or isinstance(error, OSError) or isinstance(error.__cause__, OSError)
            yield Ended(content, windows, end_s, reason, transient)
            return
        changed = _change(file)
        yield Ended(content, windows, end_s, changed, transient=bool(changed))


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
    return AudioError(error.strerror or str(error), "a readable file", "check its permissions")
