"""Batches: random where they should be, the same where they must be."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.audio import open_clip
from engine.types import Space
from engine.windows import cut
from tests.trainer.clips import RATE_HZ, examples_of, write_clip
from trainer.examples import DataError, Example
from trainer.loader import Batch, Loader

SIZE = 1000
LENGTHS = [300, 999, 1000, 1001, 2500, 4000, 40_000, 1200, 1300, 1400, 1500]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sounds")


@pytest.fixture(scope="module")
def clips(sounds: Path) -> list[Example]:
    return examples_of(sounds, LENGTHS)


@pytest.fixture
def load(sounds: Path, clips: list[Example]):
    def load(examples: list[Example] = clips, **settings: Any) -> Loader:
        known = {"sample_rate_hz": RATE_HZ, "window_samples": SIZE, "batch": 3, "seed": 7, "cache": sounds / "cache"}
        return Loader(examples, **{**known, **settings})

    return load


def ids(batch: Batch) -> list[str]:
    return [example.id for example in batch.examples]


def same(one: list[Batch], other: list[Batch]) -> bool:
    return [ids(batch) for batch in one] == [ids(batch) for batch in other] and all(
        torch.equal(a.samples, b.samples) and torch.equal(a.lengths, b.lengths) for a, b in zip(one, other, strict=True)
    )


def heard(example: Example) -> np.ndarray:
    return np.concatenate(list(open_clip(example.audio, RATE_HZ).blocks))


def test_an_epoch_gives_each_clip_once_in_full_batches_and_the_next_another_order(load):
    loader = load()
    first, second = list(loader), list(loader)
    assert len(loader) == 3 == len(first)
    for epoch in (first, second):
        names = [name for batch in epoch for name in ids(batch)]
        assert len(names) == len(set(names)) == 9
        assert all(batch.samples.shape == (3, SIZE) and batch.samples.dtype == torch.float32 for batch in epoch)
        assert all(batch.lengths.tolist() == [SIZE] * 3 for batch in epoch)
    assert [ids(batch) for batch in first] != [ids(batch) for batch in second]


def test_a_crop_is_a_random_stretch_of_its_clip(load, clips):
    loader = load([clips[6]], batch=1)
    whole = heard(clips[6])
    starts = set()
    for _ in range(40):
        [batch] = loader
        crop = batch.samples[0].numpy()
        near = np.flatnonzero(np.abs(whole[: len(whole) - SIZE + 1] - crop[0]) < 1e-4)
        [start] = [int(at) for at in near if np.allclose(whole[at : at + SIZE], crop, atol=2e-5)]
        starts.add(start)
    assert len(starts) > 30
    assert min(starts) < 10_000 < 29_000 < max(starts)


def test_the_first_and_the_last_crop_are_possible(load, clips):
    loader = load([clips[3]], batch=1)  # one sample longer than a window
    whole = heard(clips[3])
    found = Counter()
    for _ in range(60):
        [batch] = loader
        found[int(np.argmin([np.abs(whole[at : at + SIZE] - batch.samples[0].numpy()).max() for at in (0, 1)]))] += 1
    assert min(found[0], found[1]) > 10


@pytest.mark.parametrize("pad", ["repeat", "repeatpad", "zero"])
def test_evaluation_gives_the_windows_that_the_engine_cuts(load, clips, pad):
    space = Space("x", 1, RATE_HZ, SIZE / RATE_HZ, 400 / RATE_HZ, pad)
    expected = [
        (example.id, window.samples)
        for example in clips
        for window in cut(open_clip(example.audio, RATE_HZ).blocks, space)
    ]
    loader = load(train=False, hop_samples=400, pad=pad, batch=7)
    for _ in range(2):  # and again in the next epoch
        batches = list(loader)
        assert len(batches) == len(loader)
        assert [name for batch in batches for name in ids(batch)] == [name for name, _ in expected]
        found = np.concatenate([batch.samples.numpy() for batch in batches])
        np.testing.assert_allclose(found, [samples for _, samples in expected], rtol=0, atol=2e-5)


def test_short_clips_are_padded_as_the_bundle_says_in_training_too(load, clips):
    [batch] = load([clips[0]], batch=1, pad="zero")
    assert batch.samples[0, 300:].abs().max() == 0
    [batch] = load([clips[0]], batch=1)
    assert torch.equal(batch.samples[0, :300], batch.samples[0, 300:600])


def test_variable_rows_are_as_long_as_their_clips_and_come_with_their_like(tmp_path, load):
    examples = examples_of(tmp_path, range(200, 1400, 6))
    loader = load(examples, variable=True, batch=10)
    shuffled = [ids(batch) for batch in load(examples, batch=10)]
    batches = list(loader)
    assert [ids(batch) for batch in batches] != shuffled
    spread = 0
    for batch in batches:
        lengths = batch.lengths.tolist()
        assert batch.samples.shape[1] == max(lengths) <= SIZE
        spread = max(spread, max(lengths) - min(lengths))
        for example, row, length in zip(batch.examples, batch.samples, lengths, strict=True):
            whole = heard(example)
            assert length == min(len(whole), SIZE)
            assert row[length:].abs().sum() == 0
            if len(whole) <= SIZE:
                np.testing.assert_allclose(row[:length].numpy(), whole, rtol=0, atol=2e-5)
    assert spread <= 60  # of 1200: at random it would be about 900
    names = Counter(name for batch in batches for name in ids(batch))
    assert len(names) == 200 == names.total()
    assert [ids(batch) for batch in loader] != [ids(batch) for batch in batches]
    lengths = [batch.lengths.tolist() for batch in load(examples, variable=True, batch=10, train=False)]
    assert all(a[-1] <= b[0] for a, b in pairwise(lengths))


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_it_goes_on_exactly_where_it_was(load, variable, train, stop):
    settings = {"variable": variable, "train": train}
    whole = load(**settings)
    list(whole)
    expected = list(whole) + list(whole)
    begun = load(**settings)
    begun.set_epoch(1)
    stream = iter(begun)
    found = [next(stream) for _ in range(stop)]
    state = json.loads(json.dumps(begun.state_dict()))
    stream.close()
    resumed = load(**settings)
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    found += list(resumed)
    resumed.set_epoch(2)
    found += list(resumed)
    assert same(found, expected)


def test_the_same_seed_gives_the_same_and_another_another(load):
    assert same(list(load()), list(load()))
    assert not same(list(load()), list(load(seed=8)))


def test_processes_share_what_one_would_get(load):
    alone = list(load(batch=4))
    shared = [list(load(batch=2, rank=rank, world=2)) for rank in (0, 1)]
    assert [ids(batch) for batch in alone] == [ids(a) + ids(b) for a, b in zip(*shared, strict=True)]
    rows = {name: row for batch in alone for name, row in zip(ids(batch), batch.samples, strict=True)}
    for batch in shared[0] + shared[1]:
        assert all(torch.equal(rows[name], row) for name, row in zip(ids(batch), batch.samples, strict=True))


def test_processes_evaluate_every_window_once(load, clips):
    alone = Counter(name for batch in load(train=False) for name in ids(batch))
    shared = Counter(
        name for rank in range(3) for batch in load(train=False, rank=rank, world=3) for name in ids(batch)
    )
    assert alone == shared
    assert alone.keys() == {example.id for example in clips}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 8}, "seed 8"),
        ({"batch": 2}, "batch 2"),
        ({"world": 3, "batch": 1}, "world 3"),
        ({"train": False}, "train False"),
    ],
)
def test_a_state_of_another_run_is_refused_with_what_differs(load, changed, said):
    with pytest.raises(DataError, match=said):
        load().load_state_dict(load(**changed).state_dict())


def test_a_state_of_other_data_is_refused(load, clips):
    with pytest.raises(DataError, match="clips"):
        load().load_state_dict(load(clips[1:]).state_dict())


def test_a_batch_larger_than_the_data_is_refused(load):
    with pytest.raises(DataError, match="a batch of 12 from 11 clips"):
        load(batch=12)
    with pytest.raises(DataError, match="in each of 2 processes"):
        load(batch=6, world=2)
    assert len(load(batch=12, train=False)) > 0


def test_unreadable_clips_are_skipped_and_counted_up_to_one_in_a_hundred(tmp_path, load):
    examples = examples_of(tmp_path, [1000 + number for number in range(99)])
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    examples.insert(50, Example("bad", tmp_path / "bad.wav"))
    loader = load(examples, batch=10, cache=tmp_path / "cache")
    [(example, reason)] = loader.skipped
    assert example.id == "bad"
    assert "neither" in reason
    assert "bad" not in {name for batch in loader for name in ids(batch)}
    with pytest.raises(DataError, match=r"2 of 101 clips that can't be heard \(.*bad\.wav: .*gone\.wav: ") as error:
        load([*examples, Example("gone", tmp_path / "gone.wav")], batch=10, cache=tmp_path / "cache")
    assert "1%" in error.value.expected
    with pytest.raises(DataError, match="and 5 more"):
        load([Example(str(number), tmp_path / f"gone{number}.wav") for number in range(15)], cache=tmp_path / "cache")


def test_a_batch_knows_what_its_sounds_are(load, clips):
    for batch in load():
        assert batch.contents == [example.content_sha256() for example in batch.examples]


def test_an_error_of_the_thread_reaches_who_iterates(tmp_path, load):
    examples = examples_of(tmp_path, range(2000, 2010))
    loader = load(examples, cache=tmp_path / "cache")
    for path in (tmp_path / "cache").glob("*/*.pcm"):
        path.unlink()
    with pytest.raises(FileNotFoundError):
        list(loader)


def test_a_long_recording_is_cropped_without_being_read_whole(tmp_path, load):
    write_clip(tmp_path / "long.wav", RATE_HZ * 600)
    loader = load([Example("long", tmp_path / "long.wav")], batch=1, cache=tmp_path / "cache")
    read = []
    original = loader._waveforms.read
    loader._waveforms.read = lambda waveform, first, count: read.append(count) or original(waveform, first, count)  # type: ignore[method-assign]
    list(loader)
    assert read == [SIZE]
