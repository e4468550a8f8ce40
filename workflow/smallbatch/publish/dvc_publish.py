"""Publish a finished study: runs and some of their weights through DVC to a remote, results in a page.

Runs are published in bundles (`smallbatch.runs.bundles`), weights as single files. Every step can be repeated, and
skips what was done before.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from smallbatch.analysis.words import counted
from smallbatch.core.errors import UserError, refuse
from smallbatch.core.files import atomic
from smallbatch.publish.report import VERDICTS, claim_rows, figure_words, result_rows
from smallbatch.runs import bundles
from smallbatch.runs.records import Record
from smallbatch.runs.store import RunStore

MAX_PATHS = 500
"""The largest number of paths on one command line."""

RECORDED = ("device", "python", "torch", "smallbatch", "commit")
"""Keys of the environment that must be recorded in each run."""

NOT_PUBLISHED = {"data", "time trained"}
"""Columns of the report's table of results."""

CLAIM_COLUMNS = ("claim", "verdict", "what is not the paper's", "effect (95 % interval)", "figures")


def publish(
    study: str,
    runs: pd.DataFrame,
    claims: pd.DataFrame,
    store: RunStore,
    page: Path,
    figures: Path,
    *,
    remote: str,
    remote_set_in: str,
    weights: str,
) -> str:
    """Publish a study; returns a message on what is left for the user to do.

    Args:
        study: the name of the study.
        runs: its table of runs.
        claims: its judged claims.
        store: the run store.
        page: the file in which the tables of this study are filled in, if it has places for them.
        figures: the folder of its figures.
        remote: the name of the DVC remote.
        remote_set_in: the place where the remote was set, which errors name.
        weights: the final weights to publish: those of the best run of each `cell` or each `experiment`, or `none`.

    Raises:
        UserError: the study is incomplete, or DVC or its remote failed. Nothing has changed then, except for files
            that the remote has already received.
    """
    records = check(study, runs, store)
    _check_remote(remote, remote_set_in)
    names, known = list(records), bundles.published(store)
    kept = undamaged_weights(records, store, runs_with_published_weights(runs, records, store, weights))
    new = [name for name in names if name not in known]
    made = [bundles.write_bundle(store, study, new)] if new else []
    known |= {name: bundle for bundle in made for name in new}
    paths = [*sorted({known[name] for name in names}), *kept]
    before = {path: path.read_bytes() if path.exists() else None for path in map(_tracker, paths)}
    try:
        for part in _parts(paths):
            _dvc("add", *map(str, part))
            _dvc("push", "--remote", remote, *map(str, part))
    except BaseException:
        _restore(before | dict.fromkeys(made))
        raise
    fill_marked_parts(page, {f"{study}: results": results_markdown(runs), f"{study}: claims": claims_markdown(claims)})
    changed = len(new) + sum(before[path] != path.read_bytes() for path in map(_tracker, kept))
    contents = f"{counted(len(names), 'run')} and {counted(len(kept), 'weights file')} of study {study}"
    published = f"{contents} are in remote {remote}; {changed} of these are new or changed"
    return f"{published}; {_commit_to_make(study, [page, figures, store.results, Path('.dvc')])}"


def check(study: str, runs: pd.DataFrame, store: RunStore) -> dict[str, Record]:
    """Run name -> record, after a check that each is undamaged and records where the run was trained.

    Raises:
        UserError: a check failed; names the first such run.
    """
    records = {}
    for name in dict.fromkeys(runs["run"]):
        if damage := store.damage(store.root / name):
            raise UserError(f"{store.root / name}: {damage}; study {study} is published when `all` has made it again")
        records[name] = store.read(name)
    known = runs.reindex(columns=RECORDED)
    # A training that continued in another environment has `A then B`.
    unknown = known.isna() | known.map(lambda value: not {"", "unknown"}.isdisjoint(str(value).split(" then ")))
    for name, row in zip(runs["run"], unknown.itertuples(index=False), strict=True):
        if any(row):
            missing = RECORDED[row.index(True)]
            raise UserError(f"{store.root / name}: run.json: environment: {missing} is not recorded; allowed: runs "
                            "that say where they were trained; move it away, and `all` trains it again")  # fmt: skip
    return records


def runs_with_published_weights(
    runs: pd.DataFrame, records: Mapping[str, Record], store: RunStore, weights: str
) -> list[str]:
    """The runs whose weights are published: in each experiment or each of its cells, the best run with weights."""
    if weights == "none":
        return []
    kept = [name for name, record in records.items() if (file := store.weights(record)) and file.exists()]
    published = runs[runs["run"].isin(kept)]
    cell = ["batch_size", "bn_batch_size", "base_lr"] if weights == "cell" else []
    best = published.sort_values("accuracy", ascending=False, kind="stable").drop_duplicates(["experiment", *cell])
    return sorted(set(best["run"]))


