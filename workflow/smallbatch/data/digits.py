"""The 1,797 handwritten digits included in scikit-learn: 8x8 pixels, grey, ten classes.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
(its test part, as included in scikit-learn). Pixel values 0 ... 16 are scaled to 0 ... 255.
"""

from pathlib import Path
from typing import Any

import numpy as np

from smallbatch.data.prepared import Meta, Split, write


def prepare(label: str, settings: dict[str, Any], folder: Path) -> Meta:
    """Write the digits as prepared arrays: sorted by class; every fifth is in the test split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    test = np.zeros(len(labels), bool)
    test[np.argsort(labels, kind="stable")[::5]] = True
    splits = [Split(images[chosen], labels[chosen]) for chosen in (~test, test)]
    return write(folder, label, [str(digit) for digit in range(10)], *splits, settings=settings)
