"""The published latent diffusion networks, written plainly for comparison: the names and shapes of their checkpoints,
and what they compute.

Explicit attention, no tricks, float32. Source: arXiv 2112.10752 and 2204.11824 and the released configurations;
nothing here imports bowerbird.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d)) v over heads of `head` channels; the context is the sequence itself where none
    is given."""

    def __init__(self, width: int, context: int, head: int) -> None:
        super().__init__()
        self.heads = width // head
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = split(self.to_q(x)), split(self.to_k(context)), split(self.to_v(context))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """GEGLU: half of a projection times the GELU of the other half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Gated(width), nn.Dropout(0.0), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, width: int, context: int, head: int) -> None:
        super().__init__()
        self.attn1, self.ff, self.attn2 = (
            Attention(width, width, head),
            FeedForward(width),
            Attention(width, context, head),
        )
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class CausalAttention(Attention):
    """Each place looks at itself and those before it."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = split(self.to_q(x)), split(self.to_k(x)), split(self.to_v(x))
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(later, -torch.inf).softmax(-1)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))


class TokenTransformer(nn.Module):
    """RARM's: tokens in, logits of the next one out; learned places, no norm at the end, a bias in the last layer."""

    def __init__(self, codes: int, places: int, width: int, depth: int, context: int, head: int = 64) -> None:
        super().__init__()
        self.proj_in = nn.Embedding(codes + 2, width)
        self.positional_encoding = nn.Parameter(torch.randn(width, places) / math.sqrt(width))
        self.transformer_blocks = nn.ModuleList(TransformerBlock(width, context, head) for _ in range(depth))
        for block in self.transformer_blocks:
            block.attn1 = CausalAttention(width, width, head)
        self.proj_out = nn.Conv1d(width, codes, 1)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(tokens).transpose(1, 2) + self.positional_encoding[None, :, : tokens.shape[1]]
        h = h.transpose(1, 2)
        for block in self.transformer_blocks:
            h = block(h, context)
        return self.proj_out(h.transpose(1, 2)).transpose(1, 2)


def likeliest_tokens(network: TokenTransformer, context: Tensor, scale: float, length: int) -> Tensor:
    """Token after token, the whole prefix run again each time, guided from zeros; always the likeliest."""
    codes = network.proj_out.out_channels
    tokens = torch.full((len(context), 1), codes + 1)
    for _ in range(length):
        given, none = (network(tokens, each)[:, -1] for each in (context, torch.zeros_like(context)))
        tokens = torch.cat([tokens, (none + scale * (given - none)).argmax(1, keepdim=True)], 1)
    return tokens[:, 1:]


class SpatialTransformer(nn.Module):
    def __init__(self, width: int, context: int, head: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context, head)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            h = block(h, context)
        return x + self.proj_out(h.transpose(1, 2).unflatten(2, x.shape[2:]))


class Residual(nn.Module):
    def __init__(self, ins: int, outs: int, time: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, ins), nn.SiLU(), nn.Conv2d(ins, outs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, outs))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outs), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(outs, outs, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.skip_connection(x) + self.out_layers(self.in_layers(x) + self.emb_layers(emb)[..., None, None])


class Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Block(nn.Sequential):
    """Layers in turn, each given what it asks for."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = (
                layer(x, emb)
                if isinstance(layer, Residual)
                else layer(x, context)
                if isinstance(layer, SpatialTransformer)
                else layer(x)
            )
        return x


def time_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of the time at frequencies 10000^(-i / half)."""
    half = width // 2
    angles = timesteps[:, None].float() * torch.exp(
        -math.log(10000) * torch.arange(half, device=timesteps.device) / half
    )
    return torch.cat([angles.cos(), angles.sin()], -1)


class UNet(nn.Module):
    """`attention`: at which downsampling factors; `head`: channels of an attention head."""

    def __init__(
        self,
        channels: int,
        mult: tuple[int, ...],
        attention: tuple[int, ...],
        context: int,
        latent: int,
        blocks: int = 2,
        head: int = 32,
    ) -> None:
        super().__init__()
        self.channels = channels
        time = 4 * channels
        self.time_embed = nn.Sequential(nn.Linear(channels, time), nn.SiLU(), nn.Linear(time, time))
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(latent, channels, 3, padding=1))])
        width, widths, factor = channels, [channels], 1
        for level, m in enumerate(mult):
            for _ in range(blocks):
                layers: list[nn.Module] = [Residual(width, m * channels, time)]
                width = m * channels
                if factor in attention:
                    layers.append(SpatialTransformer(width, context, head))
                self.input_blocks.append(Block(*layers))
                widths.append(width)
            if level + 1 < len(mult):
                self.input_blocks.append(Block(Down(width)))
                widths.append(width)
                factor *= 2
        self.middle_block = Block(
            Residual(width, width, time), SpatialTransformer(width, context, head), Residual(width, width, time)
        )
        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(mult))):
            for at in range(blocks + 1):
                layers = [Residual(width + widths.pop(), m * channels, time)]
                width = m * channels
                if factor in attention:
                    layers.append(SpatialTransformer(width, context, head))
                if level and at == blocks:
                    layers.append(Up(width))
                    factor //= 2
                self.output_blocks.append(Block(*layers))
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, latent, 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        emb, kept = self.time_embed(time_embedding(timesteps, self.channels)), []
        for block in self.input_blocks:
            x = block(x, emb, context)
            kept.append(x)
        x = self.middle_block(x, emb, context)
        for block in self.output_blocks:
            x = block(torch.cat([x, kept.pop()], 1), emb, context)
        return self.out(x)


