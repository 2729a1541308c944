"""What `earshot train finetune` leaves in its folder: ``run.json`` names the base, ``last.pt`` holds what was learnt.

The base is read as it was for training, then given the run's weights; the towers in torch are their own reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from engine.types import FloatArray
from engine.windows import pad_to
from exporters.compose import GRAPH as COMPOSE
from exporters.composing import A2t, ComposedText
from exporters.errors import SourceError
from exporters.source import AudioPart, Source, TextPart, fingerprint, reading
from exporters.weights import TOWERS, find_weights, read_weights

NAME = "finetuned"
SUMMARY = "what `earshot train finetune` leaves: run.json and last.pt"
RUN, LAST, BASE = "run.json", "last.pt", "base"
#: The batch that a run really has, where none is asked for too.
BATCH_USED = "batch_used"
#: What to do where the base has gone: that of the starter lies in the installed package.
_BACK = "put it back; where it is the starter, install the earshot that the run was begun with"
#: Whose sounds the weights were learnt from: what their licences ask for.
CREDITS = "CREDITS.md"
#: Captions that come with a bundle, as vectors of its space.
MEMORY = "memory.npz"
#: What a bundle says of itself, and still holds of what is made of it.
PASSED_ON = ("licence", "credits", "limits")


def reads(source: Path, config: dict[str, Any]) -> bool:
    """Whether a folder is of this family."""
    return (source / RUN).is_file()


def load(source: Path, name: str) -> Source:
    """Read a run's last checkpoint over its base. Raises ``SourceError``."""
    told, base = read_run(source)
    state = read_state(source)
    assert base.audio is not None
    assert base.text is not None
    with reading(source):
        base.audio.module.load_state_dict(_part(state, "audio"))
        base.text.module.load_state_dict(_part(state, "text"))
    a2t = a2t_of(state)
    weights = {key: value for key, value in state.items() if not key.startswith("a2t.")}
    settings = {"base": told[BASE]["space_id"]}
    return Source(
        family=base.family,
        name=name,
        fingerprint=fingerprint(weights.items(), base.text.tokenizer, settings),
        dim=base.dim,
        audio=_audio(base.audio),
        text=_text(base.text),
        facts={**base.facts, **_facts(told)},
        note=base.note if a2t is None else partial(_note_both, base.note, a2t),
        beside=beside(Path(told[BASE]["path"])) or base.beside,
        compose=None if a2t is None else ComposedText(base.text.module, a2t).eval(),  # type: ignore[arg-type]
    )


def read_run(folder: Path) -> tuple[dict[str, Any], Source]:
    """What ``run.json`` says, and the base, as it was. Raises ``SourceError`` where it has gone or changed."""
    from exporters.base import load_base  # which knows all families, this one among them

    with reading(folder / RUN):
        told: dict[str, Any] = json.loads((folder / RUN).read_text(encoding="utf-8"))
        path, space_id = Path(told[BASE]["path"]), told[BASE]["space_id"]
    if not path.exists():
        raise SourceError(f"no base of {folder} at {path}", space_id, _BACK)
    base = load_base(path)
    if base.space_id.split("@")[1] != space_id.split("@")[1]:  # its folder may be called something else by now
        raise SourceError(f"{base.space_id} at {path}", f"{space_id}, the base of {folder}", _BACK)
    return told, base


def read_state(folder: Path) -> dict[str, Tensor]:
    """The weights of a run's last checkpoint. Raises ``SourceError``."""
    if not (folder / LAST).is_file():
        raise SourceError(f"no {LAST} in {folder}", "a run that has saved a checkpoint", "let it run")
    with reading(folder / LAST):
        state: dict[str, Tensor] = torch.load(folder / LAST, map_location="cpu", weights_only=True)["model"]
    return state


def beside(bundle: Path, *more: str) -> tuple[Path, ...]:
    """The files of a bundle that go wherever its weights go, and ``more``, as far as it has them."""
    return tuple(path for path in (bundle / name for name in (CREDITS, *more)) if path.is_file())


