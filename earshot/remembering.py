"""What a library remembers of sounds in words: files of captions in, the nearest to a vector out.

A file is read line by line, in bounded memory. What is wrong with a line is said with its number, and the rest goes on.
What is remembered already costs no encoding, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import csv
import json
import os
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from engine.encoders import Encoders, OnnxEncoders, TextEncoder
from engine.errors import LibraryBusyError, LibraryError, QueryError
from engine.memory.base import Memory, fold
from engine.memory.captions import GENERATED, OF_BUNDLE, OWN, UNDETERMINED, CaptionMemory, Said, tidied
from engine.types import FloatArray, Remembered, Space
from indexer.scan import absolute

if TYPE_CHECKING:
    from earshot.keep import Keep
    from earshot.library import Library
    from indexer.captions import Captioner, Captioning
    from indexer.ledger import Ledger

#: A caption is a sentence or two; what is longer is no caption.
MOST_LETTERS = 1000
#: No line of a file is longer, in bytes, and no JSON file that has to be read whole.
MOST_LINE, MOST_JSON = 1 << 16, 1 << 28
#: A record of a CSV file is no longer, in lines: a quote that is never closed would make the rest of the file one.
MOST_LINES = 50
#: Captions that are looked up, encoded and written together.
AT_ONCE = 1024
#: Of the lines that can't be used, so many are kept with their reasons.
MOST_REASONS = 1000
_TEXT, _LANGUAGE, _SOURCE = ("caption", "text", "sentence"), ("lang", "language"), ("source",)
_CODE = re.compile(r"[a-z]{3}")
#: The columns of a table of several captions a sound, as Clotho's.
_NUMBERED = re.compile(r"caption_\d+")
#: How long a run of ``index`` waits at once for somebody else who remembers: then it sees whether it is to stop.
_PATIENCE_S = 1.0
#: Of the ledger: that some of what earshot said has been replaced.
_SUPERSEDED = "superseded"
#: Of the ledger: the language that captions were asked for in, if one was.
CAPTION_LANGUAGE = "caption_language"
_BOMS = (b"\xff\xfe", b"\xfe\xff")
_NO_UTF8 = ("UTF-8", "save it as UTF-8")


@dataclass(slots=True)
class RememberReport:
    """What ``remember`` did. ``remembered`` captions are new, ``known`` were there, ``failed`` lines are of no use.

    ``reasons`` names the first of these: where, and why.
    """

    remembered: int = 0
    known: int = 0
    failed: int = 0
    reasons: list[tuple[str, str]] = field(default_factory=list)

    @property
    def read(self) -> int:
        """The captions read so far, well or not."""
        return self.remembered + self.known + self.failed

    def fail(self, where: str, error: Exception) -> None:
        """One line, or one file, is of no use."""
        self.failed += 1
        if len(self.reasons) < MOST_REASONS:
            self.reasons.append((where, str(error)))

    def to_dict(self) -> dict[str, Any]:
        """The public JSON form."""
        return {
            "remembered": self.remembered,
            "known": self.known,
            "failed": self.failed,
            "reasons": [{"where": where, "reason": reason} for where, reason in self.reasons],
        }


def checked_language(code: str | None) -> str:
    """A language's code; that of no language for None. Raises ``QueryError``.

    Three small letters, meant as ISO 639-3 has them, are a code here, in options as in files: who assigns a language
    its code is not looked up (the table is in an extra), so that local codes can be remembered, too.
    """
    if code is None:
        return UNDETERMINED
    if not _CODE.fullmatch(code):
        raise QueryError(f"the language {code!r}", "its code of three small letters, as in ISO 639-3: eng, fra, jpn")
    return code


def checked_source(source: str | None) -> str:
    """The name of a source; that of no name for None. Raises ``QueryError`` for what earshot keeps for itself."""
    name = OWN if source is None else tidied(source)
    if not name or fold(name) in (GENERATED, OF_BUNDLE):
        raise QueryError(
            f"the source {source!r}", "a name for where the captions are from, and not that of earshot's own"
        )
    return name


def said(text: str, language: str, source: str) -> Said:
    """A caption from the outside. Raises ``QueryError`` if it is empty, too long, or not all of it is text."""
    text = tidied(text)
    if not text:
        raise QueryError("an empty text", "a caption")
    if len(text) > MOST_LETTERS:
        raise QueryError(f"{len(text)} letters", f"a caption, of at most {MOST_LETTERS}")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise QueryError("half a letter (a lone surrogate)", "Unicode text")
    if odd := next((letter for letter in text if unicodedata.category(letter) == "Cc"), None):
        raise QueryError(f"the control character U+{ord(odd):04X}", "text")
    return Said(text, language, source)


def read_captions(path: Path, language: str | None, source: str | None, report: RememberReport) -> Iterator[Said]:
    """The captions of a file, by its suffix; ``report`` is told of the lines that are of no use.

    ``language`` and ``source`` hold where the file says nothing. Raises ``OSError`` if the file can't be read.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        report.fail(str(path), LibraryError("a file of another kind", f"one of {' '.join(_READERS)}"))
        return
    with path.open("rb") as stream:
        start = stream.read(4)
        if start[:2] in _BOMS or b"\0" in start:  # the second: without a byte order mark, and of Latin letters
            report.fail(str(path), LibraryError("a file in UTF-16, or of no text", *_NO_UTF8))
            return
        stream.seek(0)
        for where, row in reader(path, stream, report):
            try:
                yield _of_row(row, language, source)
            except QueryError as error:
                report.fail(where, error)


