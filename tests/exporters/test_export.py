"""What an export leaves behind when it can't be finished: nothing, and what was there before."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from engine.bundle import hold, known_bundles, open_bundle
from engine.encoders import OnnxEncoders, OnnxTextEncoder, normalise
from engine.errors import BundleError
from engine.types import FloatArray
from exporters import compare
from exporters.bundles import make_bundle
from exporters.compare import LONG_TEXT
from exporters.export import export_bundle, replacing
from exporters.parity import ParityError
from exporters.registry import load_source
from exporters.source import Source
from exporters.towers import unit
from tests.trainer import tiny_towers

ROOT = Path(__file__).parents[2]
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


def test_two_exports_to_one_place_leave_each_other_alone(before: Path) -> None:
    with replacing(before) as first:
        (first / "manifest.json").write_text("first")
        with replacing(before) as second:
            (second / "manifest.json").write_text("second")
        assert (before / "manifest.json").read_text() == "second"
        assert (first / "manifest.json").read_text() == "first"
    assert (before / "manifest.json").read_text() == "first"
    assert list(before.parent.iterdir()) == [before]


def test_what_a_killed_export_left_is_no_bundle_and_is_removed_by_the_next(tmp_path: Path) -> None:
    kill = "import os, sys; from pathlib import Path; from exporters.export import replacing\n"
    kill += "with replacing(Path(sys.argv[1])) as folder: (folder / 'manifest.json').write_text('{}'); os._exit(9)"
    done = subprocess.run([sys.executable, "-c", kill, str(tmp_path / "b")], cwd=ROOT, timeout=120)
    assert done.returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    assert set(known_bundles(tmp_path)) == {"starter"}
    with replacing(tmp_path / "b") as folder:
        (folder / "manifest.json").write_text("new")
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_a_bundle_taken_away_by_one_that_was_killed_is_put_back(before: Path) -> None:
    before.rename(before.with_name(".b.old"))

    def fail() -> None:
        with replacing(before):
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  (a fault of ours: any will do)
        fail()
    assert as_it_was(before)


def test_a_bundle_that_cannot_be_put_in_place_leaves_the_old_one(before: Path) -> None:
    def fail() -> None:
        with replacing(before) as folder:
            folder.rmdir()

    with pytest.raises(FileNotFoundError):
        fail()
    assert as_it_was(before)


@pytest.mark.parametrize("out", [".", "/", "b/.."])
def test_a_place_where_no_bundle_can_be_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("exporters.bundles.load_source", lambda *_: pytest.fail("it was read"))
    (tmp_path / "b").mkdir()
    with pytest.raises(BundleError, match="name another --out"):
        make_bundle("b", Path(out), tmp_path / "bundles", "fp32")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Two sources of one last name, and one that is called as the starter is."""
    torch.set_num_threads(1)
    for seed, name in enumerate(("one/m", "two/m", "starter")):
        (tmp_path / name).mkdir(parents=True)
        tiny_towers.own(seed, tmp_path / name)
    return tmp_path


def test_another_source_does_not_take_a_names_place(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setattr("exporters.bundles.export_bundle", lambda source, out, *_, **__: made.append(out) or {})
    bundles = sources / "bundles"
    there = load_source(sources / "one/m").space_id
    manifest = open_bundle("starter").folder / "manifest.json"
    (bundles / "m").mkdir(parents=True)
    (bundles / "m" / "manifest.json").write_text(json.dumps({**json.loads(manifest.read_text()), "space_id": there}))
    with pytest.raises(BundleError, match=rf"holds {there}, in the way of m@\w+ from .*two/m; .*remove m"):
        make_bundle(str(sources / "two/m"), None, bundles, "fp32")
    assert not made
    for source, out in (("one/m", None), ("two/m", bundles / "m")):  # itself again, and what was named
        assert make_bundle(str(sources / source), out, bundles, "fp32")[0] == bundles / "m"
    (bundles / "m" / "manifest.json").write_text("damaged")
    make_bundle(str(sources / "two/m"), None, bundles, "fp32")
    assert len(made) == 3


@pytest.mark.parametrize("named", [False, True])
def test_nothing_is_registered_under_the_starters_name(sources: Path, named: bool) -> None:
    bundles = sources / "bundles"
    with pytest.raises(BundleError, match=r"under the name starter; .*name a folder by --out"):
        make_bundle(str(sources / "starter"), bundles / "starter" if named else None, bundles, "fp32")
    assert not (bundles / "starter").exists()


class Same(nn.Module):
    """Nearly the same vector for all that a tower tells apart."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return unit(1 + 1e-3 * self.tower(input_ids, attention_mask))


def words_alone(collapsed: bool) -> Source:
    torch.set_num_threads(1)
    source = replace(tiny_towers.own(), audio=None, note=lambda _: None)
    text = source.text
    assert text is not None
    if not collapsed:
        return source
    same = replace(
        text, module=Same(text.module), runs=None, reference=lambda texts: normalise(1 + 1e-3 * text.reference(texts))
    )
    return replace(source, text=same)


@pytest.mark.parametrize("collapsed", [False, True])
def test_a_bundle_that_the_engine_refuses_says_so(tmp_path: Path, collapsed: bool) -> None:
    manifest = export_bundle(words_alone(collapsed), tmp_path / "b", allow_collapsed=True)
    bundle = open_bundle(tmp_path / "b")
    bundle.verify()
    assert manifest.get("refused") == bundle.manifest.extra.get("refused")
    if collapsed:
        assert "collapsed text tower" in manifest["refused"]
        with pytest.raises(BundleError, match="collapsed text tower"):
            _ = OnnxEncoders(bundle, "cpu", threads=1).text
    else:
        assert "refused" not in manifest
        _ = OnnxEncoders(bundle, "cpu", threads=1).text


class Moody(OnnxTextEncoder):
    """Says of a text alone something else than among others."""

    def encode_text(self, texts: Sequence[str]) -> FloatArray:
        vectors = super().encode_text(texts)
        return -vectors if len(texts) == 1 and texts[0] != LONG_TEXT else vectors


def test_a_text_must_mean_alone_what_it_means_among_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "OnnxTextEncoder", Moody)
    with pytest.raises(ParityError, match=r"text\.onnx, one text at a time,"):
        export_bundle(words_alone(False), tmp_path / "b", allow_collapsed=True)
    assert not list(tmp_path.iterdir())


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
