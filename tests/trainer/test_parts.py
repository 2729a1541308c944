"""Files through a narrow door: cut, checked, and put together again."""

from __future__ import annotations

import io
import json
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pytest

from trainer import parts
from trainer.parts import PartsError, move_into, pack, unpack


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Noise, which doesn't get smaller, and an empty file."""
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "noise").write_bytes(np.random.default_rng(0).bytes(200_000))
    (folder / "empty").write_bytes(b"")
    return {"deep/inside/noise": folder / "noise", "empty": folder / "empty"}


def test_what_is_packed_comes_out_whatever_the_size_of_parts(files: dict[str, Path], tmp_path: Path):
    for number, (part_mb, count) in enumerate([(1.0, 1), (0.05, 4), (0.01, 20)]):
        folder, out = tmp_path / f"parts{number}", tmp_path / f"out{number}"
        found = pack(files, folder, part_mb)
        assert len(found) == count
        assert max(path.stat().st_size for path in found) <= part_mb * 2**20
        assert sorted(folder.iterdir()) == sorted([*found, folder / "manifest.json"])
        assert unpack(folder, out) == list(files)
        for name, path in files.items():
            assert (out / name).read_bytes() == path.read_bytes()


def test_a_part_that_is_missing_or_another_is_named_and_nothing_written(files: dict[str, Path], tmp_path: Path):
    found = pack(files, tmp_path / "parts", 0.05)
    whole = found[1].read_bytes()
    found[1].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(PartsError, match=r"part-002 of \d+ bytes.*expected \d+ bytes.*fetch it again"):
        unpack(tmp_path / "parts", tmp_path / "out")
    found[1].unlink()
    with pytest.raises(PartsError, match=r"no .*part-002.*fetch it"):
        unpack(tmp_path / "parts", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2, "parts": [], "files": []}', "[]"])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str):
    with pytest.raises(PartsError, match=r"no .*manifest\.json"):
        unpack(tmp_path, tmp_path / "out")
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(PartsError, match="fetch it again"):
        unpack(tmp_path, tmp_path / "out")


def test_parts_stay_in_their_folders(files: dict[str, Path], tmp_path: Path):
    pack(files, tmp_path / "parts")
    told = json.loads((tmp_path / "parts" / "manifest.json").read_text())
    (tmp_path / "part-001").write_bytes((tmp_path / "parts" / "part-001").read_bytes())
    told["parts"][0]["name"] = "../part-001"
    (tmp_path / "parts" / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(PartsError, match="outside of their folder"):
        unpack(tmp_path / "parts", tmp_path / "out")


def test_files_stay_in_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    packed = io.BytesIO()
    with lzma.open(packed, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        archive.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
    (tmp_path / "part-001").write_bytes(packed.getvalue())
    told = {"format": 1, "files": ["../outside"], "parts": [{"name": "part-001", "bytes": 0, "sha256": ""}]}
    (tmp_path / "manifest.json").write_text(json.dumps(told))
    monkeypatch.setattr(parts, "_check", lambda path, part: None)
    with pytest.raises(PartsError, match="damaged"):
        unpack(tmp_path, tmp_path / "deep" / "out")
    assert not (tmp_path / "deep" / "outside").exists()


def test_only_an_empty_folder_is_packed_in(files: dict[str, Path], tmp_path: Path):
    with pytest.raises(PartsError, match="other things"):
        pack(files, tmp_path)
    with pytest.raises(PartsError, match="other things"):
        pack(files, tmp_path / "given" / "noise")
    for none in (0, -1, 1e-9):
        with pytest.raises(PartsError, match="a byte at least"):
            pack(files, tmp_path / "parts", none)
    assert not (tmp_path / "parts").exists()


def test_a_full_disk_leaves_no_part(files: dict[str, Path], tmp_path: Path, small_disk: Path):
    (tmp_path / "given" / "more").write_bytes(np.random.default_rng(1).bytes(4_000_000))
    with pytest.raises(PartsError, match="make room"):
        pack({**files, "more": tmp_path / "given" / "more"}, small_disk / "parts", 0.5)
    assert list(small_disk.iterdir()) == []
    pack(files, small_disk / "parts", 0.5)


def test_moved_files_take_the_places_of_older_ones(tmp_path: Path):
    for folder, text in (("new", "now"), ("out", "before")):
        (tmp_path / folder / "text").mkdir(parents=True)
        (tmp_path / folder / "text" / "last.pt").write_text(text)
    (tmp_path / "out" / "text" / "other").write_text("stays")
    move_into(["text/last.pt"], tmp_path / "new", tmp_path / "out")
    assert {path.name: path.read_text() for path in (tmp_path / "out" / "text").iterdir()} == {
        "last.pt": "now",
        "other": "stays",
    }
    assert not (tmp_path / "new").exists()
