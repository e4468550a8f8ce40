"""Write pictures to try things on: scikit-learn's hand-written digits as PNG files, a folder for each class."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def main(folder: Path) -> None:
    """Write 1,797 grey pictures of 8x8 pixels, `0/0000.png` and so on."""
    digits = load_digits()  # values from 0 to 16
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        of_class = folder / str(digit)
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(pixels * 255 / 16).astype(np.uint8)).save(of_class / f"{number:04}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
