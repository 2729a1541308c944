"""What `earshot eval` says of bundles that are known, on sounds that are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from engine.fakes import FakeEncoders
from tests.sounds import tone, write_sound
from trainer.examples import Caption, Example
from trainer.probe import ProbeError
from trainer.verdict import EvaluationError, chosen, judge
from trainer.verdict_report import markdown, plot, save

HZ = (63, 125, 250, 500, 1000, 2000)


def examples(folder: Path, split: str = "test") -> list[Example]:
    """A tone each, with a right caption, one that says nothing of it, and one in French; a tag each."""
    return [
        Example(
            id=str(hz),
            audio=write_sound(folder / f"{hz}.wav", tone(2.0, rate_hz=8000, hz=hz), rate_hz=8000),
            captions=(Caption(f"band{hz}"), Caption("silence"), Caption(f"band{hz} encore", "fra")),
            tags=(f"band{hz}",),
            split=split,
        )
        for hz in HZ
    ]


@pytest.fixture
def asked(tmp_path: Path) -> list[Example]:
    return examples(tmp_path)


class Deaf(FakeEncoders):
    """Hears everything as silence."""

    def encode_audio(self, windows):
        return super().encode_audio(windows * 0)


def figure(verdict, bundle: str, name: str):
    return next(f for f in verdict.bundles[bundle] if f.name == name)


def test_figures_of_a_bundle_that_hears_pitches(asked: list[Example]):
    verdict = judge({"good": FakeEncoders(dim=256)}, asked)
    assert figure(verdict, "good", "text-to-audio R@1, eng, any").value == 1.0
    assert figure(verdict, "good", "text-to-audio R@1, eng, mean").value == pytest.approx(7 / 12)  # one is nearest
    assert figure(verdict, "good", "text-to-audio R@1, fra").value == 1.0
    assert figure(verdict, "good", "audio-to-text R@1, eng, any").value == 1.0
    assert figure(verdict, "good", "zero-shot accuracy").value == 1.0
    assert figure(verdict, "good", "zero-shot mAP").value == 1.0
    assert verdict.differences == []
    assert verdict.protocol["captions"] == {"eng": 12, "fra": 6}
    assert verdict.protocol["shared_captions"] == 6
    assert "say kinds of sounds as tags" in verdict.protocol["remark"]


def test_two_bundles_are_compared_on_the_same_clips(asked: list[Example]):
    verdict = judge({"deaf": Deaf(dim=256), "good": FakeEncoders(dim=256)}, asked)
    assert figure(verdict, "deaf", "text-to-audio R@1, eng, any").value == 0
    [found] = [f for f in verdict.differences if f.name == "zero-shot accuracy"]
    assert found.value == pytest.approx(5 / 6)  # to the deaf all are of one kind
    assert found.low > 0
    assert [f.name for f in verdict.differences] == [f.name for f in verdict.bundles["good"]]


def test_what_cannot_be_heard_is_left_out_for_both_and_named(asked: list[Example]):
    asked[2].audio.write_text("no sound")
    seen: list[tuple[str, int]] = []
    verdict = judge({"a": FakeEncoders(), "b": FakeEncoders("b")}, asked, on_clip=lambda *at: seen.append(at))
    assert verdict.protocol["clips"] == 5
    [(clip, reason)] = verdict.skipped
    assert Path(clip).name == "250.wav"
    assert reason
    assert seen[0] == ("a", 1)
    assert seen[-1] == ("b", 6)


def test_a_set_of_tags_alone_and_one_of_captions_alone(asked: list[Example]):
    only = [Example(e.id, e.audio, (), (*e.tags, "tone"), e.split) for e in asked]
    names = [f.name for f in judge({"a": FakeEncoders()}, only).bundles["a"]]
    assert names == ["zero-shot mAP"]  # several tags a clip: there is no one answer
    only = [Example(e.id, e.audio, e.captions[:1], (), e.split) for e in asked]
    found = judge({"a": FakeEncoders()}, only).bundles["a"]
    assert {(f.task, f.convention) for f in found} == {("text-to-audio", ""), ("audio-to-text", "")}


def test_data_that_say_nothing_are_refused(asked: list[Example]):
    with pytest.raises(EvaluationError, match="without captions or tags"):
        judge({"a": FakeEncoders()}, [Example(e.id, e.audio) for e in asked])
    for example in asked:
        example.audio.unlink()
    with pytest.raises(EvaluationError, match="6 clips, none of which can be heard"):
        judge({"a": FakeEncoders()}, asked)


def test_the_split_is_the_named_one_or_what_comes_nearest_to_test(tmp_path: Path):
    mixed = examples(tmp_path / "a", "train") + examples(tmp_path / "b", "evaluation")
    assert {e.split for e in chosen(mixed, None)[0]} == {"evaluation"}
    assert chosen(mixed, "train") == (mixed[:6], "train")
    assert chosen(mixed[:6], None) == (mixed[:6], "train")  # the only one there is
    folds = [*examples(tmp_path / "c", "fold1"), *examples(tmp_path / "d", "fold2")]
    with pytest.raises(EvaluationError, match=r"no split to ask about.*fold1 \(6\), fold2 \(6\)"):
        chosen(folds, None)
    with pytest.raises(EvaluationError, match="no clips of split test"):
        chosen(folds, "test")


def test_it_is_saved_as_json_markdown_and_a_plot(asked: list[Example], tmp_path: Path):
    verdict = judge({"deaf": Deaf(dim=64), "good|one": FakeEncoders(dim=64)}, asked)
    saved = save(verdict, tmp_path / "out")
    assert [path.name for path in saved] == ["eval.json", "eval.md", "eval.svg"]
    told = json.loads(saved[0].read_text(encoding="utf-8"))
    assert told == verdict.to_dict()
    page = saved[1].read_text(encoding="utf-8")
    assert "good\\|one" in page
    assert "| zero-shot accuracy | 0.167 (0.000 to 0.500) | 1.000 (1.000 to 1.000) | +0.833 (" in page
    assert "- ties: against the bundle" in page
    assert markdown(verdict, "eval.svg") == page
    picture = ElementTree.fromstring(plot(verdict))
    shares = [f for f in verdict.bundles["deaf"] if f.measure != "median rank"]
    assert len(picture.findall("{*}circle")) == 2 + 2 * len(shares)


def test_the_set_is_known_by_what_was_asked(asked: list[Example]):
    one = judge({"a": FakeEncoders()}, asked).protocol["set"]
    other = judge({"a": FakeEncoders()}, asked[:-1]).protocol["set"]
    assert one == judge({"b": FakeEncoders("b")}, asked).protocol["set"] != other


def test_evaluating_needs_no_torch():
    code = (
        "import sys, trainer.verdict, trainer.verdict_report, trainer.manifest, earshot.evaluate;"
        "print([m for m in ('torch', 'transformers', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_probe_learns_names_that_no_text_has(tmp_path: Path):
    """Tags that are no words to the text tower: told by the probe, from other clips or fold by fold, not zero-shot."""
    one, two = (examples(tmp_path / name, name) for name in ("train", "test"))
    one, two = (
        [Example(e.id, e.audio, (), (f"kind {'xyz'[n % 3]}",), e.split) for n, e in enumerate(part)]
        for part in (one, two)
    )
    verdict = judge({"a": FakeEncoders(dim=64)}, two, learnt=one)
    assert figure(verdict, "a", "linear probe accuracy").value == 1.0
    assert figure(verdict, "a", "linear probe mAP").value == 1.0
    assert figure(verdict, "a", "zero-shot accuracy").value < 1.0
    assert figure(verdict, "a", "linear probe accuracy").count == 6
    assert verdict.protocol["clips"] == 6
    crossed = judge({"a": FakeEncoders(dim=64)}, one + two, learnt=[])
    assert figure(crossed, "a", "linear probe accuracy").value == 1.0
    assert figure(crossed, "a", "linear probe accuracy").count == 12
    with pytest.raises(ProbeError, match="0 tags"):
        judge({"a": FakeEncoders()}, [Example(e.id, e.audio, (Caption("band63"),)) for e in two], learnt=one[:0])
