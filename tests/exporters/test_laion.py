"""LAION's CLAP from a folder as the Hub has it to a bundle: equal to ``transformers``, and nothing lost on the way."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from engine.bundle import open_bundle
from engine.encoders import OnnxEncoders
from engine.types import Pad
from engine.windows import pad_to
from exporters.compare import TEXTS, CollapsedError
from exporters.errors import SourceError
from exporters.export import export_bundle
from exporters.graph import MAX_BATCH, export_graph, run_graph
from exporters.melspec import DecibelMel, MelSettings, hann
from exporters.parity import FP32_TOLERANCE, ParityError, alike, clips, require
from exporters.precision import convert
from exporters.registry import load_source
from exporters.source import Source
from tests.exporters import checkpoints

RATE_HZ, WINDOW = 48_000, 480_000


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("laion") / "clap-unfused"
    checkpoints.laion(path)
    return path


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return load_source(folder)


@pytest.fixture(scope="module")
def bundle(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "clap"
    export_bundle(source, out)
    return out


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The checkpoint, for a test to damage."""
    return Path(shutil.copytree(folder, tmp_path / "damaged"))


# The bundle


def test_the_engine_finds_what_transformers_finds(bundle: Path, folder: Path) -> None:
    encoders = OnnxEncoders(open_bundle(bundle), "cpu", threads=1)
    sounds = {name: sound for name, sound in clips(WINDOW, RATE_HZ).items() if len(sound) <= WINDOW}
    windows = np.stack([pad_to(sound, WINDOW, encoders.space.pad) for sound in sounds.values()])
    found = encoders.audio.encode_audio(windows) @ encoders.text.encode_text(TEXTS).T

    model = ClapModel.from_pretrained(folder).eval()
    extractor = ClapFeatureExtractor.from_pretrained(folder)
    texts = AutoTokenizer.from_pretrained(folder)(list(TEXTS), padding=True, return_tensors="pt")
    features = extractor(list(sounds.values()), sampling_rate=RATE_HZ, return_tensors="pt")
    with torch.inference_mode():
        answer = model(**texts, input_features=features["input_features"].float(), is_longer=features["is_longer"])
    wanted = (answer.audio_embeds @ answer.text_embeds.T).numpy()
    assert np.abs(found - wanted).max() < 2e-4


def test_the_manifest_says_what_was_measured(bundle: Path, source: Source) -> None:
    opened = open_bundle(bundle)
    opened.verify()
    parity = opened.manifest.extra["parity"]
    assert max(parity[name] for name in ("audio_graph", "audio_alone", "text_graph", "text_alone")) <= FP32_TOLERANCE
    assert max(parity["audio_alike"], parity["text_alike"]) < 0.7, "vectors that hardly differ prove nothing"
    assert parity["mel_max_db"] < 0.1
    space = opened.manifest.space
    assert (space.sample_rate_hz, space.window_s, space.hop_s, space.pad) == (RATE_HZ, 10.0, 5.0, "repeatpad")
    assert space.space_id == source.space_id
    assert opened.manifest.extra["retrieval_loss"] == "not measured"
    assert set(opened.manifest.files) == {path.name for path in bundle.iterdir()} - {"manifest.json"}


def test_the_fused_tower_is_that_of_transformers(tmp_path: Path) -> None:
    checkpoints.laion(tmp_path / "fused", fused=True)
    audio = load_source(tmp_path / "fused").audio
    assert audio is not None
    sounds = [sound[:WINDOW] for sound in clips(WINDOW, RATE_HZ).values()]
    windows = np.stack([pad_to(sound, WINDOW, audio.pad) for sound in sounds])
    with torch.inference_mode():
        found = np.concatenate([audio.module(torch.from_numpy(row[None])).numpy() for row in windows])
    require("fused", found, np.stack([audio.reference(sound) for sound in sounds]))


# Parity that can fail


