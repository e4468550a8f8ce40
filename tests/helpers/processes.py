"""Processes of these tests that are forked, and so need not import torch again."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.context import ForkProcess

import torch


def forked(work: Callable[..., object], *arguments: object) -> ForkProcess:
    """A process that does `work` on one thread, and has begun."""
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(work, arguments))
    process.start()
    return process


def in_processes(size: int, work: Callable[..., object], *arguments: object) -> None:
    """Fork processes as torchrun would start them, each doing `work`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = [forked(_of_many, rank, size, port, work, arguments) for rank in range(size)]
    for worker in workers:
        worker.join(300)
    for worker in workers:
        worker.kill()
    assert [worker.exitcode for worker in workers] == [0] * size


def _alone(work, arguments):
    torch.set_num_threads(1)
    work(*arguments)


def _of_many(rank, size, port, work, arguments):
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size}
    os.environ |= {key: str(value) for key, value in places.items()}
    work(*arguments)
