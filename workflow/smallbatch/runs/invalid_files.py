"""Checks before the first job of a call: finds files that are damaged, or would be made differently now."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from smallbatch.core import checksums
from smallbatch.core.errors import UserError
from smallbatch.core.files import set_aside, writing_errors
from smallbatch.data import prepared, reason_to_prepare
from smallbatch.runs import chosen_rates

DAMAGED = "edited or damaged"


class InvalidFiles(NamedTuple):
    """Files that have to be made again.

    files: the files, which exist.
    planned: the message of a dry run.
    discard: moves or deletes the files; returns a message about it.
    """

    files: tuple[Path, ...]
    planned: str
    discard: Callable[[], str]


class Job(NamedTuple):
    """The files of a job that records their checksums.

    sums: the file of the checksums.
    makes, reads: names of its outputs and inputs, as it passes them to `checksums.write`.
    made_by: the digest of the settings and the code that the job would use now, see `checksums.settings_digest`.
    """

    sums: Path
    makes: Sequence[str]
    reads: Sequence[str]
    made_by: str


def unprepared(datasets: Mapping[str, dict[str, Any]], data: Path) -> Iterator[InvalidFiles]:
    """Data sets that are not prepared as their settings say; `datasets` are settings by label."""
    for label, settings in datasets.items():
        folder = data / label
        if reason := reason_to_prepare(label, settings, folder):
            files = [*prepared.damaged_arrays(folder), folder / prepared.META]
            yield from _damaged(files, reason, prepared.set_aside_beside_folder)


def damaged_rates(files: Iterable[Path]) -> Iterator[InvalidFiles]:
    """Chosen rates that cannot be read."""
    for file in files:
        try:
            chosen_rates.read_chosen(file)
        except UserError:
            yield from _damaged([file], f"{file}: {DAMAGED}")


def damaged_files(jobs: Iterable[Job], figures: Path) -> Iterator[InvalidFiles]:
    """Files that changed since their job wrote them. Pictures are overwritten: git keeps the old ones.

    Args:
        jobs: the jobs that record checksums.
        figures: the folder of pictures.
    """
    for job in jobs:
        damaged = checksums.damaged(job.sums, job.makes)
        pictures = [file for file in damaged if file.is_relative_to(figures)]
        if pictures:
            names = ", ".join(map(str, pictures))
            yield _outdated(job.sums, f"{names}: not as drawn from these tables; to be drawn again")
        for file in sorted(set(damaged).difference(pictures)):
            yield from _damaged([file], f"{file}: {DAMAGED}")


def incomplete(jobs: Sequence[Job]) -> list[Path]:
    """The files of checksums of jobs that lack an output or their checksums, although others exist or were read.

    Snakemake makes missing targets again, but does not notice a missing file if the files made from it are complete.
    """
    made = [job for job in jobs if job.sums.exists() or any(map(os.path.lexists, job.makes))]
    read = {file for job in made for file in job.reads}
    return [
        job.sums
        for job in jobs
        if not (job.sums.exists() and all(map(os.path.exists, job.makes)))
        and (job in made or not read.isdisjoint(job.makes))
    ]


def outdated_files(jobs: Iterable[Job]) -> Iterator[InvalidFiles]:
    """Files of checksums whose files are undamaged, but would be made differently now."""
    for job in jobs:
        if job.sums.is_file() and (reason := checksums.why_outdated(job.sums, job.made_by, job.reads)):
            yield _outdated(job.sums, f"{job.sums}: {reason}; to be made again")


def outdated_rates(sources: Mapping[Path, Iterable[Path]], code: str) -> Iterator[InvalidFiles]:
    """Rates that were chosen from other records than the tables now show, or by other code.

    Args:
        sources: file of the rates -> the checksums of the tables they are chosen from, in the order of the experiments.
        code: a hash over the code that would choose rates now.
    """
    for file, sums in sources.items():
        shown = [checksums.made_from(path) for path in sums]
        records, by = chosen_rates.records_and_code(file)
        if by != code:
            yield _outdated(file, f"{file}: chosen by another version of the code; to be made again")
        elif None not in shown and records != shown:
            yield _outdated(file, f"{file}: chosen from other runs; to be made again")


def unexpected_files(folder: Path, made: Iterable[Path]) -> list[Path]:
    """Files in a folder that no job makes, for example those of figures that a study no longer has.

    Args:
        folder: the folder.
        made: the files that jobs make there; files of other types are ignored.
    """
    known = set(made)
    types = {path.suffix for path in known}
    return sorted(path for path in folder.glob("*") if path.suffix in types and path not in known)


def _damaged(files: Iterable[Path], reason: str, aside: Callable[[Path], Path] = set_aside) -> Iterator[InvalidFiles]:
    existing = tuple(file for file in files if os.path.lexists(file))
    names = ", ".join(file.name for file in existing)

    def discard() -> str:
        moved = ", ".join(str(aside(file)) for file in existing)
        return f"{reason}; set aside as {moved}, to make {names} again"

    if existing:
        yield InvalidFiles(existing, f"{reason}; a call without -n would make {names} again", discard)


def _outdated(file: Path, line: str) -> InvalidFiles:
    def discard() -> str:
        with writing_errors(file):
            file.unlink(missing_ok=True)
        return line

    return InvalidFiles((file,), line, discard)
