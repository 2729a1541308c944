"""Manifests, folders and shards, line by line."""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trainer.clips import RATE_HZ, write_clip, write_lines
from trainer.check import check
from trainer.examples import Caption, DataError, language_code
from trainer.manifest import read_data


def kinds(path: Path) -> list[tuple[int, str]]:
    return [(problem.place.line, problem.kind) for problem in read_data(path).problems]


def test_jsonl_says_everything_a_clip_can_have(tmp_path):
    row = {
        "audio": "sounds/a.wav",
        "captions": ["a dog barks", {"text": "ein Hund bellt", "lang": "de"}],
        "tags": ["dog"],
        "split": "Val",
        "id": "clip 1",
    }
    data = read_data(write_lines(tmp_path / "m.jsonl", [row]))
    [example] = data.examples
    assert (example.id, example.audio) == ("clip 1", tmp_path / "sounds/a.wav")
    assert example.captions == (Caption("a dog barks", "eng"), Caption("ein Hund bellt", "deu"))
    assert (example.tags, example.split, example.place.line) == (("dog",), "val", 1)
    assert (data.layout, data.problems, data.ignored) == ("JSONL", [], ())


def test_csv_takes_a_json_list_or_repeated_rows(tmp_path):
    (tmp_path / "m.csv").write_text(
        "audio,captions,lang,tags,split\n"
        'a.wav,"[""rain, heavy"", ""it pours""]",eng,rain;weather,train\n'
        "b.wav,[static] on a radio,,,\n"
        "b.wav,du bruit,fr,,\n"
    )
    a, b = read_data(tmp_path / "m.csv").examples
    assert [caption.text for caption in a.captions] == ["rain, heavy", "it pours"]
    assert a.tags == ("rain", "weather")
    assert b.captions == (Caption("[static] on a radio", "eng"), Caption("du bruit", "fra"))


def test_tsv_and_a_byte_order_mark(tmp_path):
    (tmp_path / "m.tsv").write_text("\ufeffaudio\tcaption\na.wav\tone, two\n", encoding="utf-8")
    [example] = read_data(tmp_path / "m.tsv").examples
    assert example.captions == (Caption("one, two"),)


def test_what_is_wrong_is_told_with_its_line_and_left_out(tmp_path):
    path = write_lines(
        tmp_path / "m.jsonl",
        [
            {"audio": "a.wav", "captions": "fine"},
            "{broken",
            "[1]",
            "",
            {"captions": "no sound"},
            {"audio": "b.wav", "captions": " "},
            {"audio": "c.wav", "captions": "hm", "lang": "klingonese"},
            {"audio": "d.wav", "captions": 3},
            {"audio": "e.wav", "captions": ["x", "x"]},
            {"audio": "f.wav", "captions": [None]},
            {"audio": "g.wav", "tags": [1]},
            '{"audio": "h.wav", "captions": "\\ud800"}',
            '{"audio": "i\\ud800.wav"}',
            '{"audio": "j\\u0000.wav"}',
            '{"audio": "k.wav", "tags": ["\\udc80"]}',
        ],
    )
    assert kinds(path) == [
        (2, "bad JSON"),
        (3, "bad JSON"),
        (5, "bad row"),
        (6, "empty caption"),
        (7, "unknown language"),
        (8, "bad row"),
        (9, "duplicate caption"),
        (10, "bad row"),
        (11, "bad row"),
        (12, "not UTF-8"),
        (13, "bad row"),
        (14, "bad row"),
        (15, "not UTF-8"),
    ]
    said = {example.audio.name: [caption.text for caption in example.captions] for example in read_data(path).examples}
    assert said == {"a.wav": ["fine"], "b.wav": [], "c.wav": [], "e.wav": ["x"], "f.wav": [], "h.wav": []}


def test_csv_lines_are_those_of_the_file(tmp_path):
    (tmp_path / "m.csv").write_bytes(
        b"audio,captions\n"
        b'a.wav,"two\nlines"\n'
        b"b.wav,a comma, unquoted\n"
        b"c.wav\n"
        b"\n"
        b"d.wav,\xff\n"
    )  # fmt: skip
    assert kinds(tmp_path / "m.csv") == [(4, "bad row"), (5, "bad row"), (7, "not UTF-8")]
    first = read_data(tmp_path / "m.csv").examples[0]
    assert (first.captions, first.place.line) == ((Caption("two lines"),), 3)


