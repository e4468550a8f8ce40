"""Residual networks for small images (He et al. 2015a, section 4.2), with or without normalisation."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from smallbatch.models.normalisation import Norm, Norms

STAGES = (16, 32, 64)


class Shortcut(nn.Module):
    """Option A of He et al. 2015a: every second pixel, new channels filled with zeros; no parameters."""

    lanes = 1
    """Number of lanes that are folded into the channels; set by `training.lanes`."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        """[m, lanes * c, h, w] -> [m, lanes * (c + new), ceil(h / 2), ceil(w / 2)]."""
        x = x[:, :, ::2, ::2].unflatten(1, (self.lanes, -1))
        return F.pad(x, (0, 0, 0, 0, 0, self.new_channels)).flatten(1, 2)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels: int, out: int, norm: Norm) -> None:
        super().__init__()
        grows = out != channels
        self.conv1 = nn.Conv2d(channels, out, 3, stride=2 if grows else 1, padding=1)
        self.norm1 = norm(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.norm2 = norm(out)
        self.shortcut = Shortcut(out - channels) if grows else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[m, channels, h, w] -> [m, out, h', w']."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


def resnet(shape: tuple[int, int, int], classes: int, norms: Norms, blocks: int) -> nn.Module:
    """ResNet of 6 * blocks + 2 layers: three stages of 16, 32 and 64 channels.

    Convolutions keep their biases, so that the same network also works without normalisation.

    Args:
        shape: channels, height, width of an image.
        classes: number of classes.
        norms: normalisation after every convolution (there is no hidden fully connected layer).
        blocks: residual blocks per stage.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(shape[0], STAGES[0], 3, padding=1),
        norms.conv(STAGES[0]),
        nn.ReLU(inplace=True),
    ]
    channels = STAGES[0]
    for out in STAGES:
        for _ in range(blocks):
            layers.append(Block(channels, out, norms.conv))
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


resnet8, resnet20, resnet32 = (partial(resnet, blocks=blocks) for blocks in (1, 3, 5))
