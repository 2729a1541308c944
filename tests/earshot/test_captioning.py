"""What `earshot caption` makes of moments: joined, stamped, bounded."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from earshot import Library
from earshot.captioning import CaptionedMoment, OfLibrary, called_the_same, caption_file, captioner_of, subtitles
from earshot.commands import app
from earshot.remembering import captioning
from engine.errors import QueryError
from engine.fakes import FakeEncoders, band_word
from engine.memory.captions import GENERATED, Said
from engine.retrieval_captioner import RetrievalCaptioner
from engine.session import cpu_count
from engine.types import Caption, FloatArray, Remembered
from indexer.captions import NICE


def _moment(start_s: float, end_s: float, text: str, score: float = 0.5) -> CaptionedMoment:
    return CaptionedMoment(start_s, end_s, Caption(text, score, "eng"))


def test_neighbours_that_are_called_the_same_are_one() -> None:
    moments = [_moment(0, 1, "rain", 0.4), _moment(1, 2, "rain", 0.9), _moment(2, 3, "dog"), _moment(3, 4, "rain", 0.3)]
    found = list(called_the_same(moments))
    assert [(one.start_s, one.end_s, one.caption.text, one.caption.score) for one in found] == [
        (0, 2, "rain", 0.9),
        (2, 3, "dog", 0.5),
        (3, 4, "rain", 0.3),
    ]
    assert list(called_the_same([])) == []


def test_subtitles_are_numbered_and_stamped() -> None:
    moments = [_moment(0, 1.9996, "rain\n on a roof"), _moment(2, 3, ""), _moment(3661.5, 36000.25, "犬")]
    assert list(subtitles(moments)) == [
        *("1", "00:00:00,000 --> 00:00:02,000", "rain on a roof", ""),
        *("2", "01:01:01,500 --> 10:00:00,250", "犬", ""),
    ]


def test_what_is_unsure_is_in_question() -> None:
    unsure = CaptionedMoment(0, 1, Caption("a dog", 0.02, "eng", unsure=True))
    assert list(subtitles([unsure]))[2] == "a dog (?)"
    assert unsure.to_dict()["unsure"] is True
    assert _moment(0, 1, "rain").to_dict()["unsure"] is False


class Bands:
    """Remembers the fake encoders' words."""

    def __init__(self, encoders: FakeEncoders) -> None:
        self._words = [band_word(hz) for hz in (63, 125, 250, 500, 1000, 2000)] + ["silence"]
        self._vectors = encoders.encode_text(self._words)

    def nearest(self, vector: FloatArray, k: int) -> list[Remembered]:
        scores = self._vectors @ vector
        best = np.argsort(-scores)[:k]
        return [Remembered(self._words[n], "eng", "own", self._vectors[n], float(scores[n])) for n in best]

    def said(self, limit: int) -> tuple[FloatArray, list[Said]]:
        return self._vectors[:limit], [Said(word, "eng") for word in self._words[:limit]]

    def count(self) -> int:
        return len(self._words)


SECONDS = 101


def _long(folder: Path) -> FakeEncoders:
    """A tone that changes every second, and encoders that hear 10,000 windows in it."""
    t = np.arange(8000 * SECONDS) / 8000
    hz = np.where(t.astype(int) % 2 == 0, 500.0, 2000.0)
    soundfile.write(folder / "long.wav", 0.5 * np.sin(2 * np.pi * hz * t), 8000)
    return FakeEncoders(window_s=0.02, hop_s=0.01)


def test_ten_thousand_windows_as_json_and_as_subtitles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders = _long(tmp_path)
    monkeypatch.setattr("earshot.library.load_encoders", lambda *_: encoders)
    with Library(tmp_path / "library", encoders=encoders) as library:
        library.remember(["band500", "band2000"], lang="eng")
    words = ["caption", str(tmp_path / "long.wav"), "--library", str(tmp_path / "library")]
    told, subtitled = (CliRunner().invoke(app, [*words, how]) for how in ("--json", "--srt"))
    assert (told.exit_code, subtitled.exit_code) == (0, 0), (told.output, subtitled.output)
    [answer] = json.loads(told.stdout)
    moments = answer["moments"]
    assert len(moments) >= SECONDS
    assert (moments[0]["start_s"], moments[-1]["end_s"]) == (0.0, SECONDS)
    assert all(one["end_s"] == after["start_s"] for one, after in pairwise(moments))
    lines = subtitled.stdout.splitlines()
    assert lines[-4] == str(len(moments))
    assert lines[1] == "00:00:00,000 --> 00:00:00,990"
    assert lines[-3].endswith("--> 00:01:41,000")


