"""What the project promises, in one table; a benchmark that misses its promise fails.

The promises hold for two CPU cores of their own: on a busy machine a miss says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pytest_benchmark.fixture import BenchmarkFixture


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on a measured number: ``at_least`` it, or less than it."""

    what: str
    bound: float
    unit: str
    at_least: bool = False

    def met(self, measured: float) -> bool:
        """Whether the measured number keeps the promise."""
        return measured >= self.bound if self.at_least else measured < self.bound

    def wanted(self) -> str:
        """The bound in words."""
        return f"{'>=' if self.at_least else '<'} {self.bound:g} {self.unit}"


TARGETS = {
    "index rate": Target("index a mixed library, end to end, 2 cores", 150, "x real time", at_least=True),
    "index peak": Target("index a mixed library: peak RSS", 800, "MB"),
    "long rate": Target("index one file of 3 h, end to end, 2 cores", 150, "x real time", at_least=True),
    "long peak": Target("index one file of 3 h: peak RSS", 800, "MB"),
    "warm search": Target("words to hits at 100,000 windows, warm: p50", 15, "ms"),
    "cold search": Target("`earshot search` at 100,000 windows, cold: median", 1.5, "s"),
    "clap fp32": Target("CLAP, waveform to vector, fp32, against the faster peer", 1.6, "x", at_least=True),
    "clap int8": Target("CLAP, waveform to vector, int8, against the faster peer", 3, "x", at_least=True),
    "loader share": Target("loading, beside forward and backward of the starter's towers", 10, "%"),
    "clap text": Target("CLAP, words to vector, fp32, against the faster peer", 2, "x", at_least=True),
    "captions batch 1": Target("a caption by a GPT-2 base, 5 beams, against transformers", 2, "x", at_least=True),
    "captions batch 8": Target("8 captions by a GPT-2 base, 5 beams, against transformers", 1, "x", at_least=True),
    "audio tower": Target("the starter's audio tower, 8 windows, one core", 300, "x real time", at_least=True),
    "text tower": Target("the starter's text tower, one query, one core", 3, "ms"),
    "load": Target("loading one of the starter's towers, self-test included", 0.3, "s"),
    "caption": Target("a caption by the starter, from a window's vector", 60, "ms"),
    "projection": Target("a window projected onto 100,000 captions", 5, "ms"),
}


def judge(benchmark: BenchmarkFixture, measured: dict[str, float]) -> None:
    """Print target and measured side by side, keep them for the report, and fail the benchmark if one is missed."""
    if benchmark.disabled:
        return
    missed = []
    for name, value in measured.items():
        target = TARGETS[name]
        met = target.met(value)
        line = f"{'pass' if met else 'FAIL'}  {target.what}: {value:.4g} {target.unit}, target {target.wanted()}"
        print(f"\n{line}", end="")
        benchmark.extra_info.setdefault("targets", []).append(
            {"what": target.what, "target": target.wanted(), "measured": f"{value:.4g} {target.unit}", "met": met}
        )
        if not met:
            missed.append(line)
    print()
    if missed:
        pytest.fail("\n".join(missed), pytrace=False)
