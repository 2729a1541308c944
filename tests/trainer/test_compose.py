"""Sounds as tokens among words, in the text towers of every family; and what one batch teaches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.errors import QueryError
from exporters.composing import insert_token
from tests.trainer.tiny_towers import DIM, FAMILIES
from trainer.compose import (
    Contrast,
    Heard,
    Told,
    caption_contrast,
    composed_contrast,
    concatenated_contrast,
    content_keys,
    contrasts,
    losses_of,
    mixed,
    pseudo_contrast,
)
from trainer.settings import check_method
from trainer.tower_sets import Towers

TEXTS = ["rain", "a dog barks", "the bell rings ! loud", "wind on the roof"]
WINDOW = 15_600


@pytest.fixture(params=list(FAMILIES))
def towers(request: pytest.FixtureRequest) -> Towers:
    torch.set_num_threads(1)
    return Towers(FAMILIES[request.param](), composes=True).eval()


def sounds(count: int, seed: int = 3) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


def told(count: int = 3) -> Told:
    chance = torch.Generator().manual_seed(5)
    samples = 0.1 * torch.randn(count, WINDOW, generator=chance)
    texts = TEXTS[:count]
    return Told(samples, texts, torch.arange(count), [f"id{i}" for i in range(count)], ["eng"] * count)


def heard(count: int = 3) -> Heard:
    chance = torch.Generator().manual_seed(6)
    return Heard(0.1 * torch.randn(count, WINDOW, generator=chance), [f"other{i}" for i in range(count)])


# A token among words


def test_token_embeddings_say_what_ids_say(towers: Towers) -> None:
    with torch.inference_mode():
        ids, mask = towers.tokens(TEXTS, room=0)
        assert mask.sum(1).unique().numel() > 1  # some are padded
        found = towers.encode_text(*towers.embed_tokens(ids, mask))
        assert torch.allclose(found, towers.encode_texts(TEXTS), atol=1e-5)


def test_the_text_changes_with_the_token(towers: Towers) -> None:
    with torch.inference_mode():
        ids, mask = towers.tokens(TEXTS)
        embeddings, mask = towers.embed_tokens(ids, mask)
        tokens = torch.randn(2, 1, towers.token_dim, generator=torch.Generator().manual_seed(1)).expand(
            -1, len(ids), -1
        )
        one, other = (
            towers.encode_text(*insert_token(embeddings, mask, token, towers.reader.closes)) for token in tokens
        )
        assert ((one * other).sum(1) < 0.995).all()
        assert ((one * towers.encode_texts(TEXTS)).sum(1) < 0.995).all()


def test_the_token_gets_a_gradient(towers: Towers) -> None:
    ids, mask = towers.tokens(TEXTS)
    embeddings, mask = towers.embed_tokens(ids, mask)
    token = torch.randn(len(TEXTS), towers.token_dim, requires_grad=True)
    texts = towers.encode_text(*insert_token(embeddings, mask, token, towers.reader.closes))
    texts[:, 0].sum().backward()
    assert token.grad is not None
    assert (token.grad.norm(dim=1) > 1e-4).all()


def test_the_a2t_module_learns_from_every_family(towers: Towers) -> None:
    towers.compose(TEXTS, sounds(len(TEXTS)))[:, 0].sum().backward()
    assert towers.a2t is not None
    for parameter in towers.a2t.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_the_a2t_module_is_the_papers(towers: Towers) -> None:
    """Section 4.2: two layers of 1024 with dropout and ReLU, then an output layer to one text token."""
    assert towers.a2t is not None
    kinds = [type(layer).__name__ for layer in towers.a2t.layers]
    assert kinds == ["Linear", "Dropout", "ReLU"] * 2 + ["Linear"]
    shapes = [(layer.in_features, layer.out_features) for layer in towers.a2t.layers if isinstance(layer, nn.Linear)]
    assert shapes == [(DIM, 1024), (1024, 1024), (1024, towers.token_dim)]


def test_padding_does_not_change_a_composed_text(towers: Towers) -> None:
    with torch.inference_mode():
        alone = towers.compose(TEXTS[:1], sounds(1))
        among = towers.compose(TEXTS, torch.cat([sounds(1), sounds(3, seed=9)]))
        assert torch.allclose(alone[0], among[0], atol=1e-5)


def test_a_text_too_long_still_has_room_for_the_token(towers: Towers) -> None:
    long = " ".join(["rain"] * 100)
    with torch.inference_mode():
        one, other = towers.compose([long, long], sounds(2))
        assert not torch.equal(one, other)


@pytest.mark.parametrize("closes", [False, True])
def test_where_a_token_goes(closes: bool) -> None:
    embeddings = torch.arange(1, 9, dtype=torch.float32).reshape(2, 4, 1)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    found, longer = insert_token(embeddings, mask, torch.tensor([[70.0], [80.0]]), closes)
    wanted = [[1, 2, 3, 70, 4], [5, 80, 6]] if closes else [[1, 2, 3, 4, 70], [5, 6, 80]]
    assert longer.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    for row, texts in enumerate(wanted):
        assert found[row, : len(texts), 0].tolist() == texts


def test_a_token_without_a_weight_of_its_own_weighs_one() -> None:
    found, _ = insert_token(torch.zeros(1, 2, 3), torch.ones(1, 2), torch.full((1, 2), 5.0), closes=False)
    assert found[0, 2].tolist() == [5, 5, 1]


def test_towers_without_the_module_say_so() -> None:
    with pytest.raises(ValueError, match="composes=True"):
        Towers(FAMILIES["own"]()).compose(["rain"], sounds(1))


# What a batch teaches


def test_composed_audio_is_the_mean_of_both_waveforms() -> None:
    assert mixed(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 0.5])).tolist() == [0.5, -0.25]


def test_the_composed_terms_are_the_papers(towers: Towers) -> None:
    """Eqs. 6 to 18, each written out for one batch."""
    with torch.inference_mode():
        labelled, unlabelled = told(), heard()
        found = contrasts(towers, "composed", labelled, unlabelled)
        assert list(found) == ["captions", "a2t", "composed"]
        z_audio, z_text = towers.encode_audio(labelled.samples), towers.encode_texts(labelled.texts)
        z_unlabel = towers.encode_audio(unlabelled.samples)
        z_hat = towers.compose(["this sound is"] * 3, z_unlabel)
        z_composed = towers.encode_audio((labelled.samples + unlabelled.samples) / 2)
        z_composed_text = towers.compose(labelled.texts, z_unlabel)
        total = torch.zeros(())
        for audio, text in ((z_audio, z_text), (z_unlabel, z_hat), (z_composed, z_composed_text)):
            cos = audio @ text.T / 0.1
            total += sum(-torch.log(torch.exp(cos[i, i]) / torch.exp(cos[i]).sum()) for i in range(3)) / 3
            total += sum(-torch.log(torch.exp(cos[i, i]) / torch.exp(cos[:, i]).sum()) for i in range(3)) / 3
        losses = losses_of(found, 0.1)
        assert float(losses["total"]) == pytest.approx(float(total), rel=1e-5)
        assert float(losses["total"]) == pytest.approx(sum(float(losses[name]) for name in found), rel=1e-6)


def test_every_part_learns_from_the_composed_term(towers: Towers) -> None:
    labelled, unlabelled = told(), heard()
    vectors = towers.encode_audio(unlabelled.samples)
    composed_contrast(towers, labelled, unlabelled, vectors).loss(0.07).backward()
    for part in (towers.audio, towers.text, towers.a2t):
        assert part is not None
        assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0


def test_concatenating_mixes_neighbours_and_joins_captions_of_one_language() -> None:
    towers = Towers(FAMILIES["own"]()).eval()
    with torch.inference_mode():
        base = told()
        texts = ["rain", "pluie", "a dog barks", "wind", "chien"]
        labelled = Told(
            base.samples, texts, torch.tensor([0, 0, 1, 2, 2]), base.ids, ["eng", "fra", "eng", "eng", "fra"]
        )
        found = concatenated_contrast(towers, labelled)
        wanted = ["rain a dog barks", "pluie a dog barks", "a dog barks wind", "wind rain", "chien pluie"]
        assert torch.allclose(found.texts, towers.encode_texts(wanted), atol=1e-6)
        mean = (base.samples[2] + base.samples[0]) / 2
        assert torch.allclose(found.sounds[2], towers.encode_audio(mean[None])[0], atol=1e-6)


def test_a_mixture_is_the_same_in_either_order() -> None:
    base = told()
    labelled = Told(base.samples[:2], ["rain", "wind"], torch.tensor([0, 1]), base.ids[:2], ["eng"] * 2)
    found = concatenated_contrast(Towers(FAMILIES["own"]()).eval(), labelled)
    assert found.pairs.alike.tolist() == [[False, True], [True, False]]


def test_one_sound_alone_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match="two or more"):
        concatenated_contrast(Towers(FAMILIES["own"]()), told(1))


def test_composed_needs_sounds_without_captions() -> None:
    towers = Towers(FAMILIES["own"](), composes=True)
    with pytest.raises(ValueError, match="0 sounds without captions"):
        contrasts(towers, "composed", told(), None)


def test_the_same_clip_twice_is_no_negative_of_itself() -> None:
    towers = Towers(FAMILIES["own"](), composes=True).eval()
    unlabelled = heard()
    twice = Heard(unlabelled.samples, ["x", "y", "x"])
    with torch.inference_mode():
        found = pseudo_contrast(towers, twice, towers.encode_audio(twice.samples))
    assert found.pairs.alike.tolist() == [[False, False, True], [False, False, False], [True, False, False]]


def test_methods_by_name() -> None:
    assert check_method("composed") == "composed"
    with pytest.raises(QueryError, match="finetune, concatenate, composed"):
        check_method("compose")


def test_keys_are_equal_where_texts_say_the_same() -> None:
    a, b, c = content_keys(["A dog  barks", "a dog barks", "a dog barked"]).tolist()
    assert a == b != c


def test_captions_of_one_clip_are_its_own() -> None:
    towers = Towers(FAMILIES["own"]()).eval()
    base = told()
    labelled = Told(base.samples, ["rain", "wind", "rain", "bell"], torch.tensor([0, 0, 1, 2]), base.ids, ["eng"] * 4)
    with torch.inference_mode():
        found: Contrast = caption_contrast(towers, labelled)
    assert found.pairs.own.tolist() == [[True, True, False, False], [False, False, True, False], [False] * 3 + [True]]
    # The second sound's "rain" is what the first is said to be, too.
    assert found.pairs.alike.tolist() == [[False, False, True, False], [True, False, False, False], [False] * 4]
