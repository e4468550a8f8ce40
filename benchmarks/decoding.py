"""How many photos a second the processors decode and crop: what limits training on ImageNet.

    PYTHONPATH=workflow python benchmarks/decoding.py FOLDER_OF_JPEGS

Prints the median of five rounds for 1, 2, 4 ... threads up to the processors at hand.
"""

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from smallbatch.data.photos import ENTRY, Photos
from smallbatch.environment import processors


def photos_in(folder: Path) -> Photos:
    """All JPEGs below a folder."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpeg", ".jpg"))
    entries = [(file.relative_to(folder).as_posix().encode(), 0, file.stat().st_size) for file in files]
    return Photos(folder, np.array(entries, ENTRY))


def photos_per_second(photos: Photos, threads: int, rounds: int = 5, count: int = 200) -> float:
    """Median over rounds of random resized crops a second."""
    speeds = []
    with ThreadPoolExecutor(threads) as pool:
        for start in range(rounds):
            began = time.perf_counter()
            list(pool.map(photos.crop, [place % len(photos) for place in range(count)], range(start, start + count)))
            speeds.append(count / (time.perf_counter() - began))
    return statistics.median(speeds)


if __name__ == "__main__":
    photos = photos_in(Path(sys.argv[1]))
    threads = 1
    while threads <= processors():
        print(f"{threads:>3} threads: {photos_per_second(photos, threads):>7.0f} photos/s")
        threads *= 2
