"""Microsoft's CLAP of 2023 against the classes of the package ``msclap`` itself."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engine.bundle import open_bundle
from engine.encoders import OnnxEncoders
from engine.windows import pad_to
from exporters.compare import LONG_TEXT, TEXTS
from exporters.errors import SourceError
from exporters.export import export_bundle
from exporters.parity import FP32_TOLERANCE, alike, clips, require
from exporters.registry import load_source
from exporters.source import Source
from tests.exporters import checkpoints

if not all(importlib.util.find_spec(name) for name in ("msclap", "torchlibrosa")):
    pytest.skip("compared with what pip install --no-deps msclap torchlibrosa brings", allow_module_level=True)

RATE_HZ, WINDOW = 44_100, 308_700


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("msclap") / "published"
    return folder, checkpoints.msclap(folder)


@pytest.fixture(scope="module")
def source(made: tuple[Path, nn.Module]) -> Source:
    return load_source(made[0])


def test_sounds_are_heard_as_the_package_hears_them(made: tuple[Path, nn.Module], source: Source) -> None:
    assert source.audio is not None
    sounds = clips(WINDOW, RATE_HZ)
    chosen = ("chirp", "click", "pink noise", "silence", "speech-like", "speech-like, 0.3 of a window")
    windows = np.stack([pad_to(sounds[name], WINDOW, "repeat") for name in chosen])
    wanted = checkpoints.msclap_hears(made[1], windows)
    with torch.inference_mode():
        found = source.audio.module(torch.from_numpy(windows)).numpy()
    assert alike(wanted) < 0.7
    require("audio", found, wanted)
    require("the export's own reference", np.stack([source.audio.reference(sounds[name]) for name in chosen]), wanted)


def test_log_mels_are_those_of_the_package(made: tuple[Path, nn.Module], source: Source) -> None:
    assert source.audio is not None
    assert source.audio.front is not None
    sound = clips(WINDOW, RATE_HZ)["speech-like"][None]
    htsat = made[1].audio_encoder.base.htsat
    with torch.inference_mode():
        wanted = htsat.logmel_extractor(htsat.spectrogram_extractor(torch.from_numpy(sound)))[0, 0].numpy()
        found = source.audio.front(torch.from_numpy(sound))[0].numpy()
    assert found.shape == (965, 64)
    assert np.abs(found - wanted).max() < 0.05


def test_texts_are_read_as_the_package_reads_them(
    made: tuple[Path, nn.Module], source: Source, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By the engine, from a bundle; marks that are token 0 as well, and texts beyond 77 tokens."""
    out = tmp_path_factory.mktemp("bundles") / "words"
    export_bundle(dataclasses.replace(source, audio=None), out)
    bundle = open_bundle(out)
    assert bundle.manifest.text is not None
    assert (bundle.manifest.text.suffix, bundle.manifest.text.max_tokens) == (" <|endoftext|>", 77)
    assert bundle.manifest.extra["parity"]["text_graph"] <= FP32_TOLERANCE
    texts = [*TEXTS, "stop! now!", "!", "rain ", LONG_TEXT]
    wanted = checkpoints.msclap_reads(made[1], made[0], texts)
    assert alike(wanted) < 0.7
    require("text", OnnxEncoders(bundle, "cpu", threads=1).text.encode_text(texts), wanted)


def test_the_mel_range_is_the_checkpoints(made: tuple[Path, nn.Module], tmp_path: Path) -> None:
    """The settings say 50 to 8000 Hz; the package never looks at them, and its tables hear beyond."""
    saved = torch.load(made[0] / "CLAP_weights_2023.pth", weights_only=True)
    bank = saved["model"]["audio_encoder.base.htsat.logmel_extractor.melW"]
    bank[200:] = 0
    other = tmp_path / "other"
    other.mkdir()
    torch.save(saved, other / "CLAP_weights_2023.pth")
    (other / "tokenizer.json").write_bytes((made[0] / "tokenizer.json").read_bytes())
    audio, mine = load_source(other).audio, load_source(made[0]).audio
    assert audio is not None
    assert mine is not None
    tone = np.sin(2 * np.pi * 9000 * np.arange(WINDOW) / RATE_HZ).astype(np.float32)
    assert np.linalg.norm(audio.reference(tone) - mine.reference(tone)) > 0.01


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("audio_encoder.base.htsat.layers.0.blocks.1.attn.qkv.bias", r"3 missing .*query\.bias"),
        ("audio_encoder.projection.linear2.weight", r"1 missing .*linear2\.weight"),
        ("caption_encoder.base.h.1.mlp.c_fc.weight", r"1 missing .*c_fc\.weight"),
        ("audio_encoder.base.htsat.logmel_extractor.melW", "melW"),
        ("+audio_encoder.base.htsat.extra.weight", r"1 unexpected .*extra\.weight"),
        ("+third_encoder.weight", r"1 unexpected .*third_encoder\.weight"),
    ],
)
def test_keys_must_be_complete(made: tuple[Path, nn.Module], tmp_path: Path, key: str, message: str) -> None:
    saved = torch.load(made[0] / "CLAP_weights_2023.pth", weights_only=True)
    if key.startswith("+"):
        saved["model"][key[1:]] = torch.ones(2)
    else:
        del saved["model"][key]
    torch.save(saved, tmp_path / "damaged.pth")
    (tmp_path / "tokenizer.json").write_bytes((made[0] / "tokenizer.json").read_bytes())
    with pytest.raises(SourceError, match=message):
        load_source(tmp_path / "damaged.pth")


def test_state_that_older_libraries_kept_is_no_fault(
    made: tuple[Path, nn.Module], source: Source, tmp_path: Path
) -> None:
    saved = torch.load(made[0] / "CLAP_weights_2023.pth", weights_only=True)
    saved["model"]["caption_encoder.base.h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    saved["model"]["caption_encoder.base.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(saved, tmp_path / "older.pth")
    (tmp_path / "tokenizer.json").write_bytes((made[0] / "tokenizer.json").read_bytes())
    assert load_source(tmp_path / "older.pth").fingerprint == source.fingerprint


class _Code:
    """What a hostile checkpoint holds."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize(
    ("damage", "message"), [("code", "pickled code"), ("half", "can't be read"), ("another", "without .*htsat")]
)
def test_what_is_no_checkpoint_is_refused(
    made: tuple[Path, nn.Module], tmp_path: Path, damage: str, message: str
) -> None:
    path, mark = tmp_path / "CLAP_weights_2023.pth", tmp_path / "hacked"
    if damage == "half":
        content = (made[0] / path.name).read_bytes()
        path.write_bytes(content[: len(content) // 2])
    else:
        torch.save({"model": {"weights": _Code(mark) if damage == "code" else torch.ones(2)}}, path)
    with pytest.raises(SourceError, match=message) as caught:
        load_source(path)
    assert caught.value.expected
    assert caught.value.action
    assert not mark.exists()
