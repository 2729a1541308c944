"""Whether what a decoder spells out of pieces are words: "a chainsaw buzzes", not "somethingwheels workinging".

A word is one that a remembered text has, or that the decoder learnt to say; or one of these with an English ending.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import permutations

_WORD = re.compile(r"[^\W\d_]+")
_AGAIN = re.compile(r"\b(\w+)(?: \1\b)+")
#: Endings that make another word of one, which may lose an "e" by it, or double its last letter.
_ENDINGS = ("s", "es", "ed", "d", "ing", "ly", "er", "ers", "y")
#: "A" before a plural; a word on "ss", "us" or "is" is none.
_A_FEW = re.compile(r"\ban? (?!series\b|fireworks\b|sports\b)\w+[^\Wsui]s\b")
#: Words of fewer letters come more than once, and an ending is what follows so many.
_TELLING = 4
_ENDING = re.compile(r"(?<=\w{4})(?:s|ed|ing)$")
#: Shorter than this nothing has an ending.
_STEM = 3


class Words:
    """Words that are known, in lower case."""

    def __init__(self, texts: Iterable[str]) -> None:
        """The words of ``texts``."""
        known = words_of(texts)
        # Of a plural or "runs" the word without it is known, too.
        self._known = known | {word[:-1] for word in known if word.endswith("s") and len(word) > _STEM}
        # A word with an ending takes no other: "sings" and "singing" make no "singings".
        self._bare = {word for word in self._known if not any(stem in self._known for stem in _stems(word))}

    def know(self, text: str) -> bool:
        """Whether each word of an English text is one."""
        return all(word in self._known or any(stem in self._bare for stem in _stems(word)) for word in _words(text))

    def flow(self, text: str) -> bool:
        """Whether an English text, of words, says each thing once and has no "a" before more than one."""
        told = [_ENDING.sub("", word) for word in _words(text) if len(word) >= _TELLING]
        return not _A_FEW.search(text) and not any(one.startswith(other) for one, other in permutations(told, 2))


class AnyWords:
    """Where nobody can tell."""

    def know(self, text: str) -> bool:
        """All of them."""
        return True

    def flow(self, text: str) -> bool:
        """All of them."""
        return True


ANY = AnyWords()


def tidy(text: str) -> str:
    """With single spaces, and no word twice in a row."""
    return _AGAIN.sub(r"\1", " ".join(text.split()))


def words_of(texts: Iterable[str]) -> set[str]:
    """The words of ``texts``, in lower case."""
    return {word for text in texts for word in _words(text)}


def _words(text: str) -> Iterator[str]:
    return (word.lower() for word in _WORD.findall(text))


def _stems(word: str) -> Iterator[str]:
    """What may stand before the endings of a word."""
    for ending in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem != word and len(stem) >= _STEM:
            yield stem
            if ending != "s":
                yield stem + "e"
            if stem[-1] == stem[-2]:
                yield stem[:-1]
            if stem[-1] == "i":
                yield stem[:-1] + "y"
