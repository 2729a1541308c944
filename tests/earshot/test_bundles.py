"""`earshot bundle …`, from a checkpoint to a search, and what is refused on the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from earshot.bundles import export, lines_of
from engine.audio import open_clip
from engine.bundle import open_bundle
from engine.encoders import OnnxEncoders
from tests.exporters import checkpoints
from tests.exporters.fake_hub import Hub, serving
from tests.sounds import noise, tone, write_sound

WORDS = "a dog barking"


class Shell:
    """Runs `earshot` in a process of its own, with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *arguments: str, status: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_", "EARSHOT_"))}
        ours |= {"HOME": str(self.home), "HF_HUB_OFFLINE": "1", "COLUMNS": "160", **settings}
        done = subprocess.run(
            [sys.executable, "-m", "earshot", *arguments], env=ours, cwd=self.home, capture_output=True, text=True
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_from_a_checkpoint_to_a_search(shell: Shell) -> None:
    """The scores of a search are the cosines of ``transformers``, as far as int8 can tell."""
    checkpoints.laion(shell.home / "clap")
    for name, samples in {"beep": tone(10.0, rate_hz=48_000, hz=1000), "hiss": noise(10.0, rate_hz=48_000)}.items():
        write_sound(shell.home / "sounds" / f"{name}.wav", samples, rate_hz=48_000)
    shell.run("bundle", "export", "clap", "--precision", "int8", "--out", "B")
    assert "ok clap@" in shell.run("bundle", "verify", "B").stdout
    shell.run("index", "sounds", "--library", "lib", "--bundle", "B")
    answer = shell.run("search", WORDS, "--library", "lib", "--json", "--device", "cpu")
    assert "relevance is not calibrated" in answer.stderr
    scores = {Path(found["path"]).stem: found["score"] for found in json.loads(answer.stdout)}

    model = ClapModel.from_pretrained(shell.home / "clap").eval()
    extractor = ClapFeatureExtractor.from_pretrained(shell.home / "clap")
    sounds = {path.stem: path for path in sorted((shell.home / "sounds").iterdir())}
    samples = [np.concatenate(list(open_clip(path, 48_000).blocks)) for path in sounds.values()]
    features = extractor(samples, sampling_rate=48_000, return_tensors="pt")
    words = AutoTokenizer.from_pretrained(shell.home / "clap")([WORDS], return_tensors="pt")
    with torch.inference_mode():
        both = model(**words, input_features=features["input_features"].float(), is_longer=features["is_longer"])
    wanted = dict(zip(sounds, (both.audio_embeds @ both.text_embeds.T)[:, 0].tolist(), strict=True))
    assert scores.keys() == wanted.keys()
    assert max(abs(scores[name] - wanted[name]) for name in wanted) < 0.05
    assert (scores["beep"] > scores["hiss"]) == (wanted["beep"] > wanted["hiss"])

    audio = OnnxEncoders(open_bundle(shell.home / "B"), "cpu", threads=1).audio
    quiet, loud = 1e-3 * samples[0], np.sign(samples[1])
    together = audio.encode_audio(np.stack([loud, quiet]).astype(np.float32))
    assert np.array_equal(together[1], audio.encode_audio(quiet[None])[0]), "int8 scales are shared with a neighbour"


def test_pull_registers_what_can_then_be_listed_verified_and_removed(shell: Shell) -> None:
    checkpoints.sentences(shell.home / "published")
    with serving(Hub("acme/sentences", shell.home / "published")) as hub:
        online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_HOME": str(shell.home / "hf")}
        pulled = shell.run("bundle", "pull", "acme/sentences", **online)
        assert "--bundle sentences" in pulled.stderr
    names = {row["name"]: row for row in json.loads(shell.run("bundle", "list", "--json").stdout)}
    assert names.keys() == {"starter", "sentences"}
    assert names["sentences"]["towers"] == ["text"]
    folder = Path(names["sentences"]["folder"])
    assert json.loads(shell.run("bundle", "info", "sentences", "--json").stdout)["retrieval_loss"] == "not measured"
    shell.run("bundle", "verify", "sentences")

    held = OnnxEncoders(open_bundle(folder), "cpu", threads=1)
    for command in (("remove", "sentences"), ("export", "published", "--out", str(folder))):
        assert "in use by another process" in shell.run("bundle", *command, status=1).stderr
    del held
    content = bytearray((folder / "text.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "text.onnx").write_bytes(content)
    assert "text.onnx with sha256" in shell.run("bundle", "verify", "sentences", status=1).stderr
    shutil.copytree(folder, folder.with_name(".sentences.old"))  # as a killed export leaves it
    assert "removed sentences" in shell.run("bundle", "remove", "sentences").stdout
    assert not list(folder.parent.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "nowhere"), "nothing at nowhere"),
        (("export", "empty"), "laion (CLAP"),
        (("export", "acme/none"), "HF_HUB_OFFLINE set"),
        (("pull", "empty"), "no name on the Hub"),
        (("verify", "nonsense"), "one of: starter"),
        (("info", "nonsense"), "one of: starter"),
        (("remove", "starter"), "stays"),
        (("remove", "nonsense"), "no registered bundle"),
    ],
)
def test_what_is_refused(shell: Shell, arguments: tuple[str, ...], message: str) -> None:
    (shell.home / "empty").mkdir()
    assert message in shell.run("bundle", *arguments, status=1).stderr


def test_a_bundle_that_the_engine_refuses_is_not_called_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = {"space_id": "same@0", "precision": "fp32", "refused": "a collapsed text tower"}
    monkeypatch.setattr("exporters.bundles.make_bundle", lambda *_, **__: (tmp_path / "b", manifest))
    export("source", out=tmp_path / "b", allow_collapsed=True)
    said = "".join(capfd.readouterr())
    assert "fp32, not checked: its towers are collapsed, the engine refuses it: " in said
    assert "--bundle" not in said


def test_a_folder_that_is_no_bundle_is_not_replaced(shell: Shell) -> None:
    checkpoints.sentences(shell.home / "source")
    (shell.home / "precious").mkdir()
    (shell.home / "precious" / "file").write_text("mine")
    assert "no bundle" in shell.run("bundle", "export", "source", "--out", "precious", status=1).stderr
    assert (shell.home / "precious" / "file").read_text() == "mine"


def test_a_broken_bundle_does_not_hide_the_others(shell: Shell) -> None:
    rows = json.loads(shell.run("bundle", "list", "--json").stdout)
    folder = Path(shell.home / ".local" / "share" / "earshot" / "bundles" / "broken")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    with_broken = json.loads(shell.run("bundle", "list", "--json").stdout)
    assert [row for row in with_broken if row["name"] == "starter"] == rows
    assert "JSON manifest" in next(row["problem"] for row in with_broken if row["name"] == "broken")
    assert "broken" in shell.run("bundle", "list").stdout


def test_facts_are_told_line_by_line() -> None:
    score = {"name": "R@1", "value": 0.12345, "low": 0.1, "high": 0.15, "count": 9}
    assert lines_of("as it is") == ["as it is"]
    assert lines_of(["audio", "text"]) == ["audio, text"]
    assert lines_of({"audio": 3, "loss": 0.12345}) == ["audio 3, loss 0.123"]
    told = lines_of({"learnt_from": "words", "scores": [score, score]})
    assert told == ["learnt from: words", "scores: R@1 0.123 (0.1 to 0.15)", "  R@1 0.123 (0.1 to 0.15)"]
