"""WebDataset shards: which files of an archive make up a clip, without reading its sounds.

Shards are read where they lie: of each sound its place in the archive is kept, so clips can be drawn in any order.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.formats import AUDIO_SUFFIXES
from trainer.examples import Place
from trainer.rows import Rows

#: Words about a clip take less; what claims more would fill the memory.
MOST_TEXT_BYTES = 1 << 20


def read_shard(path: Path, rows: Rows, split: str = "") -> None:
    """Add the clips of one shard, an uncompressed ``.tar``: a sound each, with ``.json`` or ``.txt`` of the same name.

    ``.json`` is a row as in a manifest, or as LAION writes it (``text``, ``tag``); ``.txt`` a caption a line. ``split``
    is that of clips which don't say theirs. What is wrong is noted; of a shard that breaks off, what comes before is
    kept.
    """
    from webdataset.tariterators import group_by_keys  # slow: it imports torch

    def odd(error: Exception) -> bool:
        rows.problem(Place(path), "bad shard", f"found {error.args[0] if error.args else error}; write it again")
        return True

    try:
        with tarfile.open(path, "r:") as archive:
            for sample in group_by_keys(_members(archive, path, rows), handler=odd):
                _add(path, archive, sample, rows, split)
    except tarfile.ReadError as error:
        rows.problem(Place(path), "bad shard", f"found {error}; expected an uncompressed tar archive; write it again")


def _members(archive: tarfile.TarFile, path: Path, rows: Rows) -> Iterator[dict[str, Any]]:
    """The archive's files as webdataset groups them, their headers in place of their bytes."""
    try:
        for info in archive:
            if info.isreg() and not Path(info.name).name.startswith("."):
                yield {"fname": info.name, "data": info, "__url__": str(path)}
    except tarfile.ReadError as error:
        rows.problem(Place(path), "bad shard", f"found {error}; the clips before that are kept; copy it again")


def _add(path: Path, archive: tarfile.TarFile, sample: dict[str, Any], rows: Rows, split: str) -> None:
    place, key = Place(path), sample["__key__"]
    files = {suffix: info for suffix, info in sample.items() if isinstance(info, tarfile.TarInfo)}
    sounds = [info for suffix, info in files.items() if f".{suffix.rpartition('.')[2]}" in AUDIO_SUFFIXES]
    if len(sounds) != 1:
        found = ", ".join(info.name for info in files.values())
        rows.problem(place, "bad row", f"found {len(sounds)} sounds for {key} ({found}); expected one; write it again")
        return
    row: dict[str, Any] = {}
    try:
        if "json" in files:
            row = json.loads(_text(archive, files["json"]))
        elif "txt" in files:
            row = {"captions": [line for line in _text(archive, files["txt"]).splitlines() if line.strip()]}
    except (ValueError, RecursionError) as error:
        rows.problem(place, "bad JSON", f"found {error} in the words about {key}; write them again")
        return
    if not isinstance(row, dict):
        rows.problem(place, "bad JSON", f"found {type(row).__name__} in {key}.json; expected an object; write it again")
        return
    said = rows.said(place, rows.renamed(row | {"split": row.get("split") or split}))
    if said is not None:
        rows.add(
            place,
            path,
            said.captions,
            id=said.id or "/".join(filter(None, (split, path.name, key))),
            tags=said.tags,
            split=said.split,
            member=sounds[0].name,
            span=(sounds[0].offset_data, sounds[0].size),
        )


def _text(archive: tarfile.TarFile, info: tarfile.TarInfo) -> str:
    stream = archive.extractfile(info)
    if stream is None or info.size > MOST_TEXT_BYTES:
        raise ValueError(f"{info.size} bytes")
    return stream.read().decode("utf-8")
