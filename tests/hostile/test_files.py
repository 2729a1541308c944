"""Bad files through the real library with the real starter: each refused with a clear reason, or heard where it should.

Where each kind of hostile input is tried:

| input | test |
| --- | --- |
| empty, text, cut short, wrong sizes, NaN and Inf, 0 channels, bombs, mad rates | `zoo.REFUSED`, `DAMAGED`, here |
| clipped, silent, 1 sample, 24 and 64 channels, 1 and 384 kHz, beyond 1.0, anti-phase, names | `zoo.HEARD`, here |
| empty folder, fifos, sockets, loops, hard links, no permission | `test_places.py`, `tests/indexer/test_scan.py` |
| growing, shrinking, vanishing, replaced during the run; the clock | `test_places.py`, `tests/indexer/test_copies.py` |
| 3 h and 24 h files | `test_long.py` |
| disk full | `test_disk_full.py` |
| corrupt or lost ledger and memory, another version | `test_repair.py` |
| another bundle, a corrupt bundle | `test_bundles.py` |
| native crashes, hangs, gluts of memory in decoders | `test_isolation.py` |
| mutants of every container | `test_fuzz.py` |
| `--prune` of what only seems gone | `tests/indexer/test_tidy.py` |
| kills | `tests/e2e/test_kill.py` |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from earshot import Library
from indexer.ledger import FileRow
from indexer.paths import text_path
from indexer.report import IndexReport
from tests.hostile.zoo import DAMAGED, HEARD, REFUSED, write_zoo


@dataclass(frozen=True)
class Zoo:
    """What became of all files in one run."""

    folder: Path
    library: Library
    report: IndexReport
    failed: dict[Path, FileRow]
    found: dict[Path, float]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory):
    folder = write_zoo(tmp_path_factory.mktemp("zoo") / "sounds")
    with Library(folder.parent / "library", device="cpu") as library:
        report = library.index([folder])
        failed = {row.path: row for row in library.failed()}
        found = {
            text_path(path): moment.duration_s
            for moment in library.search(audio=folder / "good.wav", k=1000, min_relevance=0)
            for path in moment.paths
        }
        yield Zoo(folder, library, report, failed, found)


def test_the_run_goes_on_and_all_parts_agree(zoo: Zoo):
    assert (zoo.report.indexed, len(zoo.report.failed)) == (1 + len(HEARD) + len(DAMAGED), len(REFUSED))
    assert zoo.folder / "good.wav" in zoo.found
    zoo.library.check()
    again = zoo.library.index([zoo.folder])
    assert (again.indexed, again.failed, again.skipped_failed) == (0, [], len(REFUSED))


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_file_is_in_the_ledger_with_its_reason(zoo: Zoo, name: str):
    row = zoo.failed[zoo.folder / "refused" / name]
    found, expected, action = str(row.reason).split("; ", 2)
    assert found.startswith("found ")
    assert expected.startswith("expected ")
    assert action
    assert REFUSED[name][1] in found
    assert name not in str(row.reason), "copies share it"
    assert "Errno" not in str(row.reason)
    assert not row.transient
    assert row.path not in zoo.found


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_cut_short_is_heard_and_said(zoo: Zoo, name: str):
    path = zoo.folder / "damaged" / name
    remark = dict(zoo.library.damaged())[path]
    assert remark == "found only the first part; expected a whole file; copy it again, if there is a whole one"
    assert (str(path), remark) in zoo.report.damaged
    whole_s = 20.0 if name.rpartition(".")[2] in ("webm", "mka", "wma", "avi") else 6.0
    assert 0.2 * whole_s < zoo.found[path] < 0.8 * whole_s


@pytest.mark.parametrize("name", HEARD, ids=ascii)
def test_an_odd_file_is_heard(zoo: Zoo, name: str):
    path = zoo.folder / "heard" / name
    assert path in zoo.found
    assert path not in dict(zoo.library.damaged())
    if name == "data size too small.wav":
        assert zoo.found[path] == pytest.approx(0.5)
    elif not name.startswith("one sample"):
        assert zoo.found[path] == pytest.approx(1.0, abs=0.01)
