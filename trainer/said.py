"""What was said of which clip, read from a table and set beside what people said of the same clips. No torch."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

from engine.errors import EarshotError
from trainer.examples import Example

#: Which column names the clip, and which holds its caption; the first that is there.
CLIP_KEYS = ("audio", "path", "file", "file_name", "fname")
CAPTION_KEYS = ("caption", "captions", "moments", "text", "prediction")
_YES = ("yes", "true", "1")


_Value = TypeVar("_Value")


class SaidError(EarshotError):
    """A table of captions that can't be used."""


@dataclass(frozen=True, slots=True)
class Said:
    """A clip, the caption that is judged, whether it was told as ``unsure``, and what people said."""

    audio: Path
    caption: str
    references: tuple[str, ...]
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """A caption as a table has it, with its score, and whether whoever said it was unsure."""

    text: str
    score: float = 0.0
    unsure: bool = False


def read_said(path: Path) -> dict[str, Told]:
    """Clip -> caption, from CSV, TSV, JSON or JSONL; of several captions of a clip the one with the best ``score``.

    Also what `earshot caption --json` and `earshot export captions` write; of the latter, each of a sound's ``paths``.
    Raises ``SaidError`` naming the line that can't be read.
    """
    best: dict[str, Told] = {}
    for place, row in _rows(path):
        clips = next(([row[key]] for key in CLIP_KEYS if row.get(key)), row.get("paths"))
        told = [one for key in CAPTION_KEYS for one in _captions(row.get(key), row)]
        if not (clips and isinstance(clips, list) and all(isinstance(clip, str) for clip in clips) and told):
            raise SaidError(
                f"{place} with {', '.join(map(str, row)) or 'nothing'}",
                f"one of {', '.join(CLIP_KEYS)} and one of {', '.join(CAPTION_KEYS)}",
                "name the columns so",
            )
        for clip in clips:
            best[clip] = max([*told, *([best[clip]] if clip in best else [])], key=lambda one: one.score)
    if not best:
        raise SaidError(f"no captions in {path}", "at least one", "caption some clips first")
    return best


def _captions(value: Any, about: Mapping[str, Any]) -> Iterator[Told]:
    """Captions: of a text, of which ``about`` says how sure it is, or of a list of texts or of objects."""
    if isinstance(value, str):
        unsure = str(about.get("unsure") or "").lower() in _YES
        yield Told(value, _number(about.get("score")), unsure)
    elif isinstance(value, Sequence):
        for one in value:
            if isinstance(one, str):
                yield Told(one)
            elif isinstance(one, Mapping):
                yield from _captions(one.get("text", one.get("caption")), one)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row, and where it stands. Raises ``SaidError``."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SaidError(f"{path} ({why})", "a table of captions", "check the path and the encoding") from error
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        reader = csv.DictReader(text.splitlines(), delimiter="\t" if kind == ".tsv" else ",")
        yield from ((f"{path}:{reader.line_num}", row) for row in reader)
        return
    if kind == ".jsonl":
        parts = [(f"{path}:{number}", line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        objects = [(place, _json(place, line)) for place, line in parts]
    else:
        whole = _json(str(path), text)
        found = whole if isinstance(whole, list) else next((v for v in whole.values() if isinstance(v, list)), [])
        objects = [(f"{path}, entry {number}", one) for number, one in enumerate(found, 1)]
    for place, one in objects:
        if not isinstance(one, Mapping):
            raise SaidError(f"{place}: {type(one).__name__}", "an object with a clip and its caption", "write it so")
        yield place, one


def _json(place: str, text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise SaidError(f"{place} ({error})", "JSON", "check the file") from error
    if not isinstance(found, list | dict):
        raise SaidError(f"{place}: {type(found).__name__}", "an object, or a list of them", "check the file")
    return found


def beside(said: Mapping[str, Told], examples: Iterable[Example], language: str | None) -> tuple[list[Said], list[str]]:
    """Captions beside references in ``language`` (or any), and the clips for which there is no caption.

    Clips are the same if their paths are, or else if their file names are and no other clip has the same.
    """
    examples = list(examples)
    whole = {_absolute(clip): one for clip, one in said.items()}
    named = _only_once((PurePath(clip).name, one) for clip, one in said.items())
    shared = _only_once((example.audio.name, None) for example in examples)
    found, missing = [], []
    for example in examples:
        references = tuple(one.text for one in example.captions if language in (None, one.lang))
        if not references:
            continue
        name = example.audio.name
        told = whole.get(_absolute(example.audio), named.get(name) if name in shared else None)
        if told is None:
            missing.append(example.name)
        else:
            found.append(Said(example.audio, told.text, references, told.unsure))
    return found, missing


def _absolute(clip: str | Path) -> str:
    return str(Path(clip).absolute())


def _only_once(pairs: Iterable[tuple[str, _Value]]) -> dict[str, _Value]:
    found: dict[str, _Value] = {}
    twice = set()
    for name, value in pairs:
        if name in found:
            twice.add(name)
        found[name] = value
    return {name: value for name, value in found.items() if name not in twice}
