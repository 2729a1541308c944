"""Rows, words and the split; the real table where it is present."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from trainer.data import (
    CHOICE_SHARE,
    LARGEST_CHOICE_SOURCE,
    LARGEST_HELD_OUT_SOURCE,
    SHIPPABLE,
    DataMissingError,
    Row,
    clean_text,
    decode,
    hold_out,
    read_rows,
    training_rows,
)
from trainer.texts import corpus, normal

DATA = Path(__file__).parents[3] / "shared" / "data"


def row(source: str, number: int = 0, licence: str = "CC0", split: str = "train") -> Row:
    return Row(Path(f"{source}-{number}.ogg"), split, "set", "", "a sound", licence, source, 1.0)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("plmove/walk_t_grassLong 03", "walk grass long"),
        ("Buddy Bark", "buddy bark"),
        ("metal-detector beep x", "metal detector beep"),
        ("explosion_distant2.wav", "explosion"),
        ("typing on a keyboard, black ink", "typing on a keyboard, black ink"),
        ("misc 007", ""),
    ],
)
def test_clean_text(raw, clean):
    assert clean_text(raw) == clean


def test_no_source_is_on_both_sides_and_order_does_not_matter():
    rows = [row(f"author {i % 97}", i) for i in range(900)]
    learn, held = hold_out(rows)
    assert len(learn) + len(held) == 900
    assert not {r.source for r in learn} & {r.source for r in held}
    assert 0.08 < len(held) / 900 < 0.35
    assert set(hold_out(rows[::-1])[1]) == set(held)


def test_what_is_held_out_of_everything_is_among_what_designs_are_chosen_by():
    rows = [row(f"author {i % 97}", i) for i in range(900)]
    chosen = set(hold_out(rows, CHOICE_SHARE, LARGEST_CHOICE_SOURCE)[1])
    assert set(hold_out(rows)[1]) < chosen


def test_a_giant_source_is_never_held_out():
    rows = [row(f"giant {g}", i) for g in range(12) for i in range(LARGEST_HELD_OUT_SOURCE + 1)]
    assert hold_out(rows, share=1.0)[1] == []


def test_only_shippable_training_rows():
    rows = [row("a"), row("b", licence="CC-BY-SA"), row("c", licence="CC-BY-NC"), row("d", split="dev")]
    assert training_rows(rows) == rows[:1]


def test_missing_data_says_what_to_do(tmp_path):
    with pytest.raises(DataMissingError, match="--data"):
        read_rows(tmp_path)


def test_short_clips_are_repeated(tmp_path):
    samples = np.linspace(-0.5, 0.5, 800, dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    clip = Row(tmp_path / "a.wav", "train", "set", "", "", "CC0", "me", 0.05)
    found = decode(clip, 16_000, 2000)
    assert len(found) == 2000
    assert np.allclose(found[:800], samples)
    assert np.allclose(found[800:1600], samples)


def test_normal_text_is_short_and_lower_case():
    assert normal("  A  Dog\tBarks ") == "a dog barks"
    assert len(normal("x" * 1000)) == 160


def write_texts(folder: Path) -> None:
    """The smallest data folder that the corpus can be drawn from."""
    (folder / "text").mkdir()
    (folder / "teacher").mkdir()
    tables = {
        "text/audiocaps.csv": [{"split": "train", "caption": "A dog barks while rain falls"}],
        "text/wavtext5k.csv": [{"title": "Forest", "description": "Birds singing."}],
        "text/audioset_ontology.csv": [{"id": "/m/1", "name": "Bark", "description": "A dog's sound. More."}],
        "teacher/classes.csv": [{"index": "0", "id": "/m/1", "name": "Bark"}],
    }  # fmt: skip
    for name, rows in tables.items():
        with (folder / name).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def test_the_corpus_is_distinct_and_always_the_same(tmp_path):
    write_texts(tmp_path)
    found = corpus(tmp_path, [row("a")], ["velcro", "stapler"])
    assert found == corpus(tmp_path, [row("a")], ["velcro", "stapler"])
    assert len(found) == len(set(found))
    assert {"velcro", "bark", "a dog barks while rain falls", "birds singing.", "a dog's sound"} <= set(found)
    assert any("velcro" in text and text != "velcro" for text in found)


@pytest.mark.skipif(not (DATA / "sounds.csv").is_file(), reason="no ../shared/data: the real table is not here")
def test_the_real_split_leaks_nothing():
    rows = read_rows(DATA)
    usable = training_rows(rows)
    assert {r.licence for r in usable} <= SHIPPABLE
    assert {r.split for r in usable} == {"train"}
    learn, held = hold_out(usable)
    assert not {r.source for r in learn} & {r.source for r in held}
    assert len(held) > 300
