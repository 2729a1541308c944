"""Moments cut to WAV files, for a DAW."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile

from engine.audio import read_stretch
from engine.errors import AudioError, EarshotError
from indexer.paths import text_path

if TYPE_CHECKING:
    from engine.types import FloatArray, Moment

#: A moment may be hours long: so much of it is in memory at a time.
PIECE_S = 600.0
_BYTES_A_SAMPLE = 3
#: A plain WAV counts its bytes in 32 bits; beyond that it is written as RF64.
_MOST_WAV_BYTES = 2**32 - 2**20


@dataclass(slots=True)
class Cut:
    """What became of the moments: the files written, and for each that was not the sound's path and the reason."""

    saved: list[Path] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


def save_clips(moments: Sequence[Moment], folder: Path) -> Cut:
    """Cut every moment to a WAV file at the file's own rate and channels.

    A sound that can't be read is looked for at its other paths, and else reported in ``failed``; the rest go on.
    Raises ``EarshotError`` if ``folder`` can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error)) from error
    cut = Cut()
    for rank, moment in enumerate(moments, 1):
        reasons = []
        for path in map(text_path, moment.paths):
            stem = re.sub(r"[^\w.-]+", "_", path.stem.encode("utf-8", "replace").decode())[:80]
            target = folder / f"{rank:02d}_{stem}_{moment.start_s:.1f}s.wav"
            try:
                _cut(path, moment, target)
            except AudioError as error:
                reasons.append(str(error))
                continue
            cut.saved.append(target)
            break
        else:
            cut.failed.append((moment.path, reasons[0]))
    return cut


def _cut(path: Path, moment: Moment, target: Path) -> None:
    """One moment of one file. Raises ``AudioError`` about the file, ``EarshotError`` about the target."""
    pieces = _pieces(path, moment.start_s, moment.end_s)
    samples, rate_hz = next(pieces)
    if not len(samples):
        raise AudioError("no sound at that moment", "the file that was indexed", "index it again: it has changed")
    total_bytes = (moment.end_s - moment.start_s) * rate_hz * samples.shape[1] * _BYTES_A_SAMPLE
    kind = "WAV" if total_bytes < _MOST_WAV_BYTES else "RF64"
    try:
        target.touch()  # libsndfile would only call it a system error
        with soundfile.SoundFile(target, "w", rate_hz, samples.shape[1], subtype="PCM_24", format=kind) as file:
            file.write(samples)
            for samples, _ in pieces:
                file.write(samples)
    except AudioError:
        target.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise _unwritable(target, error.strerror or str(error)) from error
    except soundfile.LibsndfileError as error:
        target.unlink(missing_ok=True)
        raise _unwritable(target, str(error)) from error


def _pieces(path: Path, start_s: float, end_s: float) -> Iterator[tuple[FloatArray, int]]:
    """The stretch in pieces of at most ``PIECE_S``, one at least."""
    at_s = start_s
    while True:
        until_s = min(at_s + PIECE_S, end_s)
        yield read_stretch(path, at_s, until_s)
        if until_s >= end_s:
            return
        at_s = until_s


def _unwritable(path: Path, reason: str) -> EarshotError:
    return EarshotError(f"{path}: {reason}", "a folder to write clips in", "choose another for --save-clips")
