"""The cache of decoded clips: exact enough, each content once, whole after a kill, and said when the disk is full."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audio import read_samples
from engine.errors import AudioError
from tests.trainer.clips import RATE_HZ, examples_of, write_clip
from trainer import waveforms
from trainer.examples import DataError, Example
from trainer.waveform_index import Waveform
from trainer.waveforms import STEP, Waveforms, _quantised


def names(folder: Path) -> set[str]:
    return {path.suffix for path in (folder / f"waveforms-{RATE_HZ}").iterdir()}


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(st.integers(1, 2 * STEP), min_size=1, max_size=4),
    level=st.sampled_from([0.0, 1e-40, 1e-6, 0.3, 1.0, 7.0, 1e12]),
    seed=st.integers(0, 99),
)
def test_a_step_is_kept_to_a_65534th_of_its_loudest_sample(parts: list[int], level: float, seed: int) -> None:
    chance = np.random.default_rng(seed)
    blocks = [(level * chance.uniform(-1, 1, part)).astype(np.float32) for part in parts]
    signal_, found, at = np.concatenate(blocks), list(_quantised(iter(blocks))), 0
    for number, (ints, scale) in enumerate(found):
        exact = signal_[at : at + len(ints)].astype(np.float64)
        assert len(ints) == STEP or number == len(found) - 1
        assert np.abs(ints * np.float64(scale) - exact).max() <= np.abs(exact).max() * (0.5 / 32767 + 1e-6) + 1e-38
        at += len(ints)
    assert at == len(signal_)


def test_any_stretch_is_what_the_engine_hears(tmp_path):
    clip = Example("a", write_clip(tmp_path / "a.wav", 3 * STEP + 77))
    heard = read_samples(clip.audio, RATE_HZ)
    cache = Waveforms(tmp_path / "cache", RATE_HZ)
    [found] = cache.fill([clip])
    assert isinstance(found, Waveform)
    assert found.samples == len(heard)
    for first, count in (
        (0, found.samples),
        (0, 1),
        (STEP - 1, 2),
        (STEP, STEP),
        (found.samples - 5, 5),
        (9, 2 * STEP),
    ):
        np.testing.assert_allclose(cache.read(found, first, count), heard[first : first + count], rtol=0, atol=8e-6)


def test_each_content_is_decoded_once_wherever_it_lies(tmp_path, monkeypatch):
    clips = examples_of(tmp_path, [900, 1000, 1100])
    (tmp_path / "copy.wav").write_bytes(clips[0].audio.read_bytes())
    clips.append(Example("copy", tmp_path / "copy.wav"))
    opened: list[Path] = []
    hashed: list[Path] = []
    open_, hash_ = Example.open, Example.content_sha256
    monkeypatch.setattr(Example, "open", lambda self, rate: opened.append(self.audio) or open_(self, rate))
    monkeypatch.setattr(Example, "content_sha256", lambda self: hashed.append(self.audio) or hash_(self))
    cache = Waveforms(tmp_path / "cache", RATE_HZ)
    first = cache.fill(clips)
    assert (len(opened), len(hashed)) == (3, 4)
    assert first[0] == first[3]
    again = Waveforms(tmp_path / "cache", RATE_HZ).fill(clips)
    assert (len(opened), len(hashed)) == (3, 4)
    assert [one.shard for one in again] == [one.shard for one in first]
    clips[1].audio.rename(tmp_path / "moved.wav")
    os.utime(clips[2].audio, (1, 1))
    moved = Waveforms(tmp_path / "cache", RATE_HZ).fill([Example("m", tmp_path / "moved.wav"), clips[2]])
    assert (len(opened), len(hashed)) == (3, 6)
    assert [one.sha256 for one in moved] == [first[1].sha256, first[2].sha256]
    write_clip(clips[0].audio, 1234)
    [changed] = Waveforms(tmp_path / "cache", RATE_HZ).fill([clips[0]])
    assert changed.samples == 1234


def test_a_clip_that_breaks_off_leaves_nothing_behind(tmp_path):
    clips = examples_of(tmp_path, [9000, 9100, 9200, 9300])
    clips[1].audio.write_bytes(b"nothing")
    clips[3].audio.unlink()
    cache = Waveforms(tmp_path / "cache", RATE_HZ)
    found = cache.fill(clips)
    assert [isinstance(one, AudioError) for one in found] == [False, True, False, True]
    for clip, one in zip(clips, found, strict=True):
        if isinstance(one, Waveform):
            heard = read_samples(clip.audio, RATE_HZ)
            np.testing.assert_allclose(cache.read(one, 0, one.samples), heard, rtol=0, atol=8e-6)
    kept = sum(path.stat().st_size for path in cache.folder.glob("*.pcm"))
    assert kept == 2 * (9000 + 9200)


def test_a_break_in_the_middle_is_taken_back(tmp_path, monkeypatch):
    clips = examples_of(tmp_path, [9000, 3 * STEP, 9200])
    open_ = Example.open

    def breaking(self: Example, rate: int):
        clip = open_(self, rate)
        if self.id != "1.wav":
            return clip

        def blocks():
            yield np.ones(STEP + 5, np.float32)
            raise AudioError("a file that breaks off")

        return type(clip)(blocks(), rate, rate, 1, "wav")

    monkeypatch.setattr(Example, "open", breaking)
    cache = Waveforms(tmp_path / "cache", RATE_HZ)
    found = cache.fill(clips)
    assert isinstance(found[1], AudioError)
    assert sum(path.stat().st_size for path in cache.folder.glob("*.pcm")) == 2 * (9000 + 9200)
    heard = read_samples(clips[2].audio, RATE_HZ)
    np.testing.assert_allclose(cache.read(found[2], 0, 9200), heard, rtol=0, atol=8e-6)


def test_a_full_disk_is_said_and_what_was_decoded_stays(tmp_path, monkeypatch):
    clips = examples_of(tmp_path, [5000 + number for number in range(12)])
    written = 0
    write = waveforms._write

    def full(stream, ints) -> None:
        nonlocal written
        written += 1
        if written > 6:
            stream.write(ints.tobytes()[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(stream, ints)

    monkeypatch.setattr(waveforms, "_write", full)
    cache = Waveforms(tmp_path / "cache", RATE_HZ)
    with pytest.raises(DataError, match="no space left") as error:
        cache.fill(clips)
    assert "make room" in error.value.action
    monkeypatch.setattr(waveforms, "_write", write)
    opened: list[str] = []
    open_ = Example.open
    monkeypatch.setattr(Example, "open", lambda self, rate: opened.append(self.id) or open_(self, rate))
    found = cache.fill(clips)
    assert len(opened) == 6
    for clip, one in zip(clips, found, strict=True):
        np.testing.assert_allclose(
            cache.read(one, 0, one.samples), read_samples(clip.audio, RATE_HZ), rtol=0, atol=8e-6
        )
    assert names(tmp_path / "cache") == {"", ".pcm", ".sqlite"}


def test_a_disk_that_is_really_full(tmp_path, small_disk, monkeypatch):
    monkeypatch.setattr(waveforms, "SHARD_BYTES", 400_000)
    clips = examples_of(tmp_path, [150_000 + number for number in range(20)])  # 6 MB
    cache = Waveforms(small_disk, RATE_HZ)
    with pytest.raises(DataError, match="no space left"):
        cache.fill(clips)
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    opened: list[str] = []
    open_ = Example.open
    monkeypatch.setattr(Example, "open", lambda self, rate: opened.append(self.id) or open_(self, rate))
    found = cache.fill(clips)
    assert 0 < len(opened) < 20
    for clip, one in zip(clips, found, strict=True):
        heard = read_samples(clip.audio, RATE_HZ)
        np.testing.assert_allclose(cache.read(one, 0, one.samples), heard, rtol=0, atol=8e-6)


def test_a_folder_that_cannot_be_written_or_read_is_said(tmp_path):
    clips = examples_of(tmp_path, [900])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="another --out"):
        Waveforms(tmp_path / "file", RATE_HZ).fill(clips)
    cache = Waveforms(tmp_path / "cache", RATE_HZ)
    cache.folder.mkdir(parents=True)
    (cache.folder / "index.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(DataError, match="remove the folder"):
        cache.fill(clips)


def test_a_shard_that_was_removed_or_cut_is_made_again(tmp_path):
    clips = examples_of(tmp_path, [900, 1000])
    cache = Waveforms(tmp_path / "cache", RATE_HZ)
    cache.fill(clips)
    for number, path in enumerate(sorted(cache.folder.glob("*.pcm"))):
        if number:
            path.unlink()
        else:
            os.truncate(path, 10)
    again = Waveforms(tmp_path / "cache", RATE_HZ)
    for clip, one in zip(clips, again.fill(clips), strict=True):
        assert np.allclose(again.read(one, 0, one.samples), read_samples(clip.audio, RATE_HZ), atol=8e-6)


def test_two_that_fill_one_cache_share_the_work(tmp_path, monkeypatch):
    clips = examples_of(tmp_path, range(900, 960))
    opened: list[str] = []
    open_ = Example.open
    monkeypatch.setattr(Example, "open", lambda self, rate: opened.append(self.id) or open_(self, rate))
    found: list[list[Waveform | AudioError]] = []
    threads = [
        threading.Thread(target=lambda: found.append(Waveforms(tmp_path / "cache", RATE_HZ).fill(clips)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 60
    assert len({tuple(one.shard for one in each) for each in found}) == 1


FILL = """
import sys
from pathlib import Path
from trainer import waveforms
from trainer.examples import Example
waveforms.SHARD_BYTES = 20_000
clips = [Example(path.name, path) for path in sorted(Path(sys.argv[1]).glob("*.wav"))]
print("go", flush=True)
waveforms.Waveforms(Path(sys.argv[2]), 8000).fill(clips)
"""


def test_killed_while_it_fills_it_goes_on_there(tmp_path, monkeypatch):
    sounds, folder = tmp_path / "sounds", tmp_path / "cache"
    clips = examples_of(sounds, range(5000, 5400))
    entered: set[int] = set()
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", FILL, str(sounds), str(folder)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 60
        while len(list(folder.glob("*/*.pcm"))) < 5 * (len(entered) + 1) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        cache = Waveforms(folder, RATE_HZ)
        with monkeypatch.context() as patch:
            patch.setattr(
                Waveforms, "_decode", lambda self, missing, index, draw: dict.fromkeys(missing, AudioError(""))
            )
            found = cache.fill(clips)
        whole = [(clip, one) for clip, one in zip(clips, found, strict=True) if isinstance(one, Waveform)]
        entered.add(len(whole))
        for clip, one in whole:
            heard = read_samples(clip.audio, RATE_HZ)
            np.testing.assert_allclose(cache.read(one, 0, one.samples), heard, rtol=0, atol=8e-6)
    assert 0 < min(entered) < max(entered)
    rest = Waveforms(folder, RATE_HZ).fill(clips)
    assert all(isinstance(one, Waveform) for one in rest)
    assert names(folder) == {"", ".pcm", ".sqlite"}
