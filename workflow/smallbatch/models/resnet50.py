"""ResNet-50 for photos (He et al. 2015a), as in torchvision."""

from torch import nn
from torchvision import models

from smallbatch.models.normalisation import Norms


def resnet50(shape: tuple[int, int, int], classes: int, norms: Norms) -> nn.Module:
    """ResNet-50 with a block's stride in its 3x3 convolution, as in torchvision.

    Its convolutions have no biases; without normalisation, only the classifier has biases.

    Args:
        shape: channels, height, width of an image.
        classes: number of classes.
        norms: normalisation after every convolution (there is no hidden fully connected layer).
    """
    model: nn.Module = models.resnet50(num_classes=classes, norm_layer=norms.conv)
    model.conv1 = nn.Conv2d(shape[0], 64, 7, stride=2, padding=3, bias=False)
    return model
