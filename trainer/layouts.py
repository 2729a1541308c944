"""Data sets as they were published: Clotho, AudioCaps, WavCaps and ESC-50.

Their tables name clips in their own ways, and what people downloaded lies where the archives or the usual tools put
it, so a clip's file is looked for, by its name, in the folders listed here. Columns were read from the published files:

- Clotho (https://zenodo.org/records/4783391): ``clotho_captions_{development,validation,evaluation}.csv`` with
  ``file_name, caption_1 .. caption_5``.
- AudioCaps (https://github.com/cdjkim/audiocaps): ``{train,val,test}.csv`` with ``audiocap_id, youtube_id, start_time,
  caption``, a row a caption; the sounds come from YouTube, and not all are there any more.
- WavCaps (https://github.com/XinhaoMei/WavCaps): ``json_files/SOURCE/*.json``, a list, or ``{"data": list}``, of
  ``id, caption, duration`` and more. ``fsd_final_2s.json`` repeats what ``fsd_final.json`` says of clips from 2 s on.
- ESC-50 (https://github.com/karolpiczak/ESC-50): ``meta/esc50.csv`` with ``filename, fold, target, category, esc10,
  src_file, take``; a clip's split is its fold, its category both tag and caption.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.formats import AUDIO_SUFFIXES
from trainer.examples import Place
from trainer.rows import Rows, csv_columns, csv_rows

_CLOTHO_SPLITS = {"development": "train", "validation": "val", "evaluation": "test"}
#: Where the archives of WavCaps unpack to, as they keep their makers' paths.
_WAVCAPS_UNPACKED = "mnt/fast/nobackup/*/*/WavCaps/data/waveforms"
#: How WavCaps calls a table that holds but the clips of 2 s or more of another.
_PART = "_2s"


@dataclass(frozen=True, slots=True)
class Layout:
    """A published data set: its name, the columns by which a table is known, and what reads a table."""

    name: str
    columns: frozenset[str]
    tables: tuple[str, ...]
    read: Callable[[Path, Rows], None]


class _Sounds:
    """The sounds in the folders meant by ``patterns``, by their names without the extension.

    The first of ``bases`` that has any is taken: a table may lie beside the sounds, or in a folder of tables.
    """

    def __init__(self, bases: Iterable[Path], patterns: Sequence[str]) -> None:
        self.folders: list[Path] = []
        self._paths: dict[str, Path] = {}
        for base in bases:
            found = [folder for pattern in patterns for folder in _matching(base, pattern)]
            self.folders += found
            for folder in reversed(found):  # the first folder counts most
                for name in os.listdir(folder):
                    stem, suffix = os.path.splitext(name)
                    if suffix.lower() in AUDIO_SUFFIXES:
                        self._paths[stem] = folder / name
            if self._paths:
                return

    def find(self, place: Place, rows: Rows, *stems: str) -> Path | None:
        """The clip's file by the first of ``stems`` that there is; None, and noted, where there is none."""
        for stem in stems:
            if stem in self._paths:
                return self._paths[stem]
        looked = ", ".join(map(str, self.folders)) or "no folder of sounds"
        rows.problem(place, "missing file", f"found no {stems[0]}.* in {looked}; download it, or go without")
        return None


def _matching(base: Path, pattern: str) -> list[Path]:
    """The folders that a pattern means; "." is the base itself."""
    return [base] if pattern == "." else [folder for folder in sorted(base.glob(pattern)) if folder.is_dir()]


def _above(table: Path) -> Path:
    """The folder above a table's own, also where the table is named from within that."""
    return table.absolute().parent.parent


def _clotho(path: Path, rows: Rows) -> None:
    part = path.stem.removeprefix("clotho_captions_")
    sounds = _Sounds((path.parent, _above(path)), (part, f"audio*/{part}", f"clotho_audio*/{part}", "."))
    for place, row in csv_rows(path, rows):
        name = row["file_name"]
        captions = [rows.caption(place, text) for key, text in row.items() if key.startswith("caption_")]
        if audio := sounds.find(place, rows, os.path.splitext(name)[0]):
            said = filter(None, captions)
            rows.add(place, audio, said, id=f"{part}/{name}", split=_CLOTHO_SPLITS.get(part, part))


