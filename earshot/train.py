"""`earshot train …`: teach a model your own sounds. What learns needs torch, which is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from engine.errors import EarshotError

train_app = typer.Typer(help="Teach a model your own sounds and words.", no_args_is_help=True)


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
    raise NotImplementedError
