"""What a run has logged, as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.cache import write_atomic

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 320, 60, 170, 20, 36
_LOSSES = {"total", "captions", "a2t", "composed", "concatenated"}
_COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#8250df", "#9a6700")


class Curve:
    """Rows of figures in a file, a JSON object a line; those after the step a run goes on from are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        there = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self.rows: list[dict[str, Any]] = [row for row in map(_row, there) if row and row["step"] <= step]

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row; ``write`` puts it on the disk."""
        self.rows.append(dict(row))

    def write(self) -> None:
        """All rows, and ``.svg`` beside them."""
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_atomic(self._path, lambda draft: draft.write_text(lines, encoding="utf-8"))
        picture = drawn(self.rows)
        write_atomic(self._path.with_suffix(".svg"), lambda draft: draft.write_text(picture, encoding="utf-8"))


def drawn(rows: Sequence[Mapping[str, Any]]) -> str:
    """An SVG: losses over steps, a line each; retrieval on the split held out, dashed, from 0 to 1."""
    losses = sorted({name for row in rows for name in row} & _LOSSES)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#57606a">',
        f'<path d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}" fill="none" stroke="#8c959f"/>',
    ]
    points = {name: [(row["step"], float(row[name])) for row in rows if name in row] for name in losses}
    shares = {name: [(row["step"], float(row[name])) for row in rows if name in row] for name in _measures(rows)}
    most = max((value for line in points.values() for _, value in line), default=1.0) or 1.0
    last = max((row["step"] for row in rows), default=1) or 1
    for y, value in ((_TOP, most), (_HEIGHT - _BOTTOM, 0.0)):
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.3g}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 14}" text-anchor="end">step {last}</text>')
    lines = [(name, line, most, "") for name, line in points.items()]
    lines += [(name, line, 1.0, ' stroke-dasharray="4 3"') for name, line in shares.items()]
    for number, (name, line, top, dash) in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{_x(step, last):.1f},{_y(value, top):.1f}" for step, value in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>')
        told = f"{name} {line[-1][1]:.3g}" if line else name
        parts.append(f'<text x="{_WIDTH - _RIGHT + 12}" y="{_TOP + 16 * number + 4}" fill="{colour}">{told}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _measures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({name for row in rows for name in row if name.endswith("R@1")})


def _x(step: int, last: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last


def _y(value: float, most: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / most


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "step" in row else None
