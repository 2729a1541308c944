"""What killed commands leave among bundles, and who may clear it away."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from engine import shelf
from engine.bundle import STARTER_DIR, known_bundles, open_bundle


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of bundles with one of them."""
    shutil.copytree(STARTER_DIR, tmp_path / "b")
    return tmp_path


def left(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


def test_the_bundle_before_is_removed_where_the_new_one_has_its_place(place: Path) -> None:
    shutil.copytree(place / "b", place / ".b.old")
    assert known_bundles(place).keys() == {"starter", "b"}
    assert left(place) == {"b"}


def test_a_place_that_was_left_empty_is_filled_again(place: Path) -> None:
    (place / "b").rename(place / ".b.old")
    open_bundle("b", place).verify()
    assert left(place) == {"b"}


def test_what_nobody_makes_or_removes_any_more_is_cleared_away(place: Path) -> None:
    for name in (".b.new-abc", ".c.new-abc", ".d.gone"):
        shutil.copytree(place / "b", place / name)
    assert known_bundles(place).keys() == {"starter", "b"}
    assert left(place) == {"b"}


def test_who_is_at_work_is_left_alone(place: Path) -> None:
    with shelf.scratch(place / "b") as made:
        (place / "b").rename(place / ".b.old")
        assert known_bundles(place).keys() == {"starter"}
        assert left(place) == {made.name, ".b.old"}
    assert known_bundles(place).keys() == {"starter", "b"}
    assert left(place) == {"b"}


def test_of_a_folder_with_other_things_only_the_one_named_is_touched(place: Path) -> None:
    others = {".c.old", ".c.new-1", ".bb.old", ".c.gone"}
    for name in (*others, ".b.old", ".b.new-1"):
        (place / name).mkdir()
    shelf.tidy(place, "b")
    assert left(place) == {"b", *others}


def test_what_is_removed_does_not_come_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(place / "b", place / ".b.old")
    removed = shutil.rmtree

    def killed(path: Path, **settings: bool) -> None:
        if path.name == ".b.gone" and path.exists():
            raise KeyboardInterrupt
        removed(path, **settings)

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        shelf.remove(place / "b")
    monkeypatch.undo()
    assert left(place) == {".b.gone"}
    assert known_bundles(place).keys() == {"starter"}
    assert not left(place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_can_not_be_written_to_stays_as_it_is(place: Path) -> None:
    (place / "b").rename(place / ".b.old")
    place.chmod(0o500)
    try:
        assert known_bundles(place).keys() == {"starter"}
    finally:
        place.chmod(0o700)