MUTANTS: dict[str, dict[str, Any]] = {
    "lowest band": {"frequency_min": 50},
    "highest band": {"frequency_max": 13_500},
    "norm": {"bank": "mel_filters"},
    "hop": {"hop": 512},
    "window": {"window": hann(1024) ** 1.1},
    "padding": {"pad": "zero"},
    "padding in full": {"pad": "repeat"},
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(source: Source, folder: Path, name: str) -> None:
    _require_caught(source, folder, **MUTANTS[name])


def _require_caught(source: Source, folder: Path, **mutant: Any) -> None:
    """Require that a front end with other settings is beyond the tolerance."""
    audio = source.audio
    assert audio is not None
    assert isinstance(audio.module.front, DecibelMel)
    pad: Pad = mutant.pop("pad", audio.pad)
    bank, hop, window = (
        mutant.pop("bank", "mel_filters_slaney"),
        mutant.pop("hop", 480),
        mutant.pop("window", hann(1024)),
    )
    extractor = ClapFeatureExtractor.from_pretrained(folder, **mutant)
    sounds = {key: sound for key, sound in clips(WINDOW, RATE_HZ).items() if key in CAUGHT_BY}
    windows = np.stack([pad_to(sound, WINDOW, pad) for sound in sounds.values()])
    front = DecibelMel(MelSettings(1024, hop, window, getattr(extractor, bank)))
    with torch.inference_mode():
        mels = front(torch.from_numpy(windows))
        mels = torch.nn.functional.pad(mels, (0, 0, 0, 1001 - mels.shape[1]), value=-100.0)
        found = torch.nn.functional.normalize(audio.module.projection(audio.module.trunk(mels))).numpy()
    with pytest.raises(ParityError, match="at most"):
        require("mutant", found, np.stack([audio.reference(sound) for sound in sounds.values()]))


CAUGHT_BY = ("chirp", "click", "pink noise", "silence", "speech-like, 0.3 of a window")


# The larger HTSAT


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``laion/larger_clap_general``, a third wider."""
    path = tmp_path_factory.mktemp("larger") / "larger-clap"
    checkpoints.laion(path, width=checkpoints.LARGER)
    return path


@pytest.fixture(scope="module")
def wide(larger: Path) -> Source:
    """Its sounds."""
    return dataclasses.replace(load_source(larger), text=None)


def test_the_larger_tower_is_that_of_transformers(wide: Source, tmp_path: Path) -> None:
    audio, graph = wide.audio, tmp_path / "audio.onnx"
    assert audio is not None
    assert audio.module.projection.linear1.in_features == 8 * checkpoints.LARGER == 1024
    sounds = [clips(WINDOW, RATE_HZ)[name] for name in CAUGHT_BY]
    wanted = np.stack([audio.reference(sound) for sound in sounds])
    windows = torch.from_numpy(np.stack([pad_to(sound, WINDOW, audio.pad) for sound in sounds]))
    examples = {"samples": torch.zeros(2, WINDOW)}
    export_graph(audio.module, examples, [{0: "batch"}], "embedding", graph, {"batch": MAX_BATCH})
    assert alike(wanted) < 0.7
    require("fp32", run_graph(graph, {"samples": windows}), wanted)
    convert(graph, "int8", audio.exact)
    found = np.concatenate([run_graph(graph, {"samples": window[None]}) for window in windows])
    require("int8", found, wanted, 0.15)
    assert (found * wanted).sum(1).min() > 0.995


@pytest.mark.parametrize("name", ["lowest band", "hop", "padding"])
def test_a_mutant_of_the_larger_tower_is_caught(wide: Source, larger: Path, name: str) -> None:
    _require_caught(wide, larger, **MUTANTS[name])


def test_a_larger_tower_without_its_width_is_refused(larger: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(larger, tmp_path / "damaged"))
    config = json.loads((copy / "config.json").read_text())
    del config["audio_config"]["patch_embeds_hidden_size"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match="of another shape"):
        load_source(copy)


def test_a_bundle_beyond_the_tolerance_is_not_written(source: Source, tmp_path: Path) -> None:
    assert source.text is not None
    wrong = dataclasses.replace(source.text, reference=lambda texts: np.roll(source.text.reference(texts), 1, axis=1))
    (tmp_path / "b").mkdir()
    with pytest.raises(ParityError, match=r"text\.onnx"):
        export_bundle(dataclasses.replace(source, audio=None, text=wrong), tmp_path / "b")
    assert list(tmp_path.iterdir()) == [tmp_path / "b"], "neither half a bundle nor what it was made in"
    assert not any((tmp_path / "b").iterdir())


def test_a_collapsed_tower_is_refused_with_the_numbers(copy: Path, tmp_path: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["text_projection.linear2.weight"] *= 1e-3
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    collapsed = dataclasses.replace(load_source(copy), audio=None)
    with pytest.raises(CollapsedError, match=r"median cosine .* is (1\.0000|0\.99)"):
        export_bundle(collapsed, tmp_path / "b")
    assert collapsed.text is not None
    assert alike(collapsed.text.reference(TEXTS)) > 0.99


# Bad input


def _without(folder: Path, key: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[key]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _with(folder: Path, key: str, value: torch.Tensor) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, key: value}, folder / "model.safetensors", metadata={"format": "pt"})


def _cut(path: Path, share: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


class _Code:
    """What a hostile checkpoint holds."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/earshot-was-hacked"),))


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weights": _Code()}, folder / "pytorch_model.bin")


