"""Which clips a run learns from, which it is asked about, and which it must not hear. Never imports torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.examples import DEFAULT_SPLIT, Dataset, Example
from trainer.manifest import read_data
from trainer.settings import HELD_OUT, Settings, TrainingError
from trainer.waveforms import OnProgress, Waveforms

LEAKED = "one clip on two splits"


@dataclass(slots=True)
class Selection:
    """``labelled`` and ``unlabelled`` clips to learn from, and ``validation``.

    ``problems`` counts by kind what the data left out, ``kept_out`` the unlabelled sounds that are clips of a split
    which isn't learnt from.
    """

    labelled: list[Example]
    unlabelled: list[Example]
    validation: list[Example]
    problems: Counter[str] = field(default_factory=Counter)
    kept_out: int = 0


def select(settings: Settings, waveforms: Waveforms, on_progress: OnProgress) -> Selection:
    """Read ``settings.data`` and ``unlabelled``; by content, nothing that is asked about is learnt from.

    Raises ``DataError``, and ``TrainingError`` where no clip to learn from has a caption.
    """
    data = read_data(Path(settings.data).expanduser())
    splits = _learnt_splits(data, settings.held_out)
    if settings.held_out in splits:
        raise TrainingError(f"held_out = {settings.held_out!r}", "a split that is not learnt from", "name another")
    there = {example.split for example in data.examples}
    if settings.held_out not in {HELD_OUT, *there}:
        raise TrainingError(
            f"no clip on the split {settings.held_out} of {settings.data}",
            f"one of those there: {', '.join(sorted(there))}",
            "give one as --held-out",
        )
    others = None
    if settings.method == "composed":
        others = read_data(Path(str(settings.unlabelled)).expanduser())
    heard = [] if others is None else others.split(*_learnt_splits(others, settings.held_out))
    hashes = waveforms.hashes([*data.examples, *heard], on_progress)
    apart = {
        sha
        for example, sha in zip(data.examples, hashes, strict=False)
        if isinstance(sha, str) and example.split not in splits
    }
    told = [(one, sha) for one, sha in zip(data.examples, hashes, strict=False) if one.split in splits and one.captions]
    labelled = [example for example, sha in told if sha not in apart]
    unlabelled = [example for example, sha in zip(heard, hashes[len(data.examples) :], strict=True) if sha not in apart]
    if not labelled:
        raise TrainingError(
            f"no clip with a caption in {settings.data}",
            f"some on the split {', '.join(sorted(splits))}, and on no other",
            "add captions; `earshot train check` names what is wrong",
        )
    problems = Counter(problem.kind for problem in [*data.problems, *(others.problems if others else ())])
    problems.update({LEAKED: len(told) - len(labelled)} if len(told) > len(labelled) else {})
    asked = [example for example in data.examples if example.split == settings.held_out and example.captions]
    return Selection(labelled, unlabelled, asked, problems, len(heard) - len(unlabelled))


def _learnt_splits(data: Dataset, held_out: str) -> set[str]:
    """``train``, where there is such a split; else, as in ESC-50, all but ``held_out``, if that is one of them.

    Raises ``TrainingError`` where it isn't.
    """
    splits = {example.split for example in data.examples}
    if DEFAULT_SPLIT in splits:
        return {DEFAULT_SPLIT}
    if held_out not in splits:
        there = ", ".join(sorted(splits)) or "none"
        raise TrainingError(
            f"no split train in {data.source}, nor {held_out}", f"the splits there: {there}", "give one as --held-out"
        )
    return splits - {held_out, "val", "test"}


def require_languages(wanted: Sequence[str], examples: Iterable[Example], asked: Sequence[str]) -> None:
    """Raise ``TrainingError`` where a language was asked for that no caption is in: English alone would be learnt."""
    held = {caption.lang for example in examples for caption in example.captions}
    missing = [language for language in wanted if language not in held]
    if missing or not wanted:
        raise TrainingError(
            f"no caption in {', '.join(missing)}" if missing else f"languages {', '.join(asked)}, and English alone",
            "captions in every language that is asked for",
            "add them, give --translator, or leave --languages out",
        )
