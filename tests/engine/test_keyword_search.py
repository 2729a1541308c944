"""Sounds found by the words said of them: which, where in them, and beside those that sound like it."""

from __future__ import annotations

import math
import uuid
from pathlib import Path

import numpy as np
import pytest

from engine.bundle import Calibration
from engine.keyword_search import FUSION_RANKS, find_by_words, fused
from engine.memory.exact import ExactMemory
from engine.memory.keywords import (
    STOP_WORDS,
    bm25,
    document,
    document_tokens,
    has_all,
    idf,
    query_tokens,
    sparse_document,
)
from engine.types import Filter, FloatArray, Moment, Point

CURVE = Calibration(12.0, -5.0, 0.5)


@pytest.mark.parametrize(
    ("text", "in_document", "in_query"),
    [
        ("Thunder, thunder!", ["thunder", "thunder"], ["thunder"]),
        ("door_slam-02.wav", ["door", "slam", "02", "wav"], ["door", "slam", "02", "wav"]),
        ("Café ÉTÉ Straße", ["cafe", "ete", "strasse"], ["cafe", "ete", "strasse"]),
        ("ＤＪ ﬁre", ["dj", "fire"], ["dj", "fire"]),
        ("大雨の音", ["大", "雨", "の", "音", "大雨", "雨の", "の音"], ["大雨", "音"]),
        ("雨", ["雨"], ["雨"]),
        ("カフェのrain", ["カ", "フ", "ェ", "の", "カフ", "フェ", "ェの", "rain"], ["カフ", "フェ", "rain"]),
        ("a dog on the roof", ["a", "dog", "on", "the", "roof"], ["dog", "roof"]),
        ("le bruit de l'eau", ["le", "bruit", "de", "l", "eau"], ["bruit", "eau"]),
        ("The the", ["the", "the"], ["the"]),  # nothing else is asked for
        ("の", ["の"], ["の"]),
        ("狗的叫声", ["狗", "的", "叫", "声", "狗的", "的叫", "叫声"], ["狗", "叫声"]),
        ("が", ["が"], ["が"]),  # whose mark is no accent
        ("гром и дождь", ["гром", "и", "дождь"], ["гром", "и", "дождь"]),
        ("?! …", [], []),
        ("", [], []),
    ],
)
def test_tokens(text: str, in_document: list[str], in_query: list[str]):
    assert document_tokens(text) == in_document
    assert query_tokens(text) == in_query


#: Words that name a sound or its source in one language, and say nothing in another.
TELLING = """son pas car pour door van war man can bin hat sous mer over out off down up low mine may will step hi die
over bass saw bat ant""".split()  # noqa: SIM905


def test_no_name_of_a_sound_is_a_stop_word():
    """But "die", which is the German article before it is a dice; every name in any language still has a word."""
    assert STOP_WORDS & set(TELLING) == {"die"}
    assert all(query_tokens(word) == document_tokens(word) == [word] for word in STOP_WORDS)
    recipes = Path(__file__).parents[2] / "trainer" / "recipes"
    names: set[str] = set()
    for table in (recipes / "dev_kinds.tsv", recipes / "held_kinds.tsv", *(recipes / "parallel").glob("events_*.tsv")):
        rows = table.read_text(encoding="utf-8").splitlines()[1:]
        names |= {name for row in rows for cell in row.split("\t") for name in cell.split(" | ") if name}
    assert len(names) > 2000
    alone = {name for name in names if len(document_tokens(name)) == 1}
    assert not {name for name in alone if document_tokens(name)[0] in STOP_WORDS}
    assert not {name for name in names if not set(query_tokens(name)) - STOP_WORDS and document_tokens(name)}


def test_what_only_shares_an_article_is_not_found():
    documents = {"a": "a dog on the beach", "b": "the sea", "c": "a car"}
    assert set(bm25("the dog", documents)) == {"a"}
    assert set(bm25("the", documents)) == {"a", "b"}
    assert has_all("the dog is on a beach", documents["a"])


def test_documents_are_texts_of_a_first_window():
    said = {"title": "a", "description": "b", "words": ["c", 5, ""], "captions": ("d",), "artist": "e", "caption": "f"}
    assert document(said) == document({**said, "window": 0}) == "a\nb\nc\nd"
    assert document({**said, "window": 1}) == document({}) == ""
    assert sparse_document({"artist": "e"}) == ([], [])
    indices, values = sparse_document({"text": "rain rain dog"})
    assert indices == sorted(indices)
    assert len(indices) == len(values) == 2


def test_bm25_by_hand():
    documents = {"a": "rain rain", "b": "rain dog cat", "c": "sea", "d": "?"}  # three documents: d has no words
    rain, dog = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)
    assert (idf(3, 2), idf(3, 1)) == pytest.approx((rain, dog))
    two, three = (1.2 * (0.25 + 0.75 * length / 16) for length in (2, 3))
    expected = {"a": rain * 2 * 2.2 / (2 + two), "b": (rain + dog) * 2.2 / (1 + three)}
    assert bm25("rain dog rain", documents) == pytest.approx(expected)
    assert bm25("?", documents) == {}