def test_one_clip_on_two_splits_stays_two_examples_with_ids_of_their_own(tmp_path):
    rows = [{"audio": "a.wav", "split": "train"}, {"audio": "a.wav", "split": "test"}]
    data = read_data(write_lines(tmp_path / "m.jsonl", rows))
    assert [example.split for example in data.examples] == ["train", "test"]
    assert len({example.id for example in data.examples}) == 2


def test_an_id_belongs_to_one_clip(tmp_path):
    rows = [{"audio": "a.wav", "id": "1"}, {"audio": "b.wav", "id": "1"}, {"audio": "c.wav", "id": 1}]
    path = write_lines(tmp_path / "m.jsonl", rows)
    assert kinds(path) == [(2, "duplicate id"), (3, "duplicate id")]
    assert len({example.id for example in read_data(path).examples}) == 3


def test_columns_that_nobody_reads_are_named(tmp_path):
    assert read_data(write_lines(tmp_path / "m.jsonl", [{"audio": "a.wav", "mood": "calm"}])).ignored == ("mood",)


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    data = read_data(write_lines(tmp_path / "m.jsonl", [{"audio": "a.wav"}, {"audio": "b.wav"}]))
    assert len(data.split("train")) == 2
    with pytest.raises(DataError, match=r"train \(2\)"):
        data.split("test")


