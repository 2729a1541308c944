"""`earshot train finetune`: what it is told, and how it shows what it does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from earshot import show
from earshot.cli import EXIT_INTERRUPTED, STOPPED
from engine.errors import EarshotError
from trainer.settings import Settings, read_settings

if TYPE_CHECKING:
    from trainer.finetune import Report

EPILOG = (
    "Examples:\n\n  earshot train check sounds.jsonl\n\n  earshot train finetune --data sounds.jsonl --out run\n\n"
    "  earshot train finetune --data sounds.jsonl --unlabelled ~/Sounds --method composed --out run\n\n"
    "  earshot train finetune --data sounds.jsonl --languages all --le-ratio 0.4 --out run\n\n"
    "  earshot train finetune --config run.toml --out run\n\n"
    "Then:\n\n  earshot bundle export run --out mine\n\n  earshot eval starter mine --data sounds.jsonl --split val\n\n"
    "  earshot index ~/Sounds --bundle mine"
)
_DEFAULTS = Settings(data="")
_DETAILS = "Details"


def _told(text: str, name: str) -> str:
    """The help of an option, with the default that ``Settings`` has."""
    value = getattr(_DEFAULTS, name)
    shown = f"{value:g}" if isinstance(value, float) else ",".join(value) if isinstance(value, tuple) else value
    return f"{text} \\[default: {shown}]"


def _option(text: str, *flags: str, details: bool = True, default: str = "") -> Any:
    told = _told(text, default) if default else text
    return typer.Option(*flags, help=told, rich_help_panel=_DETAILS if details else None, show_default=False)


def finetune(
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder; the same command goes on there.")],
    data: Annotated[str | None, _option("Captioned sounds: see `earshot train check`.", details=False)] = None,
    base: Annotated[
        str | None, _option("A bundle of ours, a checkpoint, or a run.", details=False, default="base")
    ] = None,
    method: Annotated[
        str | None,
        _option("finetune; concatenate: mixtures of two; composed: sounds as words.", details=False, default="method"),
    ] = None,
    unlabelled: Annotated[str | None, _option("Sounds without captions, for composed.", details=False)] = None,
    held_out: Annotated[
        str | None, _option("A split to ask after epochs, never learnt from.", details=False, default="held_out")
    ] = None,
    config: Annotated[
        Path | None, _option("A TOML file of these settings; options given here go before it.", details=False)
    ] = None,
    languages: Annotated[
        str | None, _option("Captions in these come along: all, or fra,deu,…; English always does.", details=False)
    ] = None,
    translator: Annotated[
        str | None, _option("A translation model for captions that lack them: Hub name or folder.", details=False)
    ] = None,
    le_ratio: Annotated[
        float | None, _option("How often each of the languages comes along.", default="le_ratio")
    ] = None,
    captions: Annotated[str | None, _option("Of several in a language: one, or all.", default="captions")] = None,
    epochs: Annotated[int | None, _option("Times that clips are heard.", default="epochs")] = None,
    batch: Annotated[int | None, _option("Clips compared at once. \\[default: 256 at most, in equal batches]")] = None,
    rate: Annotated[float | None, _option("Learning rate of the towers.", default="rate")] = None,
    a2t_rate: Annotated[float | None, _option("Learning rate of the a2t module.", default="a2t_rate")] = None,
    warmup: Annotated[float | None, _option("Share of steps in which rates rise.", default="warmup")] = None,
    clip: Annotated[float | None, _option("Largest norm of a step's gradient.", default="clip")] = None,
    temperature: Annotated[float | None, _option("Of the contrast.", default="temperature")] = None,
    learn_temperature: Annotated[bool | None, _option("Learn it.", "--learn-temperature")] = None,
    prompt: Annotated[str | None, _option("Words before a sound's token.", default="prompt")] = None,
    dropout: Annotated[float | None, _option("In the a2t module.", default="dropout")] = None,
    patch_dropout: Annotated[
        float | None, _option("Of time and frequency, in towers with patches.", default="patch_dropout")
    ] = None,
    learn: Annotated[str | None, _option("The parts that change.", default="learn")] = None,
    precision: Annotated[str | None, _option("no: float32; bf16; fp16.", default="precision")] = None,
    seed: Annotated[int | None, _option("Of all chance.", default="seed")] = None,
    save_every: Annotated[int | None, _option("Steps between checkpoints.", default="save_every")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Teach both towers of a model your own sounds and captions; `bundle export` makes a bundle of the run.

    Three methods, on equal numbers of captioned clips. finetune: sounds against their captions. concatenate: also
    mixtures of two clips against both captions. composed: also sounds without captions (--unlabelled), which a module
    learns to turn into a word; then `earshot search --audio hum.wav "but with rain"` asks with both.

    Ctrl-C at any time loses nothing: the same command goes on where it stopped, with the same numbers. Several GPUs:
    accelerate launch -m earshot train finetune …. Needs the extra: pip install 'earshot\\[train]'.
    """
    from earshot.places import bundles_folder, expanded

    given = {name: value for name, value in locals().items() if name in Settings.__dataclass_fields__}
    given |= {name: value.split(",") for name in ("languages", "learn") if (value := given[name]) is not None}
    settings = read_settings(None if config is None else expanded(config), given)
    try:
        from trainer.finetune import finetune as run
    except ModuleNotFoundError as error:
        raise EarshotError(
            f"no {error.name} installed", "what training needs", "pip install 'earshot[train]'"
        ) from error
    with show.steps_progress(not as_json) as draw:
        report = run(settings, expanded(out), bundles=bundles_folder(), on_progress=draw)
    if int(os.environ.get("RANK", "0")):  # of several processes one tells
        return
    if as_json:
        show.print_json(report.to_dict())
    else:
        _print(report)
    if report.interrupted:
        show.remark(STOPPED, style="yellow")
        raise typer.Exit(EXIT_INTERRUPTED)


def _print(report: Report) -> None:
    show.print_failures("not heard", report.skipped, most=10)
    if report.problems:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(report.problems.items()))
        show.remark(f"left out of the data: {kinds}; `earshot train check` names them", style="yellow")
    if report.kept_out:
        show.remark(f"{report.kept_out} unlabelled sounds are clips that are not to be learnt from, and were left out")
    if report.spared:
        show.remark(f"{report.spared} pairs say the same and were not counted as wrong answers")
    if report.steps_skipped:
        remark = f"{report.steps_skipped} steps taught nothing: fp16 has no numbers for their gradients; bf16 has"
        show.remark(remark, style="yellow")
    losses = ", ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
    show.say(
        f"{report.steps} of {report.steps_planned} steps, {report.clips} clips with captions and {report.unlabelled} "
        f"without, {report.clips_per_s:g} clips/s; {losses}"
    )
    if report.steps == report.steps_planned:
        show.remark(f"curves: {report.out}/curve.svg; a bundle: earshot bundle export {report.out}")
