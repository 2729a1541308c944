from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import LibraryError
from engine.formats import AUDIO_SUFFIXES
from indexer.scan import Found, LeftOut, ScanSummary, scan


def make(folder: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def found(*roots: Path) -> list[Path]:
    return [item.path for item in scan(roots) if isinstance(item, Found)]


def left_out(*roots: Path) -> dict[str, str]:
    return {item.path.name: item.reason for item in scan(roots) if isinstance(item, LeftOut)}


def test_files_come_in_the_order_of_their_names_with_size_and_mtime(tmp_path: Path) -> None:
    make(tmp_path, "b.wav", "a/2.flac", "a/10.mp3", "c.ogg")
    os.utime(tmp_path / "b.wav", ns=(1, 1_234_567_890_123_456_789))
    items = list(scan([tmp_path]))
    assert [str(item.path.relative_to(tmp_path)) for item in items] == ["a/10.mp3", "a/2.flac", "b.wav", "c.ogg"]
    assert items[2] == Found(tmp_path / "b.wav", 1, 1_234_567_890_123_456_789)


def test_extensions_are_of_any_case_and_empty_files_are_found(tmp_path: Path) -> None:
    make(tmp_path, "A.WAV", "b.Mp3", content=b"")
    assert [path.name for path in found(tmp_path)] == ["A.WAV", "b.Mp3"]
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in AUDIO_SUFFIXES)


def test_what_is_left_out_has_its_reason(tmp_path: Path) -> None:
    make(
        tmp_path, "._a.wav", "__MACOSX/a.wav", ".hidden.wav", ".git/b.wav", "notes.TXT", "README", "x.wav ~!", "ok.wav"
    )
    make(tmp_path, "ok.wav.caption.txt", "notes.caption.txt")  # of these, the first is a sidecar of ours
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    assert left_out(tmp_path) == {
        "._a.wav": "AppleDouble (._*)",
        "__MACOSX": "__MACOSX",
        ".hidden.wav": "hidden",
        ".git": "hidden",
        "notes.TXT": "not audio (.txt)",
        "notes.caption.txt": "not audio (.txt)",
        "README": "not audio (no extension)",
        "x.wav ~!": "not audio (other)",
        "pipe.wav": "a fifo",
        "gone.wav": "broken link or vanished",
    }
    assert found(tmp_path) == [tmp_path / "ok.wav"]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path may have only about a hundred bytes
        yield Path(folder)


def test_sockets_and_devices_are_left_out(short_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short_folder / "s.wav"))
        (short_folder / "null.wav").symlink_to("/dev/null")
        assert left_out(short_folder) == {"s.wav": "a socket", "null.wav": "a device"}


def test_links_are_followed_last_and_loops_end(tmp_path: Path) -> None:
    make(tmp_path, "in/real/a.wav", "out/b.wav")
    (tmp_path / "in/0-link").symlink_to(tmp_path / "in/real")
    (tmp_path / "in/real/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/away").symlink_to(tmp_path / "out")
    (tmp_path / "in/copy.wav").symlink_to(tmp_path / "out/b.wav")
    (tmp_path / "in/self.wav").symlink_to(tmp_path / "in/self.wav")
    names = [str(path.relative_to(tmp_path / "in")) for path in found(tmp_path / "in")]
    assert names == ["copy.wav", "real/a.wav", "away/b.wav"]
    assert left_out(tmp_path / "in") == {
        "0-link": "folder seen already",
        "loop": "folder seen already",
        "self.wav": "symlink loop",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_closed_folder_is_left_out_and_the_walk_goes_on(tmp_path: Path) -> None:
    make(tmp_path, "a/x.wav", "b.wav")
    (tmp_path / "a").chmod(0)
    try:
        assert left_out(tmp_path) == {"a": "no permission"}
        assert found(tmp_path) == [tmp_path / "b.wav"]
    finally:
        (tmp_path / "a").chmod(0o700)


def test_a_refused_folder_is_reported_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/x.wav", "b.wav")
    real = os.scandir

    def refuse(folder: str) -> object:
        if str(folder).endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr("indexer.scan.os.scandir", refuse)
    assert list(scan([tmp_path])) == [
        LeftOut(tmp_path / "a", "no permission"),
        *(item for item in scan([tmp_path / "b.wav"])),
    ]


def test_a_root_that_we_may_not_reach_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "barred/x.wav", "b.wav")
    real = os.stat

    def refuse(path: str, *arguments: object, **more: object) -> os.stat_result:
        if "/barred/" in str(path):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("indexer.scan.os.stat", refuse)
    barred, other = tmp_path / "barred" / "x.wav", tmp_path / "barred" / "y.wav"
    items = list(scan([barred, other, tmp_path / "b.wav"]))
    assert items[:2] == [LeftOut(barred, "no permission"), LeftOut(other, "no permission")]
    assert [item.path for item in items[2:]] == [tmp_path / "b.wav"]