Row = str | Mapping[str, Any]


def _of_row(row: Row, language: str | None, source: str | None) -> Said:
    """A caption as a file has it. Raises ``QueryError``."""
    if isinstance(row, str):
        row = {"text": row}
    if not isinstance(row, Mapping):
        raise QueryError(f"{type(row).__name__} {str(row)[:40]!r}", "a text, or an object with a caption")
    text = _one_of(row, _TEXT)
    if text is None:
        raise QueryError(f"{', '.join(map(str, row)) or 'nothing'}"[:200], f"one of {', '.join(_TEXT)}")
    return said(
        text,
        checked_language(_one_of(row, _LANGUAGE) or language),
        checked_source(_one_of(row, _SOURCE) or source),
    )


def _one_of(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    for name in names:
        if (value := row.get(name)) is not None:
            if not isinstance(value, str):
                raise QueryError(f"{type(value).__name__} as {name}", "text")
            return value
    return None


def _text_lines(path: Path, stream: BinaryIO, report: RememberReport) -> Iterator[tuple[int, str]]:
    """The lines that are text, numbered from 1; what is none, or much too long, is reported."""
    number = 0
    while line := stream.readline(MOST_LINE + 1):
        number += 1
        if len(line) > MOST_LINE:
            size = len(line)
            while not line.endswith(b"\n") and (line := stream.readline(MOST_LINE)):
                size += len(line)
            error = QueryError(f"a line of {size:,} bytes", f"a caption a line, at most {MOST_LINE:,} bytes")
            report.fail(f"{path}, line {number}", error)
            continue
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            found = f"the byte 0x{line[error.start]:02x} at {error.start + 1}"
            report.fail(f"{path}, line {number}", QueryError(found, *_NO_UTF8))


def _lines(path: Path, stream: BinaryIO, report: RememberReport) -> Iterator[tuple[str, Row]]:
    for number, line in _text_lines(path, stream, report):
        if line.strip():
            yield f"{path}, line {number}", line


def _json_lines(path: Path, stream: BinaryIO, report: RememberReport) -> Iterator[tuple[str, Row]]:
    for where, line in _lines(path, stream, report):
        try:
            yield where, json.loads(str(line))
        except (ValueError, RecursionError) as error:
            report.fail(where, QueryError(f"no JSON ({error})", "one JSON value a line"))


def _csv(path: Path, stream: BinaryIO, report: RememberReport) -> Iterator[tuple[str, Row]]:
    """By the names in its first line; of a record with several captions, one row each."""
    records = _records(path, stream, report)
    number, first = next(records, (0, []))
    names = [name.strip().lower() for name in first]
    told = [name for name in names if name in _TEXT or _NUMBERED.fullmatch(name)]
    if not told:
        if number:
            found = f"the columns {', '.join(names)[:200] or 'of an empty line'}"
            action = "separate them by commas" if len(names) == 1 and re.search("[;\t|]", names[0]) else ""
            error = QueryError(found, f"one of {', '.join(_TEXT)} among them", action)
            report.fail(f"{path}, line {number}", error)
        return
    for number, record in records:
        cells = {name: cell for name, cell in zip(names, record, strict=False) if cell.strip()}
        numbered = [cells.pop(name) for name in told if _NUMBERED.fullmatch(name) and name in cells]
        if cells and not numbered and not any(name in cells for name in told):
            found = f"{', '.join(cells)} without a caption"
            report.fail(f"{path}, line {number}", QueryError(found, f"text under {', '.join(told)}"[:200]))
        elif any(name in cells for name in told):
            yield f"{path}, line {number}", cells
        for text in numbered:
            yield f"{path}, line {number}", {**cells, _TEXT[0]: text}


def _records(path: Path, stream: BinaryIO, report: RememberReport) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV file, each with the number of its first line.

    Of a record that is broken, or does not end, the first line is reported, and reading goes on at the second.
    """
    lines = _text_lines(path, stream, report)
    again: deque[tuple[int, str]] = deque()
    held: list[tuple[int, str]] = []

    def physical() -> Iterator[str]:
        while one := again.popleft() if again else next(lines, None):
            held.append(one)
            if len(held) > MOST_LINES:
                raise csv.Error(f"a quote not closed within {MOST_LINES} lines")
            yield one[1]
        if held:
            raise csv.Error("a quote that is never closed")

    while True:
        held.clear()
        try:
            record = next(csv.reader(physical()), None)
            if len(held) > 1:  # a later record's quote may have closed it: then more than a comma comes after
                record = next(csv.reader((line for _, line in held), strict=True))
        except csv.Error as error:
            report.fail(f"{path}, line {held[0][0]}", QueryError(f"no CSV ({error})", "quotes that close"))
            again.extendleft(reversed(held[1:]))
            continue
        if record is None:
            return
        yield held[0][0], record


def _json(path: Path, stream: BinaryIO, report: RememberReport) -> Iterator[tuple[str, Row]]:
    """A list of captions, also as ``captions`` of an object; read whole."""
    text = stream.read(MOST_JSON + 1)
    try:
        if len(text) > MOST_JSON:
            raise LibraryError(f"more than {MOST_JSON >> 20} MiB", "less", "write it as .jsonl, one caption a line")
        rows = json.loads(text.decode("utf-8-sig"))
        if isinstance(rows, dict):
            rows = rows.get("captions")
        if not isinstance(rows, list):
            raise LibraryError("no list", "a list of captions, or an object with one under `captions`")
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one
        report.fail(str(path), LibraryError(f"no JSON in UTF-8 ({error})", "a list of captions"))
        return
    except LibraryError as error:
        report.fail(str(path), error)
        return
    for number, row in enumerate(rows, 1):
        yield f"{path}, caption {number}", row


_READERS = {".txt": _lines, ".csv": _csv, ".json": _json, ".jsonl": _json_lines, ".ndjson": _json_lines}


def taken(texts: Iterable[str | Said], language: str, source: str, report: RememberReport) -> Iterator[Said]:
    """The captions among ``texts``; ``report`` is told of those that are none."""
    for number, text in enumerate(texts, 1):
        try:
            yield text if isinstance(text, Said) else said(text, language, source)
        except QueryError as error:
            report.fail(f"text {number}", error)


def remember(
    captions: Iterable[Said],
    memory: CaptionMemory,
    encoder: TextEncoder,
    report: RememberReport,
    on_progress: Callable[[RememberReport], None] = lambda _: None,
) -> None:
    """Encode what is new among ``captions``, and keep it; ``report`` counts.

    What was written before an interruption stays. Raises what the encoder and the memory raise.
    """
    stream = iter(captions)
    try:
        while batch := list(islice(stream, AT_ONCE)):
            news = memory.news(batch)
            kept, vectors = _encoded(news, encoder, report)
            memory.remember(kept, vectors)
            report.remembered += len(kept)
            report.known += len(batch) - len(news)
            on_progress(report)
    finally:
        memory.memory.flush()


def captioning(library: Library, keep: Keep, captioner: bool | Captioner, lang: str | None = None) -> Captioning:
    """Who captions on ingest: ``captioner``, or that of the library's bundle; its texts are remembered as generated.

    Raises ``QueryError`` where nothing is remembered that a caption could be built on, or nothing in ``lang``.
    """
    from earshot.captioning import OfLibrary, captioner_of
    from earshot.options import DeviceChoice
    from indexer.captions import Captioning, give_way

    checked_language(lang)

    def built() -> tuple[Encoders, Captioner]:
        encoders = _beside(library.encoders)
        _ = encoders.text
        if not isinstance(captioner, bool):
            return encoders, captioner
        return encoders, captioner_of(encoders, OfLibrary(library), lang=lang, device=DeviceChoice(encoders.device))

    # The threads of a graph have the priority of the thread that opened it.
    with ThreadPoolExecutor(1, initializer=give_way) as quiet:
        encoders, who = quiet.submit(built).result()

    def keep_said(captions: Sequence[Said], given_up: Callable[[], bool]) -> bool:
        while not given_up():
            try:
                with keep.remembering(encoders.space, _PATIENCE_S, lambda _: None) as memory:
                    remember(captions, memory, encoders.text, RememberReport())
            except LibraryBusyError:  # somebody remembers at length
                continue
            return True
        return False

    return Captioning(who, keep_said, getattr(who, "identity", ""), language=getattr(who, "language", "eng"))


def _beside(encoders: Encoders) -> Encoders:
    """Encoders whose graphs of words are not open yet."""
    if not isinstance(encoders, OnnxEncoders):
        return encoders
    beside = OnnxEncoders(encoders.bundle, encoders.device)
    beside.audio = encoders.audio
    return beside


def with_shipped(own: Sequence[Remembered], shipped: Sequence[Remembered], k: int) -> list[Remembered]:
    """The k nearest of what a library remembers and of what comes with its bundle; of the same ones, and of two as
    near, its own."""
    known = {(one.text, one.language) for one in own}
    others = [one for one in shipped if (one.text, one.language) not in known]
    return sorted([*own, *others], key=lambda one: -one.score)[:k]


def say_again(ledger: Ledger, roots: Sequence[Path], by: str) -> None:
    """What is captioned below ``roots`` by another captioner than ``by`` is to be captioned anew."""
    supersede(ledger)
    ledger.say_again([Path(absolute(root)) for root in roots] or [Path(os.sep)], by)


def supersede(ledger: Ledger) -> None:
    """What earshot said once is to be forgotten as far as it doesn't say it again."""
    ledger.set_setting(_SUPERSEDED, True)


def forget_superseded(keep: Keep, space: Space, ledger: Ledger, memory: Memory) -> None:
    """Forget what earshot said once and says no more, when all that was to be said again has been."""
    if not ledger.setting(_SUPERSEDED) or ledger.to_say_again():
        return
    windows = (one.payload for one in memory.scroll())
    said = {str(window.get("caption")) for window in windows if not window.get("caption_unsure")}
    try:
        with keep.remembering(space, _PATIENCE_S, lambda _: None) as captions:
            captions.forget_generated(but=said)
    except LibraryBusyError:  # somebody remembers at length: the next run does it
        return
    ledger.set_setting(_SUPERSEDED, None)


def _encoded(captions: list[Said], encoder: TextEncoder, report: RememberReport) -> tuple[list[Said], FloatArray]:
    """The captions that the encoder takes, with their vectors ``[n, dim]``."""
    if not captions:
        return [], np.empty((0, 0), np.float32)
    try:
        return captions, encoder.encode_text([one.text for one in captions])
    except QueryError:  # one of them says nothing
        pass
    kept: list[Said] = []
    vectors: list[FloatArray] = []
    for one in captions:
        try:
            vectors.append(encoder.encode_text([one.text])[0])
        except QueryError as error:
            report.fail(repr(one.text), error)
        else:
            kept.append(one)
    return kept, np.stack(vectors) if vectors else np.empty((0, 0), np.float32)
