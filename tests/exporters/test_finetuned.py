"""From a run to a bundle: towers, compose.onnx, what is inherited, and what stays as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from engine.bundle import STARTER_DIR, open_bundle
from engine.composer import OnnxComposer, SumComposer
from engine.encoders import OnnxEncoders
from engine.errors import BundleError, QueryError, SelfTestError
from exporters.amend import amend
from exporters.base import load_base
from exporters.bundles import make_bundle
from exporters.composing import A2t
from exporters.errors import SourceError
from exporters.export import _inherited
from exporters.extend import COMPOSED, MODULE, module_print
from exporters.finetuned import BATCH_USED, read_a2t, read_state
from exporters.registry import load_source
from tests.sounds import tone, write_sound
from tests.trainer import tiny_towers
from trainer.finetune import _with_a2t
from trainer.run import RunFolder
from trainer.settings import Settings
from trainer.tower_sets import Towers

WORDS = "rain on the roof"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of the composed method leaves, with weights that differ from its base's."""
    place = tmp_path_factory.mktemp("run")
    source = tiny_towers.own(folder=place / "base")
    (place / "base" / "CREDITS.md").write_text("a bell, by Somebody (CC-BY)", encoding="utf-8")
    return made_run(place / "run", place / "base", Towers(source, composes=True), learn=("audio", "text", "a2t"))


def made_run(folder: Path, base: Path, towers: Towers, learn: tuple[str, ...]) -> Path:
    run = RunFolder(folder)
    settings = Settings(data="x.jsonl", method="composed", unlabelled="y", base=str(base), learn=learn)
    run.begin(settings, {"base": {"path": str(base), "space_id": towers.source.space_id}, "dim": towers.dim})
    torch.manual_seed(11)
    with torch.no_grad():
        for name, parameter in towers.named_parameters():
            if name.split(".")[0] in learn:
                parameter += 0.05 * torch.randn_like(parameter)
        if towers.a2t is not None:
            towers.a2t.layers[6].weight.normal_(0, 0.3)
    run.note(BATCH_USED, 24)
    run.save({"model": towers.state_dict()})
    return folder


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, _ = make_bundle(str(run), tmp_path_factory.mktemp("bundles") / "mine", run, "fp32", allow_collapsed=True)
    return folder


def unit(count: int, dim: int = tiny_towers.DIM) -> np.ndarray:
    made = np.random.default_rng(1).standard_normal((count, dim))
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


def test_the_engine_composes_as_the_towers_do(run: Path, bundle: Path) -> None:
    opened = open_bundle(bundle)
    opened.verify()
    composer = OnnxEncoders(opened, "cpu", threads=1).composer
    assert composer.learnt
    towers = Towers(load_base(run.parent / "base", "tiny"), composes=True).eval()
    towers.load_state_dict(RunFolder(run).load()["model"])
    sounds = unit(3)
    for words in (WORDS, "Rain!", "wind " * 40):
        with torch.inference_mode():
            wanted = towers.compose([words] * 3, torch.from_numpy(sounds)).numpy()
        assert np.abs(composer.compose(words, sounds) - wanted).max() < 1e-5
    assert np.abs(wanted[0] - wanted[1]).max() > 0.01  # the sounds are heard


