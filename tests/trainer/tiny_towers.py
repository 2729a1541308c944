"""Towers of every family, as small as they get: made in memory, with random weights."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ClapConfig, ClapModel, GPT2Config, GPT2Model

from exporters.compare import LONG_TEXT, TEXTS
from exporters.laion import RobertaTower
from exporters.msclap import Gpt2Tower, Projection
from exporters.own import load
from exporters.source import Source, TextPart
from exporters.starter import save_checkpoint
from exporters.towers import AudioConfig, AudioTower, TextConfig, TextTower

DIM = 16
TINY_AUDIO = AudioConfig(
    window_samples=15_600,
    hop_samples=7_800,
    stem=4,
    blocks=((8, 2), (16, 2), (16, 2), (16, 2)),
    classes=8,
    hidden=8,
    dim=DIM,
)
SPOKEN = "a dog barks rain on the roof this sound is bell rings wind with but and loud far chien pluie aboie"
WORDS = sorted({word for text in (SPOKEN, *TEXTS, LONG_TEXT) for word in re.findall(r"\w+|[^\w\s!]", text.lower())})


def tokenizer(begin: str = "", end: str = "", words: list[str] = WORDS) -> Tokenizer:
    """A piece for each word; ``!`` has number 0, as in GPT-2, and padding has number 1."""
    pieces = ["!", "[PAD]", "[UNK]", *(piece for piece in (begin, end) if piece), *words]
    made = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.enable_padding(pad_id=1, pad_token="[PAD]")
    specials = [(piece, made.token_to_id(piece)) for piece in (begin, end) if piece]
    if specials:
        made.post_processor = processors.TemplateProcessing(
            single=" ".join(filter(None, [begin, "$A", end])), special_tokens=specials
        )
    return made


def own(seed: int = 0, folder: Path | None = None) -> Source:
    """The starter's family."""
    torch.manual_seed(seed)
    text = TextTower(TextConfig(pieces=len(WORDS) + 4, layers=1, heads=2, inner=16, dim=DIM, max_tokens=16))
    with torch.no_grad():
        text.weights.uniform_(0.1, 1)
        text.positions.normal_(0, 0.1)
    audio = audio_tower()
    with TemporaryDirectory() as place:
        save_checkpoint(folder or Path(place), audio, text, tokenizer(begin="[BEGIN]"))
        return load(folder or Path(place), "tiny")


def audio_tower() -> AudioTower:
    """One that hears a difference between sounds."""
    audio = AudioTower(TINY_AUDIO)
    with torch.no_grad():
        for parameter in audio.trunk.parameters():
            torch.nn.init.kaiming_normal_(parameter) if parameter.ndim == 4 else parameter.zero_()
        audio.classifier.weight.normal_()
        audio.meanings.weight.normal_()
        audio.meanings.bias.zero_()
    return audio.eval()


def laion(seed: int = 0) -> TextPart:
    """RoBERTa, pooled at its first token."""
    torch.manual_seed(seed)
    reader = tokenizer("<s>", "</s>")
    text = {"hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    text |= {"vocab_size": reader.get_vocab_size(), "max_position_embeddings": 40, "pad_token_id": 1}
    audio = {"depths": [1], "num_attention_heads": [1], "patch_embeds_hidden_size": 8, "hidden_size": 8}
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=DIM)).eval()
    _spread(model)
    return TextPart(RobertaTower(model).eval(), lambda _: _nothing(), reader, 30, ("eng",))


def msclap(seed: int = 0) -> TextPart:
    """GPT-2, which looks back only, pooled at its last token."""
    torch.manual_seed(seed)
    reader = tokenizer()
    reader.add_special_tokens(["<|endoftext|>"])
    reader.enable_padding(pad_id=0, pad_token="!")
    model = GPT2Model(GPT2Config(n_layer=2, n_head=2, n_embd=DIM, n_positions=40, vocab_size=reader.get_vocab_size()))
    linear = {f"linear{n}.weight": torch.randn(DIM, DIM) for n in (1, 2)}
    projection = Projection({**linear, "layer_norm.weight": torch.ones(DIM), "layer_norm.bias": torch.zeros(DIM)})
    _spread(model)
    tower = Gpt2Tower(model.eval(), projection.eval())
    return TextPart(tower.eval(), lambda _: _nothing(), reader, 30, ("eng",), suffix=" <|endoftext|>")


def of_text(part: TextPart) -> Source:
    """A source with this text tower, and the starter's audio tower."""
    made = own()
    assert made.audio is not None
    return Source("test", "test", "0" * 64, DIM, made.audio, part, {})


FAMILIES = {"own": own, "laion": lambda: of_text(laion()), "msclap": lambda: of_text(msclap())}


def _nothing() -> None:
    raise AssertionError("no reference here")


def _spread(model: torch.nn.Module) -> None:
    """Weights under which inputs differ."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if re.search("weight$", name) and parameter.ndim == 2:
                parameter.normal_(0, 0.3)
