"""The paper's reduced AlexNet."""

from torch import nn

from smallbatch.models.normalisation import Norms

CONVOLUTIONS = ((5, 16, True), (3, 48, True), (3, 96, False), (3, 64, False), (3, 64, True))
"""Kernel size, channels, whether pooling follows: Masters & Luschi 2018, section 3.1."""


def alexnet(shape: tuple[int, int, int], classes: int, norms: Norms) -> nn.Module:
    """Five convolutions of stride 1, two hidden fully connected layers of 256 and the classifier.

    Args:
        shape: channels, height, width of an image.
        classes: number of classes.
        norms: normalisation after the convolutions and after the hidden fully connected layers.
    """
    channels, height, width = shape
    layers: list[nn.Module] = []
    for kernel, out, pooled in CONVOLUTIONS:
        layers += [nn.Conv2d(channels, out, kernel, padding=kernel // 2), norms.conv(out), nn.ReLU(inplace=True)]
        channels = out
        if pooled:
            # Padding 1 keeps pooling defined down to one pixel; the paper does not state its padding.
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            height, width = (height + 1) // 2, (width + 1) // 2
    layers.append(nn.Flatten())
    features = channels * height * width
    for _ in range(2):
        layers += [nn.Linear(features, 256), norms.hidden(256), nn.ReLU(inplace=True)]
        features = 256
    return nn.Sequential(*layers, nn.Linear(features, classes))
