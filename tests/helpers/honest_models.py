"""Models of kinds that people bring: all of them can be trained, in lanes or alone."""

import copy
import functools

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def mlp(shape, classes, norms):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 32), norms.hidden(32), nn.ReLU(inplace=True),
        nn.Linear(32, 32), norms.hidden(32), nn.ReLU(inplace=True), nn.Linear(32, classes),
    )  # fmt: skip


def vgg(shape, classes, norms):
    layers, channels = [], shape[0]
    for width in (8, "pool", 16, 16, "pool"):
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), norms.conv(width), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Block(nn.Module):
    def __init__(self, channels, norms, between=None):
        super().__init__()
        self.a, self.b = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norm_a, self.norm_b, self.between = norms.conv(channels), norms.conv(channels), between or nn.Identity()

    def forward(self, x):
        y = self.between(self.norm_b(self.b(F.relu(self.norm_a(self.a(x))))))
        return F.relu(x + y)


def around(shape, classes, *middle, channels=8):
    """A convolution before it, a mean and a linear layer behind it."""
    return nn.Sequential(
        nn.Conv2d(shape[0], channels, 3, padding=1), *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(channels, classes),
    )  # fmt: skip


def residual(shape, classes, norms):
    return around(shape, classes, Block(8, norms), Block(8, norms))


def copied_blocks(shape, classes, norms):
    block = Block(8, norms)
    return around(shape, classes, *(copy.deepcopy(block) for _ in range(3)))


def depthwise(shape, classes, norms):
    return around(
        shape, classes, nn.Conv2d(8, 8, 3, padding=1, groups=8), norms.conv(8), nn.ReLU6(), nn.Conv2d(8, 8, 1)
    )


def dropout(shape, classes, norms):
    return around(shape, classes, nn.ReLU(), nn.Dropout2d(0.2), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Dropout(0.1))


def gelu(shape, classes, norms):
    return around(shape, classes, nn.GELU(), nn.Conv2d(8, 8, 3, padding=1), norms.conv(8), nn.SiLU())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.up.weight = self.down.weight

    def forward(self, x):
        return self.up(F.relu(self.down(x)))


def tied(shape, classes, norms):
    return around(shape, classes, Tied())


class SqueezeAndExcitation(nn.Module):
    def __init__(self):
        super().__init__()
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Linear(4, 8)

    def forward(self, x):
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * scale[:, :, None, None]


def squeeze_and_excitation(shape, classes, norms):
    return around(shape, classes, Block(8, norms, SqueezeAndExcitation()))


class ChannelNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext(shape, classes, norms):
    return around(
        shape, classes, nn.Conv2d(8, 8, 7, padding=3, groups=8), ChannelNorm(8), nn.Conv2d(8, 32, 1), nn.GELU(),
        nn.Conv2d(32, 8, 1),
    )  # fmt: skip


class VisionTransformer(nn.Module):
    def __init__(self, shape, classes, width=16, patch=8, drop=0.0):
        super().__init__()
        self.patches = nn.Conv2d(shape[0], width, patch, patch)
        count = (shape[1] // patch) * (shape[2] // patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1, count + 1, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, drop, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1) + self.place
        return self.head(self.encoder(tokens)[:, 0])


def transformer(shape, classes, norms):
    return VisionTransformer(shape, classes)


def transformer_with_dropout(shape, classes, norms):
    return VisionTransformer(shape, classes, drop=0.1)


def group_norm(shape, classes, norms):
    return around(shape, classes, nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8))


def batch_norm(shape, classes, norms):
    return around(shape, classes, nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))


class StochasticDepth(nn.Module):
    def __init__(self, norms):
        super().__init__()
        self.block = Block(8, norms)

    def forward(self, x):
        if not self.training:
            return self.block(x)
        keep = (torch.rand(len(x), 1, 1, 1, device=x.device) < 0.8).to(x.dtype)
        return x + keep * (self.block(x) - x)


def stochastic_depth(shape, classes, norms):
    return around(shape, classes, StochasticDepth(norms))


class FixedFilters(nn.Module):
    """Constants of double precision, in a buffer, and a table that is made once a size."""

    def __init__(self, channels):
        super().__init__()
        kernel = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
        kernel = kernel[:, None] * kernel / 16
        self.register_buffer("kernel", kernel.float().repeat(channels, 1, 1, 1))
        self.tables = {}

    def forward(self, x):
        size = tuple(x.shape[2:])
        if size not in self.tables:
            self.tables[size] = torch.linspace(0.5, 1, size[1])
        return F.conv2d(x, self.kernel, padding=1, groups=len(self.kernel)) * self.tables[size].to(x)


def fixed_filters(shape, classes, norms):
    return around(shape, classes, FixedFilters(8), nn.Conv2d(8, 8, 1), nn.ReLU())


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(8, 8, 1), {}
        self.conv.register_forward_hook(self._keep)

    def _keep(self, layer, given, result):
        self.last["shape"] = result.shape[1:]

    def forward(self, x):
        return F.relu(self.conv(x))


def hooked(shape, classes, norms):
    return around(shape, classes, Hooked())


class Dense(nn.Module):
    def __init__(self, norms):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8 + 4 * place, 4, 3, padding=1) for place in range(3))
        self.norms = nn.ModuleList(norms.conv(8 + 4 * place) for place in range(3))
        self.out = nn.Conv2d(20, 8, 1)

    def forward(self, x):
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        return self.out(x)


def dense(shape, classes, norms):
    return around(shape, classes, Dense(norms))


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.1))

    def forward(self, x):
        return x + checkpoint(self.inner, x, use_reentrant=False)


def checkpointed(shape, classes, norms):
    return around(shape, classes, Checkpointed())


class InPieces(nn.Module):
    """Takes a large mini-batch in pieces, to save memory."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return torch.cat([F.relu(self.conv(piece)) for piece in x.split(128)])


def in_pieces(shape, classes, norms):
    return around(shape, classes, InPieces())


@functools.lru_cache
def positions(channels, height, width):
    rows = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    return torch.stack([(rows * (channel + 1)).sin() for channel in range(channels)])


class Positions(nn.Module):
    """Of whose weights some are drawn, some not; and a set that is asked, and walked through where order is nothing."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(positions(8, 1, 1).clone())
        self.shift = nn.Parameter(torch.randn(8, 1, 1))
        self.kinds = {"sum", "product"}

    def forward(self, x):
        x = x + positions(*x.shape[1:]).to(x) if "sum" in self.kinds else x
        return x * self.scale * sum(len(kind) for kind in self.kinds) + self.shift


def with_positions(shape, classes, norms):
    return around(shape, classes, Positions(), nn.ReLU())


def clamped_in_place(shape, classes, norms):
    class Clamped(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = around(shape, classes, Block(8, norms))

        def forward(self, x):
            return self.body(x.clone().clamp_(-3, 3))

    return Clamped()


def weight_norm(shape, classes, norms):
    orthogonal = nn.utils.parametrizations.orthogonal(nn.Conv2d(8, 8, 1))
    return around(
        shape, classes, nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1)), orthogonal, nn.ReLU()
    )


def max_out(shape, classes, norms):
    class MaxOut(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return torch.maximum(self.one(x), self.two(x))

    return around(shape, classes, MaxOut(), norms.conv(8))
