"""ResNet-50 for photos (He et al. 2015a, section 4.1), as torchvision has it, with our normalisation."""

from torch import nn
from torchvision import models

from smallbatch.models.normalisation import Norms


def resnet50(shape: tuple[int, int, int], classes: int, norms: Norms) -> nn.Module:
    """ResNet-50; stride 2 stands in the 3x3 convolution of a block.

    Args:
        shape: channels, height, width of an image.
        classes: number of classes.
        norms: normalisation after every convolution.
    """
    model = models.resnet50(num_classes=classes, norm_layer=norms.conv)
    # torchvision's takes three channels.
    model.conv1 = nn.Conv2d(shape[0], 64, 7, stride=2, padding=3, bias=False)
    return model
