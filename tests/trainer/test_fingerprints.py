"""Records of what things were made of: equal for equal inputs, and nothing passes for what it isn't."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.fingerprints import StageError, claim, digest, read_record, record_of


@dataclass(frozen=True)
class Clip:
    """As a row of the data is."""

    path: Path
    text: str


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a", "b"], ["ab"]),
        (["a", ["b"]], [["a", "b"]]),
        (np.zeros(2, np.float32), np.zeros(2, np.float64)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        ({"a": np.ones(1)}, {"b": np.ones(1)}),
        ([np.ones(1), np.ones(1)], [np.ones(1)]),
        (torch.ones(2), torch.zeros(2)),
        (0.1, 0.2),
    ],
)
def test_what_differs_has_another_digest(one: object, other: object):
    assert digest(one) == digest(one)
    assert digest(one) != digest(other)


def test_files_count_by_what_is_in_them(tmp_path: Path):
    here, there = tmp_path / "a.wav", tmp_path / "elsewhere.wav"
    here.write_bytes(b"a sound")
    there.write_bytes(b"a sound")
    assert digest([Clip(here, "a dog")]) == digest([Clip(there, "a dog")]) != digest([Clip(here, "a cat")])
    there.write_bytes(b"a sound.")
    assert digest(here) != digest(there)
    with pytest.raises(OSError, match=r"gone\.wav"):
        digest(tmp_path / "gone.wav")


def test_arrays_and_tensors_of_the_same_numbers_are_the_same():
    assert digest(np.arange(6).reshape(2, 3).T) == digest(torch.arange(6).reshape(2, 3).T)


def test_a_thing_of_other_inputs_is_made_anew_and_what_is_dear_refused(tmp_path: Path):
    kept, twin = tmp_path / "kept.npy", tmp_path / "kept.share.npy"
    first = claim({"seed": "1", "rate": "2"}, kept, twin)
    kept.write_bytes(b"made")
    twin.write_bytes(b"made")
    assert claim({"rate": "2", "seed": "1"}, kept, twin) == claim({"seed": "1", "rate": "2"}, kept, twin) == first
    with pytest.raises(StageError, match=r"kept\.npy made of seed 1, new nothing; expected seed 3, new 4; choose"):
        claim({"seed": "3", "rate": "2", "new": "4"}, kept, twin, dear=True)
    assert kept.exists()
    assert claim({"seed": "3", "rate": "2"}, kept, twin) != first
    assert not kept.exists()
    assert not twin.exists()
    assert read_record(kept) == {"seed": "3", "rate": "2"}


def test_what_is_gone_is_made_of_todays(tmp_path: Path):
    claim({"seed": "1"}, tmp_path / "kept", dear=True)
    assert claim({"seed": "2"}, tmp_path / "kept", dear=True) == claim({"seed": "2"}, tmp_path / "kept", dear=True)


def test_a_folder_without_a_record_is_neither_believed_nor_deleted(tmp_path: Path):
    kept = tmp_path / "text"
    kept.mkdir()
    for dear in (False, True):
        with pytest.raises(StageError, match=r"doesn't say what it was made of; expected text\.made-of\.json"):
            claim({"seed": "1"}, kept, dear=dear)
    claim({"seed": "1"}, kept, dear=True, adopt=True)
    assert kept.is_dir()
    # What has a record is believed by it, adopted or not.
    with pytest.raises(StageError, match="made of seed 1; expected seed 2"):
        claim({"seed": "2"}, kept, dear=True, adopt=True)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"seed"'])
def test_a_damaged_record_is_named(tmp_path: Path, text: str):
    record_of(tmp_path / "kept").write_text(text)
    with pytest.raises(StageError, match=r"kept\.made-of\.json damaged .*delete"):
        claim({"seed": "1"}, tmp_path / "kept")
