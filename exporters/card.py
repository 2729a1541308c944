"""The model card: written from the manifest's own figures, so that the two can't disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def card(manifest: Mapping[str, Any], folder: Path) -> str:
    """The text of ``README.md`` for a bundle whose other files already lie in ``folder``."""
    audio, text, counts = manifest["audio"], manifest["text"], manifest["parameters"]
    told = [path for path in sorted(folder.iterdir()) if path.suffix in {".onnx", ".json"} or path.name == "memory.npz"]
    sizes = {path.name: path.stat().st_size for path in told}
    sizes.pop("manifest.json", None)
    parts = [
        f"# {manifest['name']}: sound and words in one space",
        f"Space `{manifest['space_id']}`, {manifest['dim']} dimensions, licence {manifest.get('licence', 'unknown')}.",
        manifest.get("summary", ""),
        "## What goes in",
        f"- **audio**: mono, {audio['sample_rate_hz']} Hz, windows of {audio['window_s']} s every {audio['hop_s']} s, "
        f"padded by `{audio['pad']}`; log-mels are computed inside the graph.\n"
        f"- **text**: {', '.join(text['languages'])}; at most {text['max_tokens']} pieces; case and accents "
        "don't matter.",
        "## How well it hears",
        manifest.get("protocol", ""),
        _scores(manifest.get("scores", [])),
        "Relevance is a logistic curve of the cosine, fitted on training clips held out by source:",
        _table(
            ("query", "slope", "intercept", "cutoff"),
            [(k, *map(_short, v.values())) for k, v in manifest["calibration"].items()],
        ),
        _bullets(manifest.get("calibration_found", {})),
        *_captions(manifest.get("captions")),
        "## What it can't hear",
        _list(manifest.get("limits", [])),
        "## How it was made",
        _bullets(manifest.get("training", {})),
        *_composed(manifest.get("composed")),
        "## Size and parity",
        _table(
            ("part", "figure"),
            [(f"{name} parameters", f"{count:,}") for name, count in counts.items()]
            + [(name, f"{size / 1e6:.2f} MB") for name, size in sizes.items()]
            + [(name.replace("_", " "), f"{value:.1e}") for name, value in manifest["parity"].items()],
        ),
        "Parity is the largest difference over the probe inputs, as a share of the median distance between two "
        "vectors; *storage* is what rounding the weights cost, *graph* how far ONNX is from torch.",
        "## Credits",
        _list(manifest.get("credits", [])),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _composed(found: Mapping[str, Any] | None) -> list[str]:
    """How it learnt to read a sound among words: only where it did."""
    if not found:
        return []
    base, how = found["base"], {name: value for name, value in found.items() if name != "base"}
    told = f"`compose.onnx` was trained upon `{base}` by `earshot train finetune`; all else is as it was there."
    return ["## Words with a sound", told, _bullets(how)]


def _captions(found: Mapping[str, Any] | None) -> list[str]:
    """What it says of sounds: only where it was given something to say it with."""
    if not found:
        return []
    told = ["## What it says of sounds", _bullets(found["facts"])]
    return [*told, found["protocol"], _scores(found["scores"])] if found.get("scores") else told


def _scores(scores: Sequence[Mapping[str, Any]]) -> str:
    if not scores:
        return "Not judged yet."
    rows = [(s["name"], f"{s['value']:.3f}", f"{s['low']:.3f} to {s['high']:.3f}", str(s["count"])) for s in scores]
    return _table(("measure", "value", "95 % interval", "n"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _bullets(facts: Mapping[str, Any]) -> str:
    return _list([f"**{name.replace('_', ' ')}**: {_short(value)}" for name, value in facts.items()])


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
