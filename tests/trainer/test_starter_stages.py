"""The starter's recipe from sounds and words to a bundle, very small: killed, gone on with, fed elsewhere, shipped."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from engine.bundle import open_bundle
from exporters.towers import AudioConfig, AudioTower
from trainer import calibrate, evaluate, hearing
from trainer.data import hold_out
from trainer.fingerprints import StageError
from trainer.language import TextLesson, encode_texts
from trainer.loop import Plan, steps_done
from trainer.parallel import LANGUAGES, Concept, Lesson, read_parallel
from trainer.recipes import starter
from trainer.recipes.starter import Recipe, main, packed, unpacked
from trainer.shipping import UNFITTED
from trainer.synth import KINDS, synthesise

CLASSES = 6
TINY = partial(AudioConfig, stem=16, blocks=((16, 2), (32, 2), (32, 2), (32, 2)), classes=CLASSES, hidden=8, dim=16)
CHOSEN = tuple(kind for kind in KINDS if kind.texts[0] in {"silence", "white noise", "sine wave", "siren"})
ABSENT = Path("absent")


def meaning(texts: list[str]) -> np.ndarray:
    """A stand-in for the sentence encoder: one random direction a word, ``[n, 384]`` unit length."""
    rows = []
    for text in texts:
        words = text.split() or ["?"]
        seeds = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") for word in words]
        rows.append(np.sum([np.random.default_rng(seed).standard_normal(384) for seed in seeds], axis=0))
    return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


def tagger(_: Path) -> dict[str, torch.Tensor]:
    """A stand-in for YAMNet that tells sounds apart a little."""
    torch.manual_seed(0)
    state = AudioTower(TINY()).state_dict()
    return {name: 3 * value for name, value in state.items() if name.startswith(("trunk.", "classifier."))}


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """The recipe with few texts, few sounds and few steps."""
    with pytest.MonkeyPatch.context() as patch:
        named = {kind.texts[0] for kind in CHOSEN}

        def few(pattern: str = "*.tsv") -> list[Concept]:
            every = read_parallel(pattern=pattern)
            return every[:CLASSES] if "events" in pattern else [one for one in every if one.english[0] in named]

        for name, value in {
            "AudioConfig": TINY,
            "DIM": 16,
            "PIECES": 300,
            "TAKES": 2,
            "KINDS": CHOSEN,
            "CHANGED": 24,
            "TEXT_PLAN": Plan(steps=6, rate=1e-3, warmup=1, save_every=2, log_every=1),
            "PHRASINGS_PLAN": Plan(steps=4, rate=1e-3, warmup=1, save_every=2, log_every=1),
            "AUDIO_PLAN": Plan(steps=4, rate=1e-3, warmup=1, save_every=2, log_every=1),
            "corpus": lambda data, rows, words: [f"{row.text} {word}" for row in rows for word in words],
            "plain_words": lambda: ["", "loud", "in the distance", "outside"],
            "sentence_vectors": meaning,
            "read_parallel": few,
            "hold_out": partial(hold_out, share=0.6),
            "read_words": list,
            "composed": lambda concepts: [],
            "translated_captions": lambda path: [],
            "read_yamnet": tagger,
        }.items():
            patch.setattr(starter, name, value)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sounds of four kinds by 16 people, and five recordings of the dev split."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number in range(21):
        kind, name = CHOSEN[number % 4], f"{number}.wav"
        soundfile.write(folder / name, synthesise(kind, np.random.default_rng(number))[:32_000], 16_000)
        told = {"path": name, "split": "dev" if number > 15 else "train", "dataset": "set", "seconds": 2}
        told |= {"label": kind.texts[0], "text": kind.texts[0], "licence": "CC0", "source": f"person {number}"}
        rows.append(told)
    with (folder / "sounds.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    (folder / "teacher").mkdir()
    (folder / "teacher" / "classes.csv").write_text("name\n" + "".join(f"class {i}\n" for i in range(CLASSES)))
    (folder / "teacher" / "yamnet_spectra_in.tflite").write_bytes(b"a tagger")
    return folder


@pytest.fixture(scope="module")
def prepared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first stage leaves; the tokenizer differs from run to run, so all go on from it."""
    out = tmp_path_factory.mktemp("prepared")
    Recipe(data, out).prepare()
    return out


