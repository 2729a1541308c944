"""Fine-tuning on tiny towers: what is interrupted goes on with the same numbers, and what goes wrong loses nothing."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import trainer.finetune as finetuning
from earshot.commands import app
from engine.errors import EarshotError
from tests.trainer import tiny_towers
from tests.trainer.clips import write_lines
from trainer.finetune import Report, finetune
from trainer.run import RunFolder
from trainer.settings import METHODS, Settings, TrainingError

RATE_HZ = 16_000
TEXTS = ("a dog barks", "rain on the roof", "the bell rings", "wind", "loud dog", "far bell")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, captioned clips (two are called the same) and clips without captions."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finetune")
    tiny_towers.own(folder=folder / "base")
    chance = np.random.default_rng(0)
    rows = []
    for number in range(9):
        hz = 200 * 1.5 ** (number % 6)
        samples = 0.3 * np.sin(2 * np.pi * hz * np.arange(RATE_HZ) / RATE_HZ) + 0.01 * chance.standard_normal(RATE_HZ)
        soundfile.write(folder / f"{number}.wav", samples, RATE_HZ)
        texts = [TEXTS[min(number, 5)], {"text": "chien" if number else "pluie", "lang": "fra"}]
        rows.append({"audio": f"{number}.wav", "captions": texts, "split": "train" if number < 8 else "val"})
    write_lines(folder / "data.jsonl", rows)
    (folder / "others").mkdir()
    for number in range(6):
        soundfile.write(folder / "others" / f"{number}.flac", 0.2 * chance.standard_normal(RATE_HZ), RATE_HZ)
    return folder


Run = Callable[..., Report]


@pytest.fixture
def run(place: Path, tmp_path: Path) -> Run:
    def run(out: str = "run", stop_after: int | None = None, told_of: set[str] | None = None, **given: Any) -> Report:
        told = {"base": str(place / "base"), "data": str(place / "data.jsonl"), "epochs": 3, "batch": 4, "rate": 1e-3}
        told |= {"unlabelled": str(place / "others")} if given.get("method") == "composed" else {}
        return finetune(
            Settings(**told | given),
            tmp_path / out,
            cache=place / "cache",
            stop_after=stop_after,
            on_progress=lambda told, done, total: told_of is None or told_of.add(told),
        )

    return run


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The captions of all steps, as they come."""
    texts: list[str] = []
    contrasts = finetuning.contrasts
    monkeypatch.setattr(
        finetuning,
        "contrasts",
        lambda towers, method, told, *a, **k: (
            (torch.is_grad_enabled() and texts.extend(told.texts)) or contrasts(towers, method, told, *a, **k)
        ),
    )
    return texts


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = RunFolder(folder).load()["model"]
    return state


@pytest.mark.parametrize("method", ["finetune", "concatenate", "composed"])
def test_an_interrupted_run_ends_in_the_same_numbers(run: Run, tmp_path: Path, method: str) -> None:
    settings = {"method": method, "languages": ("fra",), "le_ratio": 0.5}
    whole = run("whole", **settings)
    for stop in (1, 3, None):  # within an epoch, within the next one, to the end
        report = run("parts", stop_after=stop, **settings)
    assert (report.steps, report.steps_planned) == (whole.steps, whole.steps_planned) == (6, 6)
    assert report.spared == whole.spared > 0  # two clips are called the same
    one, other = RunFolder(tmp_path / "whole").load(), RunFolder(tmp_path / "parts").load()
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    for before, after in zip(one["optimiser"]["state"].values(), other["optimiser"]["state"].values(), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)
    last = [json.loads((tmp_path / name / "curve.jsonl").read_text().splitlines()[-1]) for name in ("whole", "parts")]
    assert last[0] == last[1]
    assert last[0]["val text-to-audio R@1"] == 1.0  # a single clip finds itself
    assert "<polyline" in (tmp_path / "whole" / "curve.svg").read_text()


def test_what_is_learnt_fits_better(run: Run, tmp_path: Path) -> None:
    run(epochs=20)
    rows = [json.loads(line) for line in (tmp_path / "run" / "curve.jsonl").read_text().splitlines()]
    losses = [row["total"] for row in rows if "total" in row]
    assert losses[-1] < 0.7 * losses[0]


