"""A query -> moments: windows found, grouped by file, merged to stretches, calibrated.

A file may have ten windows or ten thousand that match, so grouping asks the memory again, leaving out the files it
has, until k files are full or nothing is left.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from engine.bundle import Calibration
from engine.errors import BundleError, QueryError
from engine.memory.base import FIELDS, Memory
from engine.memory.matching import matches
from engine.silence import AUDIBLE, SILENT
from engine.types import Clause, Filter, FloatArray, Hit, Moment, Op

#: Windows asked for at first, for each file wanted: most files answer with a few windows.
WINDOWS_A_FILE = 4
#: This many windows on each side of a file's best one are looked at first; where all belong to the moment, more.
MOMENT_REACH = 32
#: A neighbouring window belongs to the moment if its odds of being right reach this share of the best window's.
MOMENT_SHARE = 0.05
#: No question to the memory asks for more windows than this at once.
MOST_WINDOWS = 1024

_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_CLAUSE = re.compile(r"\s*(?P<field>\w+)\s*(?P<op><=|>=|!=|<|>|=|~)\s*(?P<value>.*?)\s*", re.DOTALL)
#: Fields that are not for users to filter by.
_INNER = {"sha256", "window", SILENT}
_ALIASES = {"path": "paths", "duration": "duration_s", "rate": "sample_rate_hz", "sample_rate": "sample_rate_hz"}


def find_moments(
    memory: Memory,
    vectors: FloatArray,
    k: int,
    calibration: Calibration,
    where: Filter | None = None,
    audible: bool = False,
) -> list[Moment]:
    """The best moment of each of the k best sounds for a query ``[m, dim]``, best first.

    Words are one vector; a sound is one for each of its windows, and a file's score is the mean over them of its best
    window's cosine, so that a copy of the sound is always found first. Relevance is calibrated; whether a moment is
    relevant enough is for the caller to say. With ``audible``, as if windows in which there is nothing to hear were not
    there. Raises ``QueryError`` if k is not positive.
    """
    if k < 1:
        raise QueryError(f"k = {k}", "a positive number of results")
    where, only = where or Filter(), (AUDIBLE,) if audible else ()
    if len(vectors) == 1:
        found = [_Stretch(hit, hit, hit, hit.score, only) for hit in _best_windows(memory, vectors[0], k, where, only)]
        _grow(memory, vectors[0], found, calibration)
    else:
        found = _found_together(memory, vectors, k, where, only, calibration)
    return [_moment(stretch, calibration) for stretch in found]


def moments_of(
    memory: Memory, vector: FloatArray, hits: Sequence[tuple[Hit, Filter]], calibration: Calibration
) -> list[Moment]:
    """The moments about these windows, one of each sound, in their order, for a query ``[dim]``.

    Beside each window stands what must hold of all that its moment takes in.
    """
    found = [_Stretch(hit, hit, hit, hit.score, only.clauses) for hit, only in hits]
    _grow(memory, vector, found, calibration)
    return [_moment(stretch, calibration) for stretch in found]


def calibration_for(words: str | None, curves: Mapping[str, Calibration]) -> Calibration:
    """The curve for a query in words, by their script where the bundle has one for it, or for a sound (None).

    Raises ``BundleError`` if the bundle has none.
    """
    kinds = ["audio"] if words is None else ["text-cjk"] * bool(_CJK.search(words)) + ["text"]
    for kind in kinds:
        if kind in curves:
            return curves[kind]
    raise BundleError(f"a bundle without calibration for {kinds[-1]}", "one", "export the bundle again")


def _best_windows(
    memory: Memory, vector: FloatArray, k: int, where: Filter, only: tuple[Clause, ...] = ()
) -> list[Hit]:
    """The best window of each of the k best files, best first; of a file that is still being heard, none.

    What ``only`` says holds nearly everywhere, and a filter takes time: so it is asked for where it proves wanting.
    """
    best: dict[str, Hit] = {}
    seen: set[str] = set()
    limit = min(k * WINDOWS_A_FILE, MOST_WINDOWS)
    while len(best) < k:
        rest = where.also(Clause("sha256", "not in", tuple(sorted(seen)))) if seen else where
        hits = memory.search(vector, limit, rest)
        if not all(matches(hit.payload, Filter(only)) for hit in hits):
            where, only = where.also(*only), ()
            continue
        for hit in hits:
            seen.add(str(hit.payload["sha256"]))
            if "duration_s" in hit.payload:
                best.setdefault(str(hit.payload["sha256"]), hit)
        if len(hits) < limit:
            break
        limit = min(limit * 2, MOST_WINDOWS)
    return sorted(best.values(), key=lambda hit: (-hit.score, hit.id))[:k]


def _found_together(
    memory: Memory, vectors: FloatArray, k: int, where: Filter, only: tuple[Clause, ...], calibration: Calibration
) -> list[_Stretch]:
    """The k files with the highest mean over ``vectors`` of their best window's cosine, best first.

    Candidates are the best files of each vector; the moment grows where the best single match is.
    """
    candidates: dict[str, Hit] = {}
    for vector in vectors:
        for hit in _best_windows(memory, vector, 2 * k, where, only):
            candidates.setdefault(str(hit.payload["sha256"]), hit)
    wheres = [Filter((_is(hit), *only)) for hit in candidates.values()]
    answers = [memory.search_many(vector, 1, wheres) for vector in vectors]
    best: list[tuple[_Stretch, int]] = []
    for hits in (list(chain(*one)) for one in zip(*answers, strict=True)):
        asked = max(range(len(hits)), key=lambda n: hits[n].score)
        score = sum(hit.score for hit in hits) / len(hits)
        best.append((_Stretch(hits[asked], hits[asked], hits[asked], score, only), asked))
    best = sorted(best, key=lambda one: (-one[0].score, one[0].best.id))[:k]
    for number, vector in enumerate(vectors):
        _grow(memory, vector, [stretch for stretch, asked in best if asked == number], calibration)
    return [stretch for stretch, _ in best]


@dataclass(slots=True)
class _Stretch:
    """The windows ``first``..``last`` about the best one of a file, all above a floor; it grows at its ends.

    It takes in only windows of which all of ``only`` holds.
    """

    best: Hit
    first: Hit
    last: Hit
    score: float
    only: tuple[Clause, ...] = ()

    def beyond(self, reach: int) -> tuple[Filter, Filter]:
        """The next ``reach`` windows before and after it."""
        first, last = _index(self.first), _index(self.last)
        return (
            Filter((_is(self.best), Clause("window", "<", first), Clause("window", ">=", first - reach), *self.only)),
            Filter((_is(self.best), Clause("window", ">", last), Clause("window", "<=", last + reach), *self.only)),
        )

    def grow(self, before: Sequence[Hit], after: Sequence[Hit], reach: int, floor: float) -> bool:
        """Take in neighbour after neighbour that scores enough, none silent about a sound, and none with sound about a
        silence. Whether an end may go on beyond ``reach``."""
        silent = bool(self.best.payload.get(SILENT))
        enough = (hit for hit in (*before, *after) if hit.score >= floor)
        known = {_index(hit): hit for hit in enough if bool(hit.payload.get(SILENT)) == silent}
        first, last = _index(self.first), _index(self.last)
        while hit := known.get(_index(self.first) - 1):
            self.first = hit
        while hit := known.get(_index(self.last) + 1):
            self.last = hit
        return first - _index(self.first) == reach or _index(self.last) - last == reach


def _grow(memory: Memory, vector: FloatArray, stretches: list[_Stretch], calibration: Calibration) -> None:
    """Let each take in the run of neighbours whose odds reach a share of its best window's.

    The odds of a cosine s are exp(slope * s + intercept), so that is: s_i >= s_best + ln(share) / slope.
    """
    drop = math.log(MOMENT_SHARE) / calibration.slope
    growing, reach = stretches, MOMENT_REACH
    while growing:
        found = iter(memory.search_many(vector, reach, [where for s in growing for where in s.beyond(reach)]))
        growing = [s for s in growing if s.grow(next(found), next(found), reach, s.best.score + drop)]
        reach *= 4


def _moment(stretch: _Stretch, calibration: Calibration) -> Moment:
    payload = stretch.best.payload
    paths = tuple(payload["paths"])
    end_s = float(stretch.last.payload["end_s"])
    return Moment(
        path=paths[0],
        paths=paths,
        start_s=float(stretch.first.payload["start_s"]),
        end_s=end_s,
        score=stretch.score,
        relevance=calibration.relevance(stretch.score),
        duration_s=float(payload["duration_s"]),
        title=payload.get("title"),
        caption=payload.get("caption"),
        caption_score=payload.get("caption_score"),
        caption_unsure=bool(payload.get("caption_unsure")),
        caption_by=payload.get("caption_by"),
        payload=payload,
    )


def _index(hit: Hit) -> int:
    return int(hit.payload["window"])


def _is(hit: Hit) -> Clause:
    return Clause("sha256", "in", (str(hit.payload["sha256"]),))


def parse_filter(texts: Sequence[str]) -> Filter:
    """``["duration<5", "path~ambience"]`` -> a filter; all conditions must hold.

    Raises ``QueryError`` naming the known fields and operators.
    """
    return Filter(tuple(_parse_clause(text) for text in texts))


def _parse_clause(text: str) -> Clause:
    match = _CLAUSE.fullmatch(text)
    if not match or not match["value"]:
        raise QueryError(
            f"the filter {text!r}", "FIELD OP VALUE with one of < <= > >= = != ~", "for example duration<5"
        )
    field = _ALIASES.get(match["field"], match["field"])
    if field not in FIELDS or field in _INNER:
        names = sorted((set(FIELDS) - {*_INNER, *_ALIASES.values()}) | {"duration", "path", "rate"})
        raise QueryError(f"the filter field {match['field']!r}", f"one of {', '.join(names)}")
    op: Op = match["op"]  # type: ignore[assignment]  # the pattern admits only these
    is_text = FIELDS[field] is str
    if is_text != (op == "~") and op not in ("=", "!="):
        kind = "text, compared with = != ~" if is_text else "a number, compared with < <= > >= = !="
        raise QueryError(f"the filter {text!r}", f"{match['field']} is {kind}")
    return Clause(field, op, match["value"] if is_text else _number(match["value"], text))


def _number(value: str, text: str) -> float:
    try:
        return float(value.removesuffix("Hz").removesuffix("s"))
    except ValueError:
        raise QueryError(f"{value!r} in the filter {text!r}", "a number") from None
