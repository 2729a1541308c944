"""`earshot train …`: teach a model your own sounds. What learns needs torch, which is imported when it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earshot import show
from earshot.captioner_training import EPILOG as CAPTIONER_EXAMPLES
from earshot.captioner_training import captioner
from earshot.cli import EXIT_FAILED_FILES
from earshot.finetuning import EPILOG as FINETUNE_EXAMPLES
from earshot.finetuning import finetune
from engine.errors import EarshotError

if TYPE_CHECKING:
    from trainer.check import CheckReport

_STORY = (
    "Teach a model your own sounds and words.\n\n"
    "A table says what some of your sounds are. `check` says what is wrong with it; `finetune` teaches a model both "
    "its towers, also from sounds that nobody has described, and goes on where it was stopped. Of the run `bundle "
    "export` makes a bundle; `eval` compares it with the one before, on clips that it has not learnt from. `index "
    "--bundle` hears the library anew, beside the old answers, and `library rollback` goes back. `captioner` "
    "teaches a bundle to put sounds into words, from words alone. Needs: pip install 'earshot\\[train]'."
)
train_app = typer.Typer(
    help=_STORY,
    epilog="From a table to a better search:\n\n  earshot train check sounds.csv\n\n"
    "  earshot train finetune --data sounds.csv --unlabelled ~/Sounds --method composed --out run\n\n"
    "  earshot bundle export run --out mine\n\n"
    "  earshot eval starter mine --data sounds.csv --split val\n\n"
    "  earshot index ~/Sounds --bundle mine\n\n"
    "  earshot search --audio hum.wav 'but with rain'\n\n"
    "Not better after all:\n\n  earshot library rollback",
    no_args_is_help=True,
)


@contextmanager
def trainer_extra() -> Iterator[None]:
    """Say which extra is missing, where one is."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise EarshotError(
            f"no {error.name} installed", "what training needs", "pip install 'earshot[train]'"
        ) from error


@train_app.command(
    epilog="Examples:\n\n  earshot train check sounds.jsonl\n\n  earshot train check ~/data/clotho --json"
)
def check(
    manifest: Annotated[
        Path, typer.Argument(help="A manifest (JSONL, CSV), a folder, WebDataset shards, or a published data set.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what is wrong with training data, line by line, before anything runs.

    Every sound is hashed and decoded. Exit status: 0 nothing is wrong, 3 something is, 1 it can't be read.
    """
    from earshot.places import expanded

    with trainer_extra():
        from trainer.check import check as check_data

        with show.steps_progress(not as_json) as draw:
            report = check_data(expanded(manifest), draw)
    if as_json:
        show.print_json(report.to_dict())
    else:
        print_check(report)
    if report.problems:
        raise typer.Exit(EXIT_FAILED_FILES)


train_app.command(epilog=FINETUNE_EXAMPLES)(finetune)
train_app.command(epilog=CAPTIONER_EXAMPLES)(captioner)


def print_check(report: CheckReport) -> None:
    """The problems, each with its line; then what there is to learn from."""
    for problem in report.problems:
        show.say(str(problem), style="red")
    if report.problems:
        kinds = Counter(problem.kind for problem in report.problems)
        show.say(f"problems  {', '.join(f'{kind} {count}' for kind, count in kinds.most_common())}", style="red")
    facts = {
        "read as": report.layout,
        "clips": f"{report.clips}, {report.labelled} of them with captions, {report.hours:.2f} h",
        "captions": _counts(report.captions),
        "splits": _counts(report.splits),
        "ignored": ", ".join(report.ignored),
    }
    for name, value in facts.items():
        if value:
            show.say(f"{name:>8}  {value}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
