"""HTSAT as it runs in the graph: the weights of ``transformers``' ``ClapAudioModel``, fewer moves of memory.

The architecture is HTS-AT (arXiv:2202.00874) on Swin blocks (arXiv:2103.14030), as in ``transformers`` 5
(``models/clap/modeling_clap.py``). What differs is only the order of the sums:

- Tokens are carried in the order that their block's windows want. Rolling, cutting into windows and putting back are
  one ``Gather`` between two blocks; merging patches is another.
- Queries, keys and values come from one product, the scale of the scores folded into it.
- The bias of relative positions and the mask of shifted windows are one constant.
- Stretching 1001 frames to 1024 (bicubic) is a product of each few with the frames about them; the batch norm of the
  mels is a product and a sum.
- Where a layer's numbers exceed a core's cache, some windows go through it after others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.clap.modeling_clap import ClapAudioModel, ClapAudioPatchEmbed, ClapAudioSelfAttention

from exporters.bert import joined

#: More of a clip's numbers than these, 2 MB, are computed in parts: they would leave a core's cache between two nodes.
MOST_NUMBERS = 1 << 19


class Htsat(nn.Module):
    """``log-mels [batch, frames, mels] in dB -> [batch, hidden]``, the tower's pooled output."""

    def __init__(self, model: ClapAudioModel, frames: int) -> None:
        super().__init__()
        encoder = model.audio_encoder
        self.mels = model.config.num_mel_bins
        self.spec_size: int = model.config.spec_size
        self.ratio: int = encoder.freq_ratio
        norm = encoder.batch_norm
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.register_buffer("scale", scale.detach())
        self.register_buffer("shift", (norm.bias - norm.running_mean * scale).detach())
        near, stretch = banded(stretching(frames, self.spec_size * self.ratio))
        self.register_buffer("near", near)
        self.register_buffer("stretch", stretch)
        self.patches = FusedPatches(encoder.patch_embed) if encoder.enable_fusion else Patches(encoder.patch_embed)
        self.steps = nn.ModuleList(_steps(model))
        self.norm = encoder.norm

    def forward(self, mels: Tensor) -> Tensor:
        """``[batch, frames, mels] -> [batch, hidden]``."""
        x = self.patches(self._image(self._stretched(mels * self.scale + self.shift)))
        for step in self.steps:
            x = step(x)
        return self.norm(x).mean(1)

    def _stretched(self, mels: Tensor) -> Tensor:
        """``[batch, frames, mels] -> [batch, spec_size * ratio, mels]``."""
        near = mels.index_select(1, self.near.reshape(-1)).reshape(-1, *self.near.shape, self.mels)
        return (self.stretch @ near).reshape(-1, self.spec_size * self.ratio, self.mels)

    def _image(self, mels: Tensor) -> Tensor:
        """``[batch, spec_size * ratio, mels] -> [batch, 1, spec_size, spec_size]``: stretches of time, stacked."""
        x = mels.reshape(-1, self.ratio, self.spec_size, self.mels)
        return x.transpose(2, 3).reshape(-1, 1, self.spec_size, self.spec_size)


class Patches(nn.Module):
    """``[batch, 1, spec_size, spec_size] -> tokens [batch, height * width, dim]``, in raster order."""

    def __init__(self, embed: ClapAudioPatchEmbed) -> None:
        super().__init__()
        self.proj, self.norm = embed.proj, embed.norm

    def forward(self, image: Tensor) -> Tensor:
        """As the class says."""
        return self.norm(self.proj(image).flatten(2).transpose(1, 2))


class FusedPatches(Patches):
    """The same for checkpoints with feature fusion (arXiv:2211.06687, section 3.2), for one window at a time.

    Fusion mixes a whole clip, squeezed into one image, with three crops of it. A window is no longer than the tower
    hears, so all four are the same; that it still goes through the fusion is what both published implementations do
    with a clip that comes alone.
    """

    def __init__(self, embed: ClapAudioPatchEmbed) -> None:
        super().__init__(embed)
        self.crops, self.fusion = embed.mel_conv2d, embed.fusion_model

    def forward(self, image: Tensor) -> Tensor:
        """As the class says."""
        whole, crop = self.proj(image), self.crops(image)
        crops = torch.cat([crop, crop, crop], dim=-1)
        crops = F.pad(crops, (0, whole.shape[-1] - crops.shape[-1]))
        return self.norm(self.fusion(whole, crops).flatten(2).transpose(1, 2))


class Reorder(nn.Module):
    """Tokens ``[batch, n, dim]`` in another order; ``order[i]`` says which token comes i-th."""

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return x.index_select(1, self.order)  # a Gather; plain indexing would become a slower GatherND


class Merge(nn.Module):
    """Tokens ``[batch, n, dim]``, each four neighbours in a row -> ``[batch, n / 4, 2 dim]``."""

    def __init__(self, merging: nn.Module) -> None:
        super().__init__()
        self.norm, self.reduction = merging.norm, merging.reduction

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return self.reduction(self.norm(x.reshape(x.shape[0], -1, 4 * x.shape[2])))


