"""A captioner learns what it is taught, goes on after a kill, and stops where nothing can come of it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from trainer.bridging import Bridge
from trainer.captioner import (
    CaptionerConfig,
    CaptionLesson,
    HeldOut,
    TrainingError,
    caption_ids,
    learn_pieces,
    load,
    say,
    shifted,
    train,
)
from trainer.loop import Plan

TEXTS = [
    f"{who} {does} {where}"
    for who in ("a dog", "a small bird", "the old man")
    for does in ("sings", "walks past", "cries, then laughs")
    for where in ("in the rain", "indoors", "at night", "far away")
]
VECTORS = np.random.default_rng(0).standard_normal((len(TEXTS), 16)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
SMALL = CaptionerConfig(
    pieces=120, width=32, layers=2, heads=2, prefix=2, hidden=32, max_tokens=48, dropout=0.0, batch=36, validate=40,
    bridge=Bridge(sigma=0.01), plan=Plan(steps=160, rate=1e-2, warmup=20, average=0.9, save_every=50, log_every=50),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads gain nothing on matrices this small, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_it_says_again_what_it_was_taught(tmp_path: Path) -> None:
    held = HeldOut(TEXTS, VECTORS, ["eng"] * len(TEXTS), metrics=lambda texts, said: {"same": _same(texts, said)})
    decoder = train(TEXTS, VECTORS, SMALL, tmp_path, held_out=held)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    said = say(decoder, tokenizer, torch.from_numpy(VECTORS), ["eng"] * len(TEXTS))
    assert _same(TEXTS, said) > 0.9
    with (tmp_path / "validation.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["40", "80", "120", "160"]
    assert float(rows[-1]["loss"]) < 0.3 * float(rows[0]["loss"])
    assert float(rows[-1]["same"]) == pytest.approx(_same(TEXTS, said), abs=0.03)


def _same(texts: list[str], said: list[str]) -> float:
    return sum(a == b for a, b in zip(texts, said, strict=True)) / len(texts)


@pytest.mark.parametrize("held", [None, HeldOut(TEXTS[:8], VECTORS[:8], ["eng"] * 8)], ids=["alone", "judged"])
def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path, held: HeldOut | None) -> None:
    config = replace(SMALL, dropout=0.1, validate=10, plan=replace(SMALL.plan, steps=30, save_every=10))
    tokenizer = learn_pieces(TEXTS, ["eng"], 120)  # twice learnt, pieces of one score may change places
    whole = train(TEXTS, VECTORS, config, tmp_path / "whole", held_out=held, tokenizer=tokenizer)
    train(TEXTS, VECTORS, config, tmp_path / "killed", held_out=held, tokenizer=tokenizer, stop_after=17)
    killed = train(TEXTS, VECTORS, config, tmp_path / "killed", held_out=held)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, killed.state_dict()[name]), name
        assert torch.equal(value, load(tmp_path / "killed").state_dict()[name]), name


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SMALL, plan=replace(SMALL.plan, steps=40, save_every=10))
    train(TEXTS, VECTORS, config, tmp_path, stop_after=10)
    saved = (tmp_path / "last.pt").read_bytes()
    monkeypatch.setattr(CaptionLesson, "loss", lambda *_: torch.tensor(torch.nan))
    with pytest.raises(TrainingError, match="loss of nan at step 10"):
        train(TEXTS, VECTORS, config, tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == saved


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    config = replace(SMALL, plan=replace(SMALL.plan, steps=1))
    train(TEXTS, VECTORS, config, tmp_path)
    with pytest.raises(TrainingError, match="another run in"):
        train(TEXTS[::-1], VECTORS, config, tmp_path)
    with pytest.raises(TrainingError, match="another run in"):
        train(TEXTS, VECTORS, replace(config, bridge=Bridge(sigma=0.5)), tmp_path)
    with pytest.raises(TrainingError, match="the same texts, vectors"):  # the same texts of another space
        train(TEXTS, -VECTORS, config, tmp_path)
    train(TEXTS, VECTORS, config, tmp_path)
    with pytest.raises(TrainingError, match=r"a run of 1 steps in .*, and 7 asked for.*choose another folder for more"):
        train(TEXTS, VECTORS, replace(config, plan=replace(config.plan, steps=7)), tmp_path)


def test_another_adapter_is_another_run(tmp_path: Path) -> None:
    """Of a large matrix, ``repr`` shows the corners alone."""
    dim = 64
    vectors = np.eye(len(TEXTS), dim, dtype=np.float32)
    matrix = np.eye(dim, dtype=np.float32)
    config = replace(SMALL, bridge=Bridge(0.01, matrix), plan=replace(SMALL.plan, steps=1))
    train(TEXTS, vectors, config, tmp_path)
    other = matrix.copy()
    other[dim // 2, dim // 2] = 2
    changed = replace(config, bridge=Bridge(0.01, other))
    assert repr(changed) == repr(config)
    with pytest.raises(TrainingError, match="another run in"):
        train(TEXTS, vectors, changed, tmp_path)


def test_a_validation_loss_counts_each_piece_once(tmp_path: Path) -> None:
    """Over several batches, as over one: the mean of all pieces."""
    texts = [" ".join(["rain"] * (1 + number % 9)) for number in range(200)]
    vectors = np.random.default_rng(1).standard_normal((200, 16)).astype(np.float32)
    config = replace(SMALL, validate=1, plan=replace(SMALL.plan, steps=1, average=0.0))
    decoder = train(TEXTS, VECTORS, config, tmp_path, held_out=HeldOut(texts, vectors, ["eng"] * 200))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = caption_ids(tokenizer, texts, ["eng"] * 200, config.max_tokens)
    with (tmp_path / "validation.csv").open(newline="") as stream:
        [row] = csv.DictReader(stream)
    with torch.no_grad():
        whole = float(CaptionLesson(decoder, ids, vectors, config).loss(np.arange(200), None))
    assert float(row["loss"]) == pytest.approx(whole, rel=1e-4)


def test_texts_come_back_from_their_pieces() -> None:
    texts = ["A dog, barking!", "el perro ladra", "犬が吠える。", "雨の音、遠くの雷", "c'est l'été"] * 3
    languages = ["eng", "spa", "jpn", "jpn", "fra"] * 3
    tokenizer = learn_pieces(texts, languages, 200)
    ids = caption_ids(tokenizer, texts, languages, 40)
    assert [tokenizer.decode(one) for one in ids] == texts
    assert [tokenizer.id_to_token(one[0]) for one in ids[:3]] == ["[eng]", "[spa]", "[jpn]"]
    assert {one[-1] for one in ids} == {tokenizer.token_to_id("[END]")}
    assert max(map(len, caption_ids(tokenizer, texts, languages, 5))) == 6


def test_what_is_read_and_what_comes_next() -> None:
    inputs, targets = shifted([[3, 7, 8, 1], [4, 9, 1]])
    assert inputs.tolist() == [[3, 7, 8], [4, 9, 0]]
    assert targets.tolist() == [[7, 8, 1], [9, 1, -100]]