def _audiocaps(path: Path, rows: Rows) -> None:
    split = path.stem
    sounds = _Sounds((path.parent, _above(path)), (split, f"audio*/{split}", f"waveforms/{split}", "audio*", "."))
    for place, row in csv_rows(path, rows):
        video, start = row["youtube_id"], row["start_time"]
        # As the usual downloaders name them; AudioSet's own archives put a Y before, since ids may begin with a dash.
        names = (f"{video}_{start}", f"Y{video}_{start}", f"Y{video}", video, row["audiocap_id"])
        caption = rows.caption(place, row["caption"])
        if audio := sounds.find(place, rows, *names):
            rows.add(place, audio, [caption] if caption else [], id=f"{video}_{start}", split=split)


def wavcaps(path: Path, rows: Rows) -> None:
    """One of WavCaps' JSON files."""
    whole = Place(path)
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        rows.problem(whole, "bad JSON", f"found {error}; download it again")
        return
    items = found.get("data") if isinstance(found, dict) else found
    if not isinstance(items, list):
        rows.problem(whole, "bad JSON", 'found no list, nor {"data": list}; expected WavCaps; convert it to JSONL')
        return
    source = path.absolute().parent.name
    above = _above(path).parent
    unpacked = (f"{place}{_WAVCAPS_UNPACKED}/" for place in ("", "*/", f"Zip_files/{source}/"))
    under = ("", "Audio/", "audio/", "waveforms/", *unpacked)
    sounds = _Sounds(
        (above, path.parent), [f"{folder}{source}{end}" for folder in under for end in ("", "_flac")] + ["."]
    )
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict) or not isinstance(item.get("id"), str | int):
            rows.problem(whole, "bad row", f"found item {number} without an id; expected WavCaps; remove it")
            continue
        name = str(item["id"])
        caption = rows.caption(whole, item.get("caption"))
        if audio := sounds.find(whole, rows, name.removesuffix(".wav"), name):
            told = item.get("tags")
            tags = [tag for tag in told if isinstance(tag, str)] if isinstance(told, list) else []
            rows.add(whole, audio, [caption] if caption else [], id=f"{source}/{name}", tags=tags)


def _esc50(path: Path, rows: Rows) -> None:
    sounds = _Sounds((_above(path), path.parent), ("audio", "."))
    for place, row in csv_rows(path, rows):
        category = row["category"].replace("_", " ")
        caption = rows.caption(place, category)
        if audio := sounds.find(place, rows, os.path.splitext(row["filename"])[0]):
            said = [caption] if caption else []
            rows.add(place, audio, said, id=row["filename"], tags=[category], split=f"fold{row['fold']}")


LAYOUTS = (
    Layout(
        "Clotho",
        frozenset(("file_name", "caption_1")),
        ("clotho_captions_*.csv", "*/clotho_captions_*.csv"),
        _clotho,
    ),
    Layout(
        "AudioCaps",
        frozenset(("audiocap_id", "youtube_id", "start_time", "caption")),
        ("train.csv", "val.csv", "test.csv", "*/train.csv", "*/val.csv", "*/test.csv"),
        _audiocaps,
    ),
    Layout("ESC-50", frozenset(("filename", "fold", "category")), ("meta/esc50.csv", "esc50.csv"), _esc50),
)


def of_table(path: Path) -> Layout | None:
    """The published data set that a table of comma-separated values is one of."""
    columns = csv_columns(path)
    return next((layout for layout in LAYOUTS if layout.columns <= columns), None)


def in_folder(folder: Path) -> tuple[str, list[tuple[Path, Callable[[Path, Rows], None]]]] | None:
    """The published data set that lies in a folder: its name, and its tables with what reads each."""
    for layout in LAYOUTS:
        tables = [
            (path, layout.read)
            for pattern in layout.tables
            for path in sorted(folder.glob(pattern))
            if layout.columns <= csv_columns(path)
        ]
        if tables:
            return layout.name, tables
    published = [path for path in sorted(folder.glob("json_files/*/*.json")) if path.parent.name != "blacklist"]
    once = [path for path in published if not path.stem.endswith(_PART) or _whole(path) not in published]
    return ("WavCaps", [(path, wavcaps) for path in once]) if once else None


def _whole(part: Path) -> Path:
    """The table of which ``part`` repeats some rows."""
    return part.with_stem(part.stem.removesuffix(_PART))
