"""`earshot eval captions`: captions against what people said of the same clips."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from earshot import show
from earshot.evaluate import EXIT_FAILED_FILES, JsonOption, eval_app

__all__ = ["eval_app", "evaluate_captions"]

if TYPE_CHECKING:
    from trainer.evaluate import Figure
    from trainer.said import Said


@eval_app.command(
    "captions",
    epilog="Examples:\n\n  earshot eval captions said.csv --refs captions.csv\n\n"
    "  earshot eval captions said.json --refs ~/clotho --split evaluation --json\n\n"
    "What people said, captions.csv:\n\n  audio,caption,lang\n\n  door.wav,a door slams shut,eng\n\n"
    "  door.wav,a heavy door closes,eng",
)
def evaluate_captions(
    captions: Annotated[
        Path, typer.Argument(help="CSV, TSV, JSON or JSONL: a clip and its caption in each row.", readable=False)
    ],
    references: Annotated[
        Path, typer.Option("--refs", "-r", help="What people said: see docs/training-data.md.", readable=False)
    ],
    split: Annotated[str | None, typer.Option("--split", help="Only clips of this split.")] = None,
    language: Annotated[str | None, typer.Option("--lang", help="Only references in this language.")] = None,
    bundle: Annotated[str, typer.Option("--bundle", help="Whose towers say how near captions are.")] = "starter",
    as_json: JsonOption = False,
) -> None:
    """Measure captions: BLEU, ROUGE-L, CIDEr-D, variety, nearness to their sound; with 95 % intervals.

    Of a clip's captions the surest is judged. If some clips' were told as unsure, their number is said, and the words
    of the others are judged once more. METEOR, SPICE, SPIDEr and FENSE where the package aac-metrics and its resources
    are installed, else it says what they need. Exit status 3: clips without a caption, or that could not be heard,
    were left out.
    """
    from earshot.places import expanded
    from earshot.remembering import checked_language
    from engine.errors import QueryError
    from trainer.caption_metrics import outside_figures, text_figures
    from trainer.manifest import read_data
    from trainer.said import beside, read_said

    checked_language(language)
    examples = [one for one in read_data(expanded(references)).examples if split in (None, one.split)]
    pairs, missing = beside(read_said(expanded(captions)), examples, language)
    if not pairs:
        raise QueryError(
            f"no clip that both {captions} and {references} speak of", "the same paths or file names", "check both"
        )
    said, known = [one.caption for one in pairs], [one.references for one in pairs]
    figures, absent = outside_figures(said, known)
    sure = [one for one in pairs if not one.unsure]
    surely = text_figures([one.caption for one in sure], [one.references for one in sure]) if sure else []
    nearness, unheard = _sound_figures(pairs, bundle)
    if not nearness:
        absent["caption-audio similarity"] = "not run: needs the clips' sound files where the references say they are"
    left_out = [(clip, "no caption") for clip in missing] + (unheard if nearness else [])
    judged = Judged(text_figures(said, known) + figures + nearness, len(pairs) - len(sure), surely)
    _tell(judged, absent, left_out, as_json)
    if left_out:
        raise typer.Exit(EXIT_FAILED_FILES)


def _sound_figures(pairs: list[Said], bundle: str) -> tuple[list[Figure], list[tuple[str, str]]]:
    """What the sounds say of the captions, and which sounds can't be heard."""
    from earshot.models import load_encoders
    from engine.errors import AudioError
    from exporters.asking import hear
    from trainer.caption_metrics import sound_figures

    encoders = load_encoders(bundle, "auto")
    heard, said, unheard = [], [], []
    for one in pairs:
        try:
            heard += hear(encoders, [one.audio])
            said.append(one.caption)
        except (AudioError, OSError) as error:
            unheard.append((str(one.audio), str(error)))
    return sound_figures(encoders.text.encode_text(said), heard) if said else [], unheard


@dataclass(frozen=True, slots=True)
class Judged:
    """What all captions are worth, how many of them are ``unsure``, and what the words of the others are worth."""

    figures: list[Figure]
    unsure: int
    sure_figures: list[Figure]


def _tell(judged: Judged, absent: dict[str, str], left_out: list[tuple[str, str]], as_json: bool) -> None:
    if as_json:
        told = [{"path": clip, "reason": reason} for clip, reason in left_out]
        show.print_json({**asdict(judged), "not_run": absent, "left_out": told})
        return
    show.out.print(_table(judged.figures))
    if judged.unsure:
        show.say("")
        show.say(f"{judged.unsure} of these are unsure; the words of the others alone:")
        show.out.print(_table(judged.sure_figures))
    for name, why in absent.items():
        show.say(f"{name}: {why}", style="dim")
    show.print_failures("left out", left_out)


def _table(figures: list[Figure]) -> Table:
    table = Table("measure", "value", "95 % interval", "clips", box=None, pad_edge=False, header_style="bold")
    for one in figures:
        interval = f"{one.low:.3f} to {one.high:.3f}" if one.low < one.high else ""
        value = f"{one.value:.0f}" if one.name == "vocabulary" else f"{one.value:.3f}"
        table.add_row(one.name, value, interval, str(one.count))
    return table