def learnt_a2t_alone(folder: Path) -> bool:
    """Whether a run left both towers of a bundle as they were, so that the bundle's space is its own."""
    with reading(folder / RUN):
        told = json.loads((folder / RUN).read_text(encoding="utf-8"))
        return set(told["settings"]["learn"]) == {"a2t"} and (Path(told[BASE]["path"]) / "manifest.json").is_file()


def a2t_of(state: Mapping[str, Tensor]) -> A2t | None:
    """The module that a run has trained, if it has."""
    own = _part(state, "a2t")
    if not own:
        return None
    first, last = own["layers.0.weight"], own["layers.6.weight"]
    a2t = A2t(first.shape[1], last.shape[0], hidden=first.shape[0])
    a2t.load_state_dict(own)
    return a2t.eval()


def note_a2t(folder: Path, a2t: A2t) -> None:
    """Write beside a bundle's graphs where ``compose.onnx`` has the module, so that ``read_a2t`` finds it."""
    path = folder / TOWERS
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    told["a2t"] = {"weights": find_weights(folder / COMPOSE, a2t.state_dict())}
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_a2t(folder: Path) -> A2t | None:
    """The module that a bundle's ``compose.onnx`` was made of, if it tells. Raises ``SourceError``."""
    path = folder / TOWERS
    with reading(folder):
        told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if "a2t" not in told:
            return None
        learnt = read_weights(folder / COMPOSE, told["a2t"]["weights"])
        return a2t_of({f"a2t.{name}": value for name, value in learnt.items()})


def _note_both(note: Callable[[Path], None], a2t: A2t, folder: Path) -> None:
    note(folder)
    if (folder / TOWERS).is_file():  # of a family that is read again from its bundles
        note_a2t(folder, a2t)


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def _facts(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the bundle tells of its training and passes on, and the base's curves, which nobody has measured anew."""
    settings = {key: value for key, value in told["settings"].items() if key not in ("data", "unlabelled", "base")}
    facts: dict[str, Any] = {"trained": {"base": told[BASE]["space_id"], **settings}}
    facts["trained"]["batch"] = told.get(BATCH_USED, settings.get("batch"))
    manifest = Path(told[BASE]["path"]) / "manifest.json"
    if manifest.is_file():
        was = json.loads(manifest.read_text(encoding="utf-8"))
        facts["trained"]["base"] = was["space_id"]
        facts["calibration"] = was["calibration"]
        facts["calibrated"] = f"inherited from {was['space_id']}, not measured again"
        facts |= {key: was[key] for key in PASSED_ON if was.get(key)}
        if manifest.with_name(MEMORY).is_file():
            facts["left_behind"] = f"{MEMORY}, whose captions lie in the space {was['space_id']}"
    return facts


def _audio(part: AudioPart) -> AudioPart:
    module = part.module.eval()

    @torch.inference_mode()
    def reference(clip: FloatArray) -> FloatArray:
        window = pad_to(clip, part.window_samples, part.pad)
        return np.asarray(module(torch.from_numpy(window)[None])[0].numpy())

    return replace(part, module=module, reference=reference)


def _text(part: TextPart) -> TextPart:
    module = part.module.eval()
    reader = Tokenizer.from_str(part.tokenizer.to_str())
    reader.enable_truncation(part.max_tokens)

    @torch.inference_mode()
    def reference(texts: Sequence[str]) -> FloatArray:
        read = reader.encode_batch([(text.lower() if part.lowercase else text) + part.suffix for text in texts])
        ids, mask = torch.tensor([one.ids for one in read]), torch.tensor([one.attention_mask for one in read])
        return np.asarray(module(ids, mask).numpy())

    packed = getattr(module, "packed", None)  # what runs has copies of the weights: it is made anew from those of now
    return replace(part, module=module, reference=reference, runs=None if packed is None else packed())
