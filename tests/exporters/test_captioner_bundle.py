"""A bundle that captions: what is exported is what runs, and what can't be right is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from earshot.commands import app
from engine.beams import Hypothesis
from engine.bundle import STARTER_DIR, Calibration, open_bundle
from engine.captioner import Captioner
from engine.encoders import OnnxEncoders
from engine.errors import BundleError, ManifestError, QueryError, SelfTestError, SpaceMismatchError
from engine.eventless import NO_EVENT, anchors_in, heard_by
from engine.fakes import FakeEncoders, band_word
from engine.memory.captions import Said
from engine.retrieval_captioner import RetrievalCaptioner
from engine.types import Caption, FloatArray, Remembered
from exporters.captioner import CaptionSettings, calibrate_captions, export_captioner, hear_eventless_again
from exporters.decoder import CaptionDecoder, DecoderConfig
from exporters.parity import pink_noise
from trainer.captioner import learn_pieces

TEXTS = ["a dog barks", "rain on a roof", "un chien aboie", "la pluie tombe", "a bell rings twice"]
LANGUAGES = ("eng", "fra")
SETTINGS = CaptionSettings(LANGUAGES, beams=3, no_repeat=2, tau=0.01, rerank=False)


class Memory:
    """Texts with their vectors; implements ``Remembering``."""

    def __init__(self, vectors: FloatArray, texts: list[str]) -> None:
        self.vectors, self._texts = vectors, texts

    def nearest(self, vector: FloatArray, k: int) -> list[Remembered]:
        scores = self.vectors @ vector
        best = np.argsort(-scores, kind="stable")[:k]
        return [
            Remembered(self._texts[n], "fra" if n in (2, 3) else "eng", "own", self.vectors[n], float(scores[n]))
            for n in best
        ]

    def said(self, limit: int) -> tuple[FloatArray, list[Said]]:
        return self.vectors[:limit], [
            Said(text, "fra" if n in (2, 3) else "eng", "own") for n, text in enumerate(self._texts[:limit])
        ]

    def count(self) -> int:
        return len(self._texts)


def _decoder(tokenizer: Path, seed: int = 0) -> CaptionDecoder:
    from tokenizers import Tokenizer

    torch.manual_seed(seed)
    pieces = Tokenizer.from_file(str(tokenizer)).get_vocab_size()
    config = DecoderConfig(dim=256, pieces=pieces, width=32, layers=2, heads=2, prefix=2, hidden=32, max_tokens=10)
    decoder = CaptionDecoder(config)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return decoder.eval()


@pytest.fixture(scope="module", autouse=True)
def _few_draws() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:  # hundreds of noises take seconds
        patched.setattr("exporters.captioner.DRAWS", 2)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A starter with a small decoder that says nonsense."""
    folder = tmp_path_factory.mktemp("bundle") / "speaking"
    shutil.copytree(STARTER_DIR, folder)
    tokenizer = folder.parent / "tokenizer.json"
    learn_pieces(TEXTS * 5, LANGUAGES, 60).save(str(tokenizer))
    export_captioner(_decoder(tokenizer), tokenizer, open_bundle(folder).manifest.space_id, SETTINGS, folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def encoders(made: Path) -> OnnxEncoders:
    return OnnxEncoders(open_bundle(made), "cpu", threads=1)


@pytest.fixture(scope="module")
def memory(encoders: OnnxEncoders) -> Memory:
    return Memory(encoders.text.encode_text(TEXTS), TEXTS)


def _captioner(folder: Path, encoders: OnnxEncoders, memory: Memory | None, **settings: Any) -> Captioner:
    return Captioner(open_bundle(folder), encoders, memory, device="cpu", threads=1, **settings)


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["captioner"] |= changes
    path.write_text(json.dumps(manifest))


def _curve_of_nearest(folder: Path) -> Calibration:
    """By which a decoder is believed that has no curve of its own."""
    part = open_bundle(folder).manifest.captioner
    assert part is not None
    assert part.nearest is not None
    return part.nearest


def _sounds(encoders: OnnxEncoders, n: int) -> FloatArray:
    t = np.arange(encoders.space.window_samples) / encoders.space.sample_rate_hz
    windows = np.stack([0.3 * np.sin(2 * np.pi * 100 * (number + 1) * t * t) for number in range(n)])
    return encoders.audio.encode_audio(windows.astype(np.float32))


def test_the_bundle_is_whole_and_small(made: Path) -> None:
    bundle = open_bundle(made)
    bundle.verify()
    part = bundle.manifest.captioner
    assert part is not None
    assert (part.languages, part.beams, part.strategy, part.tau) == (LANGUAGES, 3, "projection", 0.01)
    section = json.loads((made / "manifest.json").read_text())["captioner"]
    assert section["parity"]["graph_nats"] < 1e-3
    assert (made / part.decoder).stat().st_size < 2 * section["parameters"] + 60_000  # int8 steps, and the nodes


def test_every_sound_gets_a_caption_with_its_evidence(made: Path, encoders: OnnxEncoders, memory: Memory) -> None:
    captions = _captioner(made, encoders, memory).caption(_sounds(encoders, 20))
    assert len(captions) == 20
    for caption in captions:
        assert 0 <= caption.score <= 1
        assert caption.language == "eng"
        scores = [one.score for one in caption.evidence]
        assert len(scores) == 3  # as many as there are in English
        assert scores == sorted(scores, reverse=True)


def test_what_is_remembered_is_said_where_it_tells_more_than_the_decoder(
    folder: Path, encoders: OnnxEncoders, memory: Memory
) -> None:
    """In the caption's language, unless it says that there is nothing to hear; this decoder's own are nonsense."""
    _edit(folder, rerank=True)
    sound = memory.vectors[:1]
    caption = _captioner(folder, encoders, memory).caption_events(sound)[0]
    assert (caption.text, caption.unsure) == ("a dog barks", False)
    assert caption.score == pytest.approx(_curve_of_nearest(folder).relevance(1.0), abs=1e-3)
    assert _captioner(folder, encoders, memory, language="fra").caption_events(sound)[0].text in ("un chien aboie",)
    quiet = ["complete silence, nothing can be heard", "silence"]
    nothing = Memory(encoders.text.encode_text(quiet), quiet)
    assert _captioner(folder, encoders, nothing).caption_events(nothing.vectors[:1])[0].text not in quiet


@pytest.mark.parametrize(("learnt", "sure"), [("", True), ("qqq", False), ("a dog barks", True)])
def test_a_caption_of_words_that_nobody_knows_is_unsure(
    folder: Path, encoders: OnnxEncoders, learnt: str, sure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known is what the decoder learnt and what is remembered; all is where nobody wrote down what it learnt."""
    kept = anchors_in(open_bundle(folder), "caption_anchors.npz")
    np.savez_compressed(folder / "caption_anchors.npz", **{**kept, "words": np.array(learnt)})
    texts = ["rain", "wind"]
    captioner = _captioner(folder, encoders, Memory(encoders.text.encode_text(texts), texts))
    monkeypatch.setattr(captioner, "_text", lambda _: "a dog barks")
    caption = captioner.caption_events(encoders.text.encode_text(["a dog barks"]))[0]
    assert (caption.text, caption.unsure) == ("a dog barks", not sure)


def test_of_beams_one_that_says_a_thing_twice_is_the_last_resort(
    folder: Path, encoders: OnnxEncoders, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = anchors_in(open_bundle(folder), "caption_anchors.npz")
    np.savez_compressed(folder / "caption_anchors.npz", **{**kept, "words": np.array("a dog barks and")})
    said = iter(["a dog barks and barks", "a dog barks"])
    captioner = _captioner(folder, encoders, memory, beams=2)
    sound = encoders.text.encode_text(["a dog barks and barks"])
    monkeypatch.setattr(captioner, "_text", lambda _: next(said))
    assert captioner.caption_events(sound)[0].text == "a dog barks"
    said = iter(["a dog barks and barks"] * 2)
    assert captioner.caption_events(sound)[0].text == "a dog barks and barks"


def test_what_is_remembered_is_spelt_as_it_was(folder: Path, encoders: OnnxEncoders, monkeypatch: pytest.MonkeyPatch):
    """A word twice in a row is a slip of the decoder's, unless somebody wrote so."""
    texts = ["a dog going woof woof", "rain"]
    captioner = _captioner(folder, encoders, Memory(encoders.text.encode_text(texts), texts))
    spelt = iter(["a  dog going woof woof", "a dog dog"])
    monkeypatch.setattr(captioner._tokenizer, "text", lambda _: next(spelt))
    hypothesis = Hypothesis((), 0.0)
    assert [captioner._text(hypothesis), captioner._text(hypothesis)] == ["a dog going woof woof", "a dog"]


def test_what_sounds_have_in_common_is_kept_and_told_apart(
    folder: Path, encoders: OnnxEncoders, memory: Memory, tmp_path: Path
) -> None:
    """A captioner put in place of another keeps it, unless a new one is known."""
    tokenizer, space_id = tmp_path / "tokenizer.json", open_bundle(folder).manifest.space_id
    shutil.copy(folder / "caption_tokenizer.json", tokenizer)
    before = anchors_in(open_bundle(folder), "caption_anchors.npz")["common"]
    assert np.linalg.norm(before) > 0.3  # the starter's
    who = RetrievalCaptioner(OnnxEncoders(open_bundle(folder), "cpu", threads=1), memory).identity
    export_captioner(_decoder(tokenizer), tokenizer, space_id, SETTINGS, folder)
    np.testing.assert_array_equal(anchors_in(open_bundle(folder), "caption_anchors.npz")["common"], before)
    common = memory.vectors.mean(axis=0)
    export_captioner(_decoder(tokenizer), tokenizer, space_id, SETTINGS, folder, english=["A dog!"], common=common)
    found = anchors_in(open_bundle(folder), "caption_anchors.npz")
    np.testing.assert_array_equal(found["common"], common)
    assert str(found["words"]) == "a dog"
    nearest = RetrievalCaptioner(OnnxEncoders(open_bundle(folder), "cpu", threads=1), memory)
    assert nearest.identity != who


def test_a_caption_depends_on_its_sound_alone(made: Path, encoders: OnnxEncoders, memory: Memory) -> None:
    captioner, sounds = _captioner(made, encoders, memory), _sounds(encoders, 18)
    together = captioner.caption(sounds)
    assert [captioner.caption(sound[None])[0].text for sound in sounds] == [caption.text for caption in together]
    assert len({caption.text for caption in together}) > 1


def _eventless(encoders: OnnxEncoders) -> FloatArray:
    """Vectors of two silences and of nine noises, white, pink and brown."""
    chance, size = np.random.default_rng(123), encoders.space.window_samples
    white = np.clip(chance.standard_normal((3, size)), -3, 3)
    brown = np.cumsum(white, axis=1)
    brown -= np.linspace(brown[:, 0], brown[:, -1], size, axis=1)  # ends where it began: no step, no slope
    brown /= brown.std(axis=1, keepdims=True)
    pink = np.stack([10 * pink_noise(size, chance) for _ in range(3)])
    levels = np.array([[0.02], [0.05], [0.2]])
    sounds = [np.zeros((1, size)), np.full((1, size), 0.3), *(levels * noise for noise in (white, pink, brown))]
    return encoders.audio.encode_audio(np.clip(np.concatenate(sounds), -1, 1).astype(np.float32))


@pytest.mark.parametrize("language", LANGUAGES)
def test_silence_and_noise_have_no_event(made: Path, encoders: OnnxEncoders, memory: Memory, language: str) -> None:
    """Whatever is remembered, and whatever the decoder would say: this one says nonsense."""
    expected = [NO_EVENT[language][0]] * 2 + [NO_EVENT[language][1]] * 9
    for captioner in (
        _captioner(made, encoders, memory, language=language),
        RetrievalCaptioner(encoders, memory, language),
    ):
        assert [one.text for one in captioner.caption(_eventless(encoders))] == expected


def test_silence_and_noise_have_no_event_where_the_bundle_never_heard_of_captions(memory: Memory) -> None:
    """Its tower is asked what it makes of them; what is no noise is told as ever."""
    bundle = open_bundle(STARTER_DIR)
    silent = replace(bundle, manifest=replace(bundle.manifest, captioner=None))
    encoders = OnnxEncoders(silent, "cpu", threads=1)
    captioner = RetrievalCaptioner(encoders, memory)
    assert [one.text for one in captioner.caption(_eventless(encoders))] == ["silence"] * 2 + ["steady noise"] * 9
    assert {one.text for one in captioner.caption(_sounds(encoders, 8))} <= set(TEXTS)


def test_noise_is_heard_anew_and_nothing_else_is_moved(folder: Path) -> None:
    before, files = json.loads((folder / "manifest.json").read_text()), open_bundle(folder)
    kept = anchors_in(files, "caption_anchors.npz")
    np.savez_compressed(
        folder / "caption_anchors.npz", **{**kept, "silence": kept["silence"][:1], "noise": kept["noise"][:1]}
    )
    hear_eventless_again(folder)
    open_bundle(folder).verify()
    found = anchors_in(open_bundle(folder), "caption_anchors.npz")
    assert str(found["words"]) == str(kept["words"])
    for name in sorted(set(kept) - {"words"}):
        np.testing.assert_allclose(found[name], kept[name], atol=1e-6)
    after = json.loads((folder / "manifest.json").read_text())
    assert {**after, "files": 0} == {**before, "files": 0}
    lengths = np.linalg.norm(kept["noise"], axis=1)
    assert lengths[:18] == pytest.approx(1, abs=1e-5)  # what a window holds whole
    assert len(lengths) > 18
    assert (lengths[18:] < 1).all()  # what real sounds are nearer to


def test_where_a_tower_can_not_tell_noise_from_tones_nothing_is_called_noise() -> None:
    fake = FakeEncoders()
    found = heard_by(fake.audio, fake.space)
    for hz in (63, 125, 250, 500, 1000, 2000):
        assert found.said(fake.encode_text([band_word(hz)])[0], "eng") is None
    said = found.said(fake.encode_text(["silence"])[0], "fra")
    assert said is not None
    assert said.text == NO_EVENT["fra"][0]


def test_strategies_put_other_points_into_words(made: Path, encoders: OnnxEncoders, memory: Memory) -> None:
    sound = _sounds(encoders, 1)
    points = {}
    for strategy in ("audio", "nearest", "projection"):
        captioner = _captioner(made, encoders, memory, strategy=strategy)
        points[strategy] = captioner._points(sound)[0][0]
    cosines = memory.vectors @ sound[0]
    np.testing.assert_array_equal(points["audio"], sound[0])
    np.testing.assert_array_equal(points["nearest"], memory.vectors[cosines.argmax()])
    weights = np.exp((cosines - cosines.max()) / 0.01)
    point = weights @ memory.vectors / weights.sum()
    np.testing.assert_allclose(points["projection"], point / np.linalg.norm(point), atol=1e-3)


def test_a_caption_is_believed_as_its_own_curve_says(
    made: Path, folder: Path, encoders: OnnxEncoders, memory: Memory
) -> None:
    sound = _sounds(encoders, 4)
    plain = _captioner(made, encoders, memory).caption(sound)
    assert any(caption.text for caption in plain)
    curve = Calibration(slope=3.0, intercept=-2.0, cutoff=0.3)
    calibrate_captions(folder, curve)
    open_bundle(folder).verify()
    for caption, before, vector in zip(_captioner(folder, encoders, memory).caption(sound), plain, sound, strict=True):
        assert caption.text == before.text
        if not caption.text:
            assert caption.score == 0
            continue
        cosine = float(encoders.text.encode_text([caption.text])[0] @ vector)
        assert caption.score == pytest.approx(curve.relevance(cosine), abs=1e-5)
        assert caption.unsure == (caption.score < curve.cutoff)
        assert before.score == pytest.approx(_curve_of_nearest(made).relevance(cosine), abs=1e-5)


def test_the_nearest_caption_is_believed_as_its_own_curve_says(folder: Path, memory: Memory) -> None:
    """What the bundle has no curve for is believed as words are, which is no chance."""

    def asked() -> RetrievalCaptioner:
        return RetrievalCaptioner(OnnxEncoders(open_bundle(folder), "cpu", threads=1), memory, "fra")

    _edit(folder, nearest=None, nearest_in=None)
    before = asked()
    sound = _sounds(before._encoders, 4)
    plain = before.caption(sound)
    decoder, nearest = Calibration(9.0, -7.0, 0.25), Calibration(slope=3.0, intercept=-2.0, cutoff=0.3)
    calibrate_captions(folder, decoder, nearest)
    open_bundle(folder).verify()
    after = asked()
    assert after.identity != before.identity
    for caption, old in zip(after.caption(sound), plain, strict=True):
        cosine = caption.evidence[0].score
        assert caption.text == old.text
        assert caption.score == pytest.approx(nearest.relevance(cosine))
        assert caption.unsure == (caption.score < nearest.cutoff)
        assert old.score == pytest.approx(before._encoders.calibration["text"].relevance(cosine))
    _edit(folder, nearest={"slope": 0, "intercept": 0.0, "cutoff": 0.3})
    with pytest.raises(ManifestError, match=r"nearest\.slope"):
        open_bundle(folder)


def test_each_language_is_believed_by_a_curve_of_its_own(folder: Path) -> None:
    """In another language's words lie nearer or farther than the English ones; what has no curve has that of all."""
    encoders = OnnxEncoders(open_bundle(folder), "cpu", threads=1)
    texts = ["a dog", "rain", "un chien", "la pluie"]
    memory = Memory(encoders.text.encode_text(texts), texts)
    every, french = Calibration(3.0, -2.0, 0.3), Calibration(12.0, -9.0, 0.25)
    before = RetrievalCaptioner(encoders, memory, "fra").identity
    del encoders
    calibrate_captions(folder, Calibration(9.0, -7.0, 0.25), every, {"fra": french})
    encoders = OnnxEncoders(open_bundle(folder), "cpu", threads=1)
    sounds = _sounds(encoders, 3)
    for language, curve in (("eng", every), ("fra", french)):
        captioner = RetrievalCaptioner(encoders, memory, language)
        for caption in captioner.caption(sounds):
            assert caption.language == language
            assert caption.score == pytest.approx(curve.relevance(caption.evidence[0].score))
            assert caption.unsure == (caption.score < curve.cutoff)
        assert captioner.identity != before
    calibrate_captions(folder, Calibration(9.0, -7.0, 0.25))
    part = open_bundle(folder).manifest.captioner
    assert part is not None
    assert part.nearest_in == {"fra": french}  # what isn't told anew stays
    _edit(folder, nearest_in={"fra": {"slope": 0, "intercept": 0.0, "cutoff": 0.3}})
    with pytest.raises(ManifestError, match=r"nearest_in\.fra\.slope"):
        open_bundle(folder)


@pytest.mark.parametrize(("language", "told"), [("eng", "eng"), ("fra", "fra")])
def test_evidence_is_what_was_projected_upon_and_the_memory_is_asked_once(
    made: Path, encoders: OnnxEncoders, memory: Memory, monkeypatch: pytest.MonkeyPatch, language: str, told: str
) -> None:
    """In the caption's language, in which half of what weighed most may not be."""
    sounds = _sounds(encoders, 3)
    everything = [memory.nearest(sound, len(TEXTS)) for sound in sounds]
    nearest = [[one for one in near if one.language == told][:5] for near in everything]
    captioner = _captioner(made, encoders, memory, language=language)
    monkeypatch.setattr(memory, "nearest", None)
    for caption, near in zip(captioner.caption(sounds), nearest, strict=True):
        assert len(caption.evidence) >= 2
        assert [(o.text, o.language, o.source) for o in caption.evidence] == [
            (o.text, o.language, o.source) for o in near
        ]
        np.testing.assert_allclose([o.score for o in caption.evidence], [o.score for o in near], atol=1e-3)


def test_a_large_memory_is_projected_upon_by_its_nearest(
    made: Path, encoders: OnnxEncoders, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = _sounds(encoders, 1)
    exact = _captioner(made, encoders, memory)._points(sound)[0]
    monkeypatch.setattr("engine.captioner.MOST_EXACT", 3)
    np.testing.assert_allclose(_captioner(made, encoders, memory)._points(sound)[0], exact, atol=1e-3)
    for nearest in (len(TEXTS), 2):
        monkeypatch.setattr("engine.captioner.NEAREST", nearest)
        captioner = _captioner(made, encoders, memory)
        bound = captioner.caption(sound)[0].bound
        error = float(np.linalg.norm(captioner._points(sound)[0] - exact))
        assert error <= bound + 1e-3  # all are projected upon as float16
        assert (bound == 0) == (nearest == len(TEXTS))  # all were asked


def test_a_captioner_is_known_by_what_it_says_things_with(
    made: Path, folder: Path, encoders: OnnxEncoders, memory: Memory
) -> None:
    more = Memory(np.concatenate([memory.vectors, memory.vectors[:1]]), [*TEXTS, "a dog barks!"])
    who = {
        "the same": _captioner(made, encoders, memory),
        "in French": _captioner(made, encoders, memory, language="fra"),
        "greedily": _captioner(made, encoders, memory, beams=1),
        "upon more": _captioner(made, encoders, more),
        "upon nothing": _captioner(made, encoders, memory, strategy="audio"),
        "nearest": RetrievalCaptioner(encoders, memory),
        "nearest in French": RetrievalCaptioner(encoders, memory, "fra"),
        "nearest of more": RetrievalCaptioner(encoders, more),
    }
    names = {one.identity for one in who.values()}
    assert len(names) == len(who)
    assert _captioner(folder, encoders, memory).identity == who["the same"].identity
    assert _captioner(made, encoders, more, strategy="audio").identity == who["upon nothing"].identity
    calibrate_captions(folder, Calibration(slope=3.0, intercept=-2.0, cutoff=0.3))  # other sounds are unsure then
    assert _captioner(folder, encoders, memory).identity not in names


def test_what_cannot_be_right_is_refused(folder: Path, encoders: OnnxEncoders, memory: Memory) -> None:
    empty, other = Memory(np.empty((0, 256), np.float32), []), Memory(np.eye(3, dtype=np.float32), TEXTS[:3])
    with pytest.raises(QueryError, match="earshot remember"):
        _captioner(folder, encoders, empty)
    with pytest.raises(QueryError, match="earshot remember"):
        RetrievalCaptioner(encoders, empty)
    with pytest.raises(QueryError) as refused:
        RetrievalCaptioner(encoders, empty)
    assert "--strategy" not in str(refused.value)
    elsewhere = Memory(np.roll(memory.vectors, 1, axis=1), TEXTS)  # of as many numbers
    half = Memory(np.concatenate([memory.vectors, elsewhere.vectors]), TEXTS * 2)  # a bundle's, behind a library's own
    with pytest.raises(SpaceMismatchError, match=r"another space, at a cosine of 0\.\d"):
        _captioner(folder, encoders, half)
    for wrong in (other, elsewhere):
        with pytest.raises(SpaceMismatchError, match="another space"):
            _captioner(folder, encoders, wrong)
        with pytest.raises(SpaceMismatchError, match="another space"):
            RetrievalCaptioner(encoders, wrong)
    for settings, words in (
        ({"tau": 0.0}, "a positive"),
        ({"beams": 0}, "positive"),
        ({"language": "jpn"}, "eng, fra"),
        ({"strategy": "projektion"}, "projection"),
    ):
        with pytest.raises(QueryError, match=words):
            _captioner(folder, encoders, memory, **settings)
    with pytest.raises(QueryError, match=r"\[n, 256\]"):
        _captioner(folder, encoders, memory).caption(np.ones((2, 8), np.float32))
    with pytest.raises(QueryError, match="NaN"):
        _captioner(folder, encoders, memory).caption(np.full((1, 256), np.nan, np.float32))


def test_a_decoder_from_another_bundle_is_refused(folder: Path, encoders: OnnxEncoders, memory: Memory) -> None:
    tokenizer = folder / "caption_tokenizer.json"
    with pytest.raises(BundleError, match="learnt to read other@1"):
        export_captioner(_decoder(tokenizer), tokenizer, "other@1", SETTINGS, folder)
    _edit(folder, space_id="other@123456789abc")
    with pytest.raises(BundleError, match="learnt to read other@123456789abc"):
        _captioner(folder, encoders, memory)


def test_a_graph_that_is_not_the_golden_one_fails_its_self_test(
    made: Path, folder: Path, encoders: OnnxEncoders, memory: Memory
) -> None:
    tokenizer = made / "caption_tokenizer.json"
    space_id = open_bundle(folder).manifest.space_id
    export_captioner(_decoder(tokenizer, seed=1), tokenizer, space_id, SETTINGS, folder)
    shutil.copy(made / "caption_decoder.onnx", folder)
    with pytest.raises(SelfTestError, match="log-probabilities"):
        _captioner(folder, encoders, memory)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"tau": 0}, "tau"), ({"tau": -1.0}, "tau"), ({"strategy": "guess"}, "strategy"), ({"beams": "5"}, "beams")],
)
def test_a_wrong_manifest_names_the_key(folder: Path, changes: dict[str, Any], words: str) -> None:
    _edit(folder, **changes)
    with pytest.raises(ManifestError, match=rf"captioner\.{words}"):
        open_bundle(folder)


