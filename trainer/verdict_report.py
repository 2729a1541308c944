"""A verdict on paper: JSON for programs, Markdown for people, and a plot. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from engine.errors import LibraryError
from trainer.verdict import Figure, Verdict

_ROW, _LEFT, _WIDTH, _RIGHT, _TOP = 26, 300, 420, 90, 54
_COLOURS = ("#1f6feb", "#d1242f")


def save(verdict: Verdict, folder: Path) -> list[Path]:
    """Write ``eval.json``, ``eval.md`` and ``eval.svg``, each whole or not at all. Raises ``LibraryError``."""
    pages = {
        "eval.json": json.dumps(verdict.to_dict(), ensure_ascii=False, indent=2) + "\n",
        "eval.md": markdown(verdict, "eval.svg"),
        "eval.svg": plot(verdict),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in pages.items():
            unfinished = folder / f"{name}.new"
            with unfinished.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(folder / name)
    except OSError as error:
        raise LibraryError(f"{folder}: {error.strerror}", "a folder to write in", "choose another --out") from error
    return [folder / name for name in pages]


def shown(figure: Figure) -> str:
    """A number with its interval: ranks are large, shares three digits."""
    digits = 1 if figure.measure == "median rank" else 3
    return f"{figure.value:.{digits}f} ({figure.low:.{digits}f} to {figure.high:.{digits}f})"


def shown_difference(figure: Figure) -> str:
    """A difference with its sign and interval; a star where the interval leaves out 0."""
    digits = 1 if figure.measure == "median rank" else 3
    star = " *" if figure.low > 0 or figure.high < 0 else ""
    return f"{figure.value:+.{digits}f} ({figure.low:+.{digits}f} to {figure.high:+.{digits}f}){star}"


def rows(verdict: Verdict) -> tuple[list[str], list[list[str]]]:
    """The table's heads and rows: a measure, its figure for each bundle, the difference of two, how many were asked."""
    heads = ["measure", *verdict.bundles, *(["difference"] if verdict.differences else []), "n"]
    table = []
    for number, figures in enumerate(zip(*verdict.bundles.values(), strict=True)):
        differences = [shown_difference(verdict.differences[number])] if verdict.differences else []
        table.append([figures[0].name, *map(shown, figures), *differences, str(figures[0].count)])
    return heads, table


def told(protocol: dict[str, Any]) -> list[tuple[str, str]]:
    """The protocol, a line each."""
    lines = []
    for key, value in protocol.items():
        if isinstance(value, dict):
            value = "; ".join(f"{inner}: {number}" for inner, number in value.items())
        lines.append((key.replace("_", " "), str(value)))
    return lines


def markdown(verdict: Verdict, picture: str) -> str:
    """The verdict as a page."""
    heads, table = rows(verdict)
    lines = ["# Evaluation", "", f"![the figures]({picture})", ""]
    lines += [_line(heads), _line(["---"] + ["---:"] * (len(heads) - 1)), *map(_line, table), ""]
    if verdict.differences:
        ours, theirs = verdict.bundles
        lines += [
            f"Differences are {theirs} less {ours}; * where the interval leaves out 0. Ranks: lower is better.",
            "",
        ]
    lines += ["## Protocol", "", *(f"- {key}: {value}" for key, value in told(verdict.protocol)), ""]
    if verdict.skipped:
        lines += ["## Left out", "", *(f"- {clip}: {reason}" for clip, reason in verdict.skipped), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def plot(verdict: Verdict) -> str:
    """Every share as a dot with its interval, a row a measure, a colour a bundle; an SVG. Ranks are no shares."""
    names = list(verdict.bundles)
    lined = [f for f in zip(*verdict.bundles.values(), strict=True) if f[0].measure != "median rank"]
    height = _TOP + _ROW * len(lined) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + _RIGHT}" height="{height}" '
        f'font-family="sans-serif" font-size="13" fill="#57606a">'
    ]
    for number, name in enumerate(names):
        parts.append(f'<circle cx="{_LEFT + 8}" cy="{16 + 16 * number}" r="4" fill="{_COLOURS[number]}"/>')
        parts.append(f'<text x="{_LEFT + 20}" y="{20 + 16 * number}">{escape(name)}</text>')
    for tenth in range(0, 11, 2):
        x = _LEFT + _WIDTH * tenth / 10
        parts.append(f'<line x1="{x:g}" x2="{x:g}" y1="{_TOP}" y2="{height - 26}" stroke="#8c959f" opacity="0.35"/>')
        parts.append(f'<text x="{x:g}" y="{height - 8}" text-anchor="middle">{tenth / 10:g}</text>')
    for row, figures in enumerate(lined):
        middle = _TOP + _ROW * row + _ROW / 2
        parts.append(f'<text x="{_LEFT - 12}" y="{middle + 4:g}" text-anchor="end">{escape(figures[0].name)}</text>')
        for number, figure in enumerate(figures):
            parts += _dot(figure, middle + 7 * (number - (len(figures) - 1) / 2), _COLOURS[number])
    return "\n".join([*parts, "</svg>", ""])


def _dot(figure: Figure, y: float, colour: str) -> list[str]:
    low, value, high = (_LEFT + _WIDTH * number for number in (figure.low, figure.value, figure.high))
    return [
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:g}" y2="{y:g}" stroke="{colour}" stroke-width="2"/>',
        f'<circle cx="{value:.1f}" cy="{y:g}" r="4" fill="{colour}"><title>{figure.value:.3f}</title></circle>',
    ]
