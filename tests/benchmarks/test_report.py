"""What the benchmarks promise and how their figures are told; no figure is asserted here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.report import main, report, seconds
from benchmarks.targets import TARGETS, judge

STATS = {"min": 0.001, "max": 0.5, "median": 0.0123, "rounds": 7}
FIGURES: dict[str, Any] = {
    "datetime": "2031-02-03T04:05:06+00:00",
    "machine_info": {
        "node": "secret-host",
        "cpu": {"brand_raw": "Some  CPU"},
        "cores": 2,
        "python_version": "3.12.1",
        "libraries": {"numpy": "2.0"},
    },
    "benchmarks": [
        {
            "name": "test_cold_search[a|b]",
            "fullname": "benchmarks/bench_search.py::test_cold_search[a|b]",
            "stats": STATS,
            "extra_info": {
                "p50_ms": 4.97123,
                "targets": [{"what": "search", "target": "< 1.5 s", "measured": "2 s", "met": False}],
            },
        },
        {
            "name": "test_new",
            "fullname": "benchmarks/bench_new.py::test_new",
            "stats": STATS | {"rounds": 1},
            "extra_info": {"step": {"peak": 1, "s": [1, 2]}},
        },
    ],
}


def test_the_report_tells_machine_targets_and_times() -> None:
    text = report(FIGURES)
    for line in (
        "| Date | 2031-02-03 04:05 |",
        "| Processor | Some CPU, 2 cores |",
        "| Libraries | numpy 2.0 |",
        "| search | < 1.5 s | 2 s | **no** |",
        r"| cold search[a\|b] | 12.3 ms | 1 ms to 500 ms | 7 | p50_ms 4.971 |",
        "| new | 12.3 ms |  | 1 | step peak 1, s 1 / 2 |",
    ):
        assert line in text.splitlines()
    assert "secret-host" not in text


def test_the_report_is_written_where_it_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "figures.json").write_text(json.dumps(FIGURES))
    main([str(tmp_path / "figures.json"), str(tmp_path / "x.md")])
    main([str(tmp_path / "figures.json")])
    assert (tmp_path / "x.md").read_text() == capsys.readouterr().out.removesuffix("\n") == report(FIGURES)


def test_a_later_run_replaces_what_it_measured_again_and_says_so() -> None:
    again = FIGURES["benchmarks"][1] | {"stats": STATS | {"rounds": 1, "median": 4.0}}
    text = report(FIGURES, FIGURES | {"datetime": "2031-02-04T05:06:07+00:00", "benchmarks": [again]})
    assert "| new | 4 s |  | 1 | step peak 1, s 1 / 2 |" in text
    assert text.count("| new |") == text.count("| cold search") == 1
    assert "Measured again by a later run (2031-02-04 05:06): 1 row of `bench_new`." in text
    with pytest.raises(ValueError, match="different machines"):
        report(FIGURES, FIGURES | {"machine_info": {}})


@pytest.mark.parametrize(
    ("value", "text"), [(5e-7, "0.5 µs"), (0.00123, "1.23 ms"), (0.9994, "999 ms"), (2.5, "2.5 s"), (4321, "4321 s")]
)
def test_times_stand_in_the_unit_that_suits(value: float, text: str) -> None:
    assert seconds(value) == text


def test_a_missed_target_fails_and_both_kinds_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark: Any = SimpleNamespace(disabled=False, extra_info={})
    judge(benchmark, {"index rate": 150.0, "warm search": 14.9})
    with pytest.raises(pytest.fail.Exception, match=r"FAIL .*150 x real time"):
        judge(benchmark, {"index rate": 149.0, "index peak": 799.0})
    assert [one["met"] for one in benchmark.extra_info["targets"]] == [True, True, False, True]
    assert capsys.readouterr().out.count("pass") == 3
    judge(SimpleNamespace(disabled=True, extra_info={}), {"index rate": 0.0})  # type: ignore[arg-type]


def test_the_targets_are_those_of_the_project() -> None:
    bounds = {name: target.wanted() for name, target in TARGETS.items()}
    assert bounds["index rate"] == ">= 150 x real time"
    assert bounds["warm search"] == "< 15 ms"
    assert bounds["cold search"] == "< 1.5 s"
    assert {bounds[name] for name in bounds if "peak" in name} == {"< 800 MB"}
