"""Words and a sound in one question: "like this, but with rain".

A bundle that has ``compose.onnx`` puts the sound among the words as one more token (Komatsu et al., eqs. 13 to 16); for
any other the two vectors are added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Bundle
from engine.encoders import OnnxTextEncoder, checked_output, normalise, session_for
from engine.errors import BundleError
from engine.types import Device, FloatArray

if TYPE_CHECKING:
    from engine.encoders import TextEncoder


class Composer(Protocol):
    """Turns words and a sound into vectors of the same space. ``learnt``: by a module made for it."""

    learnt: bool

    def compose(self, words: str, sounds: FloatArray) -> FloatArray:
        """Unit ``[m, dim]``, the sound's vectors -> unit ``[m, dim]``. Raises ``QueryError`` if the words are empty."""


class SumComposer:
    """The direction between the words and the sound."""

    learnt = False

    def __init__(self, text: Callable[[], TextEncoder]) -> None:
        self._text = text

    def compose(self, words: str, sounds: FloatArray) -> FloatArray:
        """Unit ``[m, dim]`` -> unit ``[m, dim]``: ``(words + sound) / |words + sound|``."""
        return normalise(self._text().encode_text([words]) + sounds)


class OnnxComposer:
    """The graph ``input_ids, attention_mask [batch, tokens], sound [batch, dim] -> embedding [batch, dim]``."""

    learnt = True

    def __init__(
        self, bundle: Bundle, text: OnnxTextEncoder, device: Device = "auto", threads: int | None = None
    ) -> None:
        """``text`` is the bundle's own encoder, whose tokens these are. Raises ``BundleError``, ``DeviceError``."""
        if bundle.manifest.compose is None:
            raise BundleError(f"bundle {bundle.manifest.name} without compose.onnx", "one", "add the vectors instead")
        self._text, self._dim = text, bundle.manifest.dim
        self.session = session_for(bundle, bundle.manifest.compose, device, threads)

    def compose(self, words: str, sounds: FloatArray) -> FloatArray:
        """Unit ``[m, dim]`` -> unit ``[m, dim]``: the words followed by the sound, read as one text."""
        ids, mask = self._text.tokens(words, room=1)
        count = len(sounds)
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": np.repeat(ids, count, axis=0),
            "attention_mask": np.repeat(mask, count, axis=0),
            "sound": np.asarray(sounds, np.float32),
        }
        return normalise(checked_output(self.session.run(feeds), (count, self._dim)))