def test_ten_thousand_windows_in_one_file(tmp_path: Path) -> None:
    """Each second is a moment, and it's told as it goes."""
    encoders = _long(tmp_path)
    calls: list[int] = []

    class Counting(RetrievalCaptioner):
        def caption_events(self, vectors: FloatArray) -> list[Caption]:
            calls.append(len(vectors))
            return super().caption_events(vectors)

    found: Iterator[CaptionedMoment] = caption_file(
        tmp_path / "long.wav", encoders, Counting(encoders, Bands(encoders))
    )
    first = next(found)
    assert (first.start_s, first.caption.text, len(calls)) == (0.0, "band500", 1)
    moments = [first, *found]
    assert max(calls) <= 16
    assert len(moments) >= SECONDS
    assert sum(moment.caption.text == "band2000" for moment in moments) >= 50
    assert all(one.end_s == after.start_s for one, after in pairwise(moments))
    assert abs(moments[-1].end_s - SECONDS) < 0.02


def test_captions_are_built_on_what_the_library_remembers(tmp_path: Path) -> None:
    """And never on what earshot itself has said, however well that fits."""
    encoders = FakeEncoders()
    t = np.arange(8000 * 3) / 8000
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 500 * t), 8000)
    with Library(tmp_path / "library", encoders=encoders) as library:
        library.remember(["band500 hums", "band2000 whistles"], lang="eng", source="mine")
        library.remember([Said("band500", "eng", GENERATED)])
        memory = OfLibrary(library)
        assert memory.count() == 2
        assert sorted(said.text for said in memory.said(10)[1]) == ["band2000 whistles", "band500 hums"]
        (moment,) = caption_file(tmp_path / "tone.wav", encoders, captioner_of(encoders, memory))
        assert moment.caption.text == "band500 hums"
        assert [(one.text, one.source) for one in moment.caption.evidence] == [
            ("band500 hums", "mine"),
            ("band2000 whistles", "mine"),
        ]
        with pytest.raises(QueryError, match="without a decoder"):
            captioner_of(encoders, memory, strategy="projection")


def test_a_language_that_the_decoder_does_not_speak_is_told_where_it_is_remembered(tmp_path: Path) -> None:
    with Library(tmp_path / "library") as library:
        memory = OfLibrary(library)
        assert isinstance(captioner_of(library.encoders, memory, lang="fra"), RetrievalCaptioner)
        with pytest.raises(QueryError, match=r"no caption in 'ita'.*deu, eng, fra"):
            captioner_of(library.encoders, memory, lang="ita")
        library.remember(["un cane abbaia"], lang="ita")
        vector = library.encode_text(["un cane abbaia"])
        assert captioner_of(library.encoders, memory, lang="ita").caption(vector)[0].text == "un cane abbaia"
        with pytest.raises(QueryError, match="a decoder that speaks ita"):
            captioner_of(library.encoders, memory, lang="ita", beams=5)


def _silence(folder: Path) -> Path:
    folder.mkdir()
    chance = np.random.default_rng(3)
    soundfile.write(folder / "noise.wav", 0.1 * np.clip(chance.standard_normal(48_000), -3, 3), 16_000)
    soundfile.write(folder / "silence.wav", np.zeros(48_000), 16_000)
    return folder


def test_silence_and_noise_are_called_so_by_the_commands(tmp_path: Path) -> None:
    """In a language that the decoder doesn't speak, where all that is remembered is a dog."""
    sounds, library = _silence(tmp_path / "sounds"), tmp_path / "library"
    (tmp_path / "one.txt").write_text("un chien aboie\n")
    run = CliRunner().invoke
    assert run(app, ["remember", str(tmp_path / "one.txt"), "--lang", "fra", "--library", str(library)]).exit_code == 0
    found = run(app, ["caption", str(sounds), "--lang", "fra", "--json", "--library", str(library)])
    assert found.exit_code == 0, found.output
    said = {
        Path(one["path"]).stem: {moment["caption"] for moment in one["moments"]} for one in json.loads(found.stdout)
    }
    assert said == {"noise": {"bruit continu"}, "silence": {"silence"}}
    indexed = run(app, ["index", str(sounds), "--caption", "--lang", "fra", "--library", str(library)])
    assert indexed.exit_code == 0, indexed.output
    with Library(library) as opened:
        kept = {Path(one.paths[0]).stem: one for one in opened.captions()}
    assert {name: one.captions for name, one in kept.items()} == {"noise": ("bruit continu",), "silence": ("silence",)}
    assert {run.language for one in kept.values() for run in one.moments} == {"fra"}


