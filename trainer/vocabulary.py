"""Pieces of words: the starter's own tokenizer, and where its vectors start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from engine.types import FloatArray

PAD, BEGIN, UNKNOWN = "[PAD]", "[BEGIN]", "[UNK]"
_PREFIX = "##"


def learn_tokenizer(texts: Iterable[str], pieces: int) -> Tokenizer:
    """A WordPiece tokenizer of at most ``pieces`` pieces; case and accents are dropped inside it.

    Every text begins with one special piece, so that even an empty one has a token. Among equally frequent pieces the
    library's choice differs from run to run: keep the tokenizer's file with whatever is learnt on it.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN, continuing_subword_prefix=_PREFIX))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=_PREFIX)
    trainer = trainers.WordPieceTrainer(
        vocab_size=pieces,
        special_tokens=[PAD, BEGIN, UNKNOWN],
        continuing_subword_prefix=_PREFIX,
        limit_alphabet=80,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return tokenizer


def starting_vectors(tokenizer: Tokenizer, encode: Callable[[list[str]], FloatArray]) -> FloatArray:
    """What the teacher makes of each piece alone, ``[pieces, dim]``; special pieces start at zero."""
    pieces = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    vectors = encode([piece.removeprefix(_PREFIX) for piece in pieces])
    vectors[[tokenizer.token_to_id(special) for special in (PAD, BEGIN, UNKNOWN)]] = 0
    return vectors


def starting_weights(tokenizer: Tokenizer, texts: Iterable[list[int]], smoothing: float = 1e-3) -> FloatArray:
    """Weights ``[pieces]`` of a bag: ``a / (a + frequency)``, so rare pieces count most (Arora et al. 2017, eq. 1)."""
    counts = Counter(piece for ids in texts for piece in ids)
    total = sum(counts.values())
    frequency = np.array([counts[i] / total for i in range(tokenizer.get_vocab_size())])
    return (smoothing / (smoothing + frequency)).astype(np.float32)
