"""Published data sets, laid out as their archives and the usual downloaders leave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.examples import Caption
from trainer.manifest import read_data


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


CLOTHO = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"


def write_clotho(folder: Path, tables: str, sounds: str) -> None:
    for part, name in (("development", "Distorted AM Radio noise.wav"), ("evaluation", "Rain: x.y.wav")):
        touch(folder, f"{sounds}{part}/{name}")
        table = folder / tables / f"clotho_captions_{part}.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(CLOTHO + f'{name},"one, a","two",three,four,five\nlost.wav,a,b,c,d,e\n')


@pytest.mark.parametrize(("tables", "sounds"), [("", ""), ("clotho_csv_files", "clotho_audio_files/"), ("", "audio/")])
def test_clotho(tmp_path, tables, sounds):
    write_clotho(tmp_path, tables, sounds)
    data = read_data(tmp_path)
    assert data.layout == "Clotho"
    train, test = data.examples
    assert (train.split, test.split) == ("train", "test")
    assert [caption.text for caption in train.captions] == ["one, a", "two", "three", "four", "five"]
    assert train.audio.read_bytes().endswith(b"development/Distorted AM Radio noise.wav")
    assert test.audio.name == "Rain: x.y.wav"
    assert [(problem.kind, problem.place.line) for problem in data.problems] == [("missing file", 3)] * 2
    alone = read_data(tmp_path / tables / "clotho_captions_evaluation.csv")
    assert [example.id for example in alone.examples] == ["evaluation/Rain: x.y.wav"]


@pytest.mark.parametrize(
    "name",
    [
        "train/-0Gj8-vB1q4_30.wav",
        "audio_32000Hz/train/-0Gj8-vB1q4_30.flac",
        "train/Y-0Gj8-vB1q4.wav",
        "audio/91139.wav",
    ],
)
def test_audiocaps(tmp_path, name):
    header = "audiocap_id,youtube_id,start_time,caption\n"
    (tmp_path / "train.csv").write_text(header + "91139,-0Gj8-vB1q4,30,Wind blows\n58146,gone,20,Clanking\n")
    (tmp_path / "val.csv").write_text(header + "1,abc,5,A\n2,abc,5,B\n")
    touch(tmp_path, name, "val/abc_5.wav")
    data = read_data(tmp_path)
    assert data.layout == "AudioCaps"
    train, val = data.examples
    assert (train.id, train.split, train.captions) == ("-0Gj8-vB1q4_30", "train", (Caption("Wind blows"),))
    assert train.audio == tmp_path / name
    assert (val.split, [caption.text for caption in val.captions]) == ("val", ["A", "B"])
    assert [(str(problem.place.file), problem.place.line, problem.kind) for problem in data.problems] == [
        (str(tmp_path / "train.csv"), 3, "missing file")
    ]


UNPACKED = "mnt/fast/nobackup/s/x/WavCaps/data/waveforms/FreeSound_flac"


@pytest.mark.parametrize("sounds", ["Audio/FreeSound", "FreeSound", UNPACKED, f"Zip_files/FreeSound/{UNPACKED}"])
def test_wavcaps(tmp_path, sounds):
    rain = {"id": "123", "caption": "Rain falls.", "duration": 3.2, "tags": ["rain", "field"]}
    items = [rain, {"id": "9", "caption": "x", "tags": 3}]
    files = {
        "json_files/FreeSound/fsd_final.json": {"num_captions_per_audio": 1, "data": items},
        "json_files/FreeSound/fsd_final_2s.json": {"num_captions_per_audio": 1, "data": [rain]},
        "json_files/AudioSet_SL/as_final.json": [{"id": "Yb0RFKhbpFJA.wav", "caption": "Wind.", "duration": 10}],
        "json_files/blacklist/blacklist_exclude_all_ac.json": {"FreeSound": ["1"]},
    }
    for name, content in files.items():
        touch(tmp_path, name)
        (tmp_path / name).write_text(json.dumps(content))
    touch(tmp_path, f"{sounds}/123.flac", "AudioSet_SL/Yb0RFKhbpFJA.flac")
    data = read_data(tmp_path)
    assert data.layout == "WavCaps"
    wind, rain = data.examples
    assert (rain.id, rain.captions, rain.tags) == ("FreeSound/123", (Caption("Rain falls."),), ("rain", "field"))
    assert wind.audio.name == "Yb0RFKhbpFJA.flac"
    assert [problem.kind for problem in data.problems] == ["missing file"]  # and no caption twice
    (tmp_path / "json_files/FreeSound/fsd_final.json").unlink()
    touch(tmp_path, f"{sounds}/9.flac")
    assert [example.id for example in read_data(tmp_path).examples] == ["AudioSet_SL/Yb0RFKhbpFJA.wav", "FreeSound/123"]


@pytest.mark.parametrize("content", ["{", '{"data": 3}', '"text"'])
def test_a_json_that_is_not_wavcaps_is_told(tmp_path, content):
    touch(tmp_path, "json_files/SoundBible/sb_final.json", "json_files/FreeSound/fsd_final.json", "FreeSound/1.flac")
    (tmp_path / "json_files/SoundBible/sb_final.json").write_text(content)
    (tmp_path / "json_files/FreeSound/fsd_final.json").write_text('[{"id": "1", "caption": "x"}, {"caption": "y"}]')
    data = read_data(tmp_path)
    assert len(data.examples) == 1
    assert sorted(problem.kind for problem in data.problems) == ["bad JSON", "bad row"]


def test_esc50(tmp_path):
    touch(tmp_path, "audio/1-100032-A-0.wav", "audio/5-9032-A-0.wav", "meta/esc50.csv")
    (tmp_path / "meta/esc50.csv").write_text(
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-100032-A-0.wav,1,0,dog,True,100032,A\n5-9032-A-0.wav,5,20,crying_baby,True,9032,A\n"
    )
    for path in (tmp_path, tmp_path / "meta" / "esc50.csv"):
        data = read_data(path)
        dog, baby = data.examples
        assert data.layout == "ESC-50"
        assert (dog.split, dog.tags, baby.split, baby.tags) == ("fold1", ("dog",), "fold5", ("crying baby",))
        assert baby.captions == (Caption("crying baby"),)
        assert not data.problems


def test_a_manifest_of_ours_is_not_taken_for_a_published_one(tmp_path):
    (tmp_path / "train.csv").write_text("audio,caption\na.wav,x\n")
    touch(tmp_path, "a.wav")
    assert read_data(tmp_path / "train.csv").layout == "CSV"
    assert read_data(tmp_path).layout == "a folder of unlabelled sounds"


def test_a_table_may_be_named_from_within_its_folder(tmp_path, monkeypatch):
    write_clotho(tmp_path / "clotho", "clotho_csv_files", "clotho_audio_files/")
    touch(tmp_path / "esc", "audio/1-1-A-0.wav", "meta/esc50.csv")
    (tmp_path / "esc/meta/esc50.csv").write_text("filename,fold,category\n1-1-A-0.wav,1,dog\n")
    touch(tmp_path / "caps", "json_files/SoundBible/sb_final.json", "SoundBible/7.flac")
    (tmp_path / "caps/json_files/SoundBible/sb_final.json").write_text('[{"id": "7", "caption": "x"}]')
    for folder, table, name in (
        ("clotho/clotho_csv_files", "clotho_captions_evaluation.csv", "Rain: x.y.wav"),
        ("esc/meta", "esc50.csv", "1-1-A-0.wav"),
        ("caps/json_files/SoundBible", "sb_final.json", "7.flac"),
    ):
        monkeypatch.chdir(tmp_path / folder)
        [example] = read_data(Path(table)).examples
        assert example.audio.name == name
        assert example.audio.is_file()
