"""The towers over a miniature bundle made here: two graphs, a tokenizer and golden outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from engine.bundle import open_bundle
from engine.encoders import (
    BATCH_WINDOWS,
    GOLDEN_TOLERANCE,
    OnnxEncoders,
    encode_sound,
    encode_windows,
    normalise,
)
from engine.errors import AudioError, BundleError, DeviceError, QueryError, SelfTestError
from engine.types import FloatArray, Window
from engine.windows import cut

RATE_HZ, SIZE, DIM, MAX_TOKENS = 100, 200, 8, 6
WORDS = ["[UNK]", "[PAD]", "[CLS]", "rain", "wind", "dog", "siren", "clock", "Rain"]
GOLDEN_TEXTS = ["rain", "wind dog", "siren"]


@dataclass
class Weights:
    """The numbers of both towers, and how their graphs are made."""

    first: FloatArray
    second: FloatArray
    table: FloatArray

    @classmethod
    def random(cls, seed: int = 0) -> Weights:
        rng = np.random.default_rng(seed)
        shapes = [(SIZE, 37), (37, DIM), (len(WORDS), DIM)]
        return cls(*(rng.standard_normal(shape).astype(np.float32) for shape in shapes))

    def audio(self, windows: FloatArray) -> FloatArray:
        """The audio tower in numpy: ``[n, SIZE] -> [n, DIM]``, not normalised."""
        return np.maximum(windows @ self.first, 0) @ self.second

    def text(self, texts: list[str], max_tokens: int = MAX_TOKENS) -> FloatArray:
        """The text tower in numpy, text by text: the mean of its words' rows."""
        rows = []
        for text in texts:
            ids = [WORDS.index("[CLS]"), *(WORDS.index(w) if w in WORDS else 0 for w in text.split())]
            rows.append(self.table[ids[:max_tokens]].mean(axis=0))
        return np.stack(rows)


def save(path: Path, nodes: list[Any], inputs: dict[str, int], weights: dict[str, Any], output: str, dim: int) -> None:
    shapes = {"samples": ["batch", SIZE], "input_ids": ["batch", "tokens"], "attention_mask": ["batch", "tokens"]}
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(name, kind, shapes[name]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", dim])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))


def save_audio(path: Path, weights: Weights) -> None:
    nodes = [
        helper.make_node("MatMul", ["samples", "first"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "second"], ["embedding"]),
    ]
    numbers = {"first": weights.first, "second": weights.second}
    save(path, nodes, {"samples": TensorProto.FLOAT}, numbers, "embedding", weights.second.shape[1])


def save_text(path: Path, weights: Weights) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["rows", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "tokens"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["embedding"]),
    ]
    numbers = {"table": weights.table, "last": np.array([2], np.int64), "tokens": np.array([1], np.int64)}
    inputs = {"input_ids": TensorProto.INT64, "attention_mask": TensorProto.INT64}
    save(path, nodes, inputs, numbers, "embedding", weights.table.shape[1])


def tokenizer(words: list[str] = WORDS, unknown: str | None = "[UNK]", start: bool = True) -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=unknown or "no such word"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if start:
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    return made


def golden(weights: Weights) -> dict[str, Any]:
    samples = np.random.default_rng(9).uniform(-1, 1, (3, SIZE)).astype(np.float32)
    return {
        "audio_samples": samples,
        "audio_vectors": normalise(weights.audio(samples)),
        "texts": np.array(GOLDEN_TEXTS),
        "text_vectors": normalise(weights.text(GOLDEN_TEXTS)),
    }