def test_only_the_named_parts_learn(run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(towers: Any) -> None:
        if torch.is_grad_enabled():
            modes.append((towers.audio.training, towers.text.training, towers.a2t.training))

    modes: list[tuple[bool, ...]] = []
    contrasts = finetuning.contrasts
    monkeypatch.setattr(finetuning, "contrasts", lambda towers, *a, **k: seen(towers) or contrasts(towers, *a, **k))
    report = run(method="composed", learn=("a2t",))
    assert modes == [(False, False, True)] * 6
    assert report.losses.keys() == {"total", "a2t", "composed"}  # no tower would learn from captions alone
    after = weights(tmp_path / "run")
    for name, value in began(place).items():
        assert torch.equal(after[name], value)
    run("other", method="composed", learn=("a2t",), epochs=6)
    assert not torch.equal(after["a2t.layers.0.weight"], weights(tmp_path / "other")["a2t.layers.0.weight"])


def test_the_temperature_may_be_learnt(run: Run, tmp_path: Path) -> None:
    run("fixed")
    run("learnt", learn_temperature=True)
    assert float(RunFolder(tmp_path / "fixed").load()["log_temperature"]) == pytest.approx(math.log(0.07))
    assert float(RunFolder(tmp_path / "learnt").load()["log_temperature"]) != pytest.approx(math.log(0.07), abs=1e-4)


#: Each setting with another value than the default, or than that of ``run``.
OTHERWISE = {
    "rate": 2e-3,
    "a2t_rate": 5e-3,
    "warmup": 0.5,
    "clip": 0.01,
    "temperature": 0.2,
    "languages": ("fra",),
    "captions": "all",
    "prompt": "far",
    "dropout": 0.5,
    "seed": 7,
    "epochs": 2,
    "batch": 3,
    "method": "concatenate",
}


def test_no_setting_is_without_effect(run: Run, place: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (place / "data.jsonl").read_text().splitlines()]
    data = str(write_lines(place / "several.jsonl", [{**row, "captions": [*row["captions"], "far"]} for row in rows]))
    whole = {"data": data, "method": "composed", "stop_after": 2, "epochs": 3}

    def learnt(name: str, **changed: Any) -> torch.Tensor:
        run(name, **whole | changed)
        found = weights(tmp_path / name)
        return torch.cat([one.flatten() for key, one in found.items() if key.startswith(("audio.", "text."))])

    usual = learnt("usual")
    assert torch.equal(learnt("again"), usual)
    same = [name for name, value in OTHERWISE.items() if torch.equal(learnt(name, **{name: value}), usual)]
    assert not same
    given = learnt("sometimes", languages=("fra",), le_ratio=0.0)
    assert not torch.equal(learnt("always", languages=("fra",), le_ratio=1.0), given)


def test_both_kinds_of_dropout_reach_the_towers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    towers = finetuning.Towers
    monkeypatch.setattr(finetuning, "Towers", lambda *a, **given: told.append(given) or towers(*a, **given))
    run(stop_after=1, patch_dropout=0.4, dropout=0.3)
    assert told == [{"composes": False, "patch_dropout": 0.4, "dropout": 0.3}]


def test_a_tower_is_told_the_language_in_training_and_when_asked(
    run: Run, taught: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    encoded = finetuning.Towers.encode_texts
    monkeypatch.setattr(finetuning, "tag_of", lambda reader, language: f"<{language}> ")
    monkeypatch.setattr("trainer.validation.tag_of", lambda reader, language: f"<{language}> ")
    monkeypatch.setattr(
        finetuning.Towers, "encode_texts", lambda self, texts: asked.extend(texts) or encoded(self, texts)
    )
    run(languages=("fra",), le_ratio=1.0, epochs=1)
    assert sorted(taught)[:8] == ["<eng> " + text for text in sorted([*TEXTS[:5], "far bell", "far bell", "far bell"])]
    assert sorted(taught)[8:] == ["<fra> chien"] * 7 + ["<fra> pluie"]
    assert asked[-2:] == ["<eng> far bell", "<fra> chien"]


def test_what_lacks_a_language_is_translated_for_a_run(
    run: Run, taught: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        finetuning, "hub_translator", lambda name: lambda texts, source, target: [f"{name} {text}" for text in texts]
    )
    run(languages=("spa",), translator="model", le_ratio=1.0, epochs=1)
    english = [*TEXTS[:5], "far bell", "far bell", "far bell"]
    assert sorted(taught) == sorted([*english, *(f"model {text}" for text in english)])
    assert '"lang": "spa", "translation": "model wind"' in (place / "cache" / "translations.jsonl").read_text()


def test_a_split_that_is_learnt_from_or_not_there_is_not_held_out(run: Run) -> None:
    with pytest.raises(TrainingError, match=r"held_out = 'train'.*not learnt from"):
        run(held_out="train")
    with pytest.raises(TrainingError, match=r"no clip on the split vall.*train, val"):
        run(held_out="vall")


def test_half_precision_stays_finite(run: Run) -> None:
    found, exact = run("half", precision="bf16", epochs=1).losses, run("whole", epochs=1).losses
    assert found["total"] == pytest.approx(exact["total"], rel=0.2)
    assert found["total"] != exact["total"]


# What goes wrong


def test_other_settings_are_refused_with_what_differs(run: Run) -> None:
    run(stop_after=1)
    with pytest.raises(TrainingError, match=r"rate: 0\.001 there, 0\.002 now; seed: 1 there, 5 now"):
        run(rate=0.002, seed=5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"captions": ["another"]}, "a state with captions"),
        ({"captions": ["far bell"]}, "a state with captions"),  # without the language that it had
        ({"split": "val"}, "a state with clips"),
    ],
)
def test_other_captions_are_refused(run: Run, place: Path, changed: dict[str, Any], said: str) -> None:
    rows = [json.loads(line) for line in (place / "data.jsonl").read_text().splitlines()]
    data = str(write_lines(place / "changing.jsonl", rows))
    run(data=data, stop_after=1)
    write_lines(place / "changing.jsonl", [*rows[:7], rows[7] | changed, *rows[8:]])
    with pytest.raises(EarshotError, match=said if "split" not in changed else "on the split val than the run began"):
        run(data=data)
    write_lines(place / "changing.jsonl", [*rows[:8], rows[8] | {"captions": ["wind"]}])
    with pytest.raises(TrainingError, match="on the split val than the run began with"):
        run(data=data)
    write_lines(place / "changing.jsonl", rows)
    assert run(data=data).steps == 6


