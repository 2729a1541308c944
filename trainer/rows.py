"""Rows of tables -> examples: what each cell means, and what is wrong with it."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.examples import (
    DEFAULT_LANGUAGE,
    DEFAULT_SPLIT,
    Caption,
    DataError,
    Dataset,
    Example,
    Place,
    Problem,
    language_code,
)
from trainer.sounds import Span

#: What a row of a manifest may say; LAION's shards say ``text`` and ``tag``, `earshot export captions` ``path``.
COLUMNS = ("audio", "captions", "lang", "tags", "split", "id")
_PLAIN = ("lang", "split", "id")
_OTHER_NAMES = {"path": "audio", "caption": "captions", "text": "captions", "tag": "tags"}


@dataclass(slots=True)
class _Clip:
    """An example in the making: its rows may lie far apart."""

    id: str
    place: Place
    captions: dict[Caption, None] = field(default_factory=dict)
    tags: dict[str, None] = field(default_factory=dict)
    span: Span = None


class Rows:
    """Collects the rows of tables; those of one clip and one split become one example."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.ignored: dict[str, None] = {}
        self._clips: dict[tuple[Path, str, str], _Clip] = {}
        self._ids: dict[str, tuple[Path, str, str]] = {}

    def problem(self, place: Place, kind: str, message: str) -> None:
        """Note something wrong."""
        self.problems.append(Problem(place, kind, message))

    def add(
        self,
        place: Place,
        audio: Path,
        captions: Iterable[Caption] = (),
        *,
        id: str,
        tags: Iterable[str] = (),
        split: str = DEFAULT_SPLIT,
        member: str = "",
        span: Span = None,
    ) -> None:
        """One row. ``id`` is taken from the clip's first; where another clip has it, a number is added."""
        key = (audio, member, split)
        clip = self._clips.get(key)
        if clip is None:
            if id in self._ids:
                if self._ids[id][:2] != key[:2]:
                    self.problem(place, "duplicate id", f"found {id!r}, which another clip has; give each its own")
                id = f"{id}#{len(self._clips)}"
            self._ids[id] = key
            clip = self._clips[key] = _Clip(id, place, span=span)
        for caption in captions:
            if caption in clip.captions:
                self.problem(place, "duplicate caption", f"found {caption.text!r} twice for {audio.name}; remove one")
            clip.captions[caption] = None
        clip.tags |= dict.fromkeys(tags)

    def add_row(self, place: Place, raw: Mapping[str, Any], folder: Path) -> None:
        """A row of a manifest of ours, whose paths are relative to ``folder``."""
        row = self.renamed(raw)
        audio = row.get("audio")
        if not isinstance(audio, str) or not audio.strip() or not _is_path(audio):
            found = "no audio" if not audio else f"audio {audio!a}"
            self.problem(place, "bad row", f"found {found}; expected the path of a sound; add it")
            return
        said = self.said(place, row)
        if said is not None:
            self.add(place, folder / audio, said.captions, id=said.id or audio, tags=said.tags, split=said.split)

    def renamed(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The row by the names of ``COLUMNS``; others are noted as ignored."""
        ours = renames(raw)
        row = {ours[name]: value for name, value in raw.items()}
        self.ignored |= dict.fromkeys(name for name in row if name not in COLUMNS)
        return row

    def said(self, place: Place, row: Mapping[str, Any]) -> Example | None:
        """What a row says beside its sound, as an example without one; None, and noted, where a cell makes no sense."""
        wrong = [name for name in _PLAIN if not isinstance(row.get(name) or "", str | int)]
        tags, captions = _list(row.get("tags"), ";"), _list(row.get("captions"))
        wrong += ["tags"] if tags is None or not all(isinstance(tag, str) for tag in tags) else []
        wrong += ["captions"] if captions is None else []
        if wrong:
            self.problem(place, "bad row", f"found {wrong[0]} {row[wrong[0]]!a}; expected a text, or a list of texts")
            return None
        odd = [
            text for text in (*map(str, tags or []), *(str(row.get(name)) for name in _PLAIN)) if not is_unicode(text)
        ]
        if odd:
            self.problem(place, "not UTF-8", f"found {odd[0]!a}; save the table as UTF-8")
            return None
        if row.get("captions") in ("", []):
            self.problem(place, "empty caption", "found no text; write one, or leave the column out")
        default = str(row.get("lang") or DEFAULT_LANGUAGE)
        return Example(
            id=str(row.get("id") or "").strip(),
            audio=Path(),
            captions=tuple(filter(None, (self.caption(place, one, default) for one in captions or []))),
            tags=tuple(tag.strip() for tag in tags or [] if tag.strip()),
            split=str(row.get("split") or DEFAULT_SPLIT).strip().lower(),
        )

    def caption(self, place: Place, raw: Any, lang: str = DEFAULT_LANGUAGE) -> Caption | None:
        """A caption, given as a text or as ``{"text", "lang"}``; None, and noted, where it can't be used."""
        if isinstance(raw, Mapping):
            lang, raw = raw.get("lang") or lang, raw.get("text")
        if not isinstance(raw, str) or not isinstance(lang, str):
            self.problem(place, "bad row", f"found the caption {raw!a}; expected a text")
            return None
        text = " ".join(raw.split())
        code = language_code(lang)
        if not text:
            self.problem(place, "empty caption", "found no text; write one, or remove it")
        elif code is None:
            self.problem(
                place, "unknown language", f"found {lang!r}; expected an ISO 639-3 code such as eng; correct it"
            )
        elif not is_unicode(text):
            self.problem(place, "not UTF-8", f"found {text!a}; save the table as UTF-8")
        else:
            return Caption(text, code)
        return None

    def dataset(self, source: Path, layout: str) -> Dataset:
        """What has been collected. Raises ``DataError`` where that is nothing."""
        if not self._clips:
            found = f": {self.problems[0]}" if self.problems else ""
            raise DataError(f"no clip in {source} ({layout}){found}", "sounds to learn from", "check the path")
        examples = [
            Example(clip.id, audio, tuple(clip.captions), tuple(clip.tags), split, member, clip.span, clip.place)
            for (audio, member, split), clip in self._clips.items()
        ]
        return Dataset(source, layout, examples, self.problems, tuple(self.ignored))


def _is_path(text: str) -> bool:
    """Whether the system could have a file of this name."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def is_unicode(text: str) -> bool:
    """Whether a text is free of lone surrogates, which is also how Python keeps bytes that are no UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _list(raw: Any, separator: str = "") -> list[Any] | None:
    """A cell as a list: a list, also as JSON in a text, a text (cut at ``separator``), nothing. None: anything else."""
    if raw is None or raw == "":
        return []
    if isinstance(raw, list):
        return raw
    if not isinstance(raw, str):
        return None
    if raw.lstrip().startswith("["):
        try:
            found = json.loads(raw)
        except ValueError:  # a caption may well begin with a bracket
            found = None
        if isinstance(found, list):
            return found
    return raw.split(separator) if separator else [raw]


def renames(names: Collection[str]) -> dict[str, str]:
    """By which of ``COLUMNS`` each of a row's names goes; by itself where the row has that one, too."""
    ours = {name: _OTHER_NAMES.get(name, name) for name in names}
    return {name: name if other in ours else other for name, other in ours.items()}


def csv_columns(path: Path) -> frozenset[str]:
    """The names in a table's first line."""
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        return frozenset(name.strip() for name in next(csv.reader(stream, delimiter=_delimiter(path)), []))


def csv_rows(path: Path, rows: Rows) -> Iterator[tuple[Place, dict[str, str]]]:
    """The rows of a table with a line of names; a row of more or fewer cells than names is noted and left out."""
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        reader = csv.reader(stream, delimiter=_delimiter(path))
        names = [name.strip() for name in next(reader, [])]
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                rows.problem(Place(path, reader.line_num), "bad row", f"found {error}; write the line again")
                continue
            if cells is None:
                return
            place = Place(path, reader.line_num)
            if len(cells) == len(names):
                yield place, dict(zip(names, cells, strict=True))
            elif cells:
                found = f"found {len(cells)} cells; expected {len(names)}; put a text with commas between quotes"
                rows.problem(place, "bad row", found)


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def json_lines(path: Path, rows: Rows) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The objects of a JSONL file; a line that is none is noted and left out."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            place = Place(path, number)
            try:
                found = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                rows.problem(place, "not UTF-8", "found other bytes; save the file as UTF-8")
            except (ValueError, RecursionError) as error:
                rows.problem(place, "bad JSON", f"found {error}; expected one object a line; write the line again")
            else:
                if isinstance(found, dict):
                    yield place, found
                else:
                    rows.problem(place, "bad JSON", f"found {type(found).__name__}; expected an object; write it again")