def manifest() -> dict[str, Any]:
    curve = {"slope": 10.0, "intercept": -3.0, "cutoff": 0.5}
    return {
        "format": 1,
        "name": "mini",
        "space_id": "mini@0123456789ab",
        "dim": DIM,
        "precision": "fp32",
        "audio": {"graph": "audio.onnx", "sample_rate_hz": RATE_HZ, "window_s": 2.0, "hop_s": 1.0, "pad": "zero"},
        "text": {
            "graph": "text.onnx",
            "tokenizer": "tokenizer.json",
            "max_tokens": MAX_TOKENS,
            "languages": ["en"],
            "lowercase": False,
        },
        "calibration": {"text": curve, "audio": curve},
        "files": {},
    }


@dataclass
class Mini:
    """A bundle folder that tests may damage before they open it."""

    folder: Path
    weights: Weights

    def change(self, section: str, **values: Any) -> None:
        path = self.folder / "manifest.json"
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw[section] = None if not values else {**raw[section], **values}
        path.write_text(json.dumps(raw), encoding="utf-8")

    def set_dim(self, dim: int) -> None:
        path = self.folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"dim": dim}), encoding="utf-8")

    def set_golden(self, **arrays: Any) -> None:
        kept = {key: value for key, value in {**golden(self.weights), **arrays}.items() if value is not None}
        np.savez(self.folder / "golden.npz", **kept)

    def open(self) -> OnnxEncoders:
        return OnnxEncoders(open_bundle(self.folder), "cpu", threads=1)


def make_mini(folder: Path) -> Mini:
    folder.mkdir(parents=True, exist_ok=True)
    mini = Mini(folder, Weights.random())
    save_audio(folder / "audio.onnx", mini.weights)
    save_text(folder / "text.onnx", mini.weights)
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "manifest.json").write_text(json.dumps(manifest()), encoding="utf-8")
    mini.set_golden()
    return mini


@pytest.fixture
def mini(tmp_path: Path) -> Mini:
    return make_mini(tmp_path / "mini")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> OnnxEncoders:
    """The miniature bundle, undamaged and open."""
    return make_mini(tmp_path_factory.mktemp("shared") / "mini").open()


def windows(n: int, seed: int = 1) -> FloatArray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, SIZE)).astype(np.float32)


# Sound


def test_sound_becomes_the_unit_vectors_of_its_graph(encoders: OnnxEncoders) -> None:
    samples = windows(5)
    found = encoders.audio.encode_audio(samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    wanted = Weights.random().audio(samples)
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 3 * BATCH_WINDOWS + 1), at=st.integers(0, 10**6), seed=st.integers(0, 99))
def test_a_vector_depends_on_its_window_alone(encoders: OnnxEncoders, n: int, at: int, seed: int) -> None:
    batch, window = windows(n, seed), windows(1, 1000)
    batch[at % n] = window[0]
    alone = encoders.audio.encode_audio(window)[0]
    assert encoders.audio.encode_audio(batch)[at % n].tobytes() == alone.tobytes()


def test_loud_neighbours_do_not_matter_either(encoders: OnnxEncoders) -> None:
    batch = windows(BATCH_WINDOWS) * np.float32(1e6)
    batch[3] = windows(1)[0]
    assert encoders.audio.encode_audio(batch)[3].tobytes() == encoders.audio.encode_audio(windows(1))[0].tobytes()


