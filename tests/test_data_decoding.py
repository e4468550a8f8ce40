"""Decoding against torchvision's resize and centre crop, the usual preprocessing."""

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms.v2 import functional as reference

from smallbatch.data.decoding import decoded


@pytest.mark.parametrize("shape", [(64, 64), (90, 60), (48, 120)])
@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_it_is_resize_of_the_shorter_side_and_centre_crop(shape, mode, channels, tmp_path):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = np.stack([rows * 2, columns * 2, rows + columns], 2) % 200
    picture = Image.fromarray(waves.astype(np.uint8)).convert(mode)
    picture.save(tmp_path / "picture.png")
    ours = decoded(tmp_path / "picture.png", 32, mode)
    theirs = np.asarray(reference.center_crop(reference.resize(picture, [32]), [32])).reshape(32, 32, channels)
    assert ours.shape == (channels, 32, 32)
    # Cutting before resizing differs from cutting after it by half a pixel at the most.
    difference = np.abs(ours.transpose(1, 2, 0).astype(int) - theirs)
    assert np.median(difference) <= 2