def _short_and_muffled(folder: Path) -> Path:
    """White noise too short for a window, and such of a file of a low rate; and a click, which is none."""
    folder.mkdir()
    chance = np.random.default_rng(7)
    for seconds, rate_hz in ((0.1, 44_100), (0.05, 44_100), (0.01, 44_100), (3.0, 8_000), (3.0, 11_025)):
        noise = 0.1 * np.clip(chance.standard_normal(round(seconds * rate_hz)), -3, 3)
        soundfile.write(folder / f"{seconds}-{rate_hz}.wav", noise, rate_hz)
    t = np.arange(8_000) / 16_000
    soundfile.write(folder / "click.wav", 0.8 * np.exp(-60 * t) * np.sin(2 * np.pi * 900 * t), 16_000)
    return folder


def test_short_and_muffled_noise_is_no_event_either(tmp_path: Path) -> None:
    sounds, library = _short_and_muffled(tmp_path / "sounds"), tmp_path / "library"
    run = CliRunner().invoke
    for words, expected in ((["--lang", "jpn"], "一定の雑音"), ([], "steady noise")):
        found = run(app, ["caption", str(sounds), "--json", "--library", str(library), *words])
        assert found.exit_code == 0, found.output
        said = {Path(one["path"]).stem: one["moments"][0]["caption"] for one in json.loads(found.stdout)}
        assert said.pop("click") not in (expected, "")
        assert set(said.values()) == {expected}, said
    indexed = run(app, ["index", str(sounds), "--caption", "--lang", "fra", "--library", str(library)])
    assert indexed.exit_code == 0, indexed.output
    with Library(library) as opened:
        kept = {Path(one.paths[0]).stem: [run.text for run in one.moments] for one in opened.captions()}
    assert "bruit continu" not in kept.pop("click", [])
    assert set(map(tuple, kept.values())) == {("bruit continu",)}
    assert len(kept) == 5


def test_of_less_than_can_be_told_nothing_is_sure(tmp_path: Path) -> None:
    """Repeated to fill a window, noise of a few milliseconds is a tone."""
    sounds, library = tmp_path / "sounds", tmp_path / "library"
    sounds.mkdir()
    chance = np.random.default_rng(7)
    for size in (40, 100, 128, 300):
        soundfile.write(sounds / f"{size}.wav", 0.1 * np.clip(chance.standard_normal(size), -3, 3), 16_000)
    run = CliRunner().invoke
    found = run(app, ["caption", str(sounds), "--json", "--library", str(library)])
    assert found.exit_code == 0, found.output
    told = {Path(one["path"]).stem: one["moments"][0] for one in json.loads(found.stdout)}
    assert told.pop("300")["caption"] == "steady noise"
    assert all(moment["unsure"] for moment in told.values()), told
    assert run(app, ["index", str(sounds), "--caption", "--library", str(library)]).exit_code == 0
    with Library(library) as opened:
        kept = {Path(one.paths[0]).stem: [run.unsure for run in one.moments] for one in opened.captions()}
    assert kept.pop("300") == [False]
    assert all(all(unsure) for unsure in kept.values()), kept


@pytest.mark.skipif(sys.platform != "linux", reason="only there a thread has a priority of its own")
def test_the_threads_of_a_captioner_on_ingest_give_way(tmp_path: Path) -> None:
    def threads() -> dict[str, int]:
        return {
            task.name: os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path("/proc/self/task").iterdir()
        }

    with Library(tmp_path / "library", create=True) as library:
        assert library.encoders.audio is not None
        before = threads()
        kept = captioning(library, library._keep, True)
        started = {task: nice for task, nice in threads().items() if task not in before}
        assert kept.captioner is not None
    assert len(started) >= cpu_count() - 1
    assert set(started.values()) <= {max(NICE, os.getpriority(os.PRIO_PROCESS, 0))}
