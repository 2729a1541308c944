"""A library of another bundle, and bundles with every file damaged, cut short or gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from earshot import Library
from engine.bundle import STARTER_DIR, open_bundle
from engine.errors import BundleError, EarshotError, SpaceMismatchError
from engine.fakes import FakeEncoders
from tests.sounds import tone, write_sound

NEEDED = ("manifest.json", *open_bundle("starter").manifest.files)


def whole(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def other_bytes(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * (path.stat().st_size // 256 + 1))


DAMAGES = {"one byte": whole, "half": half, "empty": nothing, "garbage": other_bytes, "gone": Path.unlink}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NEEDED)
def test_a_damaged_bundle_never_answers(tmp_path: Path, name: str, damage: str):
    """`doctor` says so of each file; what is opened at all must pass its self-test besides."""
    bundle = tmp_path / "bundle"
    shutil.copytree(STARTER_DIR, bundle)
    DAMAGES[damage](bundle / name)
    write_sound(tmp_path / "sounds" / "a.wav", tone(2.0))
    with pytest.raises(BundleError) as caught:
        try_all(tmp_path, bundle)
    assert caught.value.found
    assert caught.value.expected
    assert caught.value.action


def try_all(folder: Path, bundle: Path) -> None:
    """Hash it, index with it and search."""
    with Library(folder / "library", bundle=bundle, device="cpu") as library:
        library.check()
        library.index([folder / "sounds"])
        library.search("rain")


def test_a_library_of_another_bundle_is_refused_and_stays_as_it_is(tmp_path: Path):
    write_sound(tmp_path / "sounds" / "a.wav", tone(2.0))
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        library.index([tmp_path / "sounds"])
        before = library.status()
    with pytest.raises(SpaceMismatchError, match=r"fake@.*expected starter.*use the bundle it was made with"):
        Library(tmp_path / "library", bundle="starter", device="cpu")
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        assert library.status() == before
        library.check()


def test_a_bundle_that_is_gone_is_named(tmp_path: Path):
    bundle = tmp_path / "bundle"
    shutil.copytree(STARTER_DIR, bundle)
    write_sound(tmp_path / "sounds" / "a.wav", tone(2.0))
    with Library(tmp_path / "library", bundle=bundle, device="cpu") as library:
        library.index([tmp_path / "sounds"])
    shutil.rmtree(bundle)
    with Library(tmp_path / "library", device="cpu") as library:
        assert library.status().files == 1
        with pytest.raises(EarshotError, match=r"with which .* was made; expected .*--bundle"):
            library.search("rain")
