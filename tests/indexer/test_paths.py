from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.paths import is_gone, path_text, text_path


def test_a_plain_name_is_its_own_text():
    assert path_text(Path("/sounds/Tür.wav")) == "/sounds/Tür.wav"


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_every_name_comes_back(name: bytes):
    path = Path(os.fsdecode(name))
    text = path_text(path)
    assert text.encode("utf-8")
    assert text_path(text) == path


def test_two_names_never_share_a_text():
    names = (b"caf\xe9", b"caf\\xe9", b"caf\xc3\xa9", b"bytes:caf\xe9", b"bytes:caf\xc3\xa9")
    assert len({path_text(Path(os.fsdecode(name))) for name in names}) == len(names)


def test_what_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = tmp_path / "a.wav"
    here.touch()
    (tmp_path / "dangling.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    assert not is_gone(here)
    assert all(is_gone(tmp_path / name) for name in ("nowhere.wav", "dangling.wav", "loop.wav", "a.wav/b.wav"))

    def refuse(*_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    assert not is_gone(here), "a file that can't be reached just now is not gone"
