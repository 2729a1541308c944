"""The captions of a library's sounds, written for other programs: CSV, JSON, or a text file beside each sound."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from engine.errors import LibraryError
from engine.formats import SIDECAR_SUFFIX
from engine.memory.base import Memory
from engine.types import Clause, Filter, Payload
from indexer.captions import CAPTION_BY, Heard, Run, caption_of, of_file, runs
from indexer.paths import text_path
from indexer.payload import of_contents

Format: TypeAlias = Literal["csv", "json", "sidecar"]
COLUMNS = ("path", "start_s", "end_s", "caption", "language", "score", "unsure", "captioner")
_FIRST = Filter((Clause("window", "=", 0),))
#: What a sound's first window has if anything was said of it, sure or not, or its captioner is known.
_SAID = ("captions", "caption", CAPTION_BY)


@dataclass(frozen=True, slots=True)
class SoundCaptions:
    """What is said of one sound: all its ``paths``, its captions, and the ``moments`` they are said of."""

    paths: tuple[str, ...]
    captions: tuple[str, ...]
    moments: tuple[Run, ...]

    def to_dict(self) -> dict[str, Any]:
        """The public JSON form."""
        return {
            "paths": list(self.paths),
            "captions": list(self.captions),
            "moments": [
                {
                    "start_s": round(run.start_s, 3),
                    "end_s": round(run.end_s, 3),
                    "caption": run.text,
                    "score": round(run.score, 4),
                    "language": run.language,
                    "unsure": run.unsure,
                    "captioner": run.by or None,
                }
                for run in self.moments
            ],
        }


@dataclass(slots=True)
class ExportReport:
    """How many ``sounds`` and ``captions`` were written, and which files could not be."""

    sounds: int = 0
    captions: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


def captioned_sounds(memory: Memory) -> Iterator[SoundCaptions]:
    """All sounds of which something is said, sure or not, one at a time."""
    for record in memory.scroll(_FIRST):
        if not any(record.payload.get(key) for key in _SAID):
            continue
        content = memory.scroll(of_contents(str(record.payload["sha256"])))
        merged = _runs(sorted((one.payload for one in content), key=lambda said: int(said["window"])))
        if merged:
            yield SoundCaptions(tuple(record.payload["paths"]), tuple(of_file(merged)), tuple(merged))


def _runs(said: Sequence[Payload]) -> list[Run]:
    """The runs of what is said of a sound's windows, by their payloads in order; those without words are left out."""
    heard = [Heard(int(one["window"]), float(one["start_s"]), float(one["end_s"])) for one in said]
    merged = _apart(runs(heard, [caption_of(one) for one in said]))
    by = {one.window: str(payload.get(CAPTION_BY) or "") for one, payload in zip(heard, said, strict=True)}
    return [replace(run, by=by[run.first]) for run in merged if run.text]


def _apart(merged: list[Run]) -> list[Run]:
    """Windows overlap: where of the next one another thing is said, that begins in the middle of what they share."""
    for number, (one, after) in enumerate(pairwise(merged)):
        if after.start_s < one.end_s:
            middle = (after.start_s + one.end_s) / 2
            merged[number] = replace(merged[number], end_s=middle)
            merged[number + 1] = replace(after, start_s=middle)
    return merged


def export_captions(sounds: Iterable[SoundCaptions], form: Format, out: Path | None, to: IO[str]) -> ExportReport:
    """Write captions to ``out``, or to the stream ``to`` where it is None.

    Sidecars are ``NAME.EXT.caption.txt``, a caption a line: beside each sound, or below the folder ``out`` as the
    sounds lie below ``/``; of what nobody is sure of there is none. A file that can't be written is reported, and the
    rest goes on. Raises ``LibraryError`` where ``out`` can't be written.
    """
    report = ExportReport()
    if form == "sidecar":
        for sound in _counted((sound for sound in sounds if sound.captions), report):
            _write_sidecars(sound, out, report)
        return report
    try:
        with _target(out, to) as stream:
            (_write_csv if form == "csv" else _write_json)(_counted(sounds, report), stream)
    except OSError as error:
        if out is None:  # whoever reads stdout has gone, which is no fault of ours
            raise
        raise LibraryError(f"{out}: {error.strerror}", "a file to write to", "choose another --out") from error
    return report


def _counted(sounds: Iterable[SoundCaptions], report: ExportReport) -> Iterator[SoundCaptions]:
    for sound in sounds:
        report.sounds += 1
        report.captions += len(sound.moments)
        yield sound


def _write_csv(sounds: Iterable[SoundCaptions], stream: IO[str]) -> None:
    """One row a moment and path."""
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(COLUMNS)
    for sound in sounds:
        for path in sound.paths:
            rows.writerows(
                (
                    *(path, f"{run.start_s:.3f}", f"{run.end_s:.3f}"),
                    *(run.text, run.language, f"{run.score:.4f}", "yes" * run.unsure, run.by),
                )
                for run in sound.moments
            )


def _write_json(sounds: Iterable[SoundCaptions], stream: IO[str]) -> None:
    """A list, one sound a line, so that neither side need hold all of it."""
    between = "[\n"
    for sound in sounds:
        stream.write(between + json.dumps(sound.to_dict(), ensure_ascii=False))
        between = ",\n"
    stream.write("[]\n" if between == "[\n" else "\n]\n")


def _write_sidecars(sound: SoundCaptions, out: Path | None, report: ExportReport) -> None:
    text = "".join(f"{caption}\n" for caption in sound.captions)
    for path in map(text_path, sound.paths):
        beside = path if out is None else out / path.relative_to(path.anchor)
        sidecar = beside.with_name(beside.name + SIDECAR_SUFFIX)
        try:
            if out is not None:
                sidecar.parent.mkdir(parents=True, exist_ok=True)
            with _replaced(sidecar) as stream:
                stream.write(text)
        except OSError as error:
            report.failed.append((str(sidecar), error.strerror or str(error)))


@contextmanager
def _target(out: Path | None, to: IO[str]) -> Iterator[IO[str]]:
    if out is None:
        yield to
        return
    with _replaced(out) as stream:
        yield stream


@contextmanager
def _replaced(path: Path) -> Iterator[IO[str]]:
    """A file that takes the place of ``path`` when it is whole. Raises ``OSError``."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            yield stream
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
