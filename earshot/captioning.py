"""`earshot caption`: what is heard in a file, moment by moment, as text, JSON or subtitles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from earshot import show
from earshot.cli import EXIT_FAILED_FILES
from earshot.limits import MOST_TEXTS
from earshot.options import BundleOption, DeviceChoice, DeviceOption, JsonOption, LibraryOption, open_library
from engine.errors import AudioError, QueryError

if TYPE_CHECKING:
    from earshot.library import Library
    from engine.caption_parts import Remembering
    from engine.captioner import Captioner
    from engine.encoders import Encoders
    from engine.memory.captions import Said
    from engine.retrieval_captioner import RetrievalCaptioner
    from engine.types import Caption, FloatArray, Remembered, Strategy

#: Moments that are put into words at once.
_AT_ONCE = 16


class StrategyChoice(StrEnum):
    """What is done to a sound's vector before it is put into words."""

    audio = "audio"
    nearest = "nearest"
    projection = "projection"


@dataclass(frozen=True, slots=True)
class CaptionedMoment:
    """A stretch of a sound, in seconds, and what is said of it."""

    start_s: float
    end_s: float
    caption: Caption

    def to_dict(self) -> dict[str, Any]:
        """The public JSON form."""
        said = self.caption
        return {
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "caption": said.text,
            "score": round(said.score, 4),
            "unsure": said.unsure,
            "language": said.language,
            "bound": round(said.bound, 4),
            "evidence": [
                {"text": one.text, "language": one.language, "source": one.source, "score": round(one.score, 4)}
                for one in said.evidence
            ],
        }


class OfLibrary:
    """What a library remembers, with what comes with its bundle; implements ``Remembering``."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def nearest(self, vector: FloatArray, k: int) -> list[Remembered]:
        """See ``Library.recalled``."""
        return self._library.recalled(vector, k)

    def said(self, limit: int) -> tuple[FloatArray, list[Said]]:
        """See ``Library.said_memory``."""
        return self._library.said_memory(limit)

    def count(self) -> int:
        """See ``Library.recallable``."""
        return self._library.recallable()


class OfBundle:
    """The captions that come with a bundle, for who has no library; implements ``Remembering``."""

    def __init__(self, encoders: Encoders) -> None:
        from earshot.models import shipped_captions

        self._shipped, self._dim = shipped_captions(encoders), encoders.space.dim

    def nearest(self, vector: FloatArray, k: int) -> list[Remembered]:
        """The k nearest, best first."""
        return self._shipped.nearest(vector, k) if self._shipped else []

    def said(self, limit: int) -> tuple[FloatArray, list[Said]]:
        """Vectors ``[n, dim]`` and what they say."""
        import numpy as np

        return self._shipped.said(limit) if self._shipped else (np.empty((0, self._dim), np.float32), [])

    def count(self) -> int:
        """How many there are."""
        return len(self._shipped) if self._shipped else 0


def captioner_of(
    encoders: Encoders,
    memory: Remembering,
    *,
    strategy: Strategy | None = None,
    beams: int | None = None,
    lang: str | None = None,
    device: DeviceChoice = DeviceChoice.auto,
) -> Captioner | RetrievalCaptioner:
    """The captioner of a bundle; where it has none, or none of this language, the nearest captions remembered in it.

    Raises ``BundleError``, ``QueryError``.
    """
    from engine.captioner import Captioner
    from engine.retrieval_captioner import RetrievalCaptioner

    bundle = getattr(encoders, "bundle", None)
    part = bundle.manifest.captioner if bundle is not None else None
    if bundle is not None and part is not None and lang in (None, *part.languages):
        language = lang or part.languages[0]
        return Captioner(
            bundle, encoders, memory, strategy=strategy, beams=beams, language=language, device=device.value
        )
    without = "a bundle without a decoder" if part is None else f"a bundle without a decoder that speaks {lang}"
    if strategy not in (None, "nearest"):
        raise QueryError(f"--strategy {strategy} of {without}", "nearest", "train one: `earshot train captioner`")
    if beams is not None:
        raise QueryError(f"--beams of {without}", "none", "train one: `earshot train captioner`")
    if lang is not None:
        _require_said(memory, lang)
    return RetrievalCaptioner(encoders, memory, lang)


def require_captioner(encoders: Encoders, lang: str | None) -> None:
    """Raise what putting sounds into words would, where nothing but the bundle's own captions is remembered."""
    from earshot.remembering import checked_language

    checked_language(lang)
    captioner_of(encoders, OfBundle(encoders), lang=lang, device=DeviceChoice(encoders.device))


