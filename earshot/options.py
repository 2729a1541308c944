"""What commands that open a library have in common: their options, and how they open it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from earshot import show

if TYPE_CHECKING:
    from earshot.library import Library


class DeviceChoice(StrEnum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


LibraryOption = Annotated[
    str | None,
    typer.Option(
        "--library",
        "-l",
        envvar="EARSHOT_LIBRARY",
        help="The library: a folder, or a server's URL. \\[default: your own]",
    ),
]
BundleOption = Annotated[
    str | None,
    typer.Option("--bundle", help="The model: name or folder. \\[default: the library's own, or starter]"),
]
DeviceOption = Annotated[DeviceChoice, typer.Option("--device", envvar="EARSHOT_DEVICE", help="Where the model runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@contextmanager
def open_library(
    folder: str | None, bundle: str | None = None, device: DeviceChoice = DeviceChoice.auto, create: bool = False
) -> Iterator[Library]:
    """The library for the time inside; a missing one is made only if that is asked for."""
    from earshot.library import Library

    with Library(folder, bundle=bundle, device=device.value, create=create) as library:
        yield library


def patience_s(as_json: bool) -> float:
    """How long a command that writes waits for another: until Ctrl-C where somebody watches."""
    from earshot.limits import WAIT_S

    return math.inf if show.err.is_terminal and not as_json else WAIT_S
