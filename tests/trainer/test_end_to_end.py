"""A tiny model from synthesised sounds to answers: trained, killed, resumed, exported, asked through the engine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from engine.bundle import Calibration, open_bundle
from engine.encoders import OnnxEncoders
from exporters.parity import ParityError
from exporters.starter import export_starter, load_checkpoint, save_checkpoint
from exporters.towers import AudioConfig, TextConfig, TextTower
from trainer.alignment import AlignmentLesson, clip_balance, targets_of
from trainer.cache import mel_table
from trainer.hearing import hear_changed, hear_clean
from trainer.language import TextLesson, encode_texts, new_text_tower
from trainer.loop import Plan, train
from trainer.synth import KINDS, synthesise
from trainer.towers import new_audio_tower
from trainer.vocabulary import learn_tokenizer, starting_vectors

DIM = 16
AUDIO = AudioConfig(stem=8, blocks=((8, 2), (16, 2), (16, 2), (16, 2)), classes=6, hidden=8, dim=DIM)
CHOSEN = [kind for kind in KINDS if kind.texts[0] in {"silence", "white noise", "sine wave", "siren"}]
TEXTS = [text for kind in CHOSEN for text in kind.texts]
TEXTS += ["a loud siren in the distance", "white static hiss", "雨の音", "knarrende Tür"]
PLAN = Plan(steps=12, rate=1e-3, warmup=2, save_every=4, log_every=4)
#: Learnt once: among equally frequent pieces the library's choice differs from run to run.
TOKENIZER = learn_tokenizer(TEXTS, 120)
CURVES = {"text": Calibration(10.0, -3.0, 0.5), "audio": Calibration(10.0, -3.0, 0.5)}


def meaning(texts: list[str]) -> np.ndarray:
    """A stand-in for the sentence encoder: the sum of one random direction a word, unit length."""
    rows = []
    for text in texts:
        row = np.zeros(DIM)
        for word in text.split() or ["?"]:
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
            row += np.random.default_rng(seed).standard_normal(DIM)
        rows.append(row / np.linalg.norm(row))
    return np.array(rows, np.float32)


def learn_text(folder: Path, stop: int | None = None):
    """The tiny text tower."""
    tokenizer = TOKENIZER
    ids = [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)]
    config = TextConfig(pieces=tokenizer.get_vocab_size(), max_tokens=16, layers=1, heads=2, inner=16, dim=DIM)
    tower = new_text_tower(config, tokenizer, ids, starting_vectors(ids, meaning(TEXTS), config.pieces), 1)
    lesson = TextLesson(tower, ids, meaning(TEXTS).astype(np.float16), torch.eye(DIM), np.ones(len(TEXTS)))
    return train(tower, lesson, PLAN, folder / "text", stop_after=stop)


def learn_audio(folder: Path, stop: int | None = None):
    """The tiny audio tower."""
    torch.manual_seed(0)
    tower = new_audio_tower(AUDIO, {}, normalize(torch.randn(6, DIM), dim=1), 1).eval()
    with torch.no_grad():  # a fresh trunk hardly tells sounds apart
        for parameter in (*tower.trunk.parameters(), tower.classifier.weight):
            parameter *= 3
    makers = [lambda k=kind, i=i: synthesise(k, np.random.default_rng(i)) for kind in CHOSEN for i in range(2)]
    mels = mel_table(folder, "made", makers, AUDIO)
    texts = torch.from_numpy(np.repeat(meaning([kind.texts[0] for kind in CHOSEN]), 2, axis=0))
    clean = hear_clean(mels, tower, folder / "clean.npy")
    changed = hear_changed(mels, np.arange(len(mels)), 20, tower, folder / "changed.npy", 1)
    tower.trunk.requires_grad_(False)
    silence = torch.from_numpy(meaning(["silence"]))[0]
    lessons = [targets_of(views, texts, silence, tower) for views in (clean, changed)]
    weights = np.concatenate([clip_balance(clean), np.ones(20)])
    return train(tower, AlignmentLesson(tower, lessons, weights), PLAN, folder / "audio", stop_after=stop)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("starter")
    save_checkpoint(folder / "checkpoint", learn_audio(folder), learn_text(folder), TOKENIZER)
    export_starter(folder / "checkpoint", folder / "bundle", CURVES, {"credits": ["nobody"], "licence": "CC0"})
    return folder


def test_killed_towers_end_as_undisturbed_ones(work, tmp_path):
    learn_text(tmp_path, stop=4)
    learn_audio(tmp_path, stop=8)
    whole = load_checkpoint(work / "checkpoint")
    for again, tower in ((learn_text(tmp_path), whole.text), (learn_audio(tmp_path), whole.audio)):
        for name, value in again.state_dict().items():
            assert torch.equal(value, tower.state_dict()[name]), name


def test_the_engine_opens_it(work):
    bundle = open_bundle(work / "bundle")
    bundle.verify()
    encoders = OnnxEncoders(bundle, "cpu")
    samples = np.stack([synthesise(kind, np.random.default_rng(5))[: encoders.space.window_samples] for kind in CHOSEN])
    assert encoders.audio.encode_audio(samples).shape == (len(CHOSEN), DIM)
    towers = load_checkpoint(work / "checkpoint")
    close = (encoders.text.encode_text(TEXTS) * encode_texts(towers.text, TOKENIZER, TEXTS).numpy()).sum(1)
    assert close.min() > 0.999  # the vocabulary is stored in int8


def test_case_and_accents_do_not_matter(work):
    text = OnnxEncoders(open_bundle(work / "bundle"), "cpu").text
    assert np.allclose(text.encode_text(["White Noise"]), text.encode_text(["white noíse"]), atol=1e-6)


def test_a_row_does_not_depend_on_its_neighbours(work):
    text = OnnxEncoders(open_bundle(work / "bundle"), "cpu").text
    together = text.encode_text(["siren", "a loud siren in the distance"])
    assert np.allclose(together[:1], text.encode_text(["siren"]), atol=1e-5)


def test_manifest_and_card_agree(work):
    manifest = json.loads((work / "bundle" / "manifest.json").read_text())
    card = (work / "bundle" / "README.md").read_text()
    assert manifest["space_id"] in card
    assert "nobody" in card
    graphs = {"audio.onnx", "text.onnx", "golden.npz", "tokenizer.json"}
    assert set(manifest["files"]) == {"README.md", "towers.json", *graphs}
    assert manifest["parity"]["audio_graph"] <= 1e-3


def test_the_space_changes_with_the_weights(work):
    checkpoint = load_checkpoint(work / "checkpoint")
    before = checkpoint.space_id
    with torch.no_grad():
        checkpoint.audio.sharpness[0] += 1e-3
    assert checkpoint.space_id != before


def test_weights_that_do_not_survive_storage_are_refused(work, tmp_path):
    audio = learn_audio(work)
    with torch.no_grad():
        audio.detail[2].weight.fill_(1e-8)  # float16 has no such numbers
        audio.meanings.weight.zero_()
    save_checkpoint(tmp_path / "checkpoint", audio, learn_text(work), TOKENIZER)
    with pytest.raises(ParityError, match="stored audio weights"):
        export_starter(tmp_path / "checkpoint", tmp_path / "bundle", CURVES, {})


def test_texts_come_up_by_their_weight():
    ids = [[1, 2], [1, 3], [1, 4], [1, 5]]
    tower = TextTower(TextConfig(pieces=6, max_tokens=16, layers=1, heads=1, inner=4, dim=2))
    lesson = TextLesson(tower, ids, np.zeros((4, 2), np.float16), torch.eye(2), np.array([1.0, 2.0, 3.0, 4.0]))
    drawn = lesson._draw(np.random.default_rng(0), 0, 4, 40_000)
    np.testing.assert_allclose(np.bincount(drawn) / 40_000, [0.1, 0.2, 0.3, 0.4], atol=0.01)
    assert set(lesson._draw(np.random.default_rng(0), 1, 3, 1000)) == {1, 2}
