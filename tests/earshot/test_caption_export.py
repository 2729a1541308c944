"""Captions for other programs."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from earshot import Library
from earshot.caption_export import COLUMNS, SoundCaptions, export_captions
from engine.errors import LibraryError
from engine.fakes import FakeEncoders
from engine.types import Caption, FloatArray
from indexer.captions import Run
from tests.sounds import tone, write_sound


class Sayer:
    """Names the band of a tone; says nothing of silence."""

    identity = "bands#1"

    def caption(self, vectors: FloatArray) -> list[Caption]:
        words = ("band125", "band500", "")
        known = FakeEncoders().encode_text(["band125", "band500", "silence"])
        return [Caption(words[n], 0.75, "eng") for n in (vectors @ known.T).argmax(axis=1)]


def sound(*paths: Path, texts: tuple[str, ...] = ("rain, far", "thunder")) -> SoundCaptions:
    moments = tuple(Run(n, n, n * 1.0, n + 1.5, text, 0.5, "eng", by="bands#1") for n, text in enumerate(texts))
    return SoundCaptions(tuple(map(str, paths)), texts, moments)


def test_what_was_said_of_a_library_is_written_moment_by_moment(tmp_path: Path):
    parts = [tone(3.0, rate_hz=8000, hz=125), np.zeros(16_000, np.float32), tone(3.0, rate_hz=8000, hz=500)]
    path = write_sound(tmp_path / "sounds" / "a.wav", np.concatenate(parts), rate_hz=8000)
    write_sound(tmp_path / "sounds" / "silence.wav", np.zeros(16_000, np.float32), rate_hz=8000)
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        assert list(library.captions()) == []
        library.index([tmp_path / "sounds"], caption=Sayer())
        said, still = sorted(library.captions(), key=lambda one: one.paths)
    assert said.paths == (str(path),)
    assert still.captions == ("silence",)
    assert said.captions == ("band125", "silence", "band500")
    first, _, second = said.moments
    assert (first.text, first.start_s, first.score, first.by) == ("band125", 0.0, 0.75, "bands#1")
    assert (second.text, second.end_s) == ("band500", 8.0)
    assert first.end_s < second.start_s + 1


def test_moments_do_not_overlap_though_windows_do(tmp_path: Path):
    parts = [tone(3.0, rate_hz=8000, hz=125), tone(3.0, rate_hz=8000, hz=500), tone(3.0, rate_hz=8000, hz=125)]
    write_sound(tmp_path / "sounds" / "a.wav", np.concatenate(parts), rate_hz=8000)
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        library.index([tmp_path / "sounds"], caption=Sayer())
        [said] = library.captions()
    assert len(said.moments) >= 3
    times = [time for run in said.moments for time in (run.start_s, run.end_s)]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (0.0, 9.0)
    assert times[1:-1:2] == times[2:-1:2]  # where one ends the next begins


def test_csv_has_a_row_a_moment_and_path():
    to = io.StringIO()
    report = export_captions([sound(Path("/a.wav"), Path("/copy.wav")), sound(Path("/b.wav"))], "csv", None, to)
    rows = list(csv.reader(io.StringIO(to.getvalue())))
    assert tuple(rows[0]) == COLUMNS
    assert rows[1] == ["/a.wav", "0.000", "1.500", "rain, far", "eng", "0.5000", "", "bands#1"]
    assert [row[0] for row in rows[1:]] == ["/a.wav"] * 2 + ["/copy.wav"] * 2 + ["/b.wav"] * 2
    assert (report.sounds, report.captions) == (2, 4)


def test_json_is_a_list_of_sounds(tmp_path: Path):
    for count in (0, 1, 3):
        out = tmp_path / "captions.json"
        report = export_captions([sound(Path("/ä.wav"))] * count, "json", out, io.StringIO())
        found = json.loads(out.read_text(encoding="utf-8"))
        assert len(found) == report.sounds == count
    assert found[0]["captions"] == ["rain, far", "thunder"]
    assert found[0]["moments"][0] == {
        "start_s": 0.0,
        "end_s": 1.5,
        "caption": "rain, far",
        "score": 0.5,
        "language": "eng",
        "unsure": False,
        "captioner": "bands#1",
    }


def test_what_is_unsure_is_marked():
    unsure = SoundCaptions(("/a.wav",), ("rain",), (Run(0, 0, 0.0, 1.0, "a dog", 0.02, "eng", unsure=True),))
    to = io.StringIO()
    export_captions([unsure], "csv", None, to)
    assert next(csv.DictReader(io.StringIO(to.getvalue())))["unsure"] == "yes"
    to = io.StringIO()
    export_captions([unsure], "json", None, to)
    assert json.loads(to.getvalue())[0]["moments"][0]["unsure"] is True


def test_sidecars_lie_beside_the_sounds_or_in_a_folder_and_what_fails_is_named(tmp_path: Path):
    (tmp_path / "in").mkdir()
    here, gone = tmp_path / "in" / "a.wav", tmp_path / "gone" / "b.wav"
    report = export_captions([sound(here), sound(gone)], "sidecar", None, io.StringIO())
    assert (tmp_path / "in" / "a.wav.caption.txt").read_text() == "rain, far\nthunder\n"
    assert [path for path, _ in report.failed] == [str(tmp_path / "gone" / "b.wav.caption.txt")]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["a.wav.caption.txt"]
    report = export_captions([sound(here), sound(gone)], "sidecar", tmp_path / "out", io.StringIO())
    assert report.failed == []
    below = tmp_path / "out" / gone.relative_to("/")
    assert below.with_name("b.wav.caption.txt").read_text() == "rain, far\nthunder\n"


def test_a_file_that_can_not_be_written_is_said(tmp_path: Path):
    with pytest.raises(LibraryError, match="a file to write to"):
        export_captions([sound(Path("/a.wav"))], "csv", tmp_path / "nowhere" / "a.csv", io.StringIO())
    (tmp_path / "a.csv").write_text("kept")

    def broken():
        yield sound(Path("/a.wav"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_captions(broken(), "csv", tmp_path / "a.csv", io.StringIO())
    assert (tmp_path / "a.csv").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


class Doubter(Sayer):
    """Is sure of nothing."""

    def caption(self, vectors: FloatArray) -> list[Caption]:
        return [replace(one, score=0.1, unsure=True) for one in super().caption(vectors)]


def test_a_sound_of_which_nothing_is_sure_is_exported_and_has_no_sidecar(tmp_path: Path):
    path = write_sound(tmp_path / "sounds" / "a.wav", tone(3.0, rate_hz=8000, hz=125), rate_hz=8000)
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        library.index([tmp_path / "sounds"], caption=Doubter())
        [said] = library.captions()
        report = export_captions(library.captions(), "sidecar", None, io.StringIO())
    assert (said.paths, said.captions) == ((str(path),), ())
    assert {(run.text, run.unsure, run.score) for run in said.moments} == {("band125", True, 0.1)}
    assert (report.sounds, sorted(one.name for one in path.parent.iterdir())) == (0, ["a.wav"])
