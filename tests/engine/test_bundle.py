"""Reading a bundle: whatever is wrong with it is said, with the key, what was found and what was expected."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.bundle import (
    STARTER_DIR,
    Calibration,
    CudaOptions,
    file_sha256,
    known_bundles,
    open_bundle,
    read_manifest,
)
from engine.errors import BundleError, ManifestError

GOOD: dict[str, Any] = {
    "format": 1,
    "name": "tiny",
    "space_id": "tiny@0123456789ab",
    "dim": 8,
    "precision": "fp32",
    "audio": {"graph": "audio.onnx", "sample_rate_hz": 16000, "window_s": 2, "hop_s": 1.0, "pad": "repeat"},
    "text": {"graph": "text.onnx", "tokenizer": "t.json", "max_tokens": 32, "languages": ["en"], "lowercase": True},
    "calibration": {
        "text": {"slope": 10.0, "intercept": -3.0, "cutoff": 0.5},
        "audio": {"slope": 12, "intercept": -6, "cutoff": 0},
    },
    "files": {"audio.onnx": "00", "text.onnx": "11"},
    "parity": {"worst": 1e-6},
}


def write(folder: Path, manifest: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return path


def changed(key: str, value: Any) -> dict[str, Any]:
    """The good manifest with one value changed; ``key`` is dotted, ``...`` removes it."""
    manifest = copy.deepcopy(GOOD)
    *sections, last = key.split(".")
    section = manifest
    for name in sections:
        section = section[name]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    return manifest


def test_a_good_manifest_is_read_whole(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, GOOD))
    assert manifest.audio is not None
    assert manifest.text is not None
    assert (manifest.name, manifest.dim, manifest.precision) == ("tiny", 8, "fp32")
    assert (manifest.audio.window_s, type(manifest.audio.window_s)) == (2.0, float)
    assert manifest.text.languages == ("en",)
    assert manifest.text.lowercase is True
    assert manifest.calibration["audio"] == Calibration(12.0, -6.0, 0.0)
    assert manifest.files == GOOD["files"]
    assert manifest.extra == {"parity": {"worst": 1e-6}}
    space = manifest.space
    assert (space.window_samples, space.hop_samples, space.pad) == (32_000, 16_000, "repeat")


def test_what_a_card_was_measured_with_is_read(tmp_path: Path) -> None:
    measured = {"conv_search": "DEFAULT", "arena": "kNextPowerOfTwo", "graphs": True, "batch_ms": {"DEFAULT": 3.0}}
    manifest = read_manifest(write(tmp_path, {**GOOD, "cuda": {"audio.onnx": measured}}))
    assert manifest.cuda == {"audio.onnx": CudaOptions("DEFAULT", "kNextPowerOfTwo", graphs=True, tensorrt=False)}
    before = {"conv_search": "DEFAULT"}  # as manifests were before the arena was measured
    manifest = read_manifest(write(tmp_path, {**GOOD, "cuda": {"audio.onnx": before}}))
    assert manifest.cuda == {"audio.onnx": CudaOptions("DEFAULT", "kSameAsRequested")}
    assert read_manifest(write(tmp_path, GOOD)).cuda == {}


REQUIRED = [
    *("name", "space_id", "dim", "precision", "calibration", "files"),
    *(f"audio.{key}" for key in GOOD["audio"]),
    *(f"text.{key}" for key in GOOD["text"]),
    *(f"calibration.text.{key}" for key in ("slope", "intercept", "cutoff")),
]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read_manifest(write(tmp_path, changed(key, ...)))
    assert f"{key} = nothing" in caught.value.found
    assert "a value of type" in caught.value.expected
    assert caught.value.action


WRONG: list[tuple[str, Any, str]] = [
    ("name", 3, "str"),
    ("space_id", None, "str"),
    ("dim", "8", "int"),
    ("dim", 8.0, "int"),
    ("dim", True, "int"),
    ("dim", 0, "positive"),
    ("dim", -8, "positive"),
    ("dim", 10**400, "positive"),
    ("precision", [], "str"),
    ("audio", [], "dict"),
    ("audio", False, "dict"),
    ("audio.graph", 1, "str"),
    ("audio.sample_rate_hz", 16000.5, "int"),
    ("audio.sample_rate_hz", 0, "positive"),
    ("audio.window_s", "2", "float"),
    ("audio.window_s", True, "float"),
    ("audio.window_s", 0, "positive"),
    ("audio.window_s", math.nan, "positive"),
    ("audio.window_s", math.inf, "positive"),
    ("audio.window_s", 10**400, "positive"),
    ("audio.hop_s", -1.0, "positive"),
    ("audio.hop_s", 2.5, "at most window_s"),
    ("audio.hop_s", 1e-9, "at least one sample"),
    ("audio.pad", "reflect", "one of repeat, repeatpad, zero"),
    ("audio.batch", 0, "positive"),
    ("audio.batch", "8", "int"),
    ("text.batch", -1, "positive"),
    ("text.suffix", 3, "str"),
    ("audio.pad", None, "str"),
    ("text", "yes", "dict"),
    ("text.max_tokens", 0, "positive"),
    ("text.max_tokens", 1.5, "int"),
    ("text.languages", "en", "list"),
    ("text.languages", ["en", 3], "list of texts"),
    ("text.lowercase", 1, "bool"),
    ("text.lowercase", "false", "bool"),
    ("calibration", [], "dict"),
    ("calibration.text", 1.0, "dict"),
    ("calibration.text.slope", "10", "float"),
    ("calibration.text.slope", 0, "positive"),
    ("calibration.text.slope", math.nan, "finite"),
    ("calibration.text.intercept", math.inf, "finite"),
    ("calibration.text.intercept", -(10**400), "finite"),
    ("calibration.audio.cutoff", 1.01, "from 0 to 1"),
    ("calibration.audio.cutoff", -0.01, "from 0 to 1"),
    ("cuda", [], "dict"),
    ("cuda", {"audio.onnx": 1}, "dict"),
    ("cuda", {"audio.onnx": {}}, "str"),
    ("cuda", {"audio.onnx": {"conv_search": "FASTEST"}}, "one of HEURISTIC, DEFAULT, EXHAUSTIVE"),
    ("cuda", {"audio.onnx": {"conv_search": "DEFAULT", "graphs": 1}}, "bool"),
    ("cuda", {"audio.onnx": {"conv_search": "DEFAULT", "arena": "kTwice"}}, "one of kSameAsRequested, kNextPowerOfTwo"),
    ("cuda", {"audio.onnx": {"conv_search": "DEFAULT", "arena": 2}}, "str"),
    ("files", ["audio.onnx"], "dict"),
    ("files.extra.onnx", None, "str"),
]


@pytest.mark.parametrize(("key", "value", "expected"), WRONG, ids=[f"{k}={str(v)[:9]}" for k, v, _ in WRONG])
def test_a_wrong_value_is_named(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    if key.startswith("files."):
        manifest = changed("files", {key.removeprefix("files."): value})
    else:
        manifest = changed(key, value)
    with pytest.raises(ManifestError) as caught:
        read_manifest(write(tmp_path, manifest))
    assert key in caught.value.found
    assert expected in caught.value.expected
    assert "manifest.json" in caught.value.found


@pytest.mark.parametrize("number", [None, 0, 2, "1", True, [1]])
def test_another_format_is_refused(tmp_path: Path, number: Any) -> None:
    with pytest.raises(ManifestError, match="format 1"):
        read_manifest(write(tmp_path, changed("format", number)))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"', "\udcff"], ids=repr)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ManifestError):
        read_manifest(tmp_path / "manifest.json")


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        read_manifest(tmp_path / "manifest.json")


def test_a_space_without_a_hash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="name@hash"):
        read_manifest(write(tmp_path, changed("space_id", "tiny")))


@pytest.mark.parametrize(("absent", "left"), [("audio", "text"), ("text", "audio")])
def test_either_tower_may_be_absent(tmp_path: Path, absent: str, left: str) -> None:
    for value in (None, ...):
        manifest = read_manifest(write(tmp_path, changed(absent, value)))
        assert getattr(manifest, absent) is None
        assert getattr(manifest, left) is not None


def test_but_not_both(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="at least one tower"):
        read_manifest(write(tmp_path, changed("audio", None) | {"text": None}))


def test_a_bundle_without_an_audio_tower_has_no_space(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, changed("audio", None)))
    with pytest.raises(BundleError, match="without an audio tower"):
        _ = manifest.space


# Calibration


@given(
    slope=st.floats(0.01, 1e6),
    intercept=st.floats(-1e6, 1e6),
    one=st.floats(-1, 1),
    other=st.floats(-1, 1),
)
def test_relevance_is_a_chance_that_grows_with_the_cosine(
    slope: float, intercept: float, one: float, other: float
) -> None:
    curve = Calibration(slope, intercept, 0.5)
    low, high = curve.relevance(min(one, other)), curve.relevance(max(one, other))
    assert 0 <= low <= high <= 1


@given(slope=st.floats(0.1, 20), intercept=st.floats(-20, 20), score=st.floats(-1, 1))
def test_relevance_against_the_formula(slope: float, intercept: float, score: float) -> None:
    logit = slope * score + intercept
    wanted = math.exp(logit) / (1 + math.exp(logit))
    assert Calibration(slope, intercept, 0.5).relevance(score) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("score", "wanted"), [(1.0, 1.0), (-1.0, 0.0), (0.0, 0.5)])
def test_extremes_neither_overflow_nor_leave_the_range(score: float, wanted: float) -> None:
    assert Calibration(1e300, 0.0, 0.5).relevance(score) == pytest.approx(wanted, abs=1e-12)


# Folders


def whole_bundle(folder: Path) -> Path:
    folder.mkdir(parents=True)
    files = {"audio.onnx": b"one graph", "text.onnx": b"another graph"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    write(folder, changed("files", {name: file_sha256(folder / name) for name in files}))
    return folder


def test_an_unchanged_bundle_passes(tmp_path: Path) -> None:
    open_bundle(whole_bundle(tmp_path / "b")).verify()


@pytest.mark.parametrize("name", ["audio.onnx", "text.onnx"])
def test_a_changed_file_is_named(tmp_path: Path, name: str) -> None:
    bundle = open_bundle(whole_bundle(tmp_path / "b"))
    content = bytearray(bundle.path(name).read_bytes())
    content[3] ^= 1
    bundle.path(name).write_bytes(content)
    with pytest.raises(BundleError, match=name):
        bundle.verify()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    bundle = open_bundle(whole_bundle(tmp_path / "b"))
    bundle.path("text.onnx").unlink()
    with pytest.raises(BundleError, match=r"no text\.onnx"):
        bundle.verify()


def test_all_that_differs_is_named_at_once(tmp_path: Path) -> None:
    bundle = open_bundle(whole_bundle(tmp_path / "b"))
    bundle.path("text.onnx").unlink()
    bundle.path("audio.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"audio\.onnx with sha256 \w+…, no text\.onnx in"):
        bundle.verify()


def test_a_bundle_opens_by_folder_and_by_name(tmp_path: Path) -> None:
    folder = whole_bundle(tmp_path / "bundles" / "mine")
    (tmp_path / "bundles" / "no bundle").mkdir()
    by_folder = open_bundle(str(folder))
    by_name = open_bundle("mine", tmp_path / "bundles")
    assert by_folder.manifest == by_name.manifest
    assert by_name.folder == folder
    assert set(known_bundles(tmp_path / "bundles")) == {"starter", "mine"}


def test_nothing_takes_the_starters_name_and_what_is_being_made_has_none(tmp_path: Path) -> None:
    for name in ("starter", ".mine.new-x1", "mine"):
        whole_bundle(tmp_path / "bundles" / name)
    known = known_bundles(tmp_path / "bundles")
    assert known == {"starter": STARTER_DIR, "mine": tmp_path / "bundles" / "mine"}


@pytest.mark.parametrize("name", ["yours", "", "no/such/folder"])
def test_an_unknown_name_is_answered_with_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    whole_bundle(tmp_path / "bundles" / "mine")
    with pytest.raises(BundleError) as caught:
        open_bundle(name, tmp_path / "bundles")
    assert repr(name) in caught.value.found
    assert "mine, starter" in caught.value.expected


def test_no_folder_of_bundles_leaves_the_starter(tmp_path: Path) -> None:
    assert set(known_bundles(tmp_path / "none")) == {"starter"}
