"""Every documented command exists, and every command and option is documented."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import typer

import earshot
from earshot.cli import app

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def commands() -> dict[str, click.Command]:
    """Every leaf command by its words, such as ``bundle list``."""
    found: dict[str, click.Command] = {}

    def walk(name: str, command: click.Command) -> None:
        children = getattr(command, "commands", None)
        if children is None:
            found[name] = command
            return
        for child, inner in children.items():
            walk(f"{name} {child}".strip(), inner)

    walk("", typer.main.get_command(app))
    return found


COMMANDS = commands()


def section(command: str) -> str:
    match = re.search(rf"^## `earshot {command}\b.*?(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert match, f"docs/commands.md has no section on `earshot {command}`"
    return match[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str):
    text = section(name)
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option) or parameter.param_type_name == "option":
            for flag in [max(parameter.opts, key=len)]:
                assert f"`{flag}" in text, f"`earshot {name}`: {flag} is not documented"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str):
    command = COMMANDS[name]
    assert command.help
    assert f"earshot {name}" in (command.epilog or "")


@pytest.mark.parametrize("document", ["README.md", "docs/commands.md", "docs/guide.md", "docs/operations.md"])
def test_every_documented_command_exists(document: str):
    path = ROOT / document
    if not path.exists():
        pytest.skip(f"{document} comes with a later release")
    for words in re.findall(r"^(?:\$ )?earshot ([a-z]+(?: [a-z]+)?)", path.read_text(encoding="utf-8"), re.MULTILINE):
        first = words.split(" ")[0]
        assert words in COMMANDS or first in COMMANDS, f"{document} names `earshot {words}`, which does not exist"


@pytest.mark.parametrize("name", earshot.__all__)
def test_public_names_exist_and_are_documented(name: str):
    value = getattr(earshot, name)
    assert value
    if name != "__version__":
        assert value.__doc__
        members = [member for key, member in vars(value).items() if not key.startswith("_") and callable(member)]
        assert all(member.__doc__ for member in members)
        assert f"{name}" in (ROOT / "docs" / "guide.md").read_text(encoding="utf-8") + REFERENCE


def test_the_version_has_one_value():
    assert f'version = "{earshot.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"## [{earshot.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
