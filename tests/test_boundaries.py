"""The run time stands on its own: no torch, and no import of what a command does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from earshot.demo import write_sounds

BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "sentence_transformers", "onnx", "onnxscript"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
from earshot import Library
with Library(sys.argv[1]) as library:
    report = library.index([sys.argv[2]])
    found = library.search("a siren", k=3, min_relevance=0)
    like = library.search(audio=sys.argv[2] + "/alarms/siren_wail.wav", k=1, min_relevance=0)
import json
print(json.dumps([report.indexed, len(report.failed), len(found), like[0].path]))
"""


def test_indexing_and_searching_need_no_torch(tmp_path: Path):
    made = write_sounds(tmp_path / "sounds")
    command = [sys.executable, "-c", BLOCKED, str(tmp_path / "library"), str(tmp_path / "sounds")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    indexed, failed, found, like = json.loads(result.stdout)
    assert (indexed, failed, found) == (len(made), 0, 3)
    assert like.endswith("siren_wail.wav")


EVALUATED = (
    BLOCKED.partition("from earshot")[0]
    + """
from earshot.commands import app
app(["eval", "starter", "--data", sys.argv[1], "--json"])
"""
)


def test_evaluating_needs_no_torch(tmp_path: Path):
    write_sounds(tmp_path / "sounds")
    rows = [
        {"audio": f"sounds/alarms/{name}.wav", "captions": [name.replace("_", " ")], "tags": [name]}
        for name in ("siren_wail", "doorbell_ding_dong")
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = subprocess.run([sys.executable, "-c", EVALUATED, str(data)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["protocol"]["clips"] == 2
    assert {figure["task"] for figure in told["bundles"]["starter"]} == {"text-to-audio", "audio-to-text", "zero-shot"}


CAPTIONED = BLOCKED.partition("from earshot")[0] + "from earshot.commands import app\napp(sys.argv[1:])\n"


def test_captioning_needs_no_torch(tmp_path: Path):
    write_sounds(tmp_path / "sounds")
    words = ["caption", str(tmp_path / "sounds" / "alarms"), "--json", "--library", str(tmp_path / "none")]
    result = subprocess.run([sys.executable, "-c", CAPTIONED, *words], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert len(told) == len(list((tmp_path / "sounds" / "alarms").iterdir()))
    assert all(moment["caption"] and moment["evidence"] for one in told for moment in one["moments"])


def test_help_imports_neither_the_model_nor_the_store():
    code = (
        "import sys, earshot.commands; "
        "print([m for m in ('onnxruntime', 'qdrant_edge', 'av', 'soundfile', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
