"""What a call still has to train, and options that would hide it, from records and options worked out by hand."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
from helpers import a_run, an_outcome

from smallbatch.core.errors import UserError
from smallbatch.runs import snakemake_option_checks
from smallbatch.runs.packs import Pack, Plan
from smallbatch.runs.records import digest_of
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Experiment, Study
from smallbatch.study.rates import BaseLr

RUNS = tuple(a_run(seed=seed, epochs=1) for seed in (1, 2))


@pytest.fixture
def plan(tmp_path):
    """Of a study with one experiment of two runs, which one pack trains."""
    e = SimpleNamespace(name="e", setting=RUNS[0].setting, best_of=(), runs=lambda chosen=None: iter(RUNS))
    return Plan(SimpleNamespace(experiments={"e": e}), 2, RunStore(tmp_path))


def test_a_pack_trains_while_one_of_its_runs_is_missing(plan):
    pack = Pack("e", "made", RUNS)
    assert plan.pending("e", "f") == ([pack], "", {})
    plan.store.write(RUNS[0], "f", an_outcome(RUNS[0]), {}, None)
    assert plan.pending("e", "f") == ([pack], "", {})
    assert plan.pending("e", "f").outdates(""), "a table of no records is no table of these"
    plan.store.write(RUNS[1], "f", an_outcome(RUNS[1]), {}, None)
    assert plan.pending("e", "f") == ([], digest_of([plan.store.digest(run, "f") for run in RUNS]), {})


def test_a_damaged_run_is_named_with_what_is_wrong(plan):
    for run in RUNS:
        plan.store.write(run, "f", an_outcome(run), {}, None)
    (plan.store.folder(RUNS[1], "f") / "metrics.csv").write_text("")
    work = plan.pending("e", "f")
    assert work.packs and work.damaged == {RUNS[1].name("f"): "metrics.csv does not fit its digest in run.json"}


def test_tables_are_made_again_where_they_show_other_records(plan):
    for run in RUNS:
        plan.store.write(run, "f", an_outcome(run), {}, None)
    digests = [plan.store.digest(run, "f") for run in RUNS]
    there = plan.pending("e", "f")
    assert not there.outdates(digest_of(digests))
    assert there.outdates(digest_of(digests[:1])) and there.outdates(None)
    # A record that was published counts before the one that is there.
    published = plan.pending("e", "f", to_unpack={RUNS[1].name("f"): SimpleNamespace(digest="other")})
    assert published.outdates(digest_of(digests)) and not published.outdates(digest_of([digests[0], "other"]))
    assert there.packs == published.packs == []


def test_runs_that_are_to_arrive_need_no_training(plan):
    to_unpack = {run.name("f"): SimpleNamespace(digest=f"{i}") for i, run in enumerate(RUNS)}
    assert plan.pending("e", "f", to_unpack=to_unpack) == ([], digest_of(["0", "1"]), {})
    assert plan.pending("e", "other", to_unpack=to_unpack).packs, "of other data"
    assert plan.expected("e", ["other"], to_unpack=to_unpack) and not plan.expected(
        "e", ["other", "f"], to_unpack=to_unpack
    )


def test_before_data_and_rates_are_known_what_is_here_is_expected_to_be_theirs(tmp_path):
    """Two runs take the best of two rates of a grid, each with a b of its own."""
    base = Experiment("base", RUNS[0].setting, (4,), None, (BaseLr(2**-8), BaseLr(2**-6)), (1,))
    wide = Experiment("wide", RUNS[0].setting, (8,), None, (BaseLr(2**-4),), (1,))
    e = Experiment("e", replace(RUNS[0].setting, norm="batch"), (4,), (2, 4), (), (1,), ("base", "wide"))
    plan = Plan(Study("", "s", "", "", {"base": base, "wide": wide, "e": e}, {}), 1, RunStore(tmp_path))
    packs = {run: pack for pack in plan.packs.values() for run in pack.runs}
    both = [packs[run] for run in e.runs()]
    assert len(both) == 2 and plan.expected("e", []) == plan.expected("e", ["f"]) == both
    [low, _] = e.runs({4: BaseLr(2**-6)})
    plan.store.write(low, "f", an_outcome(low), {}, None)
    assert plan.expected("e", ["g", "f"]) == both[1:] and plan.expected("e", ["g"]) == both
    assert plan.expected("e", ["f"], {4: BaseLr(2**-8)}) == both, "at the rate that was chosen it is missing"
    [_, high] = e.runs({4: BaseLr(2**-4)})
    plan.store.write(high, "f", an_outcome(high), {}, None)
    assert plan.expected("e", ["f"]) == both[1:], "at a rate of another m"
    assert plan.expected("base", ["f"]) == [packs[next(base.runs())]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"until": ["table"]}, "--until: 'table'"),
        ({"until": {"results/packs/a.done"}}, "--until: 'results/packs/a.done'"),
        ({"omitted": {"train"}}, "--omit-from: 'train'"),
        ({"omitted": {"prepare"}}, "--omit-from: 'prepare'"),
        ({"omitted": {"results/a/experiments/b/runs.parquet"}}, "--omit-from: 'results/a/experiments/b/runs.parquet'"),
        ({"allowed_rules": {"train", "table"}}, "--allowed-rules: 'table train'"),
        ({"forced": {"train"}}, "--forcerun: 'train'"),
        ({"batch": "1/2 (rule gather)"}, "--batch: '1/2 \\(rule gather\\)'"),
        ({"ancient": {"table": {"pending"}}}, "--consider-ancient: 'table'"),
        ({"touch": True}, "--touch"),
    ],
)
def test_options_that_hide_what_is_planned_late_are_refused(given, said):
    none = dict.fromkeys(("until", "omitted", "allowed_rules", "forced", "ancient", "batch", "touch"), frozenset())
    with pytest.raises(UserError, match=f"^command line: {said} is not allowed[;:] "):
        snakemake_option_checks.refuse_skipping_options(**none | given)
    plain = {
        "until": {"prepare"},
        "omitted": {"figure"},
        "forced": {"figure"},
        "allowed_rules": {"prepare", "train", "choose", "table"},
    }
    snakemake_option_checks.refuse_skipping_options(**none | plain)


def test_a_report_of_what_is_not_complete_is_refused():
    for option in (["--report"], ["--report", "a.zip"], ["--report=a.html"]):
        arguments = ["snakemake", *option, "--config", "study=tiny"]
        snakemake_option_checks.refuse_report(arguments, "tiny", complete=True)
        with pytest.raises(UserError, match=r"^command line: --report: study tiny is not complete; `snakemake all` "):
            snakemake_option_checks.refuse_report(arguments, "tiny", complete=False)
    snakemake_option_checks.refuse_report(["snakemake", "--report-stylesheet", "a.css", "-n"], "tiny", complete=False)


STUDIES = {"laptop", "cifar10"}


@pytest.mark.parametrize(
    "target",
    [
        "paper_figures/cifar10/fig01.pdf",
        "results/cifar10/claims.csv",
        "./results/cifar10/a",
        os.path.abspath("results/cifar10/a"),
    ],
)
def test_a_file_of_another_study_is_refused_with_how_to_ask_for_it(target):
    asked = ["--cores", "2", target]
    with pytest.raises(UserError) as error:
        snakemake_option_checks.refuse_other_studies(asked, "laptop", STUDIES)
    assert str(error.value) == f"{target}: is of study cifar10, and this call of laptop; add --config study=cifar10"
    snakemake_option_checks.refuse_other_studies(asked, "cifar10", STUDIES)
    with pytest.raises(UserError) as error:
        snakemake_option_checks.refuse_other_studies(asked, "cifar10-seeds1", STUDIES)
    ours = os.path.relpath(target).replace("cifar10", "cifar10-seeds1")
    assert str(error.value).endswith(f" of cifar10-seeds1; ask for {ours}, or without what makes it cifar10-seeds1")


@pytest.mark.parametrize(
    "target", ["paper_figures/laptop/fig01.pdf", "results/packs/a.done", "cifar10", "config/cifar10"]
)
def test_other_targets_pass(target):
    snakemake_option_checks.refuse_other_studies([target, "results/laptop-glimpse/claims.csv"], "laptop", STUDIES)


def test_an_experiment_or_a_figure_that_is_no_target_is_refused_with_what_there_is():
    study = Study("s.yaml", "s", "", "", dict.fromkeys(["alexnet", "bn"]), dict.fromkeys(["fig01", "cost"]))
    rules = {"cost", "experiment:alexnet", "experiment:bn", "figure:fig01", "figure:cost"}
    for target, said in (
        ("experiment:alexnt", "s.yaml has no such experiment (did you mean 'alexnet'?); it has: alexnet, bn"),
        ("experiment:fig01", "s.yaml has no such experiment; it has: alexnet, bn"),
        ("figure:b", "s.yaml has no such figure; it has: fig01, cost; with --config study=t it is there"),
        ("bn", "no target; experiment:bn is one"),
        ("fig01", "no target; figure:fig01 is one"),
    ):
        assert snakemake_option_checks.may_need_target_check(["-n", target], study, rules)
        with pytest.raises(UserError) as error:
            snakemake_option_checks.refuse_unknown(
                [target], study, rules, lambda key, name: ["t"] * ((key, name) == ("figures", "b"))
            )
        assert str(error.value) == f"command line: {target}: {said}"
    plain = ["-n", "cost", "figure:cost", "study=t", "data/digits/meta.json"]
    assert not snakemake_option_checks.may_need_target_check(plain, study, rules)
    snakemake_option_checks.refuse_unknown(plain, study, rules, lambda key, name: [])


def test_runs_whose_rates_come_from_other_experiments_are_others(tmp_path):
    """Until the rates are known they look alike."""
    bases = {
        name: Experiment(name, RUNS[0].setting, (4,), None, (BaseLr(rate),), (1,))
        for name, rate in (("plain", 2**-8), ("warm", 2**-6))
    }
    setting = replace(RUNS[0].setting, norm="batch")
    later = {
        name: Experiment(name, setting, (4,), None, (), (1,), (base,))
        for name, base in {"a": "plain", "b": "warm", "c": "warm"}.items()
    }
    plan = Plan(Study("", "s", "", "", bases | later, {}), 9, RunStore(tmp_path))
    (first,), (second,), (third,) = (plan.pending(name, "f", {4: BaseLr(2**-8)}).packs for name in "abc")
    assert (first.experiment, second.experiment) == ("a", "b") and first.runs == second.runs
    assert third == second, "what takes them from the same ones is trained once"