def test_has_all():
    assert has_all("A Dog", "a dog barks")
    assert not has_all("a cat", "a dog barks")
    assert not has_all("", "a dog barks")
    assert has_all("大雨", "強い大雨の音")
    assert not has_all("雨音", "強い大雨の音")


def unit(*numbers: float) -> FloatArray:
    vector = np.array(numbers, np.float32)
    return vector / np.linalg.norm(vector)


#: Of each sound: its vectors, the captions of its windows, its title.
SOUNDS = {
    "storm": ([unit(1, 0), unit(0.9, 0.1), unit(0, 1)], ["wind", "wind", "thunder rolls"], None),
    "titled": ([unit(0.5, 0.5), unit(0, 1)], [None, None], "Thunder at night"),
    "dog": ([unit(1, 0)], ["a dog barks"], None),
}


@pytest.fixture
def memory():
    with ExactMemory() as memory:
        memory.ensure_space("s@000000000000", 2)
        for name, (vectors, captions, title) in SOUNDS.items():
            for n, (vector, caption) in enumerate(zip(vectors, captions, strict=True)):
                payload = {"sha256": name, "paths": [f"/{name}.wav"], "window": n, "duration_s": float(len(vectors))}
                payload |= {"start_s": float(n), "end_s": n + 1.0, "title": title, "caption": caption}
                said = [text for text in dict.fromkeys(captions) if text]
                payload["captions"] = said if n == 0 else None
                memory.upsert([Point(str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}{n}")), vector, payload)])
        yield memory


def found(memory: ExactMemory, words: str, all_words: bool = False, k: int = 5) -> list[tuple[str, float]]:
    moments = find_by_words(memory, words, unit(1, 0), k, CURVE, Filter(), all_words)
    assert all(moment.by == "keywords" for moment in moments)
    return [(moment.path, moment.start_s) for moment in moments]


def test_the_moment_is_where_a_caption_says_it_or_else_where_it_sounds_most_so(memory: ExactMemory):
    assert found(memory, "thunder rolls") == [("/storm.wav", 2.0), ("/titled.wav", 0.0)]
    assert found(memory, "thunder rolls", all_words=True) == [("/storm.wav", 2.0)]
    assert found(memory, "thunder", k=1)[0][0] in ("/storm.wav", "/titled.wav")
    assert found(memory, "night") == [("/titled.wav", 0.0)]
    assert found(memory, "silence") == found(memory, "?") == []


def test_the_moment_is_one_whose_caption_is_sure(memory: ExactMemory):
    """Not where an unsure caption says the words, nor where it sounds most so."""
    said = [(unit(1, 0), "a car horn", True), (unit(0.8, 0.2), "wind", False), (unit(0.1, 0.9), "a car passes", False)]
    said += [(unit(0.9, 0.1), "a scared horse", False)]  # holds the letters, not the word
    for n, (vector, caption, unsure) in enumerate(said):
        payload = {"sha256": "road", "paths": ["/road.wav"], "window": n, "duration_s": 4.0, "caption": caption}
        payload |= {"start_s": float(n), "end_s": n + 1.0, "title": "horn test", "caption_unsure": unsure}
        payload["captions"] = ["wind", "a car passes", "a scared horse"] if n == 0 else None
        memory.upsert([Point(str(uuid.uuid5(uuid.NAMESPACE_URL, f"road{n}")), vector, payload)])
    assert found(memory, "car") == [("/road.wav", 2.0)]
    assert found(memory, "car horn") == found(memory, "car horn", all_words=True) == [("/road.wav", 2.0)]
    assert found(memory, "horn test") == [("/road.wav", 0.0)]  # by its title: where it sounds most so


def moment(path: str, score: float = 0.5) -> Moment:
    return Moment(path, (path,), 0.0, 1.0, score, score, 1.0, payload={"sha256": path})


def test_fusion_adds_up_the_ranks():
    meant, said = [moment("a"), moment("b"), moment("c")], [moment("c"), moment("d")]
    best = fused(meant, said, 10)
    ranks = {"a": [1], "b": [2], "c": [3, 1], "d": [2]}
    scores = {path: sum(1 / (FUSION_RANKS + r) for r in rs) for path, rs in ranks.items()}
    assert [m.path for m in best] == sorted(scores, key=lambda path: -scores[path]) == ["c", "a", "b", "d"]
    assert [m.by for m in best] == ["both", "meaning", "meaning", "meaning"]
    assert [m.path for m in fused(meant, said, 2)] == ["c", "a"]
    assert fused([], [], 3) == []
    assert fused(meant, [], 3) == meant
