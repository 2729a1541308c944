"""What a family makes of a checkpoint: towers ready for the graph, each with the reference that it must match."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import (
    disable_progress_bar,
    enable_progress_bar,
    get_verbosity,
    is_progress_bar_enabled,
    set_verbosity,
    set_verbosity_error,
)

from engine.errors import BundleError
from engine.types import FloatArray, Pad
from exporters.errors import SourceError

_NAMED = 8  # keys in one message
_NEVER_RUN = "code in checkpoints is never run"
#: What torch says before and after what it found: above all how to run the code all the same.
_ADVICE = re.compile(
    r"Weights only load failed\.|(This file can still be loaded|Please file an issue).*?WeightsUnpickler error:"
    r"|In PyTorch 2\.6,.*?trusted source\.|Please use `torch\.serialization.*",
    re.DOTALL,
)


class OtherFamilyError(Exception):
    """A checkpoint that only looked as if it were of a family, until it was read."""


@dataclass(frozen=True, slots=True)
class AudioPart:
    """An audio tower.

    ``module``: ``samples [batch, window_samples] -> unit vectors [batch, dim]``, what is exported.
    ``reference``: a mono clip ``[n]``, at most a window long, as the published code hears it -> unit ``[dim]``.
    ``front`` and ``front_reference``: the log-mels in dB of both, ``[batch, window_samples] -> [batch, frames, mels]``
    and ``[window_samples] -> [frames, mels]``; None where the tower's front end is its own reference.
    ``batch``: windows in a call on the CPU (``engine.bundle.AudioTower``).
    ``exact``: constants that stay in float32 at every precision, with all that is computed before them.
    """

    module: nn.Module
    reference: Callable[[FloatArray], FloatArray]
    sample_rate_hz: int
    window_samples: int
    hop_samples: int
    pad: Pad
    front: nn.Module | None = None
    front_reference: Callable[[FloatArray], FloatArray] | None = None
    batch: int | None = None
    exact: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TextPart:
    """A text tower.

    ``module``: ``input_ids, attention_mask [batch, tokens] -> unit vectors [batch, dim]``.
    ``runs``: the same as it runs in the graph, where that is another module (``bert``).
    ``reference``: texts -> unit ``[n, dim]`` as the published code reads them.
    ``tokenizer`` knows its padding; the other fields are those of ``engine.bundle.TextTower``.
    """

    module: nn.Module
    reference: Callable[[Sequence[str]], FloatArray]
    tokenizer: Tokenizer
    max_tokens: int
    languages: tuple[str, ...]
    lowercase: bool = False
    suffix: str = ""
    runs: nn.Module | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that has been read. ``fingerprint`` covers all that decides where a vector lies.

    ``compose``: ``input_ids, attention_mask, sound -> unit vectors``, words with a sound, where the family has it
    (``exporters.composing.ComposedText``). ``note`` writes into the finished folder, beside the graphs, what else the
    family keeps there; fp32 only. ``beside`` are files that go along at every precision, such as credits.
    """

    family: str
    name: str
    fingerprint: str
    dim: int
    audio: AudioPart | None
    text: TextPart | None
    facts: Mapping[str, Any]
    note: Callable[[Path], None] = lambda _: None
    compose: nn.Module | None = None
    beside: tuple[Path, ...] = ()

    @property
    def space_id(self) -> str:
        """``name@first 12 of the fingerprint``."""
        return f"{self.name}@{self.fingerprint[:12]}"


def fingerprint(weights: Iterable[tuple[str, Tensor]], tokenizer: Tokenizer | None, settings: Mapping[str, Any]) -> str:
    """The sha256, in hex, of named weights, a tokenizer, and settings that JSON can hold."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(weights):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    if tokenizer is not None:
        digest.update(tokenizer.to_str().encode())
    return digest.hexdigest()


def backend_tokenizer(reader: PreTrainedTokenizerBase) -> Tokenizer:
    """What the engine needs of a tokenizer of ``transformers``, with the padding it was made with."""
    tokenizer = Tokenizer.from_str(reader.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.enable_padding(
        direction=reader.padding_side,
        pad_id=reader.pad_token_id,
        pad_type_id=reader.pad_token_type_id,
        pad_token=reader.pad_token,
    )
    return tokenizer


def published(source: Path) -> dict[str, Any]:
    """What a model card says of itself: ``licence`` and ``languages``, where it does."""
    card = source / "README.md"
    facts = (metadata_load(card) if card.is_file() else None) or {}
    languages = facts.get("language") or []
    return {
        **({"licence": str(facts["license"])} if facts.get("license") else {}),
        **({"languages": [languages] if isinstance(languages, str) else list(languages)} if languages else {}),
    }


@contextmanager
def reading(what: Path | str) -> Iterator[None]:
    """Turn whatever a checkpoint's readers raise into ``SourceError``, without their bars and remarks."""
    bars, level = is_progress_bar_enabled(), get_verbosity()
    disable_progress_bar()
    set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    except (BundleError, OtherFamilyError):
        raise
    except pickle.UnpicklingError as error:
        raise SourceError(
            f"pickled code or a damaged file in {what} ({_first_line(error)})",
            "weights alone",
            f"get it again from its publisher; {_NEVER_RUN}",
        ) from error
    except Exception as error:  # safetensors, tokenizers, torch and json share no class
        if "trust_remote_code" in str(error):
            raise SourceError(
                f"code of its own in {what} ({_first_line(error)})", "weights alone", f"choose another; {_NEVER_RUN}"
            ) from error
        if "TorchScript" in str(error):
            raise SourceError(
                f"a TorchScript archive in {what}, which is a program",
                "weights alone, as torch.save writes a state dict",
                f"get the checkpoint itself from its publisher; {_NEVER_RUN}",
            ) from error
        raise SourceError(
            f"{what} that can't be read ({_first_line(error)})", "a whole checkpoint", "download or copy it again"
        ) from error
    finally:
        set_verbosity(level)
        if bars:
            enable_progress_bar()


def require_keys(what: str, missing: Iterable[str], unexpected: Iterable[str], resized: Iterable[Any] = ()) -> None:
    """Raise ``SourceError`` unless a state dict was complete: nothing missing, unexpected or of another shape."""
    found = [
        f"{len(keys)} {kind} ({', '.join(keys[:_NAMED])}{', …' if len(keys) > _NAMED else ''})"
        for kind, keys in (
            ("missing", sorted(map(str, missing))),
            ("unexpected", sorted(map(str, unexpected))),
            ("of another shape", sorted(map(str, resized))),
        )
        if keys
    ]
    if found:
        raise SourceError(
            f"weights of {what} with keys {', '.join(found)}",
            "exactly the keys of its architecture",
            "check that config and weights belong together",
        )


def _first_line(error: BaseException) -> str:
    return (_ADVICE.sub("", str(error)).strip().splitlines() or [type(error).__name__])[0][:200]
