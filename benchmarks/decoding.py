"""How many photos a second the processors decode and crop: what limits training on ImageNet.

    PYTHONPATH=workflow python benchmarks/decoding.py FOLDER_OF_JPEGS

Prints the median of five rounds for 1, 2, 4 ... threads up to the processors at hand.
"""

import hashlib
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from smallbatch.core.environment import processors
from smallbatch.data.photos import Photos, decoded, resized_crops
from smallbatch.data.prepared import index_type
from smallbatch.training.batches import random_stream


def photos_in(folder: Path) -> Photos:
    """All JPEGs below a folder."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpeg", ".jpg"))
    names = [str(file.relative_to(folder)).encode() for file in files]
    rows = []
    for file, name in zip(files, names, strict=True):
        data = file.read_bytes()
        rows.append((name, b"", 0, len(data), *decoded(data).shape[1:], hashlib.sha256(data).digest()))
    return Photos(folder, np.array(rows, index_type(max(map(len, names)), 0)))


def photos_per_second(photos: Photos, threads: int, rounds: int = 5, count: int = 400) -> float:
    """Median over rounds of random resized crops a second."""
    places = torch.arange(count) % len(photos)
    boxes = resized_crops(photos.sizes[places], random_stream(0, "augmentation"))
    timings = []
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in range(rounds):
            began = time.perf_counter()
            list(pool.map(photos.pixels, places.tolist(), boxes.tolist()))
            timings.append(count / (time.perf_counter() - began))
    return statistics.median(timings)


if __name__ == "__main__":
    photos = photos_in(Path(sys.argv[1]))
    threads = 1
    while threads <= processors():
        print(f"{threads:>3} threads: {photos_per_second(photos, threads):>7.0f} photos/s")
        threads *= 2
