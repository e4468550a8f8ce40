"""A benchmark from beginning to end: measures, and writes what it has after each cell."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smallbatch.core import environment
from smallbatch.core.files import write_json
from speed import figure1, report
from speed.cells import Cell, Method
from speed.measure import Failed, ask, cores, measure

FIGURE1_SECONDS = 2.0
"""That a row of Figure 1 is measured for, at most."""

PEERS = ("torchvision", "pytorch-lightning", "jax")


def device_of(name: str) -> dict[str, Any]:
    """The device called `auto`, `cpu` or `cuda`: its kind, and it in words.

    Raises:
        Failed: it is not there.
    """
    (found,) = ask("device", name)
    return found


def run(
    cells: Sequence[Cell],
    methods: Mapping[str, Method],
    device: Mapping[str, Any],
    file: Path,
    *,
    rounds: int = 5,
    seconds: float = 4.0,
    minutes: float | None = None,
    patience: float | None = None,
    whole_figure1: bool = False,
    known: Mapping[str, Any] = MappingProxyType({}),
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure, writing results, table and plot after each cell.

    Args:
        cells: to measure.
        methods: by name.
        device: as `device_of` gives it.
        file: for the results, `.json`; table and plot stand beside it.
        rounds: that count.
        seconds: that an epoch lasts when one process trains it by the usual loop.
        minutes: after which no further cell is begun.
        patience: seconds after which a method is left out that has not trained an epoch.
        whole_figure1: whether Figure 1's grid is timed, too.
        known: what else is to stand in the results.
        tell: takes lines on how far it is.
    """
    started, kind = time.monotonic(), device["device"]
    results: dict[str, Any] = {
        "device": kind,
        "cores": len(cores()),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "environment": environment.describe() | {name: _version(name) for name in PEERS} | device["words"],
        "settings": {"rounds": rounds, "seconds": seconds, "methods": list(methods)},
        **known,
        "cells": [],
    }
    write_json(file, results)
    if whole_figure1:
        tell("Figure 1, row by row")
        results["figure1"] = figure1.extrapolated(list(ask("figure1", kind, seconds=min(seconds, FIGURE1_SECONDS))))
        write_json(file, results)
    for number, cell in enumerate(cells, 1):
        if minutes and time.monotonic() - started > 60 * minutes:
            tell(f"{minutes:g} minutes are over: left out are {', '.join(one.name for one in cells[number - 1 :])}")
            break
        tell(f"{cell.name} ({number} of {len(cells)})")
        try:
            found = measure(
                cell, methods, device=kind, rounds=rounds, seconds=seconds, tell=tell, patience=patience
            )  # fmt: skip
        except Failed as error:
            tell(f"{cell.name}: left out: {error}")
            continue
        results["cells"].append(found)
        write_json(file, results)
        report.write(results, file)
    return results


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
