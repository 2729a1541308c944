"""Every documented command exists, and every command and option is documented."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import typer

import earshot
from earshot.commands import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
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


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_documented_command_exists(document: str):
    text = (ROOT / document).read_text(encoding="utf-8")
    for words in re.findall(r"^(?:\$ )?earshot ([a-z]+(?: [a-z-]+)?)", text, re.MULTILINE):
        first = words.split(" ")[0]
        known = words in COMMANDS or first in (*COMMANDS, "eval")
        assert known, f"{document} names `earshot {words}`, which does not exist"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_relative_link_leads_somewhere(document: str):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    for link in links:
        if not re.match(r"[a-z]+:|#", link):
            assert ((ROOT / document).parent / link.partition("#")[0]).exists(), f"{document} links to {link}"


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
