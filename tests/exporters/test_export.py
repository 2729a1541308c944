"""What an export leaves behind when it can't be finished: nothing, and what was there before."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import onnx
import pytest
import torch

from engine.bundle import hold
from engine.errors import BundleError
from exporters.export import export_bundle, replacing
from tests.trainer import tiny_towers

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A folder that passes for a bundle."""
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "manifest.json").write_text("as it was")
    return folder


def as_it_was(folder: Path) -> bool:
    return list(folder.parent.iterdir()) == [folder] and [(f.name, f.read_text()) for f in folder.iterdir()] == [
        ("manifest.json", "as it was")
    ]


def test_no_room_for_a_graph(before: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: onnx.ModelProto, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise FULL

    torch.set_num_threads(1)
    monkeypatch.setattr(onnx, "save_model", full)
    with pytest.raises(BundleError, match=r"no space left in .*; expected room .*; make room: nothing was written"):
        export_bundle(tiny_towers.own(), before, allow_collapsed=True)
    assert as_it_was(before)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FULL, "no space left"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "no space left"),
        (Exception("No space left on device (os error 28)"), "no space left"),  # what tokenizers raise
        (OSError(errno.EIO, os.strerror(errno.EIO)), "Input/output error"),
        (ValueError("another fault"), "another fault"),
    ],
)
def test_half_a_bundle_is_removed_whatever_happens(before: Path, error: Exception, message: str) -> None:
    def fail() -> None:
        with replacing(before) as folder:
            (folder / "text.onnx").write_bytes(b"half")
            raise error

    with pytest.raises((type(error), BundleError), match=message):
        fail()
    assert as_it_was(before)


def test_no_room_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise FULL

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(BundleError, match="no space left"), replacing(tmp_path / "new"):
        pytest.fail("there is no folder")
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_came_into_use_meanwhile_is_left(before: Path) -> None:
    held: list[int | None] = []

    def use() -> None:
        with replacing(before) as folder:
            (folder / "manifest.json").write_text("new")
            held.append(hold(before))

    with pytest.raises(BundleError, match="in use by another process"):
        use()
    assert as_it_was(before)
    os.close(held[0])  # type: ignore[arg-type]