def test_without_a_decoder_the_nearest_caption_is_told_word_for_word(encoders: OnnxEncoders, memory: Memory) -> None:
    sound = memory.vectors[2:3]
    assert RetrievalCaptioner(encoders, memory, "fra").caption(sound)[0].text == "un chien aboie"
    assert RetrievalCaptioner(encoders, memory).caption(sound)[0].text == "a dog barks"
    assert RetrievalCaptioner(encoders, memory, "jpn").caption(sound) == [Caption("", 0.0, "jpn")]


def test_the_command(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, folders, JSON, subtitles, and one bad file among them."""
    monkeypatch.setenv("EARSHOT_LIBRARY", str(tmp_path / "no library"))
    t = np.arange(16_000 * 5) / 16_000
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    soundfile.write(sounds / "tone.wav", np.where(t < 2.5, 0.5 * np.sin(2 * np.pi * 440 * t), 0), 16_000)
    run = CliRunner().invoke
    found = run(app, ["caption", str(sounds), "--bundle", str(made), "--json", "--lang", "fra"])
    assert found.exit_code == 0, found.output
    (answer,) = json.loads(found.stdout)
    moments = answer["moments"]
    assert answer["path"] == str(sounds / "tone.wav")
    assert re.fullmatch(r"\w+#[0-9a-f]{12}", answer["captioner"])
    assert {moment["bound"] for moment in moments} == {0.0}
    assert (moments[0]["start_s"], moments[-1]["end_s"]) == (0.0, 5.0)
    assert moments[-1]["caption"] == NO_EVENT["fra"][0]
    assert all(one["end_s"] == after["start_s"] for one, after in pairwise(moments))
    subtitles = run(app, ["caption", str(sounds / "tone.wav"), "--bundle", str(made), "--srt", "--beams", "1"])
    assert subtitles.exit_code == 0, subtitles.output
    assert subtitles.stdout.startswith("1\n00:00:00,000 --> 00:00:0")
    assert subtitles.stdout.rstrip().endswith("--> 00:00:05,000\nsilence")
    (sounds / "broken.wav").write_bytes(b"RIFF no sound")
    partly = run(app, ["caption", str(sounds), "--bundle", str(made)])
    assert partly.exit_code == 3
    assert "broken.wav" in partly.stderr
    assert "tone.wav" in partly.stdout
    assert not (tmp_path / "no library").exists()
