"""Found by their words: BM25 over what points say in text, the same on every memory.

A point's document is what its texts say, of a sound only at its first window, so that a sound counts once however long
it is. A store keeps each document as a sparse vector ``WORDS``, by token, of the part of BM25 that depends on the
document alone. A query weighs its tokens with 1, and the store brings in how rare each is (its modifier ``idf``), over
the documents that are there. Robertson and Zaragoza 2009, eq. 3.15; idf as in Lucene, never negative:

    score(q, d) = sum over t in q of idf(t) f (K1 + 1) / (f + K1 (1 - B + B length / USUAL))
    idf(t) = ln(1 + (N - n_t + 0.5) / (n_t + 0.5))
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from engine.types import Payload

#: The sparse vector's name in a store, and how documents are read; a store that has them otherwise reads them again.
WORDS, VERSION = "words", 1
#: The texts of a payload that are its document, of sounds and of captions.
DOCUMENT = ("title", "description", "category", "words", "captions", "text")
#: As usual; ``USUAL`` is the length of a usual document in tokens, fixed so that one document does not change others.
K1, B, USUAL = 1.2, 0.75, 16.0

#: A run of Chinese characters or kana, which know no spaces, or else a word: letters and digits.
_TOKEN = re.compile(r"(?P<cjk>[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+)|[^\W_]+")
_ACCENTS = re.compile("[\u0300-\u036f]")
#: Words that say nothing of a sound, in the eight languages of the starter, without accents. A query may be in any of
#: them, so a word that names a sound in another is left out: French "son" and "pas", Dutch "door", "van" and "bij".
STOP_WORDS = frozenset(
    """
    a an and are as at be been being by for from his her in into is it its of on or s than that the their then these
    this those to was were while with
    au aux avec ce ces cette d dans de des du elle en est et il l la le les ou par qu que qui sa se ses sur un une
    am auf aus bei das dem den der die durch ein eine einem einen einer es fur im ist mit nach oder sich sind
    uber und unter vom von wird zu zum zur
    al con del el las lo los o para por sobre su sus una unas unos y
    aan als dat een er het met naar om onder op te uit voor wordt zijn
    amb dels els i les pel pels per sota unes uns
    """.split()  # noqa: SIM905
)
#: The same of Chinese and Japanese, which stand between words of one run.
_STOP_CJK = re.compile("[\u306e\u3092\u7684]")


def document(payload: Payload) -> str:
    """The text by whose words a point is found; empty for all but the first window of a sound."""
    if payload.get("window", 0) != 0:
        return ""
    values = (payload.get(key) for key in DOCUMENT)
    texts = (text for value in values for text in (value if isinstance(value, list | tuple) else [value]))
    return "\n".join(text for text in texts if isinstance(text, str) and text)


def touches_document(payload: Payload) -> bool:
    """Whether writing this payload over another may change its document."""
    return any(key in payload for key in (*DOCUMENT, "window"))


def document_tokens(text: str) -> list[str]:
    """Words, case and accents aside; of Chinese and Japanese each character and each two neighbours."""
    tokens: list[str] = []
    for run, is_cjk in _runs(text):
        tokens += [*run, *_bigrams(run)] if is_cjk else [run]
    return tokens


def query_tokens(text: str) -> list[str]:
    """The different tokens to look for: as those of a document, of a character single only where it stands alone.

    Without stop words, unless there is nothing else. Documents have them: they are also titles, such as "The Who".
    """
    runs = list(_runs(text))
    parts = [(part, is_cjk) for run, is_cjk in runs for part in (_STOP_CJK.split(run) if is_cjk else [run])]
    tokens: list[str] = []
    for run, is_cjk in [one for one in parts if one[0] and one[0] not in STOP_WORDS] or runs:
        tokens += _bigrams(run) if is_cjk and len(run) > 1 else [run]
    return list(dict.fromkeys(tokens))


def _runs(text: str) -> Iterator[tuple[str, bool]]:
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text).casefold())
    for match in _TOKEN.finditer(unicodedata.normalize("NFC", plain)):
        yield match[0], match["cjk"] is not None


def _bigrams(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(len(run) - 1)]


def document_weights(tokens: Sequence[str]) -> dict[str, float]:
    """Of each different token, the part of its BM25 that depends on the document alone."""
    room = K1 * (1 - B + B * len(tokens) / USUAL)
    return {token: f * (K1 + 1) / (f + room) for token, f in Counter(tokens).items()}


def idf(documents: int, having: int) -> float:
    """How much a token says that ``having`` of all ``documents`` have."""
    return math.log(1 + (documents - having + 0.5) / (having + 0.5))


def sparse(weights: Mapping[str, float]) -> tuple[list[int], list[float]]:
    """Tokens as a store knows them: 32 bits of a hash each, in order, and their weights."""
    by_index: dict[int, float] = {}
    for token, weight in weights.items():
        by_index[_index(token)] = by_index.get(_index(token), 0.0) + weight
    return sorted(by_index), [by_index[index] for index in sorted(by_index)]


def sparse_document(payload: Payload) -> tuple[list[int], list[float]]:
    """The document of a point as its sparse vector; empty where it has none."""
    return sparse(document_weights(document_tokens(document(payload))))


def sparse_query(words: str) -> tuple[list[int], list[float]]:
    """What to look for, as a sparse vector; empty where there are no words."""
    return sparse(dict.fromkeys(query_tokens(words), 1.0))


def has_all(words: str, text: str) -> bool:
    """Whether a document has every word of a query."""
    known = set(document_tokens(text))
    asked = query_tokens(words)
    return bool(asked) and all(token in known for token in asked)


def bm25(words: str, documents: Mapping[str, str]) -> dict[str, float]:
    """The definition: the score of each document, by id, that has any of the words. Slow and obvious."""
    tokens = {point_id: document_tokens(text) for point_id, text in documents.items() if document_tokens(text)}
    scores: dict[str, float] = {}
    for token in query_tokens(words):
        rarity = idf(len(tokens), sum(token in known for known in tokens.values()))
        for point_id, known in tokens.items():
            if token in known:
                scores[point_id] = scores.get(point_id, 0.0) + rarity * document_weights(known)[token]
    return scores


@lru_cache(maxsize=1 << 16)
def _index(token: str) -> int:
    return int.from_bytes(hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "big")
