"""Downloads as ``huggingface_hub`` makes them, from a hub on this machine: whole, unchanged, no more than needed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer

from engine.errors import BundleError
from exporters import hub as hub_module
from exporters.hub import is_hub_name, wanted
from tests.exporters.fake_hub import Hub, serving

REPO = "acme/clap"
FETCH = """
import sys
from engine.errors import BundleError
from exporters.hub import fetch
try:
    print(fetch(sys.argv[1]))
except BundleError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
READ = """
import sys
from pathlib import Path
from engine.errors import BundleError
from exporters.msclap import _tokenizer
from huggingface_hub import constants
try:
    for constants.HF_HUB_OFFLINE in (False, True):
        print(_tokenizer(Path(sys.argv[1]))[0].encode("a dog!").tokens)
except BundleError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "published"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "onnx").mkdir()
    for name in ("config.json", "tokenizer.json", "README.md", "1_Pooling/config.json"):
        (folder / name).write_text(f'{{"name": "{name}"}}')
    for name in ("model.safetensors", "pytorch_model.bin", "onnx/model.safetensors", "tf_model.h5", "code.py"):
        (folder / name).write_bytes(os.urandom(300_000))
    with serving(Hub(REPO, folder)) as served:
        yield served


def fetch(
    hub: Hub, home: Path, name: str = REPO, script: str = FETCH, **settings: str
) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as ``huggingface_hub`` reads its settings when it is imported."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **settings}
    command = [sys.executable, "-c", script, name]
    return subprocess.run(command, env=ours | settings, capture_output=True, text=True, timeout=120)


def test_what_an_export_needs_comes_and_no_more(hub: Hub, tmp_path: Path) -> None:
    result = fetch(hub, tmp_path / "home", HF_TOKEN="hf_secret")
    folder = Path(result.stdout.strip())
    assert result.returncode == 0, result.stderr
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"config.json", "tokenizer.json", "README.md", "1_Pooling/config.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == (hub.folder / "model.safetensors").read_bytes()
    assert hub.tokens == {"Bearer hf_secret"}
    assert "100%" in result.stderr, "no progress was shown"
    assert folder.is_relative_to(tmp_path / "home")


def test_a_second_time_nothing_is_downloaded_and_offline_nobody_asked(hub: Hub, tmp_path: Path) -> None:
    first = fetch(hub, tmp_path)
    hub.asked.clear()
    assert fetch(hub, tmp_path).stdout == first.stdout
    assert not [line for line in hub.asked if line.startswith("GET") and "/resolve/" in line]
    hub.asked.clear()
    assert fetch(hub, tmp_path, HF_HUB_OFFLINE="1").stdout == first.stdout
    assert not hub.asked


def test_a_download_that_broke_goes_on_from_there(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").write_bytes(os.urandom(25_000_000))  # it is written in pieces of 10 MiB
    hub.breaks["model.safetensors"] = 22_000_000
    result = fetch(hub, tmp_path)
    if result.returncode:  # the connection was lost for good: the next call goes on
        result = fetch(hub, tmp_path)
    assert result.returncode == 0, result.stderr
    resumed = [line for line in hub.asked if "model.safetensors bytes=" in line]
    assert resumed, "nothing was asked for from the middle on"
    assert (Path(result.stdout.strip()) / "model.safetensors").read_bytes() == (
        hub.folder / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_tampered_file_is_refused_and_removed(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.tampered.add(name)
    refused = fetch(hub, tmp_path)
    assert refused.returncode == 1
    assert f"{name} with hash" in refused.stderr
    hub.tampered.clear()
    assert fetch(hub, tmp_path).returncode == 0


def test_a_model_that_is_not_there(hub: Hub, tmp_path: Path) -> None:
    result = fetch(hub, tmp_path, "acme/none")
    assert "no model 'acme/none'" in result.stderr
    assert "HF_TOKEN" in result.stderr


def test_no_network(hub: Hub, tmp_path: Path) -> None:
    result = fetch(hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert result.stderr.startswith("SourceError: found acme/clap not downloaded, and no answer of http://127.0.0.1:9;")
    assert len(result.stderr.splitlines()) == 1  # and not a line for each time that it was tried


def test_no_space(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/cache")
    monkeypatch.setattr("exporters.hub.HfApi.list_repo_files", lambda *_: ["config.json"])
    monkeypatch.setattr("exporters.hub.snapshot_download", full)
    with pytest.raises(
        BundleError, match=r"found no space left in /cache; expected .*make room: what has come is kept"
    ):
        hub_module.fetch(REPO)


def test_the_tokenizer_of_gpt2_comes_unchanged_and_alone(tmp_path: Path) -> None:
    """That of MS-CLAP, where none lies beside the weights; the second time offline."""
    published = tmp_path / "published"
    published.mkdir()
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(["a dog!"], vocab_size=300)
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(published / "tokenizer.json"))
    (published / "model.safetensors").write_bytes(b"large")
    with serving(Hub("openai-community/gpt2", published)) as hub:
        hub.tampered.add("tokenizer.json")
        refused = fetch(hub, tmp_path / "home", str(tmp_path), READ)
        assert "SourceError: found tokenizer.json with hash" in refused.stderr
        assert not refused.stdout
        hub.tampered.clear()
        read = fetch(hub, tmp_path / "home", str(tmp_path), READ)
        assert (read.returncode, len(read.stdout.splitlines())) == (0, 2), read.stderr
        assert len(set(read.stdout.splitlines())) == 1
        assert not [line for line in hub.asked if "model.safetensors" in line]


def test_offline_and_not_there(hub: Hub, tmp_path: Path) -> None:
    result = fetch(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE set" in result.stderr
    assert not hub.asked


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "flax/model.safetensors"], ["pytorch_model.bin"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["2_Dense/model.safetensors", "model.safetensors"], ["2_Dense/model.safetensors", "model.safetensors"]),
        (["weights.pth", "run.py"], []),
    ],
)
def test_which_weights_are_taken(files: list[str], chosen: list[str]) -> None:
    assert wanted(files) == chosen


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("laion/clap-htsat-unfused", True), ("clap", False), ("a/b/c", False), ("./clap", False), ("/a/b", False)],
)
def test_what_may_be_a_name_on_the_hub(name: str, is_one: bool) -> None:
    assert is_hub_name(name) == is_one
