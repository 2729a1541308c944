"""Captions are read from whatever a program wrote, and found beside the references of the same clip."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from earshot.caption_export import SoundCaptions, export_captions
from indexer.captions import Run
from trainer.examples import Caption, Example
from trainer.said import Said, SaidError, Told, beside, read_said


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def texts(told: dict[str, Told]) -> dict[str, str]:
    return {clip: one.text for clip, one in told.items()}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "path,caption,score\na.wav,rain,0.1\na.wav,heavy rain,0.9\nb.wav,a dog,\n"),
        ("a.tsv", "file_name\tprediction\na.wav\theavy rain\nb.wav\ta dog\n"),
        ("a.jsonl", '{"audio": "a.wav", "caption": "heavy rain"}\n\n{"audio": "b.wav", "caption": "a dog"}\n'),
        ("a.json", '[{"path": "a.wav", "captions": ["heavy rain"]}, {"path": "b.wav", "text": "a dog"}]'),
    ],
)
def test_tables(tmp_path: Path, name: str, text: str) -> None:
    assert texts(read_said(write(tmp_path / name, text))) == {"a.wav": "heavy rain", "b.wav": "a dog"}


def test_of_a_clips_moments_the_surest_speaks(tmp_path: Path) -> None:
    moments = [("hum", 0.2), ("a dog barks", 0.7), ("wind", 0.5)]
    told = [
        {"path": "a.wav", "moments": [{"start_s": 0.0, "caption": text, "score": score} for text, score in moments]}
    ]
    assert texts(read_said(write(tmp_path / "a.json", json.dumps(told)))) == {"a.wav": "a dog barks"}
    assert texts(read_said(write(tmp_path / "b.json", json.dumps({"files": told})))) == {"a.wav": "a dog barks"}


def test_what_is_exported_is_read(tmp_path: Path) -> None:
    """The surest moment speaks for each path of the sound, though `captions` without scores stand beside."""
    runs = (Run(0, 0, 0.0, 2.0, "rain", 0.4), Run(1, 1, 2.0, 4.0, "a dog barks", 0.6))
    sounds = [SoundCaptions(("/a.wav", "/b.wav"), ("rain", "a dog barks"), runs)]
    for form in ("json", "csv"):
        out = tmp_path / f"said.{form}"
        export_captions(sounds, form, out, io.StringIO())
        assert texts(read_said(out)) == {"/a.wav": "a dog barks", "/b.wav": "a dog barks"}


def test_what_is_exported_as_unsure_is_read_so(tmp_path: Path) -> None:
    """A sound of which nothing is sure is judged, too; of another the sure one speaks."""
    unsure = Run(0, 0, 0.0, 2.0, "a lion", 0.1, unsure=True)
    sounds = [SoundCaptions(("/a.wav",), (), (unsure,))]
    sounds += [SoundCaptions(("/b.wav",), ("rain",), (unsure, Run(1, 1, 2.0, 4.0, "rain", 0.4)))]
    for form in ("json", "csv"):
        out = tmp_path / f"said.{form}"
        export_captions(sounds, form, out, io.StringIO())
        assert read_said(out) == {"/a.wav": Told("a lion", 0.1, True), "/b.wav": Told("rain", 0.4, False)}


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.csv", "clip,caption\na.wav,rain\n", "a.csv:2 with clip, caption"),
        ("a.csv", "path,caption\n", "no captions in"),
        ("a.jsonl", '{"path": "a.wav", "caption": "rain"}\n{"path"\n', "a.jsonl:2"),
        ("a.json", '["rain"]', "entry 1: str"),
        ("a.json", '[{"paths": [1], "captions": ["rain"]}]', "entry 1 with paths, captions"),
        ("a.json", "7", "int"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(tmp_path: Path, name: str, text: str, found: str) -> None:
    with pytest.raises(SaidError, match=found):
        read_said(write(tmp_path / name, text))


def test_absent_and_wrongly_encoded_tables(tmp_path: Path) -> None:
    with pytest.raises(SaidError, match="No such file"):
        read_said(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("path,caption\na.wav,chien qui aboie près\n".encode("latin-1"))
    with pytest.raises(SaidError, match="not UTF-8"):
        read_said(tmp_path / "latin.csv")


def test_clips_are_the_same_by_path_or_by_a_name_that_only_one_has() -> None:
    def example(path: str, *told: Caption) -> Example:
        return Example(path, Path(path), told)

    rain, pluie = Caption("it rains"), Caption("il pleut", "fra")
    examples = [
        example("/x/a.wav", rain, pluie),
        example("/x/b.wav", rain),
        example("/y/b.wav", rain),
        example("/x/c.wav", rain),
        example("/x/d.wav", pluie),
    ]
    said = {"elsewhere/a.wav": Told("rain"), "/y/b.wav": Told("drizzle", 0.1, True), "/z/d.wav": Told("pluie")}
    found, missing = beside(said, examples, "eng")
    assert found == [
        Said(Path("/x/a.wav"), "rain", ("it rains",)),
        Said(Path("/y/b.wav"), "drizzle", ("it rains",), unsure=True),
    ]
    assert missing == ["/x/b.wav", "/x/c.wav"]  # d has no reference in English: nobody asks for it
    everything, _ = beside(said, examples, None)
    assert everything[0].references == ("it rains", "il pleut")
