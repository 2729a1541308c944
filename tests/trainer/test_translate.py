"""Language enhancement: what an epoch draws, and translations that are made once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import M2M100Config, M2M100ForConditionalGeneration, PreTrainedTokenizerFast

from trainer.examples import Caption, DataError, Example
from trainer.translate import (
    SEVEN,
    Translations,
    chance_of,
    chosen_languages,
    drawn,
    hub_translator,
    tag_of,
)

ENGLISH = (Caption("rain"), Caption("it rains"), Caption("drops fall"))
CLIP = Example("clip", Path("clip.wav"), (*ENGLISH, *(Caption(f"rain in {code}", code) for code in SEVEN)))


def draws(
    ratio: float, every: bool = False, languages: Sequence[str] = SEVEN, clip: Example = CLIP
) -> list[list[Caption]]:
    return [drawn(clip, languages, ratio, every, chance_of(1, epoch, clip)) for epoch in range(4000)]


def test_at_40_percent_with_seven_languages_there_are_3_8_captions_a_clip() -> None:
    found = draws(0.4)
    mean = np.mean([len(captions) for captions in found])
    assert mean == pytest.approx(1 + 7 * 0.4, abs=3 * np.sqrt(7 * 0.4 * 0.6 / len(found)))
    counts = Counter(caption.lang for captions in found for caption in captions)
    assert counts["eng"] == len(found)  # English is always in
    for code in SEVEN:
        assert counts[code] / len(found) == pytest.approx(0.4, abs=0.03)


def test_each_epoch_draws_anew_and_the_same_again() -> None:
    found = draws(0.4)
    assert found == draws(0.4)
    assert len({tuple(caption.lang for caption in captions) for captions in found}) > 64
    assert {captions[0] for captions in found} == set(ENGLISH)  # each of the English ones has its turn
    other = Example("other", Path("other.wav"), CLIP.captions)
    assert draws(0.4, clip=other) != found


def test_without_languages_there_is_one_caption_and_it_is_english() -> None:
    assert all(len(captions) == 1 and captions[0].lang == "eng" for captions in draws(0.4, languages=()))
    assert {len(captions) for captions in draws(0.0)} == {1}
    assert {len(captions) for captions in draws(1.0)} == {8}


def test_all_captions_of_a_language_come_together() -> None:
    assert {len(captions) for captions in draws(0.0, every=True)} == {3}


def test_a_clip_without_english_gives_what_it_has() -> None:
    clip = Example("x", Path("x.wav"), (Caption("pluie", "fra"), Caption("Regen", "deu")))
    assert {captions[0].lang for captions in draws(0.0, clip=clip)} == {"fra", "deu"}


def test_languages_by_name() -> None:
    assert chosen_languages(["fr", "deu", "eng", "fra"], [CLIP]) == ("fra", "deu")
    assert chosen_languages(["all"], [CLIP]) == tuple(sorted(SEVEN))
    with pytest.raises(DataError, match="'klingonish'"):
        chosen_languages(["klingonish"], [CLIP])


def test_a_tower_is_told_the_language_where_it_has_a_token_for_it() -> None:
    plain = Tokenizer(models.WordLevel({"rain": 0, "[UNK]": 1}, unk_token="[UNK]"))
    assert tag_of(plain, "fra") == ""
    for token in ("[fra]", "<fra>", "__fra__", "fra_Latn"):
        made = Tokenizer(models.WordLevel({token: 0, "[UNK]": 1}, unk_token="[UNK]"))
        assert tag_of(made, "fra") == f"{token} "
    assert tag_of(Tokenizer(models.WordLevel({"jpn_Jpan": 0, "[UNK]": 1}, unk_token="[UNK]")), "jpn") == "jpn_Jpan "


# Translations


def test_what_lacks_a_language_is_translated_once(tmp_path: Path) -> None:
    asked: list[tuple[str, str, str]] = []

    def translate(texts: Sequence[str], source: str, target: str) -> list[str]:
        asked.extend((text, source, target) for text in texts)
        return [f"{target}: {text}" for text in texts]

    clips = [
        Example("a", Path("a.wav"), (Caption("rain"), Caption("pluie", "fra"))),
        Example("b", Path("b.wav"), (Caption("rain"),)),
        Example("c", Path("c.wav"), ENGLISH),
        Example("d", Path("d.wav"), (Caption("Regen", "deu"),)),
    ]
    path = tmp_path / "cache" / "translations.jsonl"
    told: list[tuple[str, int, int]] = []
    found = Translations(path, translate, "one", lambda *step: told.append(step)).add(clips, ("fra", "deu"), seed=1)
    assert found[0].captions == (*clips[0].captions, Caption("deu: rain", "deu"))
    assert [caption.lang for caption in found[1].captions] == ["eng", "fra", "deu"]
    assert [caption.lang for caption in found[2].captions] == ["eng"] * 3 + ["fra", "deu"]
    assert found[3] == clips[3]  # there is no English to translate
    picked = [caption.text.partition(": ")[2] for caption in found[2].captions[3:]]
    assert set(picked) <= {caption.text for caption in ENGLISH}
    wanted = {("rain", "deu"), ("rain", "fra"), *zip(picked, ("fra", "deu"), strict=True)}
    assert len(asked) == len(wanted)
    assert set(asked) == {(text, "eng", language) for text, language in wanted}
    assert [step for step, _, _ in told] == ["translating into fra", "translating into deu"]
    assert all(done == total > 0 for _, done, total in told)
    before = len(asked)
    with path.open("ab") as stream:
        stream.write(
            '\n3\n["rain"]\n{"text": "wind", "lang": 3}\n{"text": "half a li, é'.encode()[:-1]
        )  # a run was killed
    again = Translations(path, translate, "one")
    assert again.add(clips, ("fra", "deu"), seed=1) == found
    assert len(asked) == before
    again.add([Example("e", Path("e.wav"), (Caption("wind"),))], ("fra",), seed=1)
    assert Translations(path, translate, "one").add([Example("e", Path("e.wav"), (Caption("wind"),))], ("fra",), seed=1)
    assert len(asked) == before + 1


def test_what_another_model_has_said_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    path = tmp_path / "translations.jsonl"
    path.write_text('{"text": "rain", "lang": "fra", "translation": "of an older file"}\n', encoding="utf-8")
    asked: list[str] = []

    def said(model: str) -> str:
        def translate(texts: Sequence[str], source: str, target: str) -> list[str]:
            asked.append(model)
            return [f"{model}: {text}" for text in texts]

        clip = Example("a", Path("a.wav"), (Caption("rain"),))
        return Translations(path, translate, model).add([clip], ("fra",), seed=1)[0].captions[1].text

    assert [said(model) for model in ("one", "other", "one")] == ["one: rain", "other: rain", "one: rain"]
    assert asked == ["one", "other"]


def test_a_model_of_the_hub_translates_in_batches(tmp_path: Path) -> None:
    folder = tiny_m2m(tmp_path / "m2m")
    translate = hub_translator(str(folder))
    texts = ["rain falls", "a dog barks loud", "wind"]
    torch.manual_seed(0)
    french, german = translate(texts, "eng", "fra"), translate(texts, "eng", "deu")
    assert len(french) == len(german) == 3
    assert all("__" not in text for text in french)
    assert french != german  # it is told the language
    with pytest.raises(DataError, match="does not know jpn"):
        translate(texts, "eng", "jpn")


def test_a_model_that_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no translation model"):
        hub_translator(str(tmp_path / "empty"))(["rain"], "eng", "fra")


def tiny_m2m(folder: Path) -> Path:
    """A translation model of three languages, as ``transformers`` saves it, that has learnt nothing."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "__en__", "__fr__", "__de__"]
    pieces += ["rain", "falls", "a", "dog", "barks", "loud", "wind", "pluie", "chien", "vent", "Regen", "Hund", "Wind"]
    made = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    reader = PreTrainedTokenizerFast(tokenizer_object=made, **special, additional_special_tokens=pieces[4:7])
    reader.save_pretrained(folder)
    torch.manual_seed(3)
    config = M2M100Config(
        vocab_size=len(pieces),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_position_embeddings=64,
        init_std=1.0,
        max_length=12,
    )
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    return folder
