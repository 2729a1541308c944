"""Taking out channels that never sound changes nothing but the size."""

from __future__ import annotations

import torch

from exporters.towers import AudioConfig, AudioTower
from trainer.prune import LANES, peaks_of, prune

SMALL = AudioConfig(stem=16, blocks=((48, 1), (32, 2), (32, 1), (48, 2), (64, 2)), classes=5, hidden=4, dim=6)


def test_pruned_tower_hears_the_same():
    torch.manual_seed(0)
    tower = AudioTower(SMALL).eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter *= 3  # a fresh trunk hardly tells sounds apart
        for block in tower.trunk.blocks[1:]:
            block.depthwise.bias[::2] = -100.0  # never above zero
        tower.trunk.blocks[-1].pointwise.bias[:40] = -100.0
    mels = torch.randn(3, 192, 64)
    peaks = peaks_of(tower, [mels[:2], mels[2:]])
    state = {k: v for k, v in tower.state_dict().items() if k.startswith(("trunk.", "classifier."))}
    config, pruned = prune(SMALL, state, peaks)
    widths = [out for out, _ in config.blocks]
    assert widths[0] <= 32  # 24 of 48 were silenced, and whole vectors stay
    assert widths[-1] <= 32
    assert all(width % LANES == 0 for width in widths)
    assert [stride for _, stride in config.blocks] == [stride for _, stride in SMALL.blocks]
    small = AudioTower(config).eval()
    small.load_state_dict(pruned, strict=False)
    with torch.inference_mode():
        logits, same = tower.classifier(tower.hear(mels)), small.classifier(small.hear(mels))
    assert torch.allclose(logits, same, atol=1e-5)
    assert not torch.allclose(logits[0], logits[1], atol=1e-5)
