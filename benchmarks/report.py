"""The figures of runs as Markdown: ``python -m benchmarks.report FIGURES.json… [docs/benchmarks.md]``.

``FIGURES.json`` is what ``pytest benchmarks --benchmark-enable --benchmark-json=FIGURES.json`` writes. Of several runs
of one machine, the later take the place of the earlier where they measured the same, and the report says which.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HEAD = """# Benchmarks

Made by `make bench`; nothing here is written by hand. Times are of one call: the median of all rounds, and the range.
"""
TITLES = {
    "bench_caption": "Captions, and projection onto 100,000 of them",
    "bench_copy": "Copying a library of 40,000 windows",
    "bench_cuda": "Encoding on a card, against torch eager and compiled",
    "bench_decode": "Decoding in processes, and in threads",
    "bench_encode": "Encoding: the starter's towers on one core, a published CLAP against its libraries",
    "bench_index": "Indexing a folder, end to end",
    "bench_loader": "Loading clips to train on",
    "bench_memory": "The embedded memory at 100,000 windows",
    "bench_moments": "Moments",
    "bench_search": "From words or a sound to hits, at 100,000 windows",
    "bench_sharing": "Searching 40,000 windows that another process holds",
    "bench_upload": "Writing points: the embedded memory, and this side of a server",
}


def report(*runs: dict[str, Any]) -> str:
    """The Markdown of pytest-benchmark's JSON: machine, targets, then a table for each file of benchmarks.

    Of a row that several runs have, the last is told; and of a run, as long as it has such rows.

    Raises ``ValueError`` where runs are of different machines or libraries.
    """
    if any(run["machine_info"] != runs[0]["machine_info"] for run in runs):
        raise ValueError("found runs of different machines or libraries, expected those of one")
    latest = {one["fullname"]: (number, one) for number, run in enumerate(runs) for one in run["benchmarks"]}
    benchmarks = sorted((one for _, one in latest.values()), key=_file)
    parts = [HEAD, machine(runs[0])]
    for number, run in enumerate(runs[1:], 1):
        if held := [one for last, one in latest.values() if last == number]:
            files = ", ".join(f"`{name}`" for name in dict.fromkeys(map(_file, held)))
            rows = "1 row" if len(held) == 1 else f"{len(held)} rows"
            parts.append(f"Measured again by a later run ({_when(run)}): {rows} of {files}.\n")
    if promised := targets(benchmarks):
        parts += ["## Targets\n", promised]
    for file in dict.fromkeys(_file(one) for one in benchmarks):
        parts += [f"## {TITLES.get(file, file)}\n", times(one for one in benchmarks if _file(one) == file)]
    return "\n".join(parts)


def machine(figures: dict[str, Any]) -> str:
    """Date, processor, cores, Python and libraries."""
    info = figures["machine_info"]
    cpu = info.get("cpu", {}).get("brand_raw") or info.get("processor") or info.get("machine", "unknown")
    python = f"{info.get('python_implementation', 'Python')} {info.get('python_version', '')}"
    libraries = ", ".join(f"{name} {number}" for name, number in info.get("libraries", {}).items())
    rows = [
        ("Date", _when(figures)),
        ("Processor", f"{' '.join(cpu.split())}, {info.get('cores', '?')} cores"),
        ("System", f"{info.get('system', '')} {info.get('machine', '')}"),
        ("Python", python),
        ("Libraries", libraries),
    ]
    return table(("", ""), rows)


def targets(benchmarks: Sequence[dict[str, Any]]) -> str:
    """Promise and figure side by side; empty where no benchmark had one."""
    judged = [(benchmark, one) for benchmark in benchmarks for one in benchmark["extra_info"].get("targets", ())]
    times = Counter(one["what"] for _, one in judged)
    rows = [
        (
            one["what"] + (f" [{benchmark['param']}]" if times[one["what"]] > 1 and benchmark.get("param") else ""),
            one["target"],
            one["measured"],
            "yes" if one["met"] else "**no**",
        )
        for benchmark, one in judged
    ]
    return table(("what", "target", "measured", "met"), rows) if rows else ""


def times(benchmarks: Iterable[dict[str, Any]]) -> str:
    """A row for each benchmark: name, median, range, rounds, and what else it found."""
    rows = []
    for one in benchmarks:
        stats = one["stats"]
        spread = f"{seconds(stats['min'])} to {seconds(stats['max'])}" if stats["rounds"] > 1 else ""
        more = "; ".join(f"{key} {_plain(value)}" for key, value in one["extra_info"].items() if key != "targets")
        name = one["name"].removeprefix("test_").replace("_", " ")
        rows.append((name, seconds(stats["median"]), spread, str(stats["rounds"]), more))
    return table(("what", "median", "range", "rounds", "more"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines)


def seconds(value: float) -> str:
    """A time in the unit that suits it, three digits: 0.0123 -> ``12.3 ms``."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1000 * size else f"{value:.0f} {unit}"
    return f"{value / 1e-6:.3g} µs"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return " / ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _file(benchmark: dict[str, Any]) -> str:
    """``benchmarks/bench_index.py::test_x`` -> ``bench_index``."""
    return Path(str(benchmark["fullname"]).split("::")[0]).stem


def _when(figures: dict[str, Any]) -> str:
    """Day and minute of a run: ``2026-11-21 15:26``."""
    return str(figures["datetime"])[:16].replace("T", " ")


def main(arguments: Sequence[str]) -> None:
    """Read the figures; write the report to a last path that is no JSON, or print it."""
    *runs, out = map(Path, arguments)
    if out.suffix == ".json":
        runs.append(out)
    text = report(*(json.loads(run.read_text(encoding="utf-8")) for run in runs))
    if out.suffix == ".json":
        print(text)
    else:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
