"""What of HTSAT's graph differs from ``transformers``, by itself; that the whole is equal, each family's tests show."""

from __future__ import annotations

import pytest
import torch
from transformers import ClapAudioConfig
from transformers.models.clap.modeling_clap import ClapAudioModel

from exporters import htsat
from exporters.htsat import Block, Htsat, banded, stretching
from tests.exporters.checkpoints import scatter


@pytest.mark.parametrize(("frames", "wanted"), [(1001, 1024), (966, 1024), (1024, 1024), (40, 1024), (30, 48)])
def test_few_frames_stretch_as_all_do(frames: int, wanted: int) -> None:
    whole = stretching(frames, wanted)
    near, bands = banded(whole)
    assert bands.shape[2] <= 36
    x = torch.randn(frames, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((bands @ x[near]).reshape(wanted, 3), whole @ x, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_parts_of_a_layer_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ClapAudioConfig(depths=[2, 2], num_attention_heads=[4, 8], patch_embeds_hidden_size=24)
    model = ClapAudioModel(config).eval()
    scatter(model)
    tower = Htsat(model, 1001).eval()
    calls: list[int] = []
    rows = Block._rows
    monkeypatch.setattr(Block, "_rows", lambda self, x, bias: calls.append(x.shape[1]) or rows(self, x, bias))
    mels = -45 + 10 * torch.randn(2, 1001, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(htsat, "MOST_NUMBERS", 1 << 30)
    whole = tower(mels)
    assert calls == [4096, 4096, 1024, 1024]
    calls.clear()
    monkeypatch.setattr(htsat, "MOST_NUMBERS", 1 << 17)
    torch.testing.assert_close(tower(mels), whole, atol=1e-4, rtol=1e-4)
    assert calls == [1024] * 8 + [512] * 4
    assert whole.std() > 0.1