def _require_said(memory: Remembering, language: str) -> None:
    """Raises ``QueryError`` if captions are remembered, and none of them is in this language, nor in one unnamed."""
    from engine.memory.captions import UNDETERMINED

    _, said = memory.said(MOST_TEXTS)
    known = sorted({one.language for one in said})
    if known and len(said) < MOST_TEXTS and not {language, "", UNDETERMINED} & set(known):
        raise QueryError(
            f"no caption in {language!r}", f"one of {', '.join(known)}", f"remember some: `--lang {language}` says so"
        )


def caption_file(
    path: Path, encoders: Encoders, captioner: Captioner | RetrievalCaptioner
) -> Iterator[CaptionedMoment]:
    """The moments of a sound, in order; neighbours that are called the same are one. Raises ``AudioError``."""
    import numpy as np

    from engine.audio import open_clip
    from engine.encoders import encode_windows
    from engine.eventless import looked_at, told, unsure_if_short
    from engine.moments import Stretch, alike_from, settled, stretches
    from engine.windows import cut

    space = encoders.space
    clip = open_clip(path, space.sample_rate_hz)
    windows = encode_windows(encoders.audio, looked_at(cut(clip.blocks, space), space.sample_rate_hz))
    heard = settled(windows, captioner.eventless.sounds_like_noise)

    def said(some: list[Stretch]) -> Iterator[Caption]:
        events = [one.vector for one in some if not one.eventless]
        captions = iter(captioner.caption_events(np.stack(events)) if events else [])
        return (
            told(one.eventless, captioner.language)
            if one.eventless
            else unsure_if_short(next(captions), one.end_s - one.start_s)
            for one in some
        )

    return called_the_same(
        CaptionedMoment(stretch.start_s, stretch.end_s, caption)
        for some in _some(stretches(heard, alike_from(encoders.calibration)))
        for stretch, caption in zip(some, said(some), strict=True)
    )


def called_the_same(moments: Iterable[CaptionedMoment]) -> Iterator[CaptionedMoment]:
    """Join neighbours with one text; the surest says how sure."""
    last: CaptionedMoment | None = None
    for moment in moments:
        if last is None:
            last = moment
        elif last.caption.text == moment.caption.text:
            surer = max(last.caption, moment.caption, key=lambda caption: caption.score)
            last = CaptionedMoment(last.start_s, moment.end_s, surer)
        else:
            yield last
            last = moment
    if last is not None:
        yield last


def _some(moments: Iterable[Any]) -> Iterator[list[Any]]:
    stream = iter(moments)
    while some := list(islice(stream, _AT_ONCE)):
        yield some


def subtitles(moments: Iterable[CaptionedMoment]) -> Iterator[str]:
    """The lines of a SubRip file; where nothing can be said there is no subtitle, and what is unsure is in question."""
    number = 0
    for moment in moments:
        if moment.caption.text:
            number += 1
            text = " ".join(moment.caption.text.split())
            text += " (?)" if moment.caption.unsure else ""
            yield from (str(number), f"{_stamp(moment.start_s)} --> {_stamp(moment.end_s)}", text, "")


