"""What a call of the workflow still has to make, as far as that can be seen before any job runs."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from smallbatch.core import checksums
from smallbatch.core.errors import UserError, refuse
from smallbatch.runs import chosen as rates
from smallbatch.runs.packs import Plan
from smallbatch.study.experiments import Chosen

PLANNED_LATE = frozenset({"train", "choose", "table"})
"""Rules whose jobs are planned when data and rates are known."""

ALL_NEED = PLANNED_LATE | {"prepare"}
"""Rules without which no run is trained and shown."""


class Work(NamedTuple):
    """What has to be made of an experiment.

    packs: names of those that have to train.
    outdated: whether its tables show other records than there are, or will be.
    damaged: as `Pending` has them.
    """

    packs: list[str]
    outdated: bool
    damaged: dict[str, str]


def work(
    plan: Plan,
    experiment: str,
    fingerprint: str,
    chosen: Chosen | None,
    shown: str | None,
    arriving: Mapping[str, str] | None = None,
) -> Work:
    """What has to be made of an experiment whose data and rates are known.

    Args:
        plan: of its study.
        experiment: its name.
        fingerprint: of its data.
        chosen: its rates, where it takes the best of others.
        shown: the digest of the records that its tables show; none where it is not known.
        arriving: as `Plan.pending` takes them.
    """
    packs, records, damaged = plan.pending(experiment, fingerprint, chosen, arriving)
    return Work([pack.name for pack in packs], bool(packs) or records != shown, damaged)


def outdated(recipes: Mapping[Path, str]) -> dict[Path, str]:
    """Files of checksums of jobs that are to run again, each with the reason: whole, but not as they would be made now.

    Args:
        recipes: each file with the recipe that its job would go by now.
    """
    found = {path: checksums.outdated(path, recipe) for path, recipe in recipes.items() if path.is_file()}
    return {path: reason for path, reason in found.items() if reason}


def chosen_otherwise(path: Path, sources: Iterable[Path], code: str) -> str | None:
    """Why rates have to be chosen anew: from other records than the tables show, or by other code; none: they have not.

    Args:
        path: of the rates.
        sources: the checksums of these tables, in the order of the experiments.
        code: a hash over the code that chooses now.
    """
    shown = [checksums.made_from(source) for source in sources]
    records, by = rates.chosen_from(path)
    if by != code:
        return "chosen by another version of the code"
    return "chosen from other runs" if None not in shown and records != shown else None


def refuse_hidden(
    until: Collection[str],
    omitted: Collection[str],
    allowed_rules: Collection[str],
    forced: Collection[str],
    batch: str | None,
    touch: bool,
) -> None:
    """Refuse options by which Snakemake passes over rules whose jobs are planned late, and calls complete what is not.

    Args:
        until: what `--until` names.
        omitted: what `--omit-from` names.
        allowed_rules: what `--allowed-rules` names; empty where it is not given.
        forced: what `--forcerun` names.
        batch: what `--batch` says.
        touch: whether there is `--touch`.

    Raises:
        UserError: names the option, the rule, and what is allowed.
    """
    for option, names, hidden in (("--until", until, PLANNED_LATE), ("--omit-from", omitted, ALL_NEED)):
        for name in sorted(name for name in names if name in hidden or "/" in name):
            allowed = (
                f"rules but {', '.join(sorted(hidden))}; `snakemake tables` trains and stops before figures, a "
                "figure's file trains for that figure"
            )
            refuse("command line", option, name, allowed)
    if batch:
        refuse(
            "command line", "--batch", batch, "the file of a table or figure as target, which makes what it needs alone"
        )
    if touch:
        raise UserError(
            "command line: --touch is not allowed: it calls done what is missing; a call without it makes just that, "
            "and trains nothing for the sake of times"
        )
    if allowed_rules and not ALL_NEED.issubset(allowed_rules):
        allowed = f"rules with {', '.join(sorted(ALL_NEED))} among them, or a target's name in its place"
        refuse("command line", "--allowed-rules", " ".join(sorted(allowed_rules)), allowed)
    if "train" in forced:
        allowed = "other rules; a run whose folder in results/runs is deleted is trained again"
        refuse("command line", "--forcerun", "train", allowed)


def refuse_report(arguments: Sequence[str], study: str, *, complete: bool) -> None:
    """Refuse Snakemake's own report of a study that is not complete: it takes the files as they lie there.

    Args:
        arguments: of Snakemake.
        study: its name.
        complete: whether nothing is missing, damaged or to be made otherwise.

    Raises:
        UserError: says what to call first.
    """
    if not complete and any(argument.partition("=")[0] == "--report" for argument in arguments):
        raise UserError(f"command line: --report: study {study} is not complete; `snakemake all` completes it")