class PictureResidual(nn.Module):
    """A residual block of the first stage: no time."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, ins, eps=1e-6), nn.Conv2d(ins, outs, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(32, outs, eps=1e-6), nn.Conv2d(outs, outs, 3, padding=1)
        if ins != outs:
            self.nin_shortcut = nn.Conv2d(ins, outs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class PictureAttention(nn.Module):
    """Attention of one head over places, its projections 1 x 1 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (each(h).flatten(2) for each in (self.q, self.k, self.v))
        weights = (q.transpose(1, 2) @ k / math.sqrt(q.shape[1])).softmax(-1)
        return x + self.proj_out((v @ weights.transpose(1, 2)).unflatten(2, x.shape[2:]))


class Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = (
            PictureResidual(width, width),
            PictureAttention(width),
            PictureResidual(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """Residual blocks, each followed by attention where there is some, then a change of size called `after`."""

    def __init__(self, ins: int, outs: int, blocks: int, attends: bool, after: str | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(PictureResidual(ins if i == 0 else outs, outs) for i in range(blocks))
        self.attn = nn.ModuleList(PictureAttention(outs) for _ in range(blocks if attends else 0))
        if after is not None:
            change = nn.Module()
            change.conv = (
                nn.Conv2d(outs, outs, 3, stride=2) if after == "downsample" else nn.Conv2d(outs, outs, 3, padding=1)
            )
            setattr(self, after, change)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        if hasattr(self, "downsample"):
            x = self.downsample.conv(F.pad(x, (0, 1, 0, 1)))
        if hasattr(self, "upsample"):
            x = self.upsample.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return x


class Encoder(nn.Module):
    def __init__(self, ch: int, mult: tuple[int, ...], blocks: int, attends: tuple[bool, ...], outs: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        widths, last = [ch, *(ch * m for m in mult)], len(mult) - 1
        self.down = nn.ModuleList(
            Level(widths[i], widths[i + 1], blocks, attends[i], "downsample" if i < last else None)
            for i in range(len(mult))
        )
        self.mid = Middle(widths[-1])
        self.norm_out, self.conv_out = nn.GroupNorm(32, widths[-1], eps=1e-6), nn.Conv2d(widths[-1], outs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, ch: int, mult: tuple[int, ...], blocks: int, attends: tuple[bool, ...], ins: int) -> None:
        super().__init__()
        widths = [ch * m for m in mult]
        self.conv_in = nn.Conv2d(ins, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        above = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            Level(above[i], widths[i], blocks + 1, attends[i], "upsample" if i else None) for i in range(len(mult))
        )
        self.norm_out, self.conv_out = nn.GroupNorm(32, widths[0], eps=1e-6), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        z = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            z = level(z)
        return self.conv_out(F.silu(self.norm_out(z)))


class FirstStage(nn.Module):
    """`codes` 0: KL, whose encoder also gives a log-variance; else VQ with that many codes."""

    def __init__(
        self,
        ch: int,
        mult: tuple[int, ...],
        latent: int,
        codes: int,
        attends: tuple[bool, ...] | None = None,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        attends = attends or (False,) * len(mult)
        double = 1 if codes else 2
        self.encoder, self.decoder = (
            Encoder(ch, mult, blocks, attends, double * latent),
            Decoder(ch, mult, blocks, attends, latent),
        )
        self.quant_conv, self.post_quant_conv = (
            nn.Conv2d(double * latent, double * latent, 1),
            nn.Conv2d(latent, latent, 1),
        )
        if codes:
            self.quantize = nn.Module()
            self.quantize.embedding = nn.Embedding(codes, latent)

    def encode(self, x: Tensor) -> Tensor:
        """What lies before the codebook, or the mean."""
        h = self.quant_conv(self.encoder(x))
        return h if hasattr(self, "quantize") else h.chunk(2, 1)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Snaps to the nearest code first, where there is a codebook."""
        if hasattr(self, "quantize"):
            codes = self.quantize.embedding.weight
            nearest = torch.cdist(z.permute(0, 2, 3, 1).flatten(0, 2), codes).argmin(1)
            z = codes[nearest].unflatten(0, (len(z), *z.shape[2:])).permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(z))

    def tokens(self, x: Tensor) -> Tensor:
        """The nearest code of each place, row by row `(B, N)`."""
        flat = self.encode(x).permute(0, 2, 3, 1).flatten(1, 2)
        return (flat[:, :, None] - self.quantize.embedding.weight).square().sum(-1).argmin(-1)


def betas(start: float = 0.0015, end: float = 0.0195, steps: int = 1000) -> Tensor:
    return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2


def ddim(predict, noise: Tensor, steps: int, scale: float, context: Tensor) -> Tensor:
    """The published sampler without fresh noise: times 1, 1 + c, …, guidance from zeros, and the first alpha at the
    end.

    `predict(x, t, nulls, contexts)` -> the two predictions as one batch, without the context first.
    """
    bars = (1 - betas()).cumprod(0)
    times = list(range(1, 1001, 1000 // steps))
    x, before = noise.double(), [bars[0], *(bars[t] for t in times[:-1])]
    for t, previous in reversed(list(zip(times, before, strict=True))):
        empty, full = predict(x.float(), torch.full((len(x),), t), torch.zeros_like(context), context).chunk(2)
        eps = (empty + scale * (full - empty)).double()
        clean = (x - (1 - bars[t]).sqrt() * eps) / bars[t].sqrt()
        x = previous.sqrt() * clean + (1 - previous).sqrt() * eps
    return x.float()


def dotless(name: str) -> str:
    """A name as averaged weights are stored under."""
    return "model_ema." + f"diffusion_model.{name}".replace(".", "")


def rarm_checkpoint(network: TokenTransformer, stage: FirstStage) -> dict[str, object]:
    """A file's content as Lightning saved it."""
    codes = network.proj_out.out_channels
    state = {f"transformer.{name}": tensor for name, tensor in network.state_dict().items()}
    state |= {"sos_token": torch.tensor([codes + 1]), "mask_token": torch.tensor([codes])}
    state |= {f"first_stage_model.{name}": tensor for name, tensor in stage.state_dict().items()}
    state |= {"first_stage_model.loss.discriminator.main.0.weight": torch.ones(3)}
    return {"epoch": 3, "state_dict": state, "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}]}


def checkpoint(unet: UNet, stage: FirstStage, *, optimizer: bool = True) -> dict[str, object]:
    """A file's content as Lightning saved it: the averaged weights are those of `unet`, the plain ones others; then
    first stage, schedule, Adam."""
    state = {f"model.diffusion_model.{name}": tensor + 0.01 for name, tensor in unet.state_dict().items()}
    state |= {dotless(name): tensor for name, tensor in unet.state_dict().items()}
    state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    state |= {f"first_stage_model.{name}": tensor for name, tensor in stage.state_dict().items()}
    state |= {
        "betas": betas().float(),
        "alphas_cumprod": (1 - betas()).cumprod(0).float(),
        "unconditional_guidance_vex": torch.ones(unet.channels),
    }
    held: dict[str, object] = {"epoch": 3, "global_step": 10, "pytorch-lightning_version": "1.4.2", "state_dict": state}
    if optimizer:
        moments = {
            i: {"step": 10, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            for i, p in enumerate(unet.parameters())
        }
        held["optimizer_states"] = [{"state": moments, "param_groups": [{"lr": 1e-4, "params": list(moments)}]}]
    return held
