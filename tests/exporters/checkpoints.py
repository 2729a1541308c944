"""Checkpoints of every family, of true layer widths and few layers, in the published format and names.

Weights are random, but so that vectors differ: a plain random tower maps everything to one point.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import yaml
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.trainers import UnigramTrainer
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    GPT2Config,
    GPT2Model,
    GPT2Tokenizer,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from engine.types import FloatArray
from exporters.compare import LONG_TEXT, TEXTS
from exporters.parity import probes

#: Pieces of the stand-in tokenizers; the published ones have some 50,000, which is no width of a layer.
PIECES = 900
MELS = 64
#: Of LAION's larger HTSAT, width and layers: "base" in ``laion_clap`` 1.1.7 (``clap_module/htsat.py``), written as
#: ``transformers`` 4.46.3 converts it (``models/clap/convert_clap_original_pytorch_to_hf.py``).
LARGER, LARGER_DEPTHS = 128, (2, 2, 12, 2)


def scatter(model: nn.Module, seed: int = 0, std: float = 0.08) -> None:
    """Random weights that tell inputs apart; the log-mels' batch norm gets the statistics of a trained one."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_extractor." in name:  # the tables of a front end
                continue
            if parameter.ndim >= 2:
                parameter.normal_(0, std)
            elif parameter.ndim == 1:
                parameter.add_(0.02 * torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                mels = module.num_features == MELS
                module.running_mean.normal_(-45 if mels else 0, 2)
                module.running_var.uniform_(*((100, 200) if mels else (1, 2)))


def spread(last: nn.Linear | nn.LayerNorm, outputs: Tensor) -> None:
    """Take half of what all outputs ``[n, dim]`` of the last layer share out of its bias."""
    with torch.no_grad():
        last.bias -= 0.5 * outputs.mean(0)


def byte_pairs(texts: Sequence[str] = (*TEXTS, LONG_TEXT), special: Sequence[str] = ()) -> ByteLevelBPETokenizer:
    """A byte-level tokenizer of the kind that RoBERTa and GPT-2 have, learnt from a few texts."""
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(texts, vocab_size=PIECES, min_frequency=1, special_tokens=list(special))
    return made


def laion(
    folder: Path,
    fused: bool = False,
    depths: Sequence[int] = (1, 1, 2, 1),
    layers: int = 2,
    pieces: int = 0,
    width: int = 96,
) -> ClapModel:
    """``laion/clap-htsat-unfused`` or ``-fused`` as the Hub has it; returns the model that was saved.

    ``pieces`` is the size of the vocabulary; by default as many as the tokenizer has. ``width`` is that of HTSAT's
    first layers: ``LARGER`` for ``laion/larger_clap_general`` and ``larger_clap_music``.
    """
    tokenizer = byte_pairs(special=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    config = ClapConfig(
        text_config={"num_hidden_layers": layers, "vocab_size": pieces or tokenizer.get_vocab_size()},
        audio_config={
            "depths": list(depths),
            "patch_embeds_hidden_size": width,
            "hidden_size": 8 * width,
            "enable_fusion": fused,
            **({"fusion_type": "aff_2d"} if fused else {}),
        },
    )
    model = ClapModel(config).eval()
    scatter(model)
    with torch.inference_mode():
        mels = 20 * torch.randn(4, 4 if fused else 1, 1001, 1).expand(-1, -1, -1, MELS) - 45
        heard = model.audio_model(mels, is_longer=torch.ones(4, 1)).pooler_output
        read = model.text_model(torch.randint(5, tokenizer.get_vocab_size(), (8, 12))).pooler_output
    spread(model.audio_projection.linear2, model.audio_projection(heard.clone()))
    spread(model.text_projection.linear2, model.text_projection(read.clone()))
    model.save_pretrained(folder)
    ClapFeatureExtractor(truncation="fusion" if fused else "rand_trunc").save_pretrained(folder)
    tokenizer.save_model(str(folder))
    RobertaTokenizer.from_pretrained(folder).save_pretrained(folder)
    return model


def sentences(folder: Path, dense: bool = False, layers: int = 2, pieces: int = 0) -> None:
    """A multilingual text encoder as ``sentence-transformers`` publishes it: MiniLM, or with ``dense`` LaBSE.

    Sizes are those of ``config.json``, ``1_Pooling``, ``2_Dense`` and ``sentence_bert_config.json`` on the Hub, of
    sentence-transformers/LaBSE at 61966e1a and paraphrase-multilingual-MiniLM-L12-v2: no installed package has them.
    MiniLM is a BERT with the tokenizer of XLM-R, whose padding has another number than the BERT's. ``pieces`` is the
    size of the vocabulary, in which the words that are read come last; by default there are no others.
    """
    reader = _word_pieces(pieces) if dense else _unigrams(pieces)
    hidden = 768 if dense else 384
    config = BertConfig(
        vocab_size=len(reader),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=4 * hidden,
    )
    bert = BertModel(config).eval()
    scatter(bert)
    (folder / "words").mkdir(parents=True)
    bert.save_pretrained(folder / "words")
    reader.save_pretrained(folder / "words")
    del bert
    transformer = Transformer(str(folder / "words"), max_seq_length=256 if dense else 128)
    model = SentenceTransformer(modules=[transformer, Pooling(hidden, "cls" if dense else "mean")], device="cpu")
    spread(transformer.auto_model.encoder.layer[-1].output.LayerNorm, model.encode(TEXTS, convert_to_tensor=True))
    if dense:
        last = Dense(hidden, hidden, activation_function=nn.Tanh())
        spread(last.linear, last.linear(model.encode(TEXTS, convert_to_tensor=True).clone()))
        model.extend([last, Normalize()])
    model.save_pretrained(str(folder))
    shutil.rmtree(folder / "words")


def _word_pieces(pieces: int) -> BertTokenizer:
    """BERT's tokenizer with every word of our texts, the case kept as LaBSE does."""
    words = sorted({word for text in (*TEXTS, LONG_TEXT) for word in re.findall(r"\w+|[^\w\s]", text)})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *_fillers(pieces - len(special) - len(words)), *words]
    numbered = {word: number for number, word in enumerate(vocabulary)}
    return BertTokenizer(numbered, do_lower_case=False, model_max_length=512)


def _unigrams(pieces: int) -> XLMRobertaTokenizer:
    """XLM-R's tokenizer with pieces learnt from our texts."""
    learnt = Tokenizer(Unigram())
    learnt.pre_tokenizer = Metaspace()
    learnt.train_from_iterator((*TEXTS, LONG_TEXT), UnigramTrainer(vocab_size=PIECES, unk_token="<unk>"))
    known = [(piece, score) for piece, score in json.loads(learnt.to_str())["model"]["vocab"] if piece != "<unk>"]
    special = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    others = [(piece, -50.0) for piece in _fillers(pieces - len(special) - len(known) - 1)]
    return XLMRobertaTokenizer([*special, *others, *known, ("<mask>", 0.0)], model_max_length=512)


def _fillers(count: int) -> list[str]:
    """Pieces that no text of ours has."""
    return [f"\u2402{number}" for number in range(count)]


def msclap(folder: Path, layers: int = 2, pieces: int = 0) -> nn.Module:
    """``CLAP_weights_2023.pth`` with GPT-2's tokenizer beside it; returns the package's own model, which was saved."""
    tokenizer = byte_pairs()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    (folder / "gpt2").mkdir(parents=True)
    size = pieces or tokenizer.get_vocab_size()
    config = GPT2Config(n_layer=layers, vocab_size=size, bos_token_id=None, eos_token_id=None)
    GPT2Model(config).save_pretrained(folder / "gpt2")
    settings = yaml.safe_load((Path(_msclap().__path__[0]) / "configs" / "config_2023.yml").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what its authors used and has since been renamed
        model = _clap_of_msclap(settings, folder / "gpt2")
    scatter(model)
    tokenizer.save(str(folder / "tokenizer.json"))
    sounds = np.stack(list(probes(308_700, 44_100).values()))[::3]
    with torch.inference_mode():
        heard = model.audio_encoder(torch.from_numpy(sounds))[0]
    spread(model.audio_encoder.projection.layer_norm, heard.clone())
    torch.save({"model": model.state_dict()}, folder / "CLAP_weights_2023.pth")
    return model


def msclap_hears(model: nn.Module, windows: FloatArray) -> FloatArray:
    """The package's unit vectors of windows ``[n, 308700]``, as ``CLAPWrapper`` asks for them."""
    with torch.inference_mode():
        vectors = [model.audio_encoder(torch.from_numpy(window[None]))[0] for window in windows]
    return np.asarray(nn.functional.normalize(torch.cat(vectors)).numpy())


def msclap_reads(model: nn.Module, folder: Path, texts: Sequence[str]) -> FloatArray:
    """The package's unit vectors of texts, as ``CLAPWrapper.preprocess_text`` and ``get_text_embeddings`` make them."""
    reader = GPT2Tokenizer.from_pretrained(folder)
    reader.add_special_tokens({"pad_token": "!"})
    settings = {"max_length": 77, "padding": "max_length", "truncation": True, "return_tensors": "pt"}
    rows = [reader(text=f"{text} <|endoftext|>", **settings) for text in texts]
    inputs = {key: torch.cat([row[key] for row in rows]) for key in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        return np.asarray(nn.functional.normalize(model.caption_encoder(inputs)).numpy())


def _clap_of_msclap(settings: dict[str, Any], text_model: Path) -> nn.Module:
    """The package's own network, as ``CLAPWrapper.load_clap`` makes it."""
    network: nn.Module = importlib.import_module("msclap.models.clap").CLAP(
        audioenc_name=settings["audioenc_name"],
        sample_rate=settings["sampling_rate"],
        window_size=settings["window_size"],
        hop_size=settings["hop_size"],
        mel_bins=settings["mel_bins"],
        fmin=settings["fmin"],
        fmax=settings["fmax"],
        classes_num=settings["num_classes"],
        out_emb=settings["out_emb"],
        text_model=str(text_model),
        transformer_embed_dim=settings["transformer_embed_dim"],
        d_proj=settings["d_proj"],
    )
    return network.eval()


def _msclap() -> ModuleType:
    """The package ``msclap`` without what its ``__init__`` would import: only the files of the model are wanted."""
    if "msclap" not in sys.modules:
        spec = importlib.util.find_spec("msclap")
        assert spec is not None
        sys.modules["msclap"] = module = importlib.util.module_from_spec(spec)
        module.__path__ = list(spec.submodule_search_locations or ())
    return sys.modules["msclap"]