class Block(nn.Module):
    """One Swin block over tokens ``[batch, windows * size, dim]`` that lie window by window."""

    def __init__(self, layer: nn.Module, mask: Tensor | None) -> None:
        super().__init__()
        attention: ClapAudioSelfAttention = layer.attention.self
        self.heads, self.width = attention.num_attention_heads, attention.attention_head_size
        self.size = attention.window_size[0] * attention.window_size[1]
        self.qkv = joined((attention.query, self.width**-0.5), (attention.key, 1.0), (attention.value, 1.0))
        self.register_buffer("bias", _position_bias(attention, mask))
        self.out = layer.attention.output.dense
        self.before, self.after = layer.layernorm_before, layer.layernorm_after
        self.inner, self.activation = layer.intermediate.dense, layer.intermediate.intermediate_act_fn
        self.outer = layer.output.dense

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        windows, numbers = x.shape[1] // self.size, x.shape[1] * self.inner.out_features
        parts = math.gcd(windows, 1 << (numbers // MOST_NUMBERS).bit_length())
        if parts == 1:
            return self._rows(x, self.bias)
        biases = self.bias.chunk(parts) if len(self.bias) > 1 else [self.bias] * parts
        done = [self._rows(part, bias) for part, bias in zip(x.chunk(parts, dim=1), biases, strict=True)]
        return torch.cat(done, dim=1)

    def _rows(self, x: Tensor, bias: Tensor) -> Tensor:
        """The same for some of the windows, with their biases."""
        tokens = x.reshape(-1, x.shape[2])  # rows become a Gemm, which adds its bias; batches a MatMul and an Add
        tokens = tokens + self.out(self._attend(self.qkv(self.before(tokens)), bias, x.shape[1] // self.size))
        tokens = tokens + self.outer(self.activation(self.inner(self.after(tokens))))
        return tokens.reshape(x.shape)

    def _attend(self, qkv: Tensor, bias: Tensor, windows: int) -> Tensor:
        """``[batch * n, 3 dim] -> [batch * n, dim]``."""
        query, key, value = (
            part.reshape(-1, windows, self.size, self.heads, self.width).transpose(2, 3)
            for part in qkv.chunk(3, dim=-1)
        )
        scores = (query @ key.transpose(-1, -2) + bias).softmax(-1)
        return (scores @ value).transpose(2, 3).reshape(-1, self.heads * self.width)


def _position_bias(attention: ClapAudioSelfAttention, mask: Tensor | None) -> Tensor:
    """``[1 or windows, heads, size, size]``: relative positions, and far below zero across the seams of a shift."""
    size = attention.window_size[0] * attention.window_size[1]
    bias = attention.relative_position_bias_table[attention.relative_position_index.reshape(-1)]
    bias = bias.reshape(size, size, -1).permute(2, 0, 1)[None].detach()
    return bias if mask is None else bias + mask[:, None]


def _steps(model: ClapAudioModel) -> Iterator[nn.Module]:
    """Blocks and merges with the reorderings that lie between them."""
    encoder = model.audio_encoder
    height, width = encoder.input_resolutions[0]
    now = torch.arange(height * width)  # now[i]: the raster position of the token that comes i-th
    for stage in encoder.layers:
        for layer in stage.blocks:
            layer.set_shift_and_window_size((height, width))  # none of both where the image is one window
            wanted = _windows(height, width, layer.window_size, layer.shift_size)
            if not torch.equal(wanted, now):
                yield Reorder(torch.argsort(now)[wanted])
            now = wanted
            yield Block(layer, layer.get_attn_mask(height, width, torch.float32, torch.device("cpu")))
        if stage.downsample is not None:
            yield Reorder(torch.argsort(now)[_neighbours(height, width)])
            yield Merge(stage.downsample)
            height, width = height // 2, width // 2
            now = torch.arange(height * width)


def _windows(height: int, width: int, window: int, shift: int) -> Tensor:
    """Raster positions in the order of Swin's windows, after rolling by ``shift``: ``[height * width]``."""
    raster = torch.arange(height * width).reshape(height, width).roll((-shift, -shift), (0, 1))
    return raster.reshape(height // window, window, width // window, window).transpose(1, 2).reshape(-1)


def _neighbours(height: int, width: int) -> Tensor:
    """Raster positions, each square of four in a row as Swin's patch merging joins them: ``[height * width]``."""
    raster = torch.arange(height * width).reshape(height // 2, 2, width // 2, 2)
    return raster.permute(0, 2, 3, 1).reshape(-1)


def stretching(frames: int, wanted: int) -> Tensor:
    """``[wanted, frames]``: what bicubic interpolation along time does, as a matrix."""
    if frames == wanted:
        return torch.eye(wanted)
    image = torch.eye(frames)[None, None]
    return F.interpolate(image, (wanted, frames), mode="bicubic", align_corners=True)[0, 0]


def banded(matrix: Tensor, rows: int = 32) -> tuple[Tensor, Tensor]:
    """``[m, n]``, zero but near its diagonal -> per ``rows`` rows, or as many as divide m, which columns are read.

    These are ``[blocks, width]``, and beside them the matrix's part there, ``[blocks, rows, width]``.
    """
    blocks = matrix.reshape(-1, math.gcd(len(matrix), rows), matrix.shape[1])
    read = blocks.ne(0).any(dim=1)
    first = read.int().argmax(dim=1)
    width = int((matrix.shape[1] - read.flip(1).int().argmax(dim=1) - first).max())
    near = first.clamp(max=matrix.shape[1] - width)[:, None] + torch.arange(width)
    return near, blocks.gather(2, near[:, None].expand(-1, blocks.shape[1], -1))
