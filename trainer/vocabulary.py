"""Pieces of words: the starter's own tokenizer for all its languages, and where its vectors start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from engine.types import FloatArray

PAD, BEGIN, UNKNOWN = "[PAD]", "[BEGIN]", "[UNK]"
#: Accents of Latin letters, not the marks that tell Japanese ka from ga.
_ACCENTS = Regex("[\u0300-\u036f]")
_LONGEST_PIECE = 12
_AT_ONCE = 20_000


def learn_tokenizer(texts: Iterable[str], pieces: int) -> Tokenizer:
    """A Unigram tokenizer (Kudo 2018) of at most ``pieces`` pieces; case and Latin accents are dropped inside it.

    Pieces don't know whether they begin a word, so that German compounds and unspaced Japanese and Chinese fall into
    pieces that other texts share. A character never seen costs one piece, not the whole text. Every text begins with
    one special piece, so that even an empty one has a token.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.Replace(_ACCENTS, ""),
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.Replace("ß", "ss"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.UnigramTrainer(
        vocab_size=pieces,
        special_tokens=[PAD, BEGIN, UNKNOWN],
        unk_token=UNKNOWN,
        max_piece_length=_LONGEST_PIECE,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return tokenizer


def starting_vectors(texts: Sequence[list[int]], targets: NDArray[np.floating], pieces: int) -> FloatArray:
    """Where each piece points, ``[pieces, dim]``: the mean target ``[n, dim]`` of the texts that hold it.

    A text counts less the more pieces it has; what all texts share is taken off; unit length. Pieces that no text
    holds start at zero.
    """
    sums = np.zeros((pieces, targets.shape[1]), np.float32)
    counts = np.zeros(pieces, np.float32)
    for start in range(0, len(texts), _AT_ONCE):
        part = texts[start : start + _AT_ONCE]
        lengths = np.array([len(ids) for ids in part])
        flat, row = np.concatenate([np.array(ids) for ids in part]), np.repeat(np.arange(len(part)), lengths)
        share = (1 / lengths[row]).astype(np.float32)
        np.add.at(sums, flat, targets[start : start + _AT_ONCE][row] * share[:, None])
        np.add.at(counts, flat, share)
    mean = sums.sum(axis=0) / counts.sum()
    vectors = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1e-9)[:, None] - mean, 0)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)


def starting_weights(tokenizer: Tokenizer, texts: Iterable[list[int]], smoothing: float = 1e-3) -> FloatArray:
    """Weights ``[pieces]`` of a bag: ``a / (a + frequency)``, rare ones count most (SIF, Arora et al. 2017, eq. 1)."""
    counts = Counter(piece for ids in texts for piece in ids)
    total = sum(counts.values())
    frequency = np.array([counts[i] / total for i in range(tokenizer.get_vocab_size())])
    return (smoothing / (smoothing + frequency)).astype(np.float32)
