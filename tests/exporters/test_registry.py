"""What is no checkpoint of ours is said to be none, in our words, and none of its code runs."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from exporters.errors import SourceError
from exporters.registry import load_source
from tests.exporters import checkpoints


class Call:
    """Calls a function when it is read as a pickle."""

    def __init__(self, function: Callable[..., object], *arguments: str) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return self.call


@pytest.mark.parametrize(
    "saved", [{"state": torch.ones(2)}, torch.ones(2), {"model": {"a": [1.0]}}, {"model": [torch.ones(2)]}, [1]]
)
def test_weights_in_another_form_are_of_an_unknown_family(tmp_path: Path, saved: Any) -> None:
    torch.save(saved, tmp_path / "weights.pth")
    with pytest.raises(SourceError, match=r"unknown family in .*weights\.pth .*; expected laion \(CLAP") as caught:
        load_source(tmp_path / "weights.pth")
    assert "msclap" in caught.value.expected


def test_a_script_is_no_weights_and_torch_says_nothing_of_its_own(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "script.pth"))
    checkpoints.laion(tmp_path / "clap", layers=1)
    (tmp_path / "clap" / "model.safetensors").unlink()
    shutil.copy(tmp_path / "script.pth", tmp_path / "clap" / "pytorch_model.bin")
    for source in (tmp_path / "script.pth", tmp_path / "clap"):
        with pytest.raises(SourceError) as caught:  # a warning would be an error here
            load_source(source)
        assert caught.value.found == f"a TorchScript archive in {source}, which is a program"
        assert caught.value.expected == "weights alone, as torch.save writes a state dict"
        assert caught.value.action.endswith("code in checkpoints is never run")


@pytest.mark.parametrize("function", [os.link, shutil.copyfile], ids=["one that torch blocks", "one it doesn't know"])
def test_pickled_code_does_not_run_nor_does_anyone_advise_it(tmp_path: Path, function: Callable[..., object]) -> None:
    (tmp_path / "source").write_text("a side effect")
    torch.save({"model": Call(function, str(tmp_path / "source"), str(tmp_path / "ran"))}, tmp_path / "weights.pth")
    with pytest.raises(SourceError, match=r"pickled code .*; code in checkpoints is never run") as caught:
        load_source(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()
    for advice in ("weights_only", "torch.load", "safe_globals", "two options", "Please"):
        assert advice not in str(caught.value)


def test_a_module_of_foreign_code_does_not_run_and_is_named(tmp_path: Path) -> None:
    checkpoints.sentences(tmp_path / "source")
    modules = json.loads((tmp_path / "source" / "modules.json").read_text())
    modules[1]["type"] = "foreign.Pooling"
    (tmp_path / "source" / "modules.json").write_text(json.dumps(modules))
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Pooling: pass\n"
    (tmp_path / "source" / "foreign.py").write_text(code)
    with pytest.raises(SourceError, match=r"code of its own .*foreign\.Pooling.*; code in checkpoints is never run"):
        load_source(tmp_path / "source")
    assert not (tmp_path / "ran").exists()
