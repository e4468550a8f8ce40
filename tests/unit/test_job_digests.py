"""Digests of jobs: each job's changes with what decides its files, and with nothing else."""

from dataclasses import replace

import pytest
from helpers import PROJECT

from smallbatch.core import checksums
from smallbatch.runs import job_digests
from smallbatch.study.experiments import PROTOCOL
from smallbatch.study.yaml_validation import read_yaml
from smallbatch.study_file import load_study

LIBRARY = PROJECT / "workflow"
CODE = {name: f"code of {name}" for name in ("gather", "claims", "report", "crate", "table", "figure")}
CONFIG = read_yaml(PROJECT / "config" / "config.yaml")


STUDY = load_study(CONFIG | {"study": "cifar10"})


def digests_of(study=STUDY, config=CONFIG, code=CODE, snakemake="9.27"):
    return job_digests.job_digests(study, config, code, LIBRARY, snakemake)


def changed_by(**other):
    before, after = digests_of(), digests_of(**other)
    assert before.keys() == after.keys()
    return {name.partition("-")[0] for name in before if before[name] != after[name]}


def test_digests_are_those_of_settings_and_code():
    study, found = STUDY, digests_of()
    e, (name, figure) = next(iter(study.experiments.values())), next(iter(study.figures.items()))
    assert found["gather"] == checksums.settings_digest(list(study.experiments), "code of gather")
    assert found[f"table-{e.name}"] == checksums.settings_digest(e.as_json(), 0.8, PROTOCOL, "code of table")
    looks = study.compared(name), CONFIG["figures"]
    assert found[f"figure-{name}"] == checksums.settings_digest(figure, *looks, "code of figure")
    jobs = {"table": study.experiments, "figure": study.figures}
    assert found.keys() == {"gather", "claims", "page", "archive"} | {
        f"{kind}-{name}" for kind, names in jobs.items() for name in names
    }


@pytest.mark.parametrize(
    ("script", "job"),
    [("gather", "gather"), ("claims", "claims"), ("report", "page"), ("crate", "archive"), ("table", "table"),
     ("figure", "figure")],
)  # fmt: skip
def test_edited_code_changes_the_jobs_that_run_it(script, job):
    assert changed_by(code=CODE | {script: "edited"}) == {job}


def test_settings_change_the_jobs_that_take_them():
    assert changed_by(config=CONFIG | {"claims": CONFIG["claims"] | {"other": 1}}) == {"claims"}
    assert changed_by(config=CONFIG | {"convergence_threshold": 0.5}) == {"table"}
    assert changed_by(config=CONFIG | {"figures": {"pdf": "bare"}}) == {"figure"}
    assert changed_by(snakemake="10.0") == {"archive"}
    lab = CONFIG["publish"] | {"publisher": {"name": "A lab", "kind": "organization"}}
    assert changed_by(config=CONFIG | {"publish": lab}) == {"archive"}


def test_the_workflows_address_changes_the_page(monkeypatch):
    before = digests_of()
    monkeypatch.setattr(job_digests, "repository", lambda folder: f"https://example.org/{folder.name}")
    after = digests_of()
    assert {name for name in before if before[name] != after[name]} == {"page"}


def test_the_order_in_the_study_file_changes_what_shows_it():
    for mapping, jobs in (("figures", {"claims", "page", "archive"}), ("experiments", {"gather"})):
        reversed_ = dict(reversed(getattr(STUDY, mapping).items()))
        assert changed_by(study=replace(STUDY, **{mapping: reversed_})) == jobs | {"claims", "page", "archive"}


def test_scripts_whose_code_is_noted_have_a_hash_of_their_own():
    codes = job_digests.code_digests(lambda name: LIBRARY / "scripts" / f"{name}.py", LIBRARY)
    assert set(codes) == set(job_digests.SCRIPTS) and len(set(codes.values())) == len(codes)
