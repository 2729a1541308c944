"""A query -> moments: windows found, grouped by file, merged to stretches, calibrated.

A file may have ten windows or ten thousand that match, so grouping asks the memory again, leaving out the files it
has, until k files are full or nothing is left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from engine.bundle import Calibration
from engine.errors import QueryError
from engine.memory.base import FIELDS, Memory
from engine.types import Clause, Filter, FloatArray, Hit, Moment, Op

#: Windows asked for at first, for each file wanted: most files answer with a few windows.
WINDOWS_A_FILE = 4
#: This many windows on each side of a file's best one are looked at first; where all belong to the moment, more.
MOMENT_REACH = 32
#: A neighbouring window belongs to the moment if its cosine reaches this share of the file's best one.
MOMENT_SHARE = 0.75

_CLAUSE = re.compile(r"\s*(?P<field>\w+)\s*(?P<op><=|>=|!=|<|>|=|~)\s*(?P<value>.*?)\s*", re.DOTALL)
_ALIASES = {"path": "paths", "duration": "duration_s", "rate": "sample_rate_hz", "sample_rate": "sample_rate_hz"}


def find_moments(
    memory: Memory, vector: FloatArray, k: int, calibration: Calibration, where: Filter | None = None
) -> list[Moment]:
    """The best moment of each of the k best sounds for a query vector ``[dim]``, best first.

    Scores are cosines of single windows; relevance is calibrated. Whether a moment is relevant enough is for the
    caller to say. Raises ``QueryError`` if k is not positive.
    """
    if k < 1:
        raise QueryError(f"k = {k}", "a positive number of results")
    best = _best_windows(memory, vector, k, where or Filter())
    return [_moment(stretch, calibration) for stretch in _stretches(memory, vector, best)]


def _best_windows(memory: Memory, vector: FloatArray, k: int, where: Filter) -> list[Hit]:
    """The best window of each of the k best files, best first."""
    best: dict[str, Hit] = {}
    limit = k * WINDOWS_A_FILE
    while len(best) < k:
        rest = where.also(Clause("sha256", "not in", tuple(best))) if best else where
        hits = memory.search(vector, limit, rest)
        for hit in hits:
            best.setdefault(str(hit.payload["sha256"]), hit)
        if len(hits) < limit:
            break
        limit *= 2
    return sorted(best.values(), key=lambda hit: (-hit.score, hit.id))[:k]


@dataclass(slots=True)
class _Stretch:
    """The windows ``first``..``last`` about the best one of a file, all above the floor; it grows at its ends."""

    best: Hit
    first: Hit
    last: Hit

    @property
    def floor(self) -> float:
        """What a neighbour must score: a share of the file's best."""
        return self.best.score * MOMENT_SHARE if self.best.score > 0 else self.best.score

    def beyond(self, reach: int) -> tuple[Filter, Filter]:
        """The next ``reach`` windows before and after it."""
        first, last = _index(self.first), _index(self.last)
        return (
            Filter((_is(self.best), Clause("window", "<", first), Clause("window", ">=", first - reach))),
            Filter((_is(self.best), Clause("window", ">", last), Clause("window", "<=", last + reach))),
        )

    def grow(self, before: Sequence[Hit], after: Sequence[Hit], reach: int) -> bool:
        """Take in neighbour after neighbour that scores enough. Whether an end may go on beyond ``reach``."""
        known = {_index(hit): hit for hit in (*before, *after) if hit.score >= self.floor}
        first, last = _index(self.first), _index(self.last)
        while hit := known.get(_index(self.first) - 1):
            self.first = hit
        while hit := known.get(_index(self.last) + 1):
            self.last = hit
        return first - _index(self.first) == reach or _index(self.last) - last == reach


def _stretches(memory: Memory, vector: FloatArray, best: Sequence[Hit]) -> list[_Stretch]:
    """For each best window, the run of neighbours that score at least a share of it (s_i >= share * s_best)."""
    stretches = [_Stretch(hit, hit, hit) for hit in best]
    growing, reach = stretches, MOMENT_REACH
    while growing:
        found = iter(memory.search_many(vector, reach, [where for s in growing for where in s.beyond(reach)]))
        growing = [s for s in growing if s.grow(next(found), next(found), reach)]
        reach *= 4
    return stretches


def _moment(stretch: _Stretch, calibration: Calibration) -> Moment:
    best, payload = stretch.best, stretch.best.payload
    paths = tuple(payload["paths"])
    end_s = float(stretch.last.payload["end_s"])
    return Moment(
        path=paths[0],
        paths=paths,
        start_s=float(stretch.first.payload["start_s"]),
        end_s=end_s,
        score=best.score,
        relevance=calibration.relevance(best.score),
        duration_s=float(payload.get("duration_s", end_s)),
        title=payload.get("title"),
        caption=payload.get("caption"),
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
    if field not in FIELDS or field in ("sha256", "window"):
        names = sorted((set(FIELDS) - {"sha256", "window", *_ALIASES.values()}) | {"duration", "path", "rate"})
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