def _preprocessor(folder: Path, **values: Any) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


BIAS = "audio_model.audio_encoder.layers.0.blocks.0.attention.self.query.bias"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing key": (lambda folder: _without(folder, BIAS), f"1 missing .*{BIAS}"),
    "unexpected key": (
        lambda folder: _with(folder, "text_model.extra", torch.ones(3)),
        "1 unexpected .*text_model.extra",
    ),
    "another shape": (lambda folder: _with(folder, BIAS, torch.ones(3)), f"1 of another shape .*{BIAS}"),
    "truncated weights": (lambda folder: _cut(folder / "model.safetensors"), "can't be read"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "can't be read"),
    "pickled code": (_pickled, "pickled code"),
    "half a config": (lambda folder: _cut(folder / "config.json"), r"config\.json"),
    "no preprocessor": (lambda folder: (folder / "preprocessor_config.json").unlink(), "feature extractor"),
    "another preprocessor": (lambda folder: _preprocessor(folder, truncation="fusion"), "truncation fusion"),
    "another padding": (lambda folder: _preprocessor(folder, padding="mirror"), "padding mirror"),
    "half a tokenizer": (lambda folder: _cut(folder / "tokenizer.json"), "can't be read"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_refused(copy: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(copy)
    with pytest.raises(SourceError, match=message) as caught:
        load_source(copy)
    assert caught.value.expected
    assert caught.value.action
    assert not Path("/tmp/earshot-was-hacked").exists()


def test_an_unknown_family_is_answered_with_the_known_ones(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(SourceError, match=r"whisper.*laion \(CLAP"):
        load_source(copy)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nothing at"):
        load_source(tmp_path / "no")


def test_torch_weights_are_read_as_weights(copy: Path, source: Source) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert load_source(copy, source.name).space_id == source.space_id


@pytest.mark.parametrize("what", ["weights", "front end", "tokenizer"])
def test_the_space_is_that_of_weights_front_end_and_tokenizer(copy: Path, source: Source, what: str) -> None:
    if what == "weights":
        _with(copy, BIAS, load_file(copy / "model.safetensors")[BIAS] + 1e-3)
    elif what == "front end":
        _preprocessor(copy, frequency_min=20)
    else:
        path = copy / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
        path.write_text(json.dumps(tokenizer))
    assert load_source(copy, source.name).space_id != source.space_id
