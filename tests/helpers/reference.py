"""The paper's training in plain PyTorch, one update at a time, by its formulas; nothing of the engine is used.

Masters & Luschi 2018 (section 2, 3.1 and 3.4): theta <- theta - eta_base * sum_i grad L_i, with eta_base = eta / m;
eta / 10 at 50 % and 75 % of all updates; with warm-up linearly from eta / 32 to eta over the first 5 %; weight decay as
a term of the loss, decay / 2 * theta^2; batch norm over sub-batches of b. Where the paper has none: the momentum of
Sutskever et al. 2013 as PyTorch has it, v <- momentum * v + gradient, theta <- theta - eta * v.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Norm(nn.Module):
    """Ioffe & Szegedy 2015, for each b examples; running statistics over 1280 examples, of the unbiased variance."""

    def __init__(self, channels, b):
        super().__init__()
        self.b, self.weight, self.bias = b, *(nn.Parameter(torch.ones(channels)) for _ in range(2))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        parts, over, wide = x.split(self.b), [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
        found = [torch.var_mean(part, over, correction=0) for part in parts]
        unbiased = torch.stack([part.var(over, correction=1) for part in parts]).mean(0)
        with torch.no_grad():
            self.running_mean += len(x) / 1280 * (torch.stack([mean for _, mean in found]).mean(0) - self.running_mean)
            self.running_var += len(x) / 1280 * (unbiased - self.running_var)
        scaled = [
            (part - mean.view(wide)) / (var.view(wide) + 1e-5).sqrt()
            for part, (var, mean) in zip(parts, found, strict=True)
        ]
        return torch.cat(scaled) * self.weight.view(wide) + self.bias.view(wide)


class Residual(nn.Module):
    """He et al. 2015a: what the layers make of x, and x itself; of more channels or a stride as `shortcut` makes it."""

    def __init__(self, layers, shortcut):
        super().__init__()
        self.layers, self.shortcut = nn.Sequential(*layers), shortcut

    def forward(self, x):
        return torch.relu(self.layers(x) + self.shortcut(x))


class Halved(nn.Module):
    """Their option A: every second pixel, and as many new channels of zeros."""

    def forward(self, x):
        return torch.cat([x[..., ::2, ::2], torch.zeros_like(x[..., ::2, ::2])], 1)


def alexnet(shape, classes, conv_norm, hidden_norm):
    """Kernels 5,3,3,3,3, channels 16,48,96,64,64; max-pool 3x3 stride 2 after 1, 2 and 5; two hidden layers of 256."""
    layers, inputs, size = [], shape[0], shape[1]
    for place, (kernel, out) in enumerate([(5, 16), (3, 48), (3, 96), (3, 64), (3, 64)], 1):
        layers += [nn.Conv2d(inputs, out, kernel, padding=kernel // 2), conv_norm(out), nn.ReLU()]
        if place in (1, 2, 5):
            layers, size = [*layers, nn.MaxPool2d(3, 2, padding=1)], (size + 1) // 2
        inputs = out
    layers += [nn.Flatten(), nn.Linear(64 * size * size, 256), hidden_norm(256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 256), hidden_norm(256), nn.ReLU(), nn.Linear(256, classes))


def resnet(shape, classes, norm, blocks):
    """16, 32 and 64 channels, `blocks` blocks each."""
    layers, inputs = [nn.Conv2d(shape[0], 16, 3, padding=1), norm(16), nn.ReLU()], 16
    for out in [16] * blocks + [32] * blocks + [64] * blocks:
        first = nn.Conv2d(inputs, out, 3, stride=out // inputs, padding=1)
        inside = [first, norm(out), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1), norm(out)]
        layers.append(Residual(inside, Halved() if out > inputs else nn.Identity()))
        inputs = out
    return nn.Sequential(*layers, nn.AvgPool2d(shape[1] // 4), nn.Flatten(), nn.Linear(64, classes))


def resnet50(shape, classes, norm):
    """Bottlenecks of 64, 128, 256 and 512 channels, four times as many going out; 3, 4, 6 and 3 of them."""
    layers, inputs = [nn.Conv2d(shape[0], 64, 7, 2, 3, bias=False), norm(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for width, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for place in range(count):
            stride = 2 if place == 0 and width > 64 else 1
            inside = [nn.Conv2d(inputs, width, 1, bias=False), norm(width), nn.ReLU()]
            inside += [nn.Conv2d(width, width, 3, stride, 1, bias=False), norm(width), nn.ReLU()]
            inside += [nn.Conv2d(width, 4 * width, 1, bias=False), norm(4 * width)]
            projected = [nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), norm(4 * width)]
            layers.append(Residual(inside, nn.Sequential(*projected) if place == 0 else nn.Identity()))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, classes))


def factor(done, updates, warmup):
    """Of eta, for the update that comes after `done` of so many."""
    rising = 0.05 * updates
    if warmup and done < rising:
        return 1 / 32 + (1 - 1 / 32) * done / rising
    return 1 if done < 0.5 * updates else 0.1 if done < 0.75 * updates else 0.01


def augmented(images, pad, offsets, flips):
    """Zero-padded by `pad`, cut from `offsets` on, and mirrored where `flips` says so."""
    height, width = images.shape[2:]
    cut = [
        F.pad(image, [pad] * 4)[:, top : top + height, left : left + width]
        for image, (top, left) in zip(images, offsets.tolist(), strict=True)
    ]
    return torch.stack([image.flip(-1) if mirrored else image for image, mirrored in zip(cut, flips, strict=True)])


def update(model, velocity, images, labels, eta_base, momentum, decay):
    """One update of the model and, with momentum, of the velocities; returns the mean loss before it."""
    loss = F.cross_entropy(model(images), labels, reduction="sum")
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for theta, gradient, v in zip(model.parameters(), gradients, velocity, strict=True):
            v.copy_(momentum * v + gradient + len(images) * decay * theta)
            theta -= eta_base * v
    return loss.item() / len(images)
