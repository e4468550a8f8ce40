"""What a call still has to make, from records, checksums and options worked out by hand."""

from types import SimpleNamespace

import pytest
from helpers import a_run, an_outcome

from smallbatch.core import checksums
from smallbatch.core.errors import UserError
from smallbatch.runs import pending
from smallbatch.runs.chosen import write_chosen
from smallbatch.runs.packs import Pack, Plan
from smallbatch.runs.store import RunStore, digest_of

RUNS = tuple(a_run(seed=seed, epochs=1) for seed in (1, 2))


@pytest.fixture
def plan(tmp_path):
    """Of a study with one experiment of two runs, which one pack trains."""
    e = SimpleNamespace(name="e", setting=RUNS[0].setting, best_of=(), runs=lambda chosen=None: iter(RUNS))
    return Plan(SimpleNamespace(experiments={"e": e}), 2, RunStore(tmp_path))


def test_a_pack_trains_while_one_of_its_runs_is_missing(plan):
    names = [Pack("e", "made", RUNS).name]
    assert pending.work(plan, "e", "f", None, None) == (names, True, {})
    plan.store.write(RUNS[0], "f", an_outcome(RUNS[0]), {}, None)
    assert pending.work(plan, "e", "f", None, None) == (names, True, {})
    assert pending.work(plan, "e", "f", None, "").outdated, "a table of no records is no table of these"
    plan.store.write(RUNS[1], "f", an_outcome(RUNS[1]), {}, None)
    assert pending.work(plan, "e", "f", None, None) == ([], True, {})


def test_a_damaged_run_is_named_with_what_is_wrong(plan):
    for run in RUNS:
        plan.store.write(run, "f", an_outcome(run), {}, None)
    (plan.store.folder(RUNS[1], "f") / "metrics.csv").write_text("")
    work = pending.work(plan, "e", "f", None, None)
    assert work.packs and work.damaged == {RUNS[1].name("f"): "metrics.csv does not fit its digest in run.json"}


def test_tables_are_made_again_where_they_show_other_records(plan):
    for run in RUNS:
        plan.store.write(run, "f", an_outcome(run), {}, None)
    digests = [plan.store.digest(run, "f") for run in RUNS]
    assert pending.work(plan, "e", "f", None, digest_of(digests)) == ([], False, {})
    assert pending.work(plan, "e", "f", None, digest_of(digests[:1])) == ([], True, {})
    # A record that was published counts before the one that is there.
    published = {RUNS[1].name("f"): "other"}
    assert pending.work(plan, "e", "f", None, digest_of(digests), published) == ([], True, {})
    assert pending.work(plan, "e", "f", None, digest_of([digests[0], "other"]), published) == ([], False, {})


def test_runs_that_are_to_arrive_need_no_training(plan):
    arriving = {run.name("f"): f"{i}" for i, run in enumerate(RUNS)}
    assert pending.work(plan, "e", "f", None, digest_of(["0", "1"]), arriving) == ([], False, {})
    assert pending.work(plan, "e", "other", None, None, arriving).packs, "of other data"


def test_what_was_made_by_another_recipe_or_from_others_is_outdated(tmp_path):
    source, made = tmp_path / "source", tmp_path / "made"
    source.write_text("1")
    made.write_text("2")
    sums = tmp_path / "sums.json"
    checksums.write(sums, [made], recipe="new", inputs=[source])
    assert pending.outdated({sums: "new", tmp_path / "none.json": "new"}) == {}
    assert pending.outdated({sums: "newer"}) == {sums: "made by other settings or another version of the code"}
    source.write_text("3")
    assert pending.outdated({sums: "new"}) == {sums: "made from others"}


def test_rates_are_chosen_again_when_the_tables_show_other_runs_or_by_other_code(tmp_path):
    path, tables = tmp_path / "study/chosen/e.json", [tmp_path / "a.json", tmp_path / "b.json"]
    write_chosen(path, {4: 2.0**-8}, ["one", "two"], "code")
    assert pending.chosen_otherwise(path, tables, "code") is None, "as long as it is not known what they show"
    for table, digest in zip(tables, ("one", "two"), strict=True):
        checksums.write(table, [], digest)
    assert pending.chosen_otherwise(path, tables, "code") is None
    assert pending.chosen_otherwise(path, tables[::-1], "code") == "chosen from other runs"
    assert pending.chosen_otherwise(path, tables, "other code") == "chosen by another version of the code"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"until": ["table"]}, "--until: 'table'"),
        ({"until": {"results/packs/a.done"}}, "--until: 'results/packs/a.done'"),
        ({"omitted": {"train"}}, "--omit-from: 'train'"),
        ({"omitted": {"prepare"}}, "--omit-from: 'prepare'"),
        ({"omitted": {"results/a/experiments/b/runs.parquet"}}, "--omit-from: 'results/a/experiments/b/runs.parquet'"),
        ({"allowed_rules": {"train", "table"}}, "--allowed-rules: 'table train'"),
        ({"forced": {"train"}}, "--forcerun: 'train'"),
        ({"batch": "1/2 (rule gather)"}, "--batch: '1/2 \\(rule gather\\)'"),
        ({"touch": True}, "--touch"),
    ],
)
def test_options_that_hide_what_is_planned_late_are_refused(options, said):
    none = dict.fromkeys(("until", "omitted", "allowed_rules", "forced", "batch", "touch"), frozenset())
    with pytest.raises(UserError, match=f"^command line: {said} is not allowed[;:] "):
        pending.refuse_hidden(**none | options)
    plain = {
        "until": {"prepare"},
        "omitted": {"figure"},
        "forced": {"figure"},
        "allowed_rules": {"prepare", "train", "choose", "table"},
    }
    pending.refuse_hidden(**none | plain)


def test_a_report_of_what_is_not_complete_is_refused():
    for option in (["--report"], ["--report", "a.zip"], ["--report=a.html"]):
        arguments = ["snakemake", *option, "--config", "study=tiny"]
        pending.refuse_report(arguments, "tiny", complete=True)
        with pytest.raises(UserError, match=r"^command line: --report: study tiny is not complete; `snakemake all` "):
            pending.refuse_report(arguments, "tiny", complete=False)
    pending.refuse_report(["snakemake", "--report-stylesheet", "a.css", "-n"], "tiny", complete=False)
