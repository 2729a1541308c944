"""BERT and its kin without padding, against ``transformers``' own classes on batches of uneven texts."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from exporters.bert import Bert, Layout
from tests.exporters.checkpoints import scatter

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 50}
MODELS = {
    "bert": lambda: BertModel(BertConfig(**SIZES)),
    "roberta": lambda: RobertaModel(RobertaConfig(**SIZES, pad_token_id=1)),
    "xlm-roberta": lambda: XLMRobertaModel(XLMRobertaConfig(**SIZES, pad_token_id=1)),
}
LENGTHS = (3, 11, 1, 7, 11)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    made: PreTrainedModel = MODELS[request.param]().eval()
    scatter(made, std=0.3)
    return made


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask; one text has the piece for padding among its words."""
    mask = (torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]).long()
    ids = torch.randint(5, 50, mask.shape, generator=torch.Generator().manual_seed(0)) * mask + (1 - mask)
    ids[1, 4] = 1
    return ids, mask


@torch.inference_mode()
def test_every_token_is_that_of_transformers(model: PreTrainedModel, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    ids, mask = batch
    wanted = model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
    assert wanted.std() > 0.1
    torch.testing.assert_close(Bert(model, first_only=False)(ids, mask), wanted, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_last_layer_gives_the_first_token(model: PreTrainedModel, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    ids, mask = batch
    wanted = model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    torch.testing.assert_close(Bert(model, first_only=True)(ids, mask), wanted, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_padding_costs_no_products(model: PreTrainedModel, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    packed = Bert(model, first_only=True)
    rows: list[int] = []
    for layer in packed.layers:
        layer.outer.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    packed(*batch)
    assert rows == [sum(LENGTHS), sum(LENGTHS), len(LENGTHS)]


def test_packing_and_back(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, mask = batch
    layout = Layout.of(mask)
    x = torch.randn(*mask.shape, 4)
    packed = layout.packed(x)
    assert torch.equal(packed, torch.cat([row[:length] for row, length in zip(x, LENGTHS, strict=True)]))
    assert torch.equal(layout.padded(packed) * mask[..., None], x * mask[..., None])
