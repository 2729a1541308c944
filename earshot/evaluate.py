"""`earshot eval …`: how well bundles find, and what is said of sounds, on data whose answers are known. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    from trainer.examples import Example, Problem
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
    from earshot.places import expanded, make_folder
    from trainer.manifest import read_data
    from trainer.probe import LEARNT
    from trainer.repeats import apart
    from trainer.verdict import chosen, judge

    if len(bundles) > 2:
        raise typer.BadParameter("one bundle, or two to compare")
    if finetune and not (probe and out):
        raise typer.BadParameter("expected --probe, and --out to keep the work in", param_hint="--finetune")
    if "{}" not in prompt:
        raise typer.BadParameter("expected {} where the tag is to stand", param_hint="--prompt")
    if out:
        make_folder(expanded(out))  # before hours of work, not after
    encoders = _encoders(bundles)
    read = read_data(expanded(data))
    examples, split = chosen(read.examples, split)
    others = [example for example in read.examples if split not in (example.split, "all")]
    examples, others, twice = apart(examples, others)
    learnt = [example for example in others if example.split in LEARNT]
    with _progress(len(examples) + probe * len(learnt), not as_json) as draw:
        classify = _classifying(expanded(out), dict(zip(encoders, bundles, strict=True))) if finetune and out else None
        verdict = judge(encoders, examples, prompt, draw, learnt if probe else None, classify)
    told = _left_out(read.problems, twice) | _learnt_from(examples)
    verdict.protocol = {"data": str(data), "split": split} | verdict.protocol | told
    if probe:
        verdict.protocol["probe"] = (
            f"logistic regression, learnt from {len(learnt) or 'the other folds of these'} clips"
        )
    _tell(verdict, out, as_json)
    if verdict.skipped:
        raise typer.Exit(EXIT_FAILED_FILES)


def _left_out(problems: Sequence[Problem], twice: int) -> dict[str, Any]:
    """What the data say that isn't asked, and sounds on two splits, for the protocol; the first is said at once."""
    found: dict[str, Any] = {}
    if problems:
        kinds = found["left_out"] = dict(sorted(Counter(problem.kind for problem in problems).items()))
        told = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        show.remark(f"left out of the data: {told}; `earshot train check` names them", style="yellow")
    if twice:
        found["on_two_splits"] = f"{twice} sounds, asked about once, and kept from the probe"
    return found


def _learnt_from(asked: Sequence[Example]) -> dict[str, str]:
    """That what is asked is what runs learn from, for the protocol; said at once, too."""
    from trainer.probe import LEARNT

    count = sum(example.split in LEARNT for example in asked)
    if not count:
        return {}
    told = f"{show.many(count, 'clip')} asked about, of a split that `earshot train finetune` learns from"
    show.remark(f"{told}: of a bundle that was taught them, this says nothing; hold some out", style="yellow")
    return {"remark_on_the_split": told}


def _classifying(out: Path, bundles: Mapping[str, str]) -> Callable[[str, Lesson], Floats]:
    """Who teaches audio towers, by what they are called here; says each epoch, for it takes long."""
    from earshot.places import bundles_folder

    try:
        from trainer.classify import Classifying
    except ModuleNotFoundError as error:
        raise BundleError(
            f"no {error.name} installed", "what teaching needs", "pip install 'earshot[train]'"
        ) from error

    def told(name: str, done: int, of: int) -> None:
        show.remark(f"{name} has learnt {done}/{of} epochs")

    classifying = Classifying(out / "work", bundles_folder(), on_epoch=told)
    return lambda called, lesson: classifying(bundles[called], lesson)


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
    for path in save(verdict, expanded(out)) if out else ():  # last: a full disk takes away no figures
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
