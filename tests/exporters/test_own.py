"""What our trainer saves is exported like any other checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from engine.bundle import open_bundle
from engine.encoders import OnnxEncoders
from exporters.compare import LONG_TEXT, TEXTS
from exporters.errors import SourceError
from exporters.export import export_bundle
from exporters.precision import TOLERANCES
from exporters.registry import load_source
from exporters.starter import save_checkpoint
from exporters.towers import AudioConfig, AudioTower, TextConfig, TextTower

WORDS = sorted({word for text in (*TEXTS, LONG_TEXT) for word in re.findall(r"\w+|[^\w\s]", text.lower())})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    audio = AudioTower(AudioConfig(blocks=((64, 1), (128, 2), (256, 2), (512, 2), (1024, 2)))).eval()
    with torch.no_grad():  # a plain random tower hears the same in everything
        for parameter in audio.trunk.parameters():
            torch.nn.init.kaiming_normal_(parameter) if parameter.ndim == 4 else parameter.zero_()
        for layer in (audio.classifier, audio.meanings):
            layer.weight.normal_()
            layer.bias.zero_()
    text = TextTower(TextConfig(pieces=len(WORDS) + 2)).eval()
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[UNK]", "[PAD]", *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.enable_padding(pad_id=1, pad_token="[PAD]", length=64)
    save_checkpoint(tmp_path / "run-7", audio, text, tokenizer)
    return tmp_path / "run-7"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_trained_checkpoint_becomes_a_bundle(checkpoint: Path, tmp_path: Path, precision: str) -> None:
    source = load_source(checkpoint)
    manifest = export_bundle(source, tmp_path / "b", precision)  # type: ignore[arg-type]
    assert manifest["space_id"] == source.space_id
    assert manifest["space_id"].startswith("run-7@")
    assert manifest["text"]["lowercase"]
    assert manifest["parity"]["text_graph"] <= TOLERANCES[precision]  # type: ignore[index]
    found = OnnxEncoders(open_bundle(tmp_path / "b"), "cpu", threads=1).text.encode_text(["A Dog Barking", "rain"])
    assert source.text is not None
    assert np.abs(found - source.text.reference(["a dog barking", "rain"])).max() < (
        1e-5 if precision == "fp32" else 0.1
    )


def test_half_a_checkpoint_is_refused(checkpoint: Path) -> None:
    content = (checkpoint / "towers.pt").read_bytes()
    (checkpoint / "towers.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match="can't be read"):
        load_source(checkpoint)