def _stamp(seconds: float) -> str:
    """``hh:mm:ss,mmm``."""
    total, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{total // 3600:02d}:{total // 60 % 60:02d}:{total % 60:02d},{milliseconds:03d}"


def caption(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False, readable=False)],
    strategy: Annotated[
        StrategyChoice | None,
        typer.Option(
            "--strategy",
            help="What is put into words. \\[default: the bundle's]",
        ),
    ] = None,
    beams: Annotated[
        int | None, typer.Option("--beams", min=1, max=32, help="1 is greedy. \\[default: the bundle's]")
    ] = None,
    lang: Annotated[str | None, typer.Option("--lang", help="In which language: eng, fra, deu, spa, jpn …")] = None,
    as_json: JsonOption = False,
    as_srt: Annotated[bool, typer.Option("--srt", help="Print subtitles of one file.")] = False,
    library: LibraryOption = None,
    bundle: BundleOption = None,
    device: DeviceOption = DeviceChoice.auto,
) -> None:
    """Say what is heard in files, moment by moment, and how sure that is.

    Sentences are built on the captions that the library remembers and on those that come with the model. Nothing is
    indexed. Exit status: 0 all done, 3 some files could not be heard, 1 could not run.
    """
    from earshot.places import expanded
    from earshot.remembering import checked_language
    from indexer.scan import Found, scan

    checked_language(lang)
    if as_json and as_srt:
        raise QueryError("--json and --srt", "one of them", "leave out the other")
    files = [one.path for one in scan([expanded(path) for path in paths]) if isinstance(one, Found)]
    if as_srt and len(files) != 1:
        raise QueryError(f"--srt with {len(files)} files", "one file", "ask for one at a time")
    if not files:
        show.nothing_found(paths)
    failed: list[tuple[str, str]] = []
    answers: list[dict[str, Any]] = []
    with _opened(library, bundle, device) as (encoders, memory):
        captioner = captioner_of(
            encoders, memory, strategy=strategy.value if strategy else None, beams=beams, lang=lang, device=device
        )
        for note in dict.fromkeys((*encoders.notes, *captioner.notes)):
            show.remark(note)
        for path in files:
            try:
                moments = caption_file(path, encoders, captioner)
                if as_json:
                    told = [moment.to_dict() for moment in moments]
                    answers.append({"path": str(path), "captioner": captioner.identity, "moments": told})
                elif as_srt:
                    for line in subtitles(moments):
                        show.say(line)
                else:
                    _print(path, moments)
            except (AudioError, OSError) as error:
                failed.append((str(path), str(error)))
    if as_json:
        show.print_json(answers)
    show.print_failures("failed", failed, most=len(failed))
    if failed:
        raise typer.Exit(EXIT_FAILED_FILES)


@contextmanager
def _opened(library: str | None, bundle: str | None, device: DeviceChoice) -> Iterator[tuple[Encoders, Remembering]]:
    """The library's model and memory, or, without a library, a bundle's own."""
    from earshot.keep import keep_at
    from earshot.models import DEFAULT_BUNDLE, load_encoders

    with closing(keep_at(library)) as keep:
        exists = keep.exists()
    if not exists:
        encoders = load_encoders(bundle or DEFAULT_BUNDLE, device.value)
        yield encoders, OfBundle(encoders)
        return
    with open_library(library, bundle, device) as opened:
        yield opened.encoders, OfLibrary(opened)


def _print(path: Path, moments: Iterable[CaptionedMoment]) -> None:
    """A line a moment; what is not sure enough to be an answer is marked."""
    show.say(show.short_path(str(path)), style="bold")
    for moment in moments:
        said, where = moment.caption, f"{show.clock(moment.start_s)} - {show.clock(moment.end_s)}"
        text = f"{said.text or '(nothing to say)'}{'  (unsure)' if said.unsure else ''}"
        show.say(f"{where:>19}  {said.score:4.0%}  {text}", style="dim" if said.unsure else "")


def register(app: typer.Typer) -> None:
    """Add this command to the others."""
    app.command(
        epilog="Examples:\n\n  earshot caption door.wav\n\n  earshot caption ~/Sounds --json\n\n"
        "  earshot caption film.mp4 --srt --lang fra > film.srt"
    )(caption)