def test_composed_texts_need_a_module_that_learns_or_has_learnt(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="a base without an a2t module"):
        run(method="composed", learn=("audio", "text"))
    run("first", method="composed", epochs=1)
    learnt = weights(tmp_path / "first")["a2t.layers.0.weight"]
    run("second", base=str(tmp_path / "first"), method="composed", learn=("audio", "text"), epochs=1)
    assert torch.equal(weights(tmp_path / "second")["a2t.layers.0.weight"], learnt)


def test_the_batch_that_was_chosen_is_written_down(run: Run, tmp_path: Path) -> None:
    run(batch=None, stop_after=1)
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (told["settings"]["batch"], told["batch_used"]) == (None, 8)
    assert run(batch=None).steps == 3  # and is no other setting


def test_a_loss_that_is_no_number_names_the_batch_and_keeps_the_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(stop_after=2, method="composed")
    kept = (tmp_path / "run" / "last.pt").read_bytes()
    losses_of = finetuning.losses_of
    monkeypatch.setattr(finetuning, "losses_of", lambda *args: losses_of(*args) | {"a2t": torch.tensor(torch.nan)})
    with pytest.raises(
        TrainingError, match=r"step 3 \(.*a2t nan.*\d\.wav, .*without captions .*\d\.flac.*last good checkpoint"
    ):
        run(method="composed")
    assert (tmp_path / "run" / "last.pt").read_bytes() == kept


def test_a_gradient_that_is_no_number_changes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(stop_after=2)
    kept = (tmp_path / "run" / "last.pt").read_bytes()
    backward = finetuning.Accelerator.backward

    def broken(self: Any, loss: torch.Tensor) -> None:
        backward(self, loss * math.inf)

    monkeypatch.setattr(finetuning.Accelerator, "backward", broken)
    with pytest.raises(TrainingError, match=r"step 3 \(.*gradient (nan|inf).*\d\.wav"):
        run()
    assert (tmp_path / "run" / "last.pt").read_bytes() == kept