def test_a_missing_root_raises_at_the_call(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match=r"nowhere.*expected a file or folder that exists"):
        scan([tmp_path, tmp_path / "nowhere"])


def test_a_root_is_taken_as_it_is_named(tmp_path: Path) -> None:
    make(tmp_path, ".hidden/a.wav", ".b.wav", "c.dat")
    os.mkfifo(tmp_path / "pipe")
    assert found(tmp_path / "c.dat", tmp_path / ".b.wav", tmp_path / ".hidden") == [
        tmp_path / "c.dat",
        tmp_path / ".b.wav",
        tmp_path / ".hidden/a.wav",
    ]
    assert left_out(tmp_path / "pipe") == {"pipe": "a fifo"}


def test_overlapping_roots_give_every_file_once(tmp_path: Path) -> None:
    make(tmp_path, "a/x.wav", "a/b/y.wav", "a/.z.wav")
    (tmp_path / "alias").symlink_to(tmp_path / "a")
    roots = [tmp_path / "a", tmp_path / "a/b", tmp_path / "alias", tmp_path / "a/b/../.z.wav", tmp_path / "a/x.wav"]
    for order in (roots, roots[::-1]):
        names = [path.name for path in found(*order, *order)]
        assert sorted(names) == [".z.wav", "x.wav", "y.wav"]
    assert left_out(*roots) == {}


def test_relative_roots_give_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.wav")
    monkeypatch.chdir(tmp_path)
    assert found(Path()) == [tmp_path / "a.wav"]


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    try:
        with open(raw, "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert [os.fsencode(path) for path in found(tmp_path)] == [raw]


def test_a_deep_tree_does_not_meet_the_recursion_limit(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["d"] * 400)
    folder.mkdir(parents=True)
    make(folder, "a.wav")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        paths = found(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert paths == [folder / "a.wav"]


def test_the_summary_counts_and_passes_on(tmp_path: Path) -> None:
    make(tmp_path, "a.wav", "b.wav", "c.txt", "d.txt", ".e", content=b"123")
    summary = ScanSummary()
    assert [item.path.name for item in summary.sift(scan([tmp_path]))] == ["a.wav", "b.wav"]
    assert (summary.files, summary.size_bytes) == (2, 6)
    assert summary.lines() == ["2 x not audio (.txt)", "1 x hidden"]


@settings(max_examples=30, deadline=None)
@given(
    st.sets(st.tuples(*[st.sampled_from(["a", "b", ".c"])] * 2, st.sampled_from(["x.wav", "y.ogg", "z.txt", ".w.wav"])))
)
def test_the_walk_agrees_with_a_slow_one(tree: set[tuple[str, ...]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make(root, *("/".join(parts) for parts in tree))
        expected = [
            path
            for path in sorted(root.rglob("*"), key=lambda path: path.parts)
            if path.suffix in (".wav", ".ogg") and not any(part[0] == "." for part in path.relative_to(root).parts)
        ]
        assert found(root) == expected
