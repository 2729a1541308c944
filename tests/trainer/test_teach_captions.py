"""`earshot train captioner`, from captions to a bundle that captions; and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from earshot.commands import app
from engine.bundle import open_bundle
from engine.captioner import Captioner
from engine.encoders import OnnxEncoders
from engine.errors import BundleError, QueryError
from engine.eventless import anchors_in
from engine.fakes import FakeEncoders
from engine.spelling import words_of
from engine.types import FloatArray
from exporters.decoder import CaptionDecoder
from trainer.bridging import sigma_of_pairs
from trainer.captioner import HeldOut, train
from trainer.settings import TrainingError
from trainer.teach_captions import NOISE, Lesson, _bridge, _vectors, teach

TEXTS = [f"{what} {where}" for what in ("a dog barks", "rain falls") for where in ("indoors", "at night", "far away")]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.captioner.DRAWS", 2)  # hundreds of noises take seconds


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(TEXTS * 2), encoding="utf-8")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three sounds with a caption each."""
    rows = ["audio,captions"]
    for number, text in enumerate(TEXTS[:3]):
        t = np.arange(32_000) / 16_000
        soundfile.write(tmp_path / f"{number}.wav", 0.3 * np.sin(2 * np.pi * 150 * (number + 1) * t * t), 16_000)
        rows.append(f"{number}.wav,{text}")
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def _run(*words: str | Path) -> dict:
    found = CliRunner().invoke(app, ["train", "captioner", *map(str, words), "--steps", "2", "--json"])
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def test_from_captions_to_a_bundle_that_captions(
    captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EARSHOT_LIBRARY", str(tmp_path / "no library"))
    out = tmp_path / "speaking"
    told = _run(captions, "--out", out)
    assert told["captions"] == len(TEXTS)
    bundle = open_bundle(out)
    bundle.verify()
    part = bundle.manifest.captioner
    assert part is not None
    assert (part.sigma, part.languages, part.space_id) == (NOISE, ("eng",), bundle.manifest.space_id)
    assert (part.strategy, part.tau, part.rerank) == ("projection", 0.02, True)
    starter = open_bundle("starter").manifest.captioner
    assert starter is not None
    assert (starter.strategy, starter.sigma) == (part.strategy, part.sigma)
    assert (part.calibration, part.nearest) == (None, starter.nearest)  # the memory is the starter's, the decoder not
    assert bundle.manifest.name == "speaking"
    card = (out / "README.md").read_text(encoding="utf-8").partition("## What it says of sounds")[2].partition("##")[0]
    assert f"{told['captioner']['parameters']:,} parameters, 2 steps, noise of {NOISE}" in card
    assert "6 captions in eng" in card
    assert "4,992 sentences" in card
    captions_of_starter = open_bundle("starter").manifest.extra["captions"]
    its_parameters = captions_of_starter["facts"]["decoder"].split()[0]
    assert re.fullmatch(r"[\d,]{5,}", its_parameters)
    for of_the_starter in ("CIDEr-D", its_parameters, "AudioCaps"):
        assert of_the_starter not in card
    soundfile.write(tmp_path / "silence.wav", np.zeros(40_000), 16_000)
    said = CliRunner().invoke(app, ["caption", str(tmp_path / "silence.wav"), "--bundle", str(out)])
    assert said.exit_code == 0, said.output
    assert "silence" in said.stdout
    assert _run(captions, "--out", out) == told  # nothing is left to learn
    with pytest.raises(TrainingError, match="another run"):
        _run(captions, "--out", out, "--noise", "0.5")


def test_stopped_while_the_bundle_is_copied_the_same_call_goes_on(
    captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(_: Path, folder: Path, **__: object) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "audio.onnx").write_bytes(b"half")
        raise KeyboardInterrupt

    out = tmp_path / "speaking"
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", stopped)
        with pytest.raises(KeyboardInterrupt):
            teach(Lesson(TEXTS, ["eng"] * 6, 1), open_bundle("starter"), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.txt", "speaking.run"]
    teach(Lesson(TEXTS, ["eng"] * 6, 1), open_bundle("starter"), out)
    open_bundle(out).verify()


def test_the_gap_is_estimated_from_pairs_and_the_noise_is_not(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoders = OnnxEncoders(open_bundle("starter"), "cpu", threads=1)
    noise, paired = _bridge(encoders, Lesson(TEXTS, ["eng"] * 6, 1, pairs=pairs), tmp_path)
    assert paired is not None
    assert paired.common is None  # three sounds have no mean that would tell
    assert paired.gaps.shape == (3, 256)
    assert noise.offset is None
    assert noise.sigma == NOISE
    told = re.search(rf"noise {NOISE}; estimated from the pairs: (\S+)", capsys.readouterr().out)
    assert told is not None
    assert float(told[1]) > 0.1
    shifted, _ = _bridge(encoders, Lesson(TEXTS, ["eng"] * 6, 1, bridging="shift", pairs=pairs), tmp_path)
    assert shifted.sigma == pytest.approx(noise.sigma)
    assert shifted.offset is not None
    adapted, _ = _bridge(encoders, Lesson(TEXTS, ["eng"] * 6, 1, noise=0.01, bridging="adapter", pairs=pairs), tmp_path)
    assert adapted.sigma == 0.01
    assert adapted.matrix is not None
    words = encoders.text.encode_text(TEXTS[:3])
    sounds = words @ adapted.matrix + adapted.offset
    assert sigma_of_pairs(sounds, words) > 0
    np.testing.assert_allclose((words + shifted.offset).mean(axis=0), sounds.mean(axis=0), atol=1e-4)


def test_practice_learns_captions_as_their_sounds_would_be_asked(
    captions: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once as it is, and thrice from elsewhere; what it may say is what it learnt."""
    taught = []

    def watched(texts: list[str], vectors: FloatArray, *rest: Any, **more: Any) -> CaptionDecoder:
        taught.append((texts, vectors, more["languages"]))
        return train(texts, vectors, *rest, **more)

    monkeypatch.setattr("trainer.teach_captions.train", watched)
    told = _run(captions, "--out", tmp_path / "speaking", "--pairs", pairs, "--bridge", "practice")
    [(texts, vectors, languages)] = taught
    assert told["captions"] == len(TEXTS)
    count = len(TEXTS)  # less than a tenth is held out: none
    assert len(texts) == len(vectors) == len(languages) == 4 * count
    assert texts[:count] == texts[-count:]
    assert np.abs(vectors[:count] - vectors[-count:]).max() > 0.01
    kept = anchors_in(open_bundle(tmp_path / "speaking"), "caption_anchors.npz")
    assert str(kept["words"]) == " ".join(sorted(words_of(TEXTS)))


def test_practice_goes_on_with_what_it_began_with(
    captions: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine's sums end in other digits; and no sound is heard again."""
    asked = ("--out", tmp_path / "speaking", "--pairs", pairs, "--bridge", "practice")
    told = _run(captions, *asked)
    monkeypatch.setattr("trainer.teach_captions.practised", _forbidden)
    monkeypatch.setattr("trainer.teach_captions.hear", _forbidden)
    assert _run(captions, *asked) == told
    card = (tmp_path / "speaking" / "README.md").read_text(encoding="utf-8")
    assert f"noise of {NOISE}, practice by 3 pairs" in card


def _forbidden(*_: object, **__: object) -> None:
    raise AssertionError("asked again")


def test_what_is_looked_at_is_asked_as_the_rest(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[HeldOut] = []

    def watched(*given: Any, held_out: HeldOut, **more: Any) -> CaptionDecoder:
        seen.append(held_out)
        return train(*given, held_out=held_out, **more)

    monkeypatch.setattr("trainer.teach_captions.train", watched)
    texts = [f"{text} {number}" for text in TEXTS for number in ("once", "twice", "thrice", "again", "forever")]
    for way in ("noise", "practice"):
        out = tmp_path / way
        teach(Lesson(texts, ["eng"] * 30, 1, bridging=way, pairs=pairs), open_bundle("starter"), out)
    plain, asked = seen
    assert list(plain.texts) == list(asked.texts)
    assert len(asked.texts) == 3
    assert ((plain.vectors * asked.vectors).sum(axis=1) < 0.999).all()


def test_a_pair_that_cannot_be_heard_is_left_out(
    captions: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1.wav").write_bytes(b"RIFF no sound")
    (tmp_path / "0.wav").unlink()
    lesson = Lesson(TEXTS, ["eng"] * 6, 1, bridging="shift", pairs=pairs)
    with pytest.raises(QueryError, match="1 captioned sounds"):
        teach(lesson, open_bundle("starter"), tmp_path / "speaking")
    assert sorted(re.findall(r"left out \S+/(\d)\.wav: ", capsys.readouterr().out)) == ["0", "1"]
    assert not list((tmp_path / "speaking.run").glob("vectors*"))  # told before all is read


def test_a_bundle_without_a_curve_of_its_own_believes_as_much_as_what_is_remembered(
    captions: Path, tmp_path: Path
) -> None:
    """That of words would believe nearly everything."""
    _run(captions, "--out", tmp_path / "speaking")
    encoders = OnnxEncoders(open_bundle(tmp_path / "speaking"), "cpu", threads=1)
    captioner = Captioner(open_bundle(tmp_path / "speaking"), encoders, device="cpu", strategy="audio")
    starter = open_bundle("starter").manifest.captioner
    assert starter is not None
    assert captioner.curve("a dog barks") == starter.nearest


def test_the_documented_noise_is_the_one_that_is_taken() -> None:
    told = CliRunner().invoke(app, ["train", "captioner", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout
    assert re.search(r"\[default: ([0-9.]+)\]", told.partition("--noise")[2].partition("--bridge")[0])[1] == str(NOISE)  # type: ignore[index]
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `--noise` .*$", page, re.MULTILINE)
    assert f"default: {NOISE}," in row


def test_vectors_of_one_space_are_not_those_of_another(tmp_path: Path) -> None:
    """As many texts, in the same run's folder: neither another bundle's vectors nor other texts' are taken."""
    encoders = OnnxEncoders(open_bundle("starter"), "cpu", threads=1)
    ours = _vectors(encoders, "words", TEXTS[:2], tmp_path)
    assert np.array_equal(_vectors(encoders, "words", TEXTS[:2], tmp_path), ours)
    other = SimpleNamespace(space=replace(encoders.space, space_id="other@000000000000"), text=FakeEncoders())
    assert _vectors(other, "words", TEXTS[:2], tmp_path).shape != ours.shape
    assert not np.array_equal(_vectors(encoders, "words", TEXTS[1:3], tmp_path), ours)


def test_what_cannot_be_learnt_is_refused(captions: Path, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="--pairs"):
        _run(captions, "--out", tmp_path / "a", "--bridge", "adapter")
    (tmp_path / "one.txt").write_text("a dog", encoding="utf-8")
    with pytest.raises(QueryError, match="1 captions"):
        _run(tmp_path / "one.txt", "--out", tmp_path / "b")
    (tmp_path / "full").mkdir()
    with pytest.raises(BundleError, match="something else"):
        _run(captions, "--out", tmp_path / "full")
