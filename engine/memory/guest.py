"""A memory that another process holds, asked over its socket: to be read only."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from engine.errors import LibraryBusyError, MemoryStoreError
from engine.memory.checks import check_filter, check_k, check_vector
from engine.memory.wire import MOST_ASKED_BYTES, PROTOCOL, WireError, answered, filter_message, send
from engine.types import Filter, FloatArray, Hit, Payload, Point, Record

#: How long the holder may take to say that it is there, and for the next part of an answer.
_HELLO_S, _ANSWER_S = 10.0, 30.0
#: Filters in one question, whose size is bounded.
_WHERES_AT_ONCE = 256


class HolderGoneError(LibraryBusyError):
    """The holder ended, or let go of the library, before it had answered: ask whoever holds it now."""


class HolderStuckError(LibraryBusyError):
    """The holder is there and does not answer, as where it was stopped with Ctrl-Z."""


class ReadingMemory(ABC):
    """What memories that are to be read only have in common: a ``Memory`` but for its questions."""

    @property
    def shared(self) -> bool:
        """See ``Memory.shared``: whoever holds it may be writing."""
        return True

    @abstractmethod
    def search_many(self, vector: FloatArray, k: int, wheres: Sequence[Filter]) -> list[list[Hit]]:
        """See ``Memory.search_many``."""

    @abstractmethod
    def search_vectors(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[tuple[Hit, FloatArray]]:
        """See ``Memory.search_vectors``."""

    @abstractmethod
    def search_words(self, words: str, k: int, where: Filter | None = None) -> list[Hit]:
        """See ``Memory.search_words``."""

    @abstractmethod
    def count(self, where: Filter | None = None) -> int:
        """See ``Memory.count``."""

    def search(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[Hit]:
        """See ``Memory.search``."""
        return self.search_many(vector, k, [where or Filter()])[0]

    def upsert(self, points: Sequence[Point]) -> None:
        """Refused with ``MemoryStoreError``, as all that writes."""
        self._refuse("writing points")

    def delete(self, where: Filter) -> None:
        """Refused, as all that writes."""
        self._refuse("deleting")

    def set_payload(self, where: Filter, payload: Payload) -> None:
        """Refused, as all that writes."""
        self._refuse("setting a payload")

    def optimise(self) -> None:
        """Refused, as all that writes."""
        self._refuse("optimising")

    def flush(self) -> None:  # noqa: B027
        """Nothing was written."""

    def close(self) -> None:  # noqa: B027
        """Whoever holds it goes on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse(self, what: str) -> NoReturn:
        raise MemoryStoreError(
            f"{what} in a memory opened to be read", "only reading", "open it with Library.index, which writes"
        )


class GuestMemory(ReadingMemory):
    """A ``Memory`` that ``engine.memory.host.Host`` answers for; what the holder raises is raised here.

    Every call may raise ``HolderGoneError`` and ``HolderStuckError``.
    """

    def __init__(self, address: Path, space: tuple[str, int] | None = None) -> None:
        """``space`` is its id and the numbers of a vector, where ``ensure_space`` is not to be called first."""
        self._address, self._space = address, space
        self._closed = False

    def ensure_space(self, space_id: str, dim: int) -> None:
        """See ``Memory.ensure_space``."""
        if self._closed:
            self._open_space()
        list(self._ask("hello", (space_id, dim)))
        self._space = (space_id, dim)

    def search_many(self, vector: FloatArray, k: int, wheres: Sequence[Filter]) -> list[list[Hit]]:
        """See ``Memory.search_many``."""
        space = self._open_space()
        check_k(k)
        check_vector(vector, space[1], "the query")
        for where in wheres:
            check_filter(where)
        found: list[list[Hit]] = [[] for _ in wheres]
        for first in range(0, len(wheres), _WHERES_AT_ONCE):
            some = [filter_message(where) for where in wheres[first : first + _WHERES_AT_ONCE]]
            for items, _ in self._ask("search", space, {"k": k, "wheres": some}, vector):
                for number, point_id, score, payload in items:
                    found[first + number].append(Hit(point_id, score, payload))
        return found

    def search_vectors(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[tuple[Hit, FloatArray]]:
        """See ``Memory.search_vectors``."""
        space = self._open_space()
        check_k(k)
        check_vector(vector, space[1], "the query")
        check_filter(where)
        found: list[tuple[Hit, FloatArray]] = []
        for items, floats in self._ask("search vectors", space, {"k": k, "where": filter_message(where)}, vector):
            vectors = floats.reshape(len(items), -1)
            found += [(Hit(*item), one) for item, one in zip(items, vectors, strict=True)]
        return found

    def search_words(self, words: str, k: int, where: Filter | None = None) -> list[Hit]:
        """See ``Memory.search_words``."""
        space = self._open_space()
        check_k(k)
        check_filter(where)
        asked = {"words": words, "k": k, "where": filter_message(where)}
        return [Hit(*item) for items, _ in self._ask("words", space, asked) for item in items]

    def scroll(self, where: Filter | None = None, with_vectors: bool = False) -> Iterator[Record]:
        """See ``Memory.scroll``."""
        space = self._open_space()
        check_filter(where)
        return self._records({"where": filter_message(where), "with_vectors": with_vectors}, space)

    def _records(self, asked: dict[str, Any], space: tuple[str, int]) -> Iterator[Record]:
        for items, floats in self._ask("scroll", space, asked):
            vectors = floats.reshape(len(items), -1) if asked["with_vectors"] else [None] * len(items)
            for (point_id, payload), vector in zip(items, vectors, strict=True):
                yield Record(point_id, payload, vector)

    def count(self, where: Filter | None = None) -> int:
        """See ``Memory.count``."""
        space = self._open_space()
        check_filter(where)
        [count] = [items[0][0] for items, _ in self._ask("count", space, {"where": filter_message(where)})]
        return int(count)

    def ask_to_be_let_in(self) -> bool:
        """Ask the holder for the library, to write: whether it let go of it, which it does unless it writes itself."""
        [is_free] = [items[0][0] for items, _ in self._ask("let in", self._open_space())]
        return bool(is_free)

    def close(self) -> None:
        """See ``Memory.close``; the holder goes on."""
        self._closed = True

    def _open_space(self) -> tuple[str, int]:
        if self._closed or self._space is None:
            found = "a closed memory" if self._closed else "a memory without a space"
            raise MemoryStoreError(found, "an open one", "call ensure_space on a new memory first")
        return self._space

    def _ask(
        self, ask: str, space: tuple[str, int], more: dict[str, Any] | None = None, floats: FloatArray | None = None
    ) -> Iterator[tuple[list[Any], FloatArray]]:
        """The parts of the answer, each items with their floats, as they come."""
        question = {"protocol": PROTOCOL, "ask": ask, "space": space} | (more or {})
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as holder:
            holder.settimeout(_HELLO_S)
            try:
                holder.connect(str(self._address))
                send(holder, question, floats, MOST_ASKED_BYTES)
                parts = answered(holder)
                next(parts, None)  # without items: a sign of life
                holder.settimeout(_ANSWER_S)
                yield from parts
            except TimeoutError as error:
                raise HolderStuckError(
                    "a process that does not answer", "an answer", "wait for it, or stop it"
                ) from error
            except (OSError, WireError) as error:
                raise HolderGoneError(f"no answer at {self._address} ({error})", "one", "try again") from error
