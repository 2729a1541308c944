"""``--gate``: a bundle judged and calibrated on labelled sounds, from the command line to the manifest."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from typer.testing import CliRunner

from earshot import foley_indoors as indoors
from earshot import foley_outdoors as outdoors
from earshot.commands import app
from engine.audio import open_clip
from engine.bundle import STARTER_DIR, open_bundle
from engine.encoders import OnnxEncoders
from engine.windows import cut
from exporters import bundles
from exporters.bundles import make_bundle
from exporters.calibration import fit_curve
from exporters.errors import SourceError
from exporters.export import export_bundle
from exporters.gate import FEWEST, Answers, GateError, ask, calibrated, read_set
from tests.trainer import tiny_towers

RATE_HZ, SECONDS = 16_000, 2.0
KINDS = {
    "a siren wailing": outdoors.siren,
    "a car horn": outdoors.car_horn,
    "a helicopter": outdoors.helicopter,
    "rain": outdoors.rain,
    "birds singing": outdoors.birds,
    "a dog barking": outdoors.dog,
    "footsteps": outdoors.footsteps,
    "an alarm clock": indoors.alarm_clock,
    "a telephone ringing": indoors.telephone,
    "typing on a keyboard": indoors.typing,
    "applause": indoors.applause,
    "a church bell": indoors.church_bell,
}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two takes of each kind."""
    folder = tmp_path_factory.mktemp("labelled")
    with (folder / "set.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "text"])
        for number, (text, sound) in enumerate(KINDS.items()):
            for take in range(2):
                samples = sound(np.random.default_rng(take), RATE_HZ, SECONDS)
                name = f"{number}-{take}.wav"
                soundfile.write(folder / name, 0.5 * samples / np.abs(samples).max(), RATE_HZ)
                rows.writerow([name, text])
    return folder / "set.csv"


@pytest.fixture(scope="module")
def judged(labelled: Path) -> tuple[Path, dict[str, Any]]:
    """The starter in int8, exported by the command with ``--gate``: its folder and its manifest."""
    out = labelled.parent / "starter-int8"
    command = [
        "bundle",
        "export",
        "starter",
        "--precision",
        "int8",
        "--gate",
        str(labelled),
        "--out",
        str(out),
        "--json",
    ]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def test_the_manifest_says_what_int8_loses(judged: tuple[Path, dict[str, Any]], labelled: Path) -> None:
    out, manifest = judged
    facts = manifest["retrieval_loss"]
    assert (facts["set"], facts["sounds"], facts["texts"]) == ("set.csv", 24, 12)
    assert facts["loss of mAP@10"] == pytest.approx(facts["fp32 mAP@10"] - facts["mAP@10"])
    assert facts["mAP@10"] == pytest.approx(slow_map(OnnxEncoders(open_bundle(out), "cpu", threads=1), labelled))
    assert facts["fp32 mAP@10"] == pytest.approx(
        slow_map(OnnxEncoders(open_bundle("starter"), "cpu"), labelled), abs=1e-6
    )
    assert facts["mAP@10"] > 0.3, "these are kinds that the starter knows"
    open_bundle(out).verify()
    assert json.loads((out / "manifest.json").read_text())["retrieval_loss"] == facts
    assert "mAP@10" in (out / "README.md").read_text()


def test_relevance_is_fitted_to_the_set(judged: tuple[Path, dict[str, Any]], labelled: Path) -> None:
    out, manifest = judged
    encoders = OnnxEncoders(open_bundle(out), "cpu", threads=1)
    cosines, right = answered(encoders, labelled)
    wanted = fit_curve(cosines, right, ~right, seed=0, first_answer=True)
    found = encoders.calibration["text"]
    assert (found.slope, found.intercept) == pytest.approx((wanted.curve.slope, wanted.curve.intercept), rel=1e-3)
    assert found.cutoff > 0
    assert manifest["calibrated"]["text recall"] == wanted.recall
    assert encoders.calibration["audio"].cutoff > 0
    shipped = open_bundle("starter").manifest
    assert found != shipped.calibration["text"]
    assert encoders.calibration["text-cjk"] == shipped.calibration["text-cjk"], "no text of the set is of that script"


def test_a_bundle_of_ours_stays_in_its_space(judged: tuple[Path, dict[str, Any]]) -> None:
    shipped = open_bundle("starter").manifest
    assert (judged[1]["space_id"], judged[1]["precision"]) == (shipped.space_id, "int8")
    assert judged[1]["credits"] == shipped.extra["credits"]
    with pytest.raises(SourceError, match="a bundle already"):
        make_bundle("starter", judged[0], judged[0].parent, "fp32")


def test_a_checkpoint_is_compared_with_itself_in_fp32(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setattr(bundles, "export_bundle", lambda _, out, **__: made.append(shutil.copytree(STARTER_DIR, out)))
    source = tiny_towers.own()
    measured = bundles._measured(source, read_set(labelled), "int8", None, lambda _: None)
    assert len(made) == 1
    assert not made[0].exists(), "what was made to compare with is left"
    facts = measured(open_bundle("starter"))["retrieval_loss"]
    assert facts["loss of mAP@10"] == 0
    with pytest.raises(GateError, match="one tower"):
        bundles._measured(dataclasses.replace(source, audio=None), read_set(labelled), "int8", None, lambda _: None)


def test_a_sound_with_two_texts_is_one_sound(labelled: Path, tmp_path: Path) -> None:
    rows = [f"{labelled.parent / name},{text}" for name, text in (("0-0.wav", "a"), ("0-0.wav", "b"), ("1-0.wav", "b"))]
    (tmp_path / "set.csv").write_text("\n".join(["path,text", *rows]))
    answers = ask(open_bundle("starter"), read_set(tmp_path / "set.csv"))
    assert answers.right.tolist() == [[True, False], [True, True]]
    assert answers.alike.tolist() == [[False, True], [True, False]]
    assert answers.words.shape == answers.sounds.shape == (2, 2)


def test_a_bundle_that_loses_too_much_is_not_written(tmp_path: Path) -> None:
    def refuse(_: object) -> dict[str, Any]:
        raise GateError("mAP@10 of 0.1", "0.9")

    words = dataclasses.replace(tiny_towers.own(), audio=None, note=lambda _: None)
    with pytest.raises(GateError):
        export_bundle(words, tmp_path / "b", gate=refuse)
    assert not any(tmp_path.iterdir())


def test_a_set_that_is_too_small_or_beyond_the_model_calibrates_nothing() -> None:
    right = np.eye(FEWEST, dtype=bool)
    cosines = np.where(right, 0.9, 0.1).astype(np.float32)
    none = np.zeros_like(right)
    curves, said = calibrated(Answers(cosines[:-1], cosines, right[:-1], none))
    assert (curves, said["text"], said["audio"]) == (
        {},
        "not measured: 9 queries, at least 10 needed",
        "not measured: 0 queries, at least 10 needed",
    )
    curves, said = calibrated(Answers(-cosines, cosines, right, none))
    assert (curves, said["text"]) == (
        {},
        "not measured: the best right answers score no better than the best wrong ones",
    )
    curves, said = calibrated(Answers(cosines, cosines, right, none))
    assert curves["text"].relevance(0.9) > curves["text"].cutoff * 0.99 > curves["text"].relevance(0.1)
    assert (said["text recall"], said["text false answers"]) == (1.0, 0.0)


def answered(encoders: OnnxEncoders, labelled: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The cosines of texts with sounds, and which are right; a text and a window at a time."""
    known = read_set(labelled)
    texts = sorted(set(known.texts))
    cosines = np.empty((len(texts), len(known.paths)), np.float32)
    for column, path in enumerate(known.paths):
        windows = cut(open_clip(path, RATE_HZ).blocks, encoders.space)
        vectors = [encoders.audio.encode_audio(window.samples[None])[0] for window in windows]
        for row, text in enumerate(texts):
            cosines[row, column] = max(float(vector @ encoders.text.encode_text([text])[0]) for vector in vectors)
    return cosines, np.array([[label == text for label in known.texts] for text in texts])


def slow_map(encoders: OnnxEncoders, labelled: Path) -> float:
    """``mAP@10`` by its definition."""
    cosines, right = answered(encoders, labelled)
    values = []
    for row, truth in zip(cosines, right, strict=True):
        order = sorted(range(len(row)), key=lambda sound: -row[sound])[:10]
        hits = [truth[sound] for sound in order]
        gains = [sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit]
        values.append(sum(gains) / min(10, sum(truth)))
    return float(np.mean(values))
