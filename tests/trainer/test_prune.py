"""Taking out channels that never sound changes nothing but the size."""

from __future__ import annotations

import torch

from exporters.towers import AudioConfig, AudioTower
from trainer.prune import peaks_of, prune

SMALL = AudioConfig(stem=8, blocks=((8, 1), (16, 2), (16, 1), (24, 2), (24, 2)), classes=5, hidden=4, dim=6)


def test_pruned_tower_hears_the_same():
    torch.manual_seed(0)
    tower = AudioTower(SMALL).eval()
    with torch.no_grad():
        for block in tower.trunk.blocks[1:]:
            block.depthwise.bias[::3] = -100.0  # never above zero
        tower.trunk.blocks[-1].pointwise.bias[:7] = -100.0
    mels = torch.randn(3, 192, 64)
    peaks = peaks_of(tower, [mels[:2], mels[2:]])
    state = {k: v for k, v in tower.state_dict().items() if k.startswith(("trunk.", "classifier."))}
    config, pruned = prune(SMALL, state, peaks)
    assert config.blocks[0][0] <= 5  # at least three of eight channels never sounded
    assert config.blocks[-1][0] <= 24 - 7
    small = AudioTower(config).eval()
    small.load_state_dict(pruned, strict=False)
    with torch.inference_mode():
        logits, same = tower.classifier(tower.hear(mels)), small.classifier(small.hear(mels))
    assert torch.allclose(logits, same, atol=1e-5)