def ruining(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Let the third step leave ``value`` in all weights of the text tower."""
    step, taken = torch.optim.Adam.step, [0]

    def ruin(self: Any, *args: Any, **given: Any) -> Any:
        found = step(self, *args, **given)
        taken[0] += 1
        if taken[0] == 3:
            with torch.no_grad():
                for parameter in self.param_groups[0]["params"]:
                    parameter.fill_(value)
        return found

    monkeypatch.setattr(torch.optim.Adam, "step", ruin)


def test_weights_that_are_no_numbers_are_said_at_once_and_not_saved(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruining(monkeypatch, math.inf)
    with pytest.raises(TrainingError, match=r"step 3 \(.*weights nan.*\d\.wav.*last good checkpoint"):
        run(save_every=1)
    assert RunFolder(tmp_path / "run").load()["step"] == 2
    assert all(bool(torch.isfinite(one).all()) for one in weights(tmp_path / "run").values())


@pytest.mark.parametrize("save_every", [1, 2])
def test_weights_that_give_no_loss_are_not_saved(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: int
) -> None:
    ruining(monkeypatch, 3e38)  # a number, of which the next product is none
    after = r"step 3 \(.*nan" if save_every == 1 else r"step 4 \(.*nan.*after learning from .*\d\.wav"
    with pytest.raises(TrainingError, match=after):
        run(save_every=save_every)
    assert RunFolder(tmp_path / "run").load()["step"] == 2


def test_the_last_step_too_is_tried_before_it_is_saved(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(stop_after=2)
    kept = (tmp_path / "run" / "last.pt").read_bytes()
    ruining(monkeypatch, 3e38)
    run("warm", stop_after=2)  # two of the three steps
    with pytest.raises(TrainingError, match=r"step 3 \(.*nan.*\d\.wav"):
        run(stop_after=3)
    assert (tmp_path / "run" / "last.pt").read_bytes() == kept


def test_without_a_scaler_half_precision_too_stops_at_a_gradient_that_is_no_number(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward = finetuning.Accelerator.backward
    monkeypatch.setattr(
        finetuning.Accelerator, "backward", lambda self, loss: backward(self, loss * torch.tensor(math.inf))
    )
    with pytest.raises(TrainingError, match=r"step 1 \(.*gradient (nan|inf)"):
        run(precision="fp16")


def test_steps_that_a_scaler_leaves_out_are_counted_and_too_many_in_a_row_end_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    skips = iter([True, False, True, True, False, True])
    monkeypatch.setattr(
        "accelerate.optimizer.AcceleratedOptimizer.step_was_skipped", property(lambda _: next(skips, True))
    )
    monkeypatch.setattr(finetuning, "MOST_SKIPPED", 2)
    assert run().steps_skipped == 4
    with pytest.raises(TrainingError, match=r"step 3 \(.*every scale of fp16"):
        run("other")


def test_a_full_disk_leaves_the_checkpoint_before(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(stop_after=2)
    kept = (tmp_path / "run" / "last.pt").read_bytes()

    def full(state: Any, stream: IO[bytes]) -> None:
        stream.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"No space left.*make room"):
        run()
    monkeypatch.undo()
    assert (tmp_path / "run" / "last.pt").read_bytes() == kept
    assert not list((tmp_path / "run").glob("*.draft"))
    assert run().steps == 6


def test_translations_that_cannot_be_kept_are_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(finetuning, "hub_translator", lambda name: None)
    monkeypatch.setattr(finetuning.Translations, "add", full)
    with pytest.raises(TrainingError, match=r"No space left.*make room"):
        run(languages=("deu",), translator="any")


def test_a_run_killed_while_saving_goes_on_from_the_checkpoint_before(run: Run, tmp_path: Path) -> None:
    run("whole")
    run(stop_after=2)
    (tmp_path / "run" / "last.pt.draft").write_bytes(b"half of a checkpoint")
    assert run().steps == 6
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_sigterm_saves_and_ends(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: signal.Signals
) -> None:
    before = signal.getsignal(asked)
    step = finetuning._Run._step

    def interrupted(self: Any, number: int, *args: Any) -> dict[str, float]:
        if number == 1:
            os.kill(os.getpid(), asked)
        return step(self, number, *args)

    monkeypatch.setattr(finetuning._Run, "_step", interrupted)
    report = run()
    assert report.interrupted
    assert signal.getsignal(asked) == before
    assert report.steps == RunFolder(tmp_path / "run").load()["step"] == 2
    monkeypatch.undo()
    assert run().steps == 6


def test_a_batch_larger_than_the_data_is_refused(run: Run) -> None:
    with pytest.raises(EarshotError, match=r"a batch of 7 from 6 sounds without captions"):
        run("other", batch=7, method="composed")
    with pytest.raises(EarshotError, match=r"a batch of 9 from 8 clips with captions.*a smaller batch"):
        run(batch=9)


def test_a_folder_with_other_things_is_no_place_for_a_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letters.txt").write_text("dear")
    with pytest.raises(TrainingError, match="other things"):
        run()


def test_data_without_captions_is_refused(run: Run, place: Path) -> None:
    with pytest.raises(TrainingError, match="no clip with a caption"):
        run(data=str(place / "others"))


def test_a_damaged_checkpoint_is_said(run: Run, tmp_path: Path) -> None:
    run(stop_after=1)
    (tmp_path / "run" / "last.pt").write_bytes(b"PK" + bytes(100))
    with pytest.raises(TrainingError, match="begins anew"):
        run()


def test_what_is_wrong_with_the_clips_asked_about_is_said_before_anything_is_trained(
    run: Run, place: Path, tmp_path: Path
) -> None:
    rows = (place / "data.jsonl").read_text().splitlines()
    gone = {"audio": "gone.wav", "captions": ["wind"], "split": "val"}
    data = write_lines(place / "gone.jsonl", [*rows, gone])
    with pytest.raises(EarshotError, match=r"1 of 2 clips of the split val that can't be heard.*gone\.wav"):
        run(data=str(data))
    assert not (tmp_path / "run" / "last.pt").exists()
    assert run(stop_after=1).steps == 1  # with other data, in the same folder: nothing had been learnt


def test_what_was_learnt_is_saved_before_it_is_asked(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> dict[str, float]:
        raise MemoryError

    monkeypatch.setattr(finetuning.Validation, "ask", fails)
    with pytest.raises(MemoryError):
        run(epochs=1)
    assert RunFolder(tmp_path / "run").load()["step"] == 2


def test_an_epochs_end_is_saved_when_time_has_passed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = RunFolder.save
    monkeypatch.setattr(RunFolder, "save", lambda self, state: saved.append(state["step"]) or save(self, state))
    run("seldom")
    assert saved == [6]
    monkeypatch.setattr(finetuning, "WORTH_SAVING_S", -1)
    run("often")
    assert saved == [6, 2, 4, 6]
    monkeypatch.setattr(finetuning, "WORTH_SAVING_S", math.inf)
    run("by steps", save_every=4)
    assert saved[4:] == [4, 6]
    one, other = weights(tmp_path / "seldom"), weights(tmp_path / "often")
    assert all(torch.equal(one[name], other[name]) for name in one)


# Which clips


def test_the_batch_is_chosen_among_what_can_be_heard(run: Run, place: Path) -> None:
    for number in range(100):
        soundfile.write(place / f"short{number}.wav", np.full(200, 0.001 * (number + 1)), RATE_HZ)
    (place / "broken.wav").write_bytes(b"no sound")
    rows = [{"audio": f"short{number}.wav", "captions": ["wind"]} for number in range(100)]
    data = write_lines(place / "short.jsonl", [*rows, {"audio": "broken.wav", "captions": ["rain"]}])
    told: set[str] = set()
    given = {"data": str(data), "batch": None, "stop_after": 1, "epochs": 1, "told_of": told}
    report = run("composed", method="composed", **given)
    assert report.steps_planned == 20  # in fives, as six sounds have no captions
    assert [Path(name).name for name, _ in report.skipped] == ["broken.wav"]
    assert "decoding" in told
    for path in place.glob("short*.wav"):
        path.unlink()
    (place / "broken.wav").unlink()


def test_unlabelled_sounds_are_none_that_are_asked_about(run: Run, place: Path) -> None:
    report = run(method="composed", unlabelled=str(place), stop_after=1)
    assert (report.unlabelled, report.kept_out) == (len([*place.rglob("*.wav"), *place.rglob("*.flac")]) - 1, 1)


def test_what_is_on_two_splits_or_wrong_is_counted_and_not_learnt(run: Run, place: Path) -> None:
    rows = (place / "data.jsonl").read_text().splitlines()
    leaked = {"audio": "7.wav", "captions": ["far bell"], "split": "test"}
    data = write_lines(place / "leaked.jsonl", [*rows, leaked, "{"])
    report = run(data=str(data), stop_after=1)
    assert report.problems == {"bad JSON": 1, "one clip on two splits": 1}
    assert report.clips == 7


def test_one_sound_under_two_names_is_no_negative_of_itself(run: Run, place: Path) -> None:
    copies = place / "copies"
    copies.mkdir()
    for number, source in enumerate((0, 0, 1)):
        (copies / f"{number}.wav").write_bytes((place / f"{source}.wav").read_bytes())
    rows = [{"audio": f"{number}.wav", "captions": [text]} for number, text in enumerate(("wind", "rain", "chien"))]
    report = run(data=str(write_lines(copies / "data.jsonl", rows)), batch=3, stop_after=1)
    assert report.spared == 2


def test_the_command_tells_what_it_left_out(place: Path, tmp_path: Path) -> None:
    """More than a hundred clips, so that one may be broken; three say the same of other sounds."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for number in range(101):
        soundfile.write(sounds / f"{number}.wav", np.full(200, 0.001 * (number + 1)), RATE_HZ)
    (sounds / "5.wav").write_bytes(b"no sound")
    rows: list[Any] = [{"audio": f"{number}.wav", "captions": [f"sound {number // 3}"]} for number in range(101)]
    data = write_lines(sounds / "data.jsonl", [*rows, "{"])
    command = ["train", "finetune", "--data", str(data), "--base", str(place / "base"), "--epochs", "1"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run")], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "5.wav" in result.output
    assert "left out of the data: bad JSON 1; `earshot train check` names them" in result.output
    assert "pairs say the same and were not counted as wrong answers" in result.output
    assert "1 of 1 steps, 101 clips with captions and 0 without" in result.output


def test_where_no_split_is_called_train_one_is_held_out(run: Run, place: Path, tmp_path: Path) -> None:
    rows = [{"audio": f"{number}.wav", "captions": ["wind"], "split": f"fold{1 + number % 3}"} for number in range(9)]
    data = str(write_lines(place / "folds.jsonl", rows))
    with pytest.raises(TrainingError, match=r"no split train.*fold1, fold2, fold3.*--held-out"):
        run(data=data)
    with pytest.raises(TrainingError, match=r"no split train.*fold4.*fold1, fold2, fold3"):
        run(data=data, held_out="fold4")
    report = run(data=data, held_out="fold3", batch=6, epochs=1)
    assert "fold3 audio-to-text R@1" in (tmp_path / "run" / "curve.svg").read_text()
    assert report.clips == 6
    assert "fold3 text-to-audio R@1" in (tmp_path / "run" / "curve.jsonl").read_text()


@pytest.mark.parametrize("asked", ["deu", "all"])
def test_languages_without_captions_are_refused(run: Run, place: Path, asked: str) -> None:
    rows = [{"audio": f"{number}.wav", "captions": ["wind"]} for number in range(4)]
    with pytest.raises(TrainingError, match=r"(no caption in deu|English alone).*--translator"):
        run(data=str(write_lines(place / "english.jsonl", rows)), languages=(asked,))


def test_of_two_sounds_either_mixture_is_the_other(run: Run) -> None:
    with pytest.raises(TrainingError, match=r"a batch of 2 for concatenate.*3 clips"):
        run(batch=2, method="concatenate")


# Several processes


def test_two_processes_find_the_loss_and_gradients_of_one_and_end_where_it_does(place: Path, tmp_path: Path) -> None:
    told = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment = os.environ | told
    command = [sys.executable, "-W", "error", "-m", "tests.trainer.two", str(tmp_path), str(place)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for method in METHODS:
        one, two = (torch.load(tmp_path / f"{method}-{world}.pt", weights_only=True) for world in (1, 2))
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-6), method
        assert one["grads"].keys() == two["grads"].keys()
        for name, wanted in one["grads"].items():
            assert torch.allclose(two["grads"][name], wanted, rtol=1e-4, atol=1e-6), (method, name)
        assert sum(float(grad.abs().sum()) for grad in one["grads"].values()) > 1
        assert one["spared"] == two["spared"] > 0
    one, two = (weights(tmp_path / f"run-{world}") for world in (1, 2))
    moved = sum(float((one[name] - value).norm()) for name, value in began(place).items())
    apart = sum(float((one[name] - two[name]).norm()) for name in one)
    assert apart < 0.01 * moved
    assert RunFolder(tmp_path / "run-2").load()["step"] == 4


def began(place: Path) -> dict[str, torch.Tensor]:
    """The weights that runs begin with."""
    base = tiny_towers.load(place / "base", "tiny")
    assert base.audio is not None
    assert base.text is not None
    parts = {"audio": base.audio.module, "text": base.text.module}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
