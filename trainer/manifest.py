"""Manifests -> examples: which clips there are to learn from, and what is said of them. Never imports torch.

What can't be used is left out and told with its line, so that one bad row never stops a run. Whether the files can be
heard, only ``trainer.check`` and the loader find out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from engine.formats import AUDIO_SUFFIXES
from trainer import layouts
from trainer.examples import Caption, DataError, Dataset, Example, Place, Problem
from trainer.rows import COLUMNS, Rows, csv_columns, csv_rows, is_unicode, json_lines, renames
from trainer.shards import read_shard

#: Folders of shards that are splits.
SPLITS = ("train", "val", "valid", "validation", "test", "eval", "evaluation")

__all__ = ["Caption", "DataError", "Dataset", "Example", "Problem", "read_data"]


def read_data(path: Path) -> Dataset:
    """Read training data, whatever it is.

    ========================================  ==========================================================================
    ``*.jsonl``                               an object a line: ``audio``, ``captions`` (a text, or a list of texts or
                                              of ``{"text", "lang"}``), ``lang``, ``tags``, ``split``, ``id``
    ``*.csv``, ``*.tsv``                      the same columns; many captions: a JSON list in the cell, or repeated rows
                                              (also ``path``, ``caption``: see `earshot export captions`)
    ``*.tar``, a folder with such             WebDataset shards: a sound, and ``.json`` as above or ``.txt`` beside it;
                                              folders ``train``, ``valid``, ``test`` … of shards are splits
    Clotho, AudioCaps, WavCaps, ESC-50        as published, by a table's columns or by the folder's files
    any other folder                          every sound below it, without words
    ========================================  ==========================================================================

    Paths are relative to the manifest. Languages are ISO 639-3; 639-1, 639-2/B and tags such as ``pt-BR`` are mapped.
    Without one a caption is English; without a split a clip is for ``train``. Rows that name one clip and one split
    are one example with all their captions.

    Raises ``DataError`` where there is nothing that could be read.
    """
    path = Path(path)
    rows = Rows()
    try:
        layout = _folder(path, rows) if path.is_dir() else _file(path, rows)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", "training data", "check the path") from error
    return rows.dataset(path, layout)


def _file(path: Path, rows: Rows) -> str:
    """Read one file; the name of what it is."""
    kind = path.suffix.lower()
    if kind == ".jsonl":
        for place, row in json_lines(path, rows):
            rows.add_row(place, row, path.parent)
        return "JSONL"
    if kind in (".csv", ".tsv"):
        return _table(path, rows)
    if kind == ".json":
        layouts.wavcaps(path, rows)
        return "WavCaps"
    if kind == ".tar":
        read_shard(path, rows)
        return "WebDataset"
    if not path.exists():
        raise DataError(f"no {path}", "training data", "check the path")
    raise DataError(f"{path}", "a .jsonl, .csv, .tsv, .tar or .json file, or a folder", "convert it to one of them")


def _table(path: Path, rows: Rows) -> str:
    if layout := layouts.of_table(path):
        layout.read(path, rows)
        return layout.name
    columns = csv_columns(path)
    if not all(is_unicode(name) and "\0" not in name for name in columns):
        raise DataError(f"{path}, whose first line is not UTF-8", "a table in UTF-8", "save it so")
    if "audio" not in renames(columns).values():
        there = ", ".join(sorted(columns)) or "none"
        raise DataError(
            f"{path} with the columns {there}", f"audio, and any of {', '.join(COLUMNS[1:])}", "name them so"
        )
    for place, row in csv_rows(path, rows):
        rows.add_row(place, row, path.parent)
    return "CSV"


def _folder(folder: Path, rows: Rows) -> str:
    if published := layouts.in_folder(folder):
        name, tables = published
        for path, read in tables:
            read(path, rows)
        return name
    if shards := [(path, "") for path in sorted(folder.glob("*.tar"))] or _shards_by_split(folder):
        for path, split in shards:
            read_shard(path, rows, split)
        return "WebDataset"
    for path in _sounds_below(folder):
        rows.add(Place(path), path, id=str(path.relative_to(folder)))
    return "a folder of unlabelled sounds"


def _shards_by_split(folder: Path) -> list[tuple[Path, str]]:
    """Shards in folders called as splits are; an archive in any other folder is none."""
    return [(path, split) for split in SPLITS for path in sorted(folder.glob(f"{split}/*.tar"))]


def _sounds_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder that is taken for sound, in the order of their names; hidden ones are left out."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES:
                yield Path(here, name)