def test_a_folder_is_its_sounds_without_words(tmp_path):
    for name in ("b/2.wav", "b/1.OGG", "a.flac", ".hidden.wav", "notes.txt", ".git/x.wav", "__MACOSX/y.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    data = read_data(tmp_path)
    assert [example.id for example in data.examples] == ["a.flac", "b/1.OGG", "b/2.wav"]
    assert not any(example.captions for example in data.examples)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.jsonl", None, "gone.jsonl"),
        ("gone", None, "no .*gone"),
        ("m.xlsx", b"", r"a \.jsonl"),
        ("empty.jsonl", b"", "no clip"),
        ("m.csv", b"clip,text\na.wav,x\n", "columns clip, text"),
        ("m.csv", "audio,captions\na.wav,x\n".encode("utf-16"), "not UTF-8"),
        ("m.csv", "audio,légende\na.wav,x\n".encode("latin-1"), "not UTF-8"),
        ("m.json", b"{}", "no clip"),
        ("m.tar", b"not a tar", "uncompressed tar"),
        ("deep.jsonl", b'{"audio": ' + b"[" * 100_000 + b"\n", "no clip"),
    ],
)
def test_what_cannot_be_read_at_all_says_what_to_do(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        read_data(tmp_path / name)
    assert error.value.expected
    assert error.value.action


@pytest.mark.parametrize(
    ("raw", "code"),
    [("eng", "eng"), ("en", "eng"), ("DE", "deu"), ("ger", "deu"), ("pt-BR", "por"), ("zh_CN", "zho"),
     ("cmn", "cmn"), ("xx", None), ("", None), ("english", None)],
)  # fmt: skip
def test_languages(raw, code):
    assert language_code(raw) == code


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_shards_are_read_where_they_lie(tmp_path):
    first, second = (write_clip(tmp_path / f"{seed}.wav", 900 + seed, seed).read_bytes() for seed in (1, 2))
    shards = tmp_path / "shards"
    shards.mkdir()
    ours = json.dumps({"captions": [{"text": "Regen", "lang": "de"}], "split": "val", "tags": ["rain"]})
    laion = json.dumps({"text": ["a dog", "barking"], "tag": ["dog"], "original_data": {"title": "x"}})
    pack(shards / "0.tar", {"a.wav": first, "a.json": ours.encode(), "b.wav": second, "b.json": laion.encode()})
    pack(shards / "1.tar", {"c.wav": second, "c.txt": b"a cat\n\na meow\n", "d.txt": b"no sound", "e.wav": b"x",
                            "e.json": b"{oops", "f.flac": b"x", "f.wav": b"x"})  # fmt: skip
    data = read_data(shards)
    a, b, c = data.examples
    assert (a.captions, a.split, a.tags) == ((Caption("Regen", "deu"),), "val", ("rain",))
    assert ([caption.text for caption in b.captions], b.tags) == (["a dog", "barking"], ("dog",))
    assert [caption.text for caption in c.captions] == ["a cat", "a meow"]
    assert [problem.kind for problem in data.problems] == ["bad row", "bad JSON", "bad row"]
    assert data.ignored == ("original_data",)
    assert sum(map(len, a.open(RATE_HZ).blocks)) == 901
    assert sum(map(len, b.open(RATE_HZ).blocks)) == 902
    assert b.content_sha256() == c.content_sha256() != a.content_sha256()


def test_folders_of_shards_are_splits_and_other_archives_none(tmp_path):
    sound = write_clip(tmp_path / "made.wav", 900).read_bytes()
    said = json.dumps({"text": "rain", "split": "test"}).encode()
    for name, files in {"train": {"a.wav": sound}, "valid": {"a.wav": sound, "b.wav": sound, "b.json": said}}.items():
        (tmp_path / "laion" / name).mkdir(parents=True)
        pack(tmp_path / "laion" / name / "0.tar", files)
    data = read_data(tmp_path / "laion")
    assert [(clip.id, clip.split) for clip in data.examples] == [
        ("train/0.tar/a", "train"),
        ("valid/0.tar/a", "valid"),
        ("valid/0.tar/b", "test"),
    ]
    assert (data.layout, data.problems) == ("WebDataset", [])
    (tmp_path / "library" / "pack").mkdir(parents=True)
    pack(tmp_path / "library" / "pack" / "backup.tar", {"a.wav": sound})
    write_clip(tmp_path / "library" / "pack" / "a.wav", 900)
    assert read_data(tmp_path / "library").layout == "a folder of unlabelled sounds"


def test_a_table_may_say_path_and_caption_as_exports_do(tmp_path):
    write_clip(tmp_path / "a.wav", 4000)
    (tmp_path / "a.csv").write_text("path,caption\na.wav,rain\na.wav,drizzle\n", encoding="utf-8")
    data = read_data(tmp_path / "a.csv")
    (clip,) = data.examples
    assert (clip.audio, [one.text for one in clip.captions]) == (tmp_path / "a.wav", ["rain", "drizzle"])
    assert (data.ignored, data.problems) == ((), [])


def test_where_a_row_has_both_names_its_own_one_counts(tmp_path):
    write_clip(tmp_path / "a.wav", 4000)
    (tmp_path / "a.csv").write_text("audio,captions,path,caption\na.wav,rain,b.wav,snow\n", encoding="utf-8")
    data = read_data(tmp_path / "a.csv")
    (clip,) = data.examples
    assert (clip.audio.name, [one.text for one in clip.captions]) == ("a.wav", ["rain"])
    assert list(data.ignored) == ["path", "caption"]


def test_of_a_shard_that_breaks_off_the_start_is_kept(tmp_path):
    sound = write_clip(tmp_path / "a.wav", 4000).read_bytes()
    whole = pack(tmp_path / "whole.tar", {f"{number}.wav": sound for number in range(4)})
    (tmp_path / "half.tar").write_bytes(whole.read_bytes()[: 2 * len(sound) + 3000])
    data = read_data(tmp_path / "half.tar")
    assert 1 <= len(data.examples) < 4
    assert {problem.kind for problem in data.problems} == {"bad shard"}
    assert data.examples[0].content_sha256() == read_data(whole).examples[0].content_sha256()


SEEDS = {
    ".jsonl": b'{"audio": "a.wav", "captions": ["x", {"text": "y", "lang": "deu"}], "tags": ["t"], "id": 3}\n',
    ".csv": b'audio,captions,lang,tags,split,id\na.wav,"[""x"", ""y""]",eng,t;u,val,3\nb.wav,z,,,,\n',
    ".json": b'{"num_captions_per_audio": 1, "data": [{"id": "1", "caption": "x", "duration": 1.5, "tags": ["t"]}]}',
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from([*SEEDS, ".tar"]),
    cuts=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 9), st.binary(max_size=6)), min_size=1, max_size=4),
)
def test_whatever_a_manifest_holds_it_is_read_or_refused(tmp_path, kind, cuts):
    content = (
        SEEDS.get(kind) or pack(tmp_path / "seed.tar", {"a.wav": b"x" * 99, "a.json": SEEDS[".jsonl"]}).read_bytes()
    )
    for at, count, new in cuts:
        at %= len(content) + 1
        content = content[:at] + new + content[at + count :]
    path = tmp_path / f"mutant{kind}"
    path.write_bytes(content)
    (tmp_path / "1.wav").touch()
    with suppress(DataError):
        report = check(path)
        assert json.loads(json.dumps(report.to_dict()))["clips"] == report.clips > 0
        assert all(problem.message for problem in report.problems)