@pytest.fixture(scope="module")
def whole(data: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both towers, undisturbed."""
    out = shutil.copytree(prepared, tmp_path_factory.mktemp("whole") / "out")
    main(["--data", str(data), "--out", str(out), "--stages", "text", "audio", "--device", "cpu"])
    return out


@pytest.fixture
def out(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the first stage's."""
    return shutil.copytree(prepared, tmp_path / "out")


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two towers have equal weights."""
    rest = other.state_dict()
    return all(torch.equal(value, rest[name]) for name, value in one.state_dict().items())


def test_killed_it_goes_on_to_the_same_towers(data: Path, whole: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
    lesson = TextLesson.__call__
    # The fourth step of the text tower; then, gone on from the second, the fourth of the phrasings.
    for steps, trained in ((4, "text"), (8, "phrasings")):
        left = iter(range(steps - 1))

        def killed(self: TextLesson, step: int, chance: np.random.Generator, left: Iterator[int] = left) -> object:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return lesson(self, step, chance)

        with monkeypatch.context() as patch:
            patch.setattr(TextLesson, "__call__", killed)
            with pytest.raises(KeyboardInterrupt):
                Recipe(data, out).learn_text()
        assert steps_done(out / trained) == 2
    assert same(Recipe(data, out).learn_text(), Recipe(data, whole).learn_text())
    assert same(Recipe(data, out).learn_audio(), Recipe(data, whole).learn_audio())


def test_what_took_hours_is_refused_where_its_inputs_are_others(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = shutil.copytree(whole, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(starter, "TEXT_PLAN", Plan(steps=7, rate=1e-3))
        with pytest.raises(StageError, match=r"text made of plan .*steps=6.*expected plan .*steps=7.*delete .*text"):
            Recipe(data, out).learn_text()
    with monkeypatch.context() as patch:
        patch.setattr(starter, "PHRASINGS_SHARE", 0.9)
        with pytest.raises(StageError, match=r"phrasings made of phrasings 0\.5"):
            Recipe(data, out).learn_text()
    with monkeypatch.context() as patch:
        patch.setattr(starter, "composed", lambda concepts: [Lesson("xylophone", "eng", ("a xylophone",))])
        with pytest.raises(StageError, match=r"tokenizer\.json made of texts"):
            Recipe(data, out).learn_text()
    assert same(Recipe(data, out).learn_text(), Recipe(data, whole).learn_text())


def test_what_took_minutes_is_made_anew(data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = shutil.copytree(whole, tmp_path / "out")
    before = {name: (out / f"{name}.npy").read_bytes() for name in ("clean", "made", "changed")}
    monkeypatch.setattr(hearing, "LOUDER_DB", 3.0)
    with pytest.raises(StageError, match="audio made of changed"):
        Recipe(data, out).learn_audio()
    assert {name for name, old in before.items() if (out / f"{name}.npy").read_bytes() != old} == {"changed"}
    # Another sound: all that was heard of it, but not what was synthesised.
    sounds = tmp_path / "sounds"
    shutil.copytree(data, sounds)
    shutil.copyfile(sounds / "1.wav", sounds / "0.wav")
    with pytest.raises(StageError, match=r"audio made of .*clean"):
        Recipe(sounds, out).learn_audio()
    assert (out / "clean.npy").read_bytes() != before["clean"]
    shutil.rmtree(out / "audio")
    Recipe(sounds, out).learn_audio()
    assert steps_done(out / "audio") == starter.AUDIO_PLAN.steps


def test_what_does_not_say_what_it_was_made_of_has_to_be_adopted(data: Path, whole: Path, tmp_path: Path):
    out = shutil.copytree(whole, tmp_path / "out")
    for record in out.rglob("*.made-of.json"):
        record.unlink()
    with pytest.raises(StageError, match=r"texts\.npz, which doesn't say.*--adopt"):
        Recipe(data, out).learn_text()
    kept = Recipe(data, out, adopt=True)
    assert same(kept.learn_text(), Recipe(data, whole).learn_text())
    kept.learn_audio()
    found, wanted = ({p.relative_to(o): p.read_text() for p in o.rglob("*.made-of.json")} for o in (out, whole))
    assert found == wanted


def test_another_machine_is_fed_and_gives_back(data: Path, whole: Path, out: Path, tmp_path: Path):
    parts, back, far = tmp_path / "parts", tmp_path / "back", tmp_path / "far"
    here = ["--data", str(data), "--out", str(out), "--stages", "text", "audio"]
    main([*here, "--pack", str(parts), "--part-mb", "0.02"])
    names = sorted(path.name for path in parts.iterdir())
    assert names == ["manifest.json", *(f"part-{number:03}" for number in range(1, len(names)))]
    assert len(names) > 2
    assert max(path.stat().st_size for path in parts.iterdir()) <= 0.02 * 2**20
    there = ["--data", str(ABSENT), "--out", str(far)]
    main([*there, "--unpack", str(parts)])
    main([*there, "--stages", "text", "audio", "--device", "cpu"])
    main([*there, "--stages", "text", "audio", "--pack", str(back)])
    assert not any(name.startswith("packed/") for name in json.loads((back / "manifest.json").read_text())["files"])
    main(["--out", str(out), "--unpack", str(back)])
    assert "optimiser" not in torch.load(out / "text" / "last.pt", weights_only=True)
    assert {steps_done(out / "text"), steps_done(out / "phrasings"), steps_done(out / "audio")} == {6, 4}
    fed, own = Recipe(data, out), Recipe(data, whole)
    assert same(fed.learn_audio(), own.learn_audio())
    close = (encode_texts(tower, own.tokenizer, own.texts.texts) for tower in (fed.learn_text(), own.learn_text()))
    assert float(torch.linalg.vecdot(*close).min()) > 0.999
    assert list(tmp_path.rglob(".*")) == []


def test_a_training_that_was_cut_short_goes_on_elsewhere(
    data: Path, whole: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(starter, "train", partial(starter.train, stop_after=2))
        Recipe(data, out).learn_audio()
    packed(Recipe(data, out), ["audio"], tmp_path / "parts")
    unpacked(tmp_path / "parts", tmp_path / "far")
    assert steps_done(tmp_path / "far" / "audio") == 2
    assert same(Recipe(ABSENT, tmp_path / "far").learn_audio(), Recipe(data, whole).learn_audio())


def test_no_step_is_lost_by_what_comes_back(data: Path, whole: Path, out: Path, tmp_path: Path, monkeypatch):
    ahead = shutil.copytree(whole, tmp_path / "ahead")
    monkeypatch.setattr(starter, "train", partial(starter.train, stop_after=2))
    Recipe(data, out).learn_audio()
    packed(Recipe(data, out), ["audio"], tmp_path / "parts")
    before = (ahead / "audio" / "last.pt").read_bytes()
    with pytest.raises(StageError, match=r"at step 4.*not beyond the step 2.*keep it"):
        unpacked(tmp_path / "parts", ahead)
    monkeypatch.setattr(starter, "AUDIO_PLAN", Plan(steps=5, rate=1e-3))
    shutil.rmtree(out / "audio")
    Recipe(data, out).learn_audio()
    packed(Recipe(data, out), ["audio"], tmp_path / "others")
    with pytest.raises(StageError, match=r"audio made of plan .*steps=5.*expected plan .*steps=4"):
        unpacked(tmp_path / "others", ahead)
    assert (ahead / "audio" / "last.pt").read_bytes() == before
    assert not (ahead / ".unpacked").exists()


def test_a_machine_that_was_not_fed_a_stage_says_so(data: Path, out: Path, tmp_path: Path, capsys):
    packed(Recipe(data, out), ["text"], tmp_path / "parts")
    unpacked(tmp_path / "parts", tmp_path / "far")
    with pytest.raises(SystemExit):
        main(["--data", str(ABSENT), "--out", str(tmp_path / "far"), "--stages", "audio"])
    assert "audio.pt" in (said := capsys.readouterr().err)
    assert "--stages audio" in said
    with pytest.raises(StageError, match="nothing trained"):
        packed(Recipe(ABSENT, tmp_path / "far"), ["text"], tmp_path / "back")


def test_who_asks_to_ship_alone_does_not_train(data: Path, tmp_path: Path, capsys):
    with pytest.raises(SystemExit):
        main(["--data", str(data), "--out", str(tmp_path / "new"), "--stages", "ship"])
    assert f"expected text at step {starter.TEXT_PLAN.steps}: train it first" in capsys.readouterr().err.replace(
        "; ", ": "
    )
    assert not (tmp_path / "new" / "text").exists()


def test_it_ships(data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibrate, "HEARD", 0.0)  # a tagger that knows nothing hears all alike
    names = "".join("\t".join([kind.texts[0]] * (1 + len(LANGUAGES))) + "\n" for kind in CHOSEN)
    (tmp_path / "kinds.tsv").write_text("\t".join(["label", *LANGUAGES]) + "\n" + names)
    monkeypatch.setattr(evaluate, "KINDS", tmp_path / "kinds.tsv")
    recipe = Recipe(data, whole)
    recipe.shipment().ship(recipe.learn_audio(), recipe.learn_text(), recipe.tokenizer, tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    bundle.verify()
    curves = bundle.manifest.calibration
    assert set(curves) == {"text", "text-cjk", "audio"}
    assert UNFITTED not in curves.values()
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    verdicts = json.loads((whole / "dev-verdicts.json").read_text(encoding="utf-8"))
    assert list(verdicts) == [manifest["space_id"]]
    card = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert f"text {starter.TEXT_PLAN.steps} and {starter.PHRASINGS_PLAN.steps}" in card
    learnt = {row.source for row, yes in zip(recipe.rows, recipe.learnt_from, strict=True) if yes}
    credits = (tmp_path / "bundle" / "CREDITS.md").read_text(encoding="utf-8")
    assert {row.source for row in recipe.rows if f": {row.source} (CC0)" in credits} == learnt