def test_the_graph_always_gets_full_batches(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = mini.open().audio
    sizes: list[int] = []
    run = encoder.session.run

    def counted(feeds: Any) -> Any:
        sizes.append(len(feeds["samples"]))
        return run(feeds)

    monkeypatch.setattr(encoder.session, "run", counted)
    for n in (0, 1, BATCH_WINDOWS, BATCH_WINDOWS + 1):
        assert encoder.encode_audio(windows(n)).shape == (n, DIM)
    assert sizes == [BATCH_WINDOWS] * 4


@pytest.mark.parametrize("shape", [(SIZE,), (1, SIZE + 1), (2, 1, SIZE), (0,), (SIZE, 1)])
def test_other_shapes_are_refused(encoders: OnnxEncoders, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        encoders.audio.encode_audio(np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(encoders: OnnxEncoders, value: float) -> None:
    batch = windows(BATCH_WINDOWS + 3)
    batch[-1, -1] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        encoders.audio.encode_audio(batch)


def test_callers_windows_are_left_as_they_are(encoders: OnnxEncoders) -> None:
    batch = windows(3)
    before = batch.copy()
    encoders.audio.encode_audio(batch)
    np.testing.assert_array_equal(batch, before)


def test_a_vector_of_zeros_is_never_given_out(encoders: OnnxEncoders) -> None:
    with pytest.raises(SelfTestError, match="zero"):
        encoders.audio.encode_audio(np.zeros((1, SIZE), np.float32))  # this graph has no bias


@pytest.mark.parametrize("bad", [[0, 0], [np.nan, 1], [np.inf, 1]])
def test_normalise_refuses_what_has_no_direction(bad: list[float]) -> None:
    with pytest.raises(SelfTestError):
        normalise(np.array([[3, 4], bad], np.float32))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_normalise_at_any_scale(scale: float) -> None:
    np.testing.assert_allclose(normalise(np.array([[3, 4]], np.float32) * np.float32(scale)), [[0.6, 0.8]], rtol=1e-6)


def test_windows_come_back_with_their_vectors_in_order(encoders: OnnxEncoders) -> None:
    clip = np.random.default_rng(2).uniform(-1, 1, RATE_HZ * 41).astype(np.float32)
    cuts = list(cut([clip], encoders.space))
    pairs = list(encode_windows(encoders.audio, iter(cuts)))
    assert [window.index for window, _ in pairs] == list(range(40))
    wanted = encoders.audio.encode_audio(np.stack([window.samples for window in cuts]))
    np.testing.assert_array_equal(np.stack([vector for _, vector in pairs]), wanted)


def test_windows_are_taken_a_batch_at_a_time(encoders: OnnxEncoders) -> None:
    taken = 0

    def endless() -> Iterator[Window]:
        nonlocal taken
        while True:
            taken += 1
            yield Window(taken, 0.0, 2.0, windows(1)[0])

    stream = encode_windows(encoders.audio, endless())
    next(stream)
    assert taken == BATCH_WINDOWS


def test_a_whole_sound_is_the_mean_of_its_windows(encoders: OnnxEncoders) -> None:
    clip = np.random.default_rng(3).uniform(-1, 1, RATE_HZ * 5 + 17).astype(np.float32)
    vectors = encoders.audio.encode_audio(np.stack([w.samples for w in cut([clip], encoders.space)]))
    mean = vectors.mean(axis=0)
    found = encode_sound(encoders.audio, np.split(clip, [7, 300]), encoders.space)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)


def test_a_sound_of_nothing_is_an_error(encoders: OnnxEncoders) -> None:
    with pytest.raises(AudioError, match="no samples"):
        encode_sound(encoders.audio, [], encoders.space)


# Words


def test_words_become_the_unit_vectors_of_their_graph(encoders: OnnxEncoders) -> None:
    texts = ["rain", "siren wind", "a word unknown dog"]
    found = encoders.text.encode_text(texts)
    assert found.dtype == np.float32
    wanted = Weights.random().text(texts)
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-5)


def test_a_text_does_not_depend_on_the_texts_beside_it(encoders: OnnxEncoders) -> None:
    alone = encoders.text.encode_text(["rain"])[0]
    beside = encoders.text.encode_text(["wind dog siren clock wind", "rain", "dog"])[1]
    np.testing.assert_allclose(beside, alone, atol=1e-6)


def test_a_long_text_is_cut_not_refused(encoders: OnnxEncoders) -> None:
    text = "rain wind dog siren clock " * 200
    wanted = normalise(Weights.random().text([text]))
    np.testing.assert_allclose(encoders.text.encode_text([text]), wanted, atol=1e-5)


@pytest.mark.parametrize("lowercase", [True, False])
def test_lower_case_is_the_bundles_choice(mini: Mini, lowercase: bool) -> None:
    mini.change("text", lowercase=lowercase)
    upper, lower = mini.open().text.encode_text(["Rain", "rain"])
    assert bool(np.allclose(upper, lower, atol=1e-6)) == lowercase


@pytest.mark.parametrize("texts", [[], [""], ["rain", ""], ["  \n\t "], ["\udcff rain"]], ids=repr)
def test_what_holds_no_words_is_refused(encoders: OnnxEncoders, texts: list[str]) -> None:
    with pytest.raises(QueryError) as caught:
        encoders.text.encode_text(texts)
    assert caught.value.expected


def test_a_text_without_a_known_word_is_the_askers_fault(mini: Mini) -> None:
    only_letters = Tokenizer(models.BPE(vocab={"r": WORDS.index("rain")}, merges=[]))
    only_letters.save(str(mini.folder / "tokenizer.json"))
    mini.set_golden(texts=np.array(["r"]), text_vectors=mini.weights.table[[WORDS.index("rain")]])
    encoder = mini.open().text
    for texts in (["月"], ["r", "月"]):
        with pytest.raises(QueryError, match="no word that the model knows in '月'"):
            encoder.encode_text(texts)


def test_a_text_that_the_graph_makes_nothing_of_is_the_askers_fault(mini: Mini) -> None:
    mini.weights.table[WORDS.index("[UNK]")] = 0
    save_text(mini.folder / "text.onnx", mini.weights)
    tokenizer(start=False).save(str(mini.folder / "tokenizer.json"))
    vectors = normalise(mini.weights.table[[WORDS.index(word) for word in ("rain", "dog")]])
    mini.set_golden(texts=np.array(["rain", "dog"]), text_vectors=vectors)
    with pytest.raises(QueryError, match="no word that the model knows in 'trumpet'"):
        mini.open().text.encode_text(["rain", "trumpet"])


def test_a_tokenizer_that_knows_no_unknown_is_no_crash(mini: Mini) -> None:
    tokenizer(unknown=None).save(str(mini.folder / "tokenizer.json"))
    with pytest.raises(QueryError, match="can't be read"):
        mini.open().text.encode_text(["trumpet"])


def test_the_tokenizers_own_padding_is_kept(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokenizer()
    made.enable_padding(pad_id=1, pad_token="[PAD]", length=50)
    made.save(str(mini.folder / "tokenizer.json"))
    encoder = mini.open().text
    fed: list[Any] = []
    run = encoder.session.run
    monkeypatch.setattr(encoder.session, "run", lambda feeds: fed.append(feeds) or run(feeds))
    encoder.encode_text(["rain", "rain wind dog"])
    assert fed[0]["input_ids"].tolist() == [[2, 3, 1, 1], [2, 3, 4, 5]]
    assert fed[0]["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


# What is wrong with a bundle


def overwrite(name: str, content: bytes | None) -> Callable[[Mini], object]:
    """Damage: this file holds this content, or is gone."""
    return lambda mini: (mini.folder / name).unlink() if content is None else (mini.folder / name).write_bytes(content)


def other_golden(**arrays: Any) -> Callable[[Mini], object]:
    """Damage: golden outputs with these arrays replaced, or left out where ``None``."""
    return lambda mini: mini.set_golden(**arrays)


def cut_golden(mini: Mini) -> None:
    path = mini.folder / "golden.npz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_array_for_golden(mini: Mini) -> None:
    with (mini.folder / "golden.npz").open("wb") as stream:
        np.save(stream, ONES)


def no_text(weights: Weights) -> Weights:
    return Weights(weights.first, weights.second, np.zeros_like(weights.table))


def swapped_tokenizer(mini: Mini) -> None:
    tokenizer([*WORDS[:3], *WORDS[:2:-1]]).save(str(mini.folder / "tokenizer.json"))


NO_SAMPLES, NO_VECTORS = np.zeros((0, SIZE), np.float32), np.zeros((0, DIM), np.float32)
ONES = np.ones((3, DIM), np.float32)
DAMAGE: dict[str, tuple[str, Callable[[Mini], object]]] = {
    "other audio weights": ("audio", lambda mini: save_audio(mini.folder / "audio.onnx", Weights.random(1))),
    "other text weights": ("text", lambda mini: save_text(mini.folder / "text.onnx", Weights.random(1))),
    "text graph for audio": ("audio", lambda mini: save_text(mini.folder / "audio.onnx", mini.weights)),
    "audio graph for text": ("text", lambda mini: save_audio(mini.folder / "text.onnx", mini.weights)),
    "corrupt audio graph": ("audio", overwrite("audio.onnx", b"no graph")),
    "corrupt text graph": ("text", overwrite("text.onnx", b"no graph")),
    "no audio graph": ("audio", overwrite("audio.onnx", None)),
    "no text graph": ("text", overwrite("text.onnx", None)),
    "corrupt tokenizer": ("text", overwrite("tokenizer.json", b"{")),
    "binary tokenizer": ("text", overwrite("tokenizer.json", bytes(range(256)))),
    "no tokenizer": ("text", overwrite("tokenizer.json", None)),
    "words swapped": ("text", swapped_tokenizer),
    "no golden": ("audio", overwrite("golden.npz", None)),
    "empty golden": ("audio", overwrite("golden.npz", b"")),
    "golden no zip": ("audio", overwrite("golden.npz", b"PK\x03\x04 and no more")),
    "golden a text": ("text", overwrite("golden.npz", b"no arrays")),
    "golden one array": ("text", one_array_for_golden),
    "half a golden": ("text", cut_golden),
    "golden without texts": ("text", other_golden(texts=None)),
    "golden without samples": ("audio", other_golden(audio_samples=None)),
    "golden without vectors": ("audio", other_golden(audio_vectors=None)),
    "golden of no sounds": ("audio", other_golden(audio_samples=NO_SAMPLES, audio_vectors=NO_VECTORS)),
    "golden of an empty text": ("text", other_golden(texts=np.array(["rain", "", "siren"]))),
    "a text graph of zeros": ("text", lambda mini: save_text(mini.folder / "text.onnx", no_text(mini.weights))),
    "golden of no texts": ("text", other_golden(texts=np.array([], str), text_vectors=NO_VECTORS)),
    "golden of other windows": ("audio", other_golden(audio_samples=np.ones((3, SIZE + 1), np.float32))),
    "golden of another dim": ("audio", other_golden(audio_vectors=ONES[:, :1])),
    "golden texts of another dim": ("text", other_golden(text_vectors=ONES[:, :1])),
    "golden of fewer": ("text", other_golden(text_vectors=ONES[:1])),
    "golden of NaN": ("audio", other_golden(audio_vectors=ONES * np.nan)),
    "golden of zeros": ("text", other_golden(text_vectors=ONES * 0)),
    "pickled golden": ("text", other_golden(texts=np.array(GOLDEN_TEXTS, object))),
    "another dim": ("audio", lambda mini: mini.set_dim(DIM + 1)),
    "another dim for words": ("text", lambda mini: mini.set_dim(DIM + 1)),
    "another window": ("audio", lambda mini: mini.change("audio", window_s=2.01)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_bundle_answers_nothing(mini: Mini, name: str) -> None:
    tower, damage = DAMAGE[name]
    damage(mini)
    opened = mini.open()
    for _ in range(2):  # a tower that failed is not there at the second try either
        with pytest.raises(BundleError) as caught:
            getattr(opened, tower)
        assert caught.value.found
        assert caught.value.expected


@pytest.mark.parametrize("tower", ["audio", "text"])
def test_a_collapsed_tower_is_found_though_it_matches_its_golden_vectors(mini: Mini, tower: str) -> None:
    mini.weights.second[:] = 1
    mini.weights.table[:] = 1
    save_audio(mini.folder / "audio.onnx", mini.weights)
    save_text(mini.folder / "text.onnx", mini.weights)
    mini.set_golden()
    with pytest.raises(SelfTestError, match=f"collapsed {tower}"):
        getattr(mini.open(), tower)


@pytest.mark.parametrize(("share", "passes"), [(0.5, True), (2.0, False)])
def test_golden_vectors_may_move_as_far_as_the_tolerance(mini: Mini, share: float, passes: bool) -> None:
    vectors = golden(mini.weights)["audio_vectors"]
    aside = np.roll(vectors, 1, axis=1)
    aside -= (aside * vectors).sum(axis=1, keepdims=True) * vectors
    mini.set_golden(audio_vectors=vectors + share * GOLDEN_TOLERANCE * normalise(aside))
    if passes:
        assert mini.open().audio
    else:
        with pytest.raises(SelfTestError, match="away from the golden"):
            _ = mini.open().audio


def test_one_golden_text_is_enough(mini: Mini) -> None:
    mini.set_golden(texts=np.array(GOLDEN_TEXTS[:1]), text_vectors=golden(mini.weights)["text_vectors"][:1])
    assert mini.open().text.encode_text(["dog"]).shape == (1, DIM)


def test_a_bundle_without_words_says_what_to_do(mini: Mini) -> None:
    mini.change("text")
    opened = mini.open()
    assert opened.audio.encode_audio(windows(1)).shape == (1, DIM)
    with pytest.raises(BundleError, match="search by sound"):
        _ = opened.text


def test_a_bundle_without_sound_says_so(mini: Mini) -> None:
    mini.change("audio")
    opened = mini.open()
    assert opened.text.encode_text(["dog"]).shape == (1, DIM)
    for part in ("space", "audio", "device"):
        with pytest.raises(BundleError, match="without an audio tower"):
            getattr(opened, part)


def test_windows_go_to_the_graph_as_many_at_once_as_the_bundle_says(mini: Mini) -> None:
    mini.change("audio", batch=2)
    encoder = mini.open().audio
    sizes: list[int] = []
    run = encoder.session.run
    encoder.session.run = lambda feeds: sizes.append(len(feeds["samples"])) or run(feeds)  # type: ignore[method-assign, func-returns-value]
    samples = windows(5)
    np.testing.assert_allclose(encoder.encode_audio(samples), normalise(mini.weights.audio(samples)), atol=1e-6)
    assert sizes == [2, 2, 2]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_windows_of_a_large_model_go_one_by_one_with_cores_to_share(mini: Mini, threads: int) -> None:
    mini.change("audio", batch=1)
    encoder = OnnxEncoders(open_bundle(mini.folder), "cpu", threads=threads).audio
    calls: list[int] = []
    run_each = encoder.session.run_each
    encoder.session.run_each = lambda feeds: calls.extend(len(one["samples"]) for one in feeds) or run_each(feeds)  # type: ignore[method-assign, func-returns-value]
    samples = windows(6)
    np.testing.assert_allclose(encoder.encode_audio(samples), normalise(mini.weights.audio(samples)), atol=1e-6)
    assert calls == [1] * 6


def test_texts_go_to_the_graph_one_by_one_and_unpadded_where_the_bundle_says_so(mini: Mini) -> None:
    mini.change("text", batch=1)
    encoder = mini.open().text
    shapes: list[tuple[int, ...]] = []
    run = encoder.session.run
    encoder.session.run = lambda feeds: shapes.append(feeds["input_ids"].shape) or run(feeds)  # type: ignore[method-assign, func-returns-value]
    texts = ["rain", "dog wind siren"]
    np.testing.assert_allclose(encoder.encode_text(texts), normalise(mini.weights.text(texts)), atol=1e-6)
    assert shapes == [(1, 2), (1, 4)]


@pytest.mark.parametrize(("threads", "large", "shares"), [(1, True, 1), (2, True, 2), (2, False, 1)])
def test_texts_are_shared_evenly_between_the_calls_of_a_large_graph(
    mini: Mini, monkeypatch: pytest.MonkeyPatch, threads: int, large: bool, shares: int
) -> None:
    if large:
        monkeypatch.setattr("engine.encoders._LARGE_BYTES", 0)
    monkeypatch.setattr("engine.encoders._TOKENS_A_CALL", 3)
    encoder = OnnxEncoders(open_bundle(mini.folder), "cpu", threads=threads).text
    calls: list[list[int]] = []
    run_each = encoder.session.run_each

    def noted(feeds: Any) -> Any:
        calls.append([int(one["attention_mask"].sum()) for one in feeds])
        return run_each(feeds)

    encoder.session.run_each = noted  # type: ignore[method-assign]
    texts = ["rain", "dog wind siren", "clock", "wind siren rain clock", "dog"]
    for count in range(1, 6):
        found = encoder.encode_text(texts[:count])
        np.testing.assert_allclose(found, normalise(mini.weights.text(texts[:count])), atol=1e-6)
    tokens = [2, 4, 2, 5, 2]
    assert [sum(shared) for shared in calls] == [sum(tokens[:count]) for count in range(1, 6)]
    assert [len(shared) for shared in calls] == [1, *[shares] * 4]  # too few tokens for two calls in the first
    assert all(max(shared) - min(shared) <= max(tokens) for shared in calls)


def test_on_a_card_texts_come_in_few_shapes(mini: Mini) -> None:
    encoder = mini.open().text
    encoder.session.device = "cuda"
    shapes: list[tuple[int, ...]] = []
    run = encoder.session.run
    encoder.session.run = lambda feeds: shapes.append(feeds["input_ids"].shape) or run(feeds)  # type: ignore[method-assign, func-returns-value]
    for texts in (["rain"], ["dog wind siren"], ["dog wind", "clock"], ["dog wind siren rain clock siren wind"]):
        found = encoder.encode_text(texts)
        np.testing.assert_allclose(found, normalise(mini.weights.text(texts)), atol=1e-6)
    assert shapes == [(1, MAX_TOKENS), (1, MAX_TOKENS), (2, MAX_TOKENS), (1, MAX_TOKENS)]


def test_a_suffix_ends_every_text(mini: Mini) -> None:
    mini.change("text", suffix=" siren")
    mini.set_golden(text_vectors=normalise(mini.weights.text([f"{text} siren" for text in GOLDEN_TEXTS])))
    found = mini.open().text.encode_text(["rain"])
    np.testing.assert_allclose(found, normalise(mini.weights.text(["rain siren"])), atol=1e-6)


def test_an_int8_bundle_stays_on_the_cpu_and_says_so(mini: Mini) -> None:
    path = mini.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"precision": "int8"}), encoding="utf-8")
    opened = OnnxEncoders(open_bundle(mini.folder), "auto", threads=1)
    assert opened.device == "cpu"
    assert "int8" in opened.notes[0]
    with pytest.raises(DeviceError, match="int8"):
        _ = OnnxEncoders(open_bundle(mini.folder), "cuda").audio


def test_opening_a_bundle_loads_no_tower(mini: Mini) -> None:
    for name in ("audio.onnx", "text.onnx", "tokenizer.json", "golden.npz"):
        (mini.folder / name).unlink()
    opened = mini.open()
    assert opened.space.window_samples == SIZE
    assert set(opened.calibration) == {"text", "audio"}


def test_a_fall_back_is_noted_once(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.session.why_no_cuda", lambda: "no NVIDIA driver")
    opened = OnnxEncoders(open_bundle(mini.folder), "auto", threads=1)
    assert opened.notes == []
    assert opened.audio
    assert opened.text
    assert opened.device == "cpu"
    assert opened.notes == ["running on the CPU: no NVIDIA driver"]
