"""`earshot eval …`: how well bundles find, and what is said of sounds, on data whose answers are known. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from typer.core import TyperGroup

from earshot import show
from engine.errors import BundleError

if TYPE_CHECKING:
    from engine.encoders import Encoders
    from trainer.metrics import Floats
    from trainer.verdict import Lesson, Verdict

EXIT_FAILED_FILES = 3
#: What `earshot eval BUNDLE` is short for.
_DEFAULT = "bundle"


class _Eval(TyperGroup):
    """The commands; what is none of them is what ``_DEFAULT`` is asked to do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the command line."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


eval_app = typer.Typer(
    cls=_Eval,
    help="How well bundles answer where the answers are known. `eval BUNDLE …` is short for `eval bundle BUNDLE …`.",
    no_args_is_help=True,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@eval_app.command(
    _DEFAULT,
    epilog="Examples:\n\n  earshot eval bundle starter --data captions.csv\n\n"
    "  earshot eval starter ./finetuned --data ~/clotho --split evaluation --out verdict",
)
def evaluate(
    bundles: Annotated[list[str], typer.Argument(help="One bundle, or two to compare: names or folders.")],
    data: Annotated[
        Path, typer.Option("--data", "-d", help="A manifest or folder, see docs/training-data.md.", readable=False)
    ],
    split: Annotated[
        str | None, typer.Option("--split", help="Which split to ask about. \\[default: test, or what comes nearest]")
    ] = None,
    prompt: Annotated[
        str, typer.Option("--prompt", help="What a tag is put into, such as 'this is a sound of {}'.")
    ] = "{}",
    probe: Annotated[
        bool, typer.Option("--probe", help="Also learn the tags from split train, or fold by fold, by a linear probe.")
    ] = False,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="With --probe: also teach the whole audio tower, which takes long.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder for eval.json, eval.md and eval.svg.", readable=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask bundles for sounds by their captions, for captions by their sounds, and for tags; with 95 % intervals.

    R@1, R@5, R@10, mAP@10 and median rank in every language of the captions; accuracy and mAP of the tags. Two bundles
    are compared on the same clips. The protocol is part of the answer. Exit status 3: clips that can't be heard were
    left out.
    """
    from earshot.places import expanded
    from trainer.manifest import read_data
    from trainer.probe import LEARNT
    from trainer.verdict import chosen, judge

    if len(bundles) > 2:
        raise typer.BadParameter("one bundle, or two to compare")
    if finetune and not (probe and out):
        raise typer.BadParameter("expected --probe, and --out to keep the work in", param_hint="--finetune")
    if "{}" not in prompt:
        raise typer.BadParameter("expected {} where the tag is to stand", param_hint="--prompt")
    encoders = _encoders(bundles)
    there = read_data(expanded(data)).examples
    examples, split = chosen(there, split)
    learnt = [example for example in there if example.split in LEARNT and split not in (example.split, "all")]
    with _progress(len(examples) + probe * len(learnt), not as_json) as draw:
        classify = _classifying(expanded(out)) if finetune and out is not None else None
        verdict = judge(encoders, examples, prompt, draw, learnt if probe else None, classify)
    verdict.protocol = {"data": str(data), "split": split} | verdict.protocol
    if probe:
        verdict.protocol["probe"] = (
            f"logistic regression, learnt from {len(learnt) or 'the other folds of these'} clips"
        )
    _tell(verdict, out, as_json)
    if verdict.skipped:
        raise typer.Exit(EXIT_FAILED_FILES)


def _classifying(out: Path) -> Callable[[str, Lesson], Floats]:
    """Who teaches audio towers; says each epoch, for it takes long."""
    from earshot.places import bundles_folder

    try:
        from trainer.classify import Classifying
    except ModuleNotFoundError as error:
        raise BundleError(
            f"no {error.name} installed", "what teaching needs", "pip install 'earshot[train]'"
        ) from error

    def told(name: str, done: int, of: int) -> None:
        show.remark(f"{name} has learnt {done}/{of} epochs")

    classify: Callable[[str, Lesson], Floats] = Classifying(out / "work", bundles_folder(), on_epoch=told)
    return classify


def _encoders(names: list[str]) -> dict[str, Encoders]:
    """The towers by the bundles' names; of one that is named twice both are asked, which shows that nothing differs."""
    from earshot.models import load_encoders

    found: dict[str, Encoders] = {}
    for name in names:
        found[name if name not in found else f"{name} again"] = load_encoders(name, "auto")
    return found


def _tell(verdict: Verdict, out: Path | None, as_json: bool) -> None:
    from earshot.places import expanded
    from trainer.verdict_report import rows, save, told

    saved = save(verdict, expanded(out)) if out is not None else []
    if as_json:
        show.print_json(verdict.to_dict())
    else:
        heads, lines = rows(verdict)
        table = Table(*heads, box=None, pad_edge=False, header_style="bold")
        for line in lines:
            table.add_row(*map(show.printable, line))
        show.out.print(table)
        for key, value in told(verdict.protocol):
            show.say(f"{key}: {value}", style="dim")
    for path in saved:
        show.remark(f"written: {path}")
    show.print_failures("left out", verdict.skipped)


@contextmanager
def _progress(clips: int, is_shown: bool) -> Iterator[Callable[[str, int], None]]:
    """One live line on stderr: which bundle hears, and how many clips it has heard."""
    if not (is_shown and show.err.is_terminal):
        yield lambda _, __: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24))
    with Progress(*columns, console=show.err, transient=True) as bar:
        task = bar.add_task("reading", total=clips)
        yield lambda name, done: bar.update(task, description=f"{name} hears {done}/{clips} clips", completed=done)
