"""Files in numbered parts of a bounded size, with their sums: what goes to a machine behind a narrow door, and back.

A folder of parts is one tar stream, compressed and cut: ``part-001`` and so on, and ``manifest.json`` with each part's
size and SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from engine.errors import EarshotError
from trainer.cache import write_atomic

PART_MB = 60
FORMAT = 1
MANIFEST = "manifest.json"


class PartsError(EarshotError):
    """A folder of parts that can't be written or unpacked."""


def pack(files: Mapping[str, Path], folder: Path, part_mb: float = PART_MB) -> list[Path]:
    """Write ``files`` (names to where they lie) into new parts in ``folder``, at most ``part_mb`` MiB each.

    Raises ``PartsError`` for a folder with other things in it, for a size below which nothing fits, and where the disk
    refuses; then no part is left.
    """
    most = int(part_mb * 2**20)
    if most < 1:
        raise PartsError(f"parts of {part_mb} MiB", "a byte at least", "pass a larger --part-mb")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise PartsError(f"{folder}, which holds other things", "a new or empty folder", "choose another to pack in")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        parts = _write(files, folder, most)
        text = json.dumps({"format": FORMAT, "files": list(files), "parts": parts}, indent=1)
        write_atomic(folder / MANIFEST, lambda draft: draft.write_text(text, encoding="utf-8"))
    except BaseException as error:
        shutil.rmtree(folder)
        if isinstance(error, OSError):
            raise PartsError(str(error), "a disk that holds the parts", "make room, or pack elsewhere") from None
        raise
    return [folder / part["name"] for part in parts]


def _write(files: Mapping[str, Path], folder: Path, most: int) -> list[dict[str, Any]]:
    """The parts' names, bytes and sums."""
    cut = _Cut(folder, most)
    with (
        io.BufferedWriter(cut) as stream,
        lzma.open(stream, "wb", preset=1) as packed,
        tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
        for name, path in files.items():
            archive.add(path, name, recursive=False)
    return cut.parts


def unpack(folder: Path, out: Path) -> list[str]:
    """Check every part's sum, then write all files below ``out``; their names.

    Raises ``PartsError`` where a part is missing or another one; then nothing has been written.
    """
    told = _manifest(folder)
    paths = [folder / part["name"] for part in told["parts"]]
    for part, path in zip(told["parts"], paths, strict=True):
        _check(path, part)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with (
            _Joined(paths) as stream,
            lzma.open(io.BufferedReader(stream)) as packed,
            tarfile.open(fileobj=packed, mode="r|") as archive,
        ):
            archive.extractall(out, filter="data")
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise PartsError(f"{folder} damaged ({error})", "what `--pack` has written", "pack it again") from None
    return list(told["files"])


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']}")
        if any(Path(part["name"]).name != part["name"] for part in told["parts"]):
            raise ValueError("parts outside of their folder")
    except FileNotFoundError:
        raise PartsError(f"no {path}", "a folder that `--pack` has written", "fetch all of it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise PartsError(f"{path} damaged ({error})", f"a manifest of format {FORMAT}", "fetch it again") from None
    return told


def _check(path: Path, part: Mapping[str, Any]) -> None:
    expected = f"{part['bytes']} bytes with the SHA-256 {part['sha256']}"
    if not path.is_file():
        raise PartsError(f"no {path}", expected, "fetch it")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != part["sha256"]:
        raise PartsError(f"{path} of {path.stat().st_size} bytes with {found}", expected, "fetch it again")


class _Cut(io.RawIOBase):
    """A stream that goes on in a new file whenever one is full."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._stream: io.BufferedWriter | None = None
        self._sums = hashlib.sha256()
        self.parts: list[dict[str, Any]] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Write all of ``data``."""
        left = memoryview(data).cast("B")
        while len(left):
            if self._stream is None:
                self.parts.append({"name": f"part-{len(self.parts) + 1:03}", "bytes": 0})
                self._stream = (self._folder / self.parts[-1]["name"]).open("wb")
                self._sums = hashlib.sha256()
            now, left = left[: self._most - self.parts[-1]["bytes"]], left[self._most - self.parts[-1]["bytes"] :]
            self._stream.write(now)
            self._sums.update(now)
            self.parts[-1]["bytes"] += len(now)
            if self.parts[-1]["bytes"] == self._most:
                self._end()
        return memoryview(data).nbytes

    def _end(self) -> None:
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._stream = None
            self.parts[-1]["sha256"] = self._sums.hexdigest()

    def close(self) -> None:
        """End the last part."""
        self._end()
        super().close()


class _Joined(io.RawIOBase):
    """Files one after another."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths, self._stream = list(paths), cast(io.BufferedIOBase, io.BytesIO())

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` as far as one file goes; 0 at the end of the last."""
        while not (count := self._stream.readinto(buffer)) and self._paths:
            self._stream.close()
            self._stream = self._paths.pop(0).open("rb")
        return int(count)

    def close(self) -> None:
        """Close what is open."""
        self._stream.close()
        super().close()


def move_into(files: Sequence[str], source: Path, out: Path) -> None:
    """Put unpacked ``files`` from ``source`` into their places in ``out``, one rename each, and remove ``source``."""
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).replace(out / name)
    shutil.rmtree(source)
