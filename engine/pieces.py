"""What captions are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from engine.errors import BundleError

_PULL = "copy or export the bundle again"


class Pieces:
    """A captioner's tokenizer."""

    def __init__(self, path: Path) -> None:
        """Raises ``BundleError`` if the file is no tokenizer."""
        self._path = path
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path} ({error})", "a tokenizer", _PULL) from error
        self.size: int = self._tokenizer.get_vocab_size()

    def piece(self, name: str) -> int:
        """The number of a piece. Raises ``BundleError`` if there is none."""
        found: int | None = self._tokenizer.token_to_id(name)
        if found is None:
            raise BundleError(f"{self._path} without {name}", "a captioner's tokenizer", _PULL)
        return found

    def text(self, pieces: Sequence[int]) -> str:
        """What pieces say; special ones say nothing."""
        said: str = self._tokenizer.decode(list(pieces))
        return said.strip()