def test_the_graph_reads_what_it_shares_from_the_text_tower(bundle: Path) -> None:
    graph = onnx.load(str(bundle / "compose.onnx"), load_external_data=False).graph
    shared = [tensor for tensor in graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    assert shared
    assert {entry.value for tensor in shared for entry in tensor.external_data if entry.key == "location"} == {
        "text.onnx"
    }
    own = sum(len(tensor.raw_data) for tensor in graph.initializer)
    a2t = A2t(tiny_towers.DIM, tiny_towers.DIM)
    assert own < 4 * sum(parameter.numel() for parameter in a2t.parameters()) + 100_000


def test_the_bundle_says_what_it_is_of(run: Path, bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["compose"] == {"graph": "compose.onnx"}
    assert manifest["trained"]["method"] == "composed"
    assert manifest["space_id"] != load_base(run.parent / "base", "run").space_id
    assert manifest["calibrated"] == "not measured"  # its base wasn't, either
    assert (bundle / "CREDITS.md").read_text(encoding="utf-8") == "a bell, by Somebody (CC-BY)"
    told = (bundle / "README.md").read_text(encoding="utf-8")
    assert f"trained from `{manifest['trained']['base']}` by `earshot train finetune`" in told
    assert "- method: composed" in told
    assert "- batch: 24" in told  # none was asked for
    assert "publisher's" not in told


def test_a_bundle_of_a_run_can_be_trained_further(run: Path, bundle: Path) -> None:
    state = RunFolder(run).load()["model"]
    again = load_base(bundle)
    for part in ("audio", "text"):
        for name, value in getattr(again, part).module.state_dict().items():
            assert torch.equal(value, state[f"{part}.{name}"])


def test_the_module_of_a_bundle_learns_further(run: Path, bundle: Path) -> None:
    found, state = read_a2t(bundle), RunFolder(run).load()["model"]
    assert found is not None
    assert all(torch.equal(value, state[f"a2t.{name}"]) for name, value in found.state_dict().items())
    towers = Towers(_with_a2t(load_base(bundle), bundle), composes=True, dropout=0.3)
    assert torch.equal(towers.a2t.layers[6].weight, state["a2t.layers.6.weight"])
    assert towers.a2t.layers[1].p == 0.3
    assert read_a2t(STARTER_DIR) is None


def test_a_damaged_composer_is_noticed(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "b"))
    with np.load(folder / "golden.npz") as golden:
        changed = dict(golden)
    changed["compose_vectors"] = -changed["compose_vectors"]
    np.savez(folder / "golden.npz", **changed)
    with pytest.raises(SelfTestError):
        _ = OnnxEncoders(open_bundle(folder), "cpu", threads=1).composer


def test_a_base_that_has_changed_is_refused(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    told = json.loads((copy / "run.json").read_text())
    told["base"]["path"] = str(STARTER_DIR)
    (copy / "run.json").write_text(json.dumps(told))
    with pytest.raises(SourceError, match="put it back"):
        load_source(copy)
    told["base"]["path"] = str(tmp_path / "gone")
    (copy / "run.json").write_text(json.dumps(told))
    with pytest.raises(SourceError, match="no base of"):
        load_source(copy)
    (copy / "last.pt").unlink()
    shutil.copytree(run.parent / "base", tmp_path / "gone")
    with pytest.raises(SourceError, match=r"no last\.pt"):
        load_source(copy)


def test_relevance_is_inherited_and_said(tmp_path: Path) -> None:
    towers = Towers(load_base(STARTER_DIR))
    run = made_run(tmp_path / "run", STARTER_DIR, towers, learn=("text",))
    source = load_source(run)
    was = json.loads((STARTER_DIR / "manifest.json").read_text(encoding="utf-8"))
    assert source.facts["calibration"] == was["calibration"]
    assert source.facts["calibrated"] == f"inherited from {was['space_id']}, not measured again"
    assert {key: source.facts[key] for key in ("licence", "credits", "limits")} == {
        key: was[key] for key in ("licence", "credits", "limits")
    }
    assert source.beside == (STARTER_DIR / "CREDITS.md",)
    assert source.facts["left_behind"].startswith("memory.npz")
    told = "\n".join(_inherited(source.facts))
    for words in (*was["limits"], *was["credits"], "learn: ['text']", "Whether that is still so", "memory.npz"):
        assert words in told


def test_sounds_become_words_in_the_starters_own_space(tmp_path: Path) -> None:
    """A run that learns its a2t module alone leaves everything else as it was."""
    base = Path(shutil.copytree(STARTER_DIR, tmp_path / "b"))
    towers = Towers(load_base(base), composes=True)
    run = made_run(tmp_path / "run", base, towers, learn=("a2t",))
    for asked in ({"precision": "int8"}, {"precision": "fp32", "gate": labelled(tmp_path)}):
        with pytest.raises(SourceError, match=r"(--precision int8|--gate) for .* words with a sound alone"):
            make_bundle(str(run), base, tmp_path, **asked)  # type: ignore[arg-type]
    folder, manifest = make_bundle(str(run), base, tmp_path, "fp32")  # in place
    assert manifest["space_id"] == open_bundle("starter").manifest.space_id
    assert manifest["composed"]["module"] == module_print(RunFolder(run).load()["model"])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"`compose.onnx` was trained upon `{manifest['space_id']}` by `earshot train finetune`" in card
    for name in ("audio.onnx", "text.onnx", "tokenizer.json"):
        assert (folder / name).read_bytes() == (STARTER_DIR / name).read_bytes()
    assert (folder / "compose.onnx").stat().st_size < 2_500_000
    opened = open_bundle(folder)
    opened.verify()
    a2t = read_a2t(folder)
    assert a2t is not None
    assert torch.allclose(a2t.layers[0].weight, towers.a2t.layers[0].weight, atol=2e-3)  # as it is stored
    encoders = OnnxEncoders(opened, "cpu", threads=1)
    with torch.inference_mode():
        wanted = towers.eval().compose([WORDS], torch.from_numpy(unit(1, 256))).numpy()
    found = encoders.composer.compose(WORDS, unit(1, 256))
    assert float((found * wanted).sum()) > 0.99  # the module is stored in int8 steps
    assert found @ encoders.text.encode_text([WORDS])[0] < 0.9999


def test_runs_upon_one_base_do_not_take_each_others_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both bundles are of the base's space, and differ in ``compose.onnx`` alone."""
    base = Path(shutil.copytree(STARTER_DIR, tmp_path / "b"))
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        made_run(tmp_path / name / "mine", base, Towers(load_base(base), composes=True), learn=("a2t",))
    state = read_state(tmp_path / "two" / "mine")
    state["a2t.layers.6.weight"] *= 1.01
    RunFolder(tmp_path / "two" / "mine").save({"model": state})
    bundles = tmp_path / "bundles"

    def export(run: Path, out: Path) -> dict[str, str]:
        shutil.copytree(STARTER_DIR, out, dirs_exist_ok=True)
        amend(out, {COMPOSED: {"base": "starter", MODULE: module_print(read_state(run))}})
        return {"run": run.parent.name}

    monkeypatch.setattr("exporters.bundles.export_a2t", export)
    make_bundle(str(tmp_path / "one" / "mine"), None, bundles, "fp32")
    with pytest.raises(
        BundleError, match=r"holds starter@\w+ with the a2t module (\w+), in the way of .* module (?!\1)"
    ):
        make_bundle(str(tmp_path / "two" / "mine"), None, bundles, "fp32")
    for run, out in (("one", None), ("two", bundles / "mine")):  # itself again, and what was named
        folder, told = make_bundle(str(tmp_path / run / "mine"), out, bundles, "fp32")
        assert (folder, told) == (bundles / "mine", {"run": run})
    shutil.copytree(STARTER_DIR, bundles / "mine", dirs_exist_ok=True)
    with pytest.raises(BundleError, match=r"holds starter@\w+, in the way of starter@\w+ with the a2t module"):
        make_bundle(str(tmp_path / "two" / "mine"), None, bundles, "fp32")


def labelled(folder: Path) -> Path:
    """A set to measure retrieval on, as small as it may be."""
    rows = ["path,text"]
    for name in ("bell", "rain"):
        write_sound(folder / f"{name}.wav", tone(1.0))
        rows.append(f"{name}.wav,a {name}")
    (folder / "set.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder / "set.csv"


def test_without_the_module_vectors_are_added() -> None:
    plain = STARTER_DIR
    encoders = OnnxEncoders(open_bundle(plain), "cpu", threads=1)
    composer = SumComposer(lambda: encoders.text)
    assert not composer.learnt
    sounds = unit(2, 256)
    text = encoders.text.encode_text([WORDS])
    found = composer.compose(WORDS, sounds)
    wanted = np.stack([(text[0] + sound) / np.linalg.norm(text[0] + sound) for sound in sounds])
    assert np.allclose(found, wanted, atol=1e-6)
    with pytest.raises(QueryError, match="empty"):
        composer.compose("  ", sounds)


def test_a_bundle_without_the_graph_has_no_composer_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(STARTER_DIR, folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest.pop("compose", None)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    encoders = OnnxEncoders(open_bundle(folder), "cpu", threads=1)
    assert not encoders.composer.learnt
    with pytest.raises(BundleError, match=r"without compose\.onnx"):
        OnnxComposer(encoders.bundle, encoders.text, "cpu")