def undamaged_weights(records: Mapping[str, Record], store: RunStore, names: Sequence[str]) -> list[Path]:
    """The files of the weights of these runs.

    Raises:
        UserError: a file is damaged, and was set aside, so that the next call publishes without it.
    """
    for name in names:
        store.read_weights(records[name])
    return [file for name in names if (file := store.weights(records[name]))]


def results_markdown(runs: pd.DataFrame) -> str:
    """A Markdown table with one line per experiment."""
    rows = result_rows(runs)
    heads = [name for name in rows[0] if name not in NOT_PUBLISHED]
    rules = ["---", "---", *["---:"] * (len(heads) - 2)]
    return _markdown(heads, rules, [[row[name] for name in heads] for row in rows])


def claims_markdown(claims: pd.DataFrame) -> str:
    """The number of claims with each verdict, and a Markdown table with one line per claim."""
    judged = claim_rows(claims)
    counts = ((verdict, sum(claim["verdict"] == verdict for claim in judged)) for verdict in VERDICTS)
    rows = []
    for claim in judged:
        effect = f"{claim['effect']} ({claim['interval']})" if claim["interval"] else claim["effect"]
        name, figures = f"{claim['claim']}: {claim['text']}", ", ".join(map(figure_words, claim["figures"]))
        rows.append([name, claim["verdict"], claim["differences"], effect, figures])
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts)
    return f"{summary}.\n\n" + _markdown(CLAIM_COLUMNS, ["---"] * len(CLAIM_COLUMNS), rows)


def _markdown(heads: Sequence[str], rules: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])


def fill_marked_parts(page: Path, texts: dict[str, str]) -> None:
    """Put each text between the comments `<!-- NAME -->` and `<!-- end -->` of a page, if the page has them."""
    if not page.exists():
        return
    before = text = page.read_text(encoding="utf-8")
    for name, content in texts.items():
        between = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"

        def filled(marks: re.Match[str], content: str = content) -> str:
            return f"{marks[1]}{content}\n{marks[2]}"

        text = re.sub(between, filled, text, flags=re.DOTALL)
    if text != before:
        with atomic(page, "w") as file:
            file.write(text)


def _commit_to_make(study: str, paths: Sequence[Path]) -> str:
    """A message on what is still to be committed."""
    paths = [path for path in paths if path.exists()]
    shown = " ".join(map(str, paths))
    status = subprocess.run(["git", "status", "--porcelain", "--", *map(str, paths)], text=True, capture_output=True)
    if status.returncode == 0 and not status.stdout:
        return "nothing is left to commit"
    return f"commit them: git add {shown} && git commit -m 'Publish study {study}' && git push"


def _tracker(path: Path) -> Path:
    """The file by which DVC tracks a path."""
    return path.with_name(f"{path.name}.dvc")


def _parts(paths: Sequence[Path]) -> Iterator[Sequence[Path]]:
    return (paths[start : start + MAX_PATHS] for start in range(0, len(paths), MAX_PATHS))


def _restore(before: dict[Path, bytes | None]) -> None:
    """Undo `dvc add`: files that the remote does not have must not be committed."""
    for path, content in before.items():
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)


def _check_remote(name: str, remote_set_in: str) -> None:
    known = [line.split()[0] for line in _dvc("remote", "list").splitlines()]
    if name not in known:
        refuse(remote_set_in, "publish.remote", name, f"a remote of DVC: {', '.join(known) or 'there is none'}")


def _dvc(*arguments: str) -> str:
    """The output of a DVC command.

    Raises:
        UserError: the command failed; with DVC's reason.
    """
    # Without a terminal, where DVC would ask for a password in the middle of a workflow.
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    if done.returncode:
        raise UserError(f"dvc {arguments[0]}: {_reason(done.stderr)}")
    return done.stdout


def _reason(output: str) -> str:
    """Why DVC failed, in one line."""
    if asked := re.search(r"(\S+'s password): ", output):
        return f"the remote does not take the password or key that DVC has for it, and asks for {asked[1]}"
    reasons = re.findall(r"ERROR: (.*)", output) or output.splitlines() or ["it failed without a word"]
    return " - ".join(dict.fromkeys([reasons[-1], reasons[0]]))  # the overall error, then the first one
