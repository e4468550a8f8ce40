"""Refuses Snakemake options that would report incomplete results as complete, and unknown targets."""

import itertools
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import PurePath

from smallbatch.core.errors import UserError, refuse
from smallbatch.study.experiments import Study
from smallbatch.study.yaml_validation import suggestion

PLANNED_LATE = frozenset({"train", "choose", "table"})
"""Rules whose jobs Snakemake plans only after a checkpoint, once data and rates are known."""

ALL_NEED = PLANNED_LATE | {"prepare"}
"""Rules that every run needs in order to be trained and shown."""


def refuse_skipping_options(
    until: Collection[str],
    omitted: Collection[str],
    allowed_rules: Collection[str],
    forced: Collection[str],
    ancient: Collection[str],
    batch: str | None,
    touch: bool,
) -> None:
    """Refuse options that make Snakemake skip rules after a checkpoint and still report success.

    Args:
        until: the names given to `--until`.
        omitted: the names given to `--omit-from`.
        allowed_rules: the names given to `--allowed-rules`; empty without this option.
        forced: the names given to `--forcerun`.
        ancient: the rules given to `--consider-ancient`.
        batch: the value of `--batch`.
        touch: whether `--touch` is given.

    Raises:
        UserError: an option is refused; names the option, the rule, and what is allowed.
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
    for rule in sorted(ancient):
        refuse("command line", "--consider-ancient", rule, "none: no file's time decides what is run")
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


def refuse_other_studies(targets: Collection[str], study: str, studies: Collection[str]) -> None:
    """Refuse files of another study as targets.

    Snakemake would report existing ones as done, and has no rule for the others.

    Args:
        targets: the targets of the call.
        study: the name of the call's study.
        studies: the names of all studies.

    Raises:
        UserError: a target is refused; names the target and how to ask for it.
    """
    for target in targets:
        folder, other, *inside = (*PurePath(os.path.relpath(target)).parts, "", "")
        file = "/".join(filter(None, inside))
        if folder in ("results", "paper_figures") and other in studies and other != study:
            ours = f"ask for {folder}/{study}/{file}, or without what makes it {study}"
            hint = ours if study.startswith(f"{other}-") and study not in studies else f"add --config study={other}"
            raise UserError(f"{target}: is of study {other}, and this call of {study}; {hint}")


def may_need_target_check(arguments: Collection[str], study: Study, rules: Collection[str]) -> bool:
    """Whether the arguments may hold a target that `refuse_other_studies` or `refuse_unknown` would refuse."""
    plain = {*study.experiments, *study.figures}
    marks = ("results/", "paper_figures/", *(f"{kind}:" for kind in _KINDS))
    return any(one not in rules and (one in plain or any(mark in one for mark in marks)) for one in arguments)


def refuse_unknown(
    targets: Collection[str], study: Study, rules: Collection[str], studies_with: Callable[[str, str], Collection[str]]
) -> None:
    """Refuse targets that name experiments or figures unknown to the study, or without the prefix of their kind.

    Args:
        targets: the targets of the call.
        study: the call's study.
        rules: the names of all rules.
        studies_with: returns the studies whose file has a name under a key, given the key and the name.

    Raises:
        UserError: a target is refused; names the target and how to ask for it.
    """
    for target, (kind, key) in itertools.product(set(targets).difference(rules), _KINDS.items()):
        names, name = list(getattr(study, key)), target.removeprefix(f"{kind}:")
        if target in names:
            raise UserError(f"command line: {target}: no target; {kind}:{target} is one")
        if name != target:
            others = " or ".join(f"--config study={other}" for other in studies_with(key, name))
            has = f"it has: {', '.join(names)}" + f"; with {others} it is there" * bool(others)
            raise UserError(f"command line: {target}: {study.file} has no such {kind}{suggestion(name, names)}; {has}")


_KINDS = {"experiment": "experiments", "figure": "figures"}
"""Prefix of a target, as in `experiment:NAME` -> the attribute of a study that such names belong to."""


def refuse_report(arguments: Sequence[str], study: str, *, complete: bool) -> None:
    """Refuse Snakemake's own report of an incomplete study: it would include whatever files exist, however old.

    Args:
        arguments: the arguments of Snakemake.
        study: the name of the study.
        complete: whether nothing is missing, damaged or to be made again.

    Raises:
        UserError: the study is incomplete; says what to call first.
    """
    if not complete and any(argument.partition("=")[0] == "--report" for argument in arguments):
        raise UserError(f"command line: --report: study {study} is not complete; `snakemake all` completes it")
