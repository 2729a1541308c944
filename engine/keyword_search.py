"""A query's words -> moments of sounds that say them: in their tags, and in what was said of them.

Words choose the sounds, by BM25; where to listen is where a caption says the words, else where it sounds most so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Literal, TypeAlias

from engine.bundle import Calibration
from engine.memory.base import Memory
from engine.memory.keywords import document, has_all, query_tokens
from engine.search import moments_of
from engine.types import Clause, Filter, FloatArray, Hit, Moment

#: By what sounds are found: by what they sound like, by the words said of them, or by both.
By: TypeAlias = Literal["meaning", "keywords", "both"]
#: Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): a rank r counts 1 / (60 + r), their constant.
FUSION_RANKS = 60
#: Documents with any of the words are looked through for those with all, so many for each sound wanted.
DOCUMENTS_A_FILE = 10
#: Of the windows of a sound whose captions say the words, so many are looked at for one that is sure of it.
WINDOWS_LOOKED_AT = 64


def find_by_words(
    memory: Memory, words: str, vector: FloatArray, k: int, calibration: Calibration, where: Filter, all_words: bool
) -> list[Moment]:
    """The k sounds that say most of ``words``, with ``all_words`` only those that say every one; best first.

    ``vector`` ``[dim]`` is what the words mean. Score and relevance say how much the moment sounds like that.
    """
    hits = memory.search_words(words, k * DOCUMENTS_A_FILE if all_words else k, where)
    whole = [hit for hit in hits if "duration_s" in hit.payload]
    found = [hit for hit in whole if not all_words or has_all(words, document(hit.payload))][:k]
    moments = moments_of(memory, vector, _windows(memory, words, vector, found), calibration)
    return [replace(moment, by="keywords") for moment in moments]


def _windows(memory: Memory, words: str, vector: FloatArray, found: Sequence[Hit]) -> list[tuple[Hit, Filter]]:
    """Of each sound the window to listen to, and what holds there: the words that a caption says, or nothing need.

    Captions that are unsure don't count: no sound is found by them.
    """
    said = [_said(words, hit) for hit in found]
    theirs = [Filter(tuple(Clause("caption", "~", token) for token in tokens)) for tokens in said]
    asked = [row for row, tokens in enumerate(said) if tokens]
    heres = memory.search_many(vector, WINDOWS_LOOKED_AT, [_of(found[n]).also(*theirs[n].clauses) for n in asked])
    here = {
        row: hit
        for row, hits in zip(asked, heres, strict=True)
        for hit in reversed(hits)
        if not hit.payload.get("caption_unsure") and has_all(" ".join(said[row]), str(hit.payload.get("caption")))
    }
    others = [row for row in range(len(found)) if row not in here]
    best = memory.search_many(vector, 1, [_of(found[row]) for row in others])
    anywhere = {row: hit for row, hits in zip(others, best, strict=True) for hit in hits}
    windows = [(here[n], theirs[n]) if n in here else (anywhere.get(n), Filter()) for n in range(len(found))]
    return [(hit, holds) for hit, holds in windows if hit is not None]


def _said(words: str, hit: Hit) -> list[str]:
    """Of the words asked for, those of the caption of this sound that says most of them."""
    captions = hit.payload.get("captions") or []
    told = [[token for token in query_tokens(words) if has_all(token, str(caption))] for caption in captions]
    return max(told, key=len, default=[])


def fused(meant: Sequence[Moment], said: Sequence[Moment], k: int) -> list[Moment]:
    """The k best of both lists by reciprocal rank fusion; of equal ones those that sound like it come first."""
    moments = {_content(moment): moment for moment in (*said, *meant)}
    scores = dict.fromkeys(chain(map(_content, meant), map(_content, said)), 0.0)
    for ranked in (meant, said):
        for rank, moment in enumerate(ranked, 1):
            scores[_content(moment)] += 1 / (FUSION_RANKS + rank)
    both = {*map(_content, meant)} & {*map(_content, said)}
    best = sorted(scores, key=lambda content: -scores[content])[:k]  # stable: those meant come first
    return [replace(moments[c], by="both") if c in both else moments[c] for c in best]


def _content(moment: Moment) -> str:
    return str(moment.payload["sha256"])


def _of(hit: Hit) -> Filter:
    return Filter((Clause("sha256", "in", (str(hit.payload["sha256"]),)),))
