"""What can be asked for: targets, figures and options, and that none hides a run that is missing."""

import re
import shutil

import pytest
from helpers import snakemake
from helpers.workflows import ALL, RUNS, jobs, trained


def test_a_figure_trains_its_own_experiments_and_an_unknown_one_is_named(tiny):
    asked = ("--cores", "2", "--config", "study=tiny", "--")
    done = snakemake(tiny, *asked, "paper_figures/tiny/fig02.png")
    line = "error: config/studies/tiny.yaml: figures: it has no fig02, nor experiments for it; it has: fig01, fig13\n"
    assert done.returncode != 0 and line in done.stdout and "Traceback" not in done.stdout
    done = snakemake(tiny, *asked, "figure:fig01")
    assert done.returncode == 0 and "The figure is paper_figures/tiny/fig01.pdf, .svg and .png." in done.stdout
    assert len(trained(tiny)) == 4 and (tiny / "paper_figures/tiny/fig01.png").exists()


@pytest.mark.parametrize("option", ["--until", "--omit-from", "--forcerun", "--allowed-rules"])
def test_options_that_would_pass_over_trainings_are_refused(tiny, option):
    done = snakemake(tiny, "--config", "study=tiny", option, "train", "--", "all")
    assert done.returncode == 1 and f"error: command line: {option}: 'train' is not allowed" in done.stdout, done.stdout


def test_no_option_calls_complete_what_lacks_a_run(copied):
    shutil.rmtree(next(path for path in copied.glob("results/runs/*resnet8*")))
    before = {path: path.stat().st_mtime_ns for path in copied.glob("results/tiny/**/*")}
    done = snakemake(copied, "--touch", *ALL)
    assert done.returncode == 1 and "error: command line: --touch is not allowed: " in done.stdout, done.stdout
    assert {path: path.stat().st_mtime_ns for path in copied.glob("results/tiny/**/*")} == before
    done = snakemake(copied, "--consider-ancient", "table=pending", *ALL)
    assert done.returncode == 1 and "error: command line: --consider-ancient: 'table' is not allowed" in done.stdout
    plain = {"train": 1, "table": 1, "figure": 1, "gather": 1, "claims": 1, "page": 1, "all": 1}
    for options, planned in (
        ([], plain),
        (["--forcerun", "prepare"], plain | {"prepare": 1}),
        (["--forcerun", "choose"], plain | {"choose": 1}),
        (["--forceall"], plain | {"prepare": 1, "choose": 1, "table": 2, "figure": 2}),
    ):
        looked = snakemake(copied, "-n", *options, *ALL)
        assert jobs(looked.stdout) == planned and "Study tiny would be complete" in looked.stdout, looked.stdout
    pack = next(copied.glob("results/packs/bn_*.done")).relative_to(copied)
    assert jobs(snakemake(copied, "-n", *ALL[:-1], str(pack)).stdout) == {"train": 1}
    shutil.rmtree(copied / "data/digits")
    looked = snakemake(copied, "-n", *ALL)
    planned |= {"prepare": 1, "choose": 1, "table": 2, "figure": 2}
    assert jobs(looked.stdout) == planned and "data of digits are not prepared yet: " in looked.stdout, looked.stdout
    done = snakemake(copied, "--forceall", *ALL)
    assert done.returncode == 0 and len(trained(copied)) == RUNS, done.stdout


@pytest.mark.parametrize("target", ["tables", "report", "paper_figures/tiny/fig13.png", "experiment:bn"])
def test_whatever_is_asked_for_hides_no_missing_runs(target, copied):
    """Data and rates that are not there are no reason to take whole tables for right."""
    before = trained(copied)
    shutil.rmtree(copied / "data/digits")
    lost = next(name for name in sorted(before) if "resnet8" in name)
    shutil.rmtree(copied / "results/runs" / lost)
    planned = jobs(snakemake(copied, "-n", *ALL[:-1], target).stdout)
    assert planned["prepare"] == 1 and planned["table"] >= 1
    done = snakemake(copied, *ALL[:-1], target)
    assert done.returncode == 0, done.stdout
    assert {name for name, at in trained(copied).items() if at != before.get(name)} == {lost}
    (copied / "results/tiny/chosen/bn.json").unlink()
    assert jobs(snakemake(copied, "-n", *ALL[:-1], target).stdout)["choose"] == 1
    done = snakemake(copied, *ALL[:-1], target)
    assert done.returncode == 0 and (copied / "results/tiny/chosen/bn.json").exists(), done.stdout
    assert "Nothing to be done" in snakemake(copied, *ALL[:-1], target).stdout


def test_the_target_trained_trains_and_makes_no_figures(tiny):
    asked = ("--cores", "2", "--config", "study=tiny", "--", "trained")
    done = snakemake(tiny, *asked)
    assert done.returncode == 0 and "The runs of study tiny are trained." in done.stdout, done.stdout
    assert len(trained(tiny)) == RUNS
    assert not list(tiny.glob("paper_figures/tiny/*")) and not (tiny / "results/tiny/runs.csv").exists()
    assert "train " not in snakemake(tiny, "-n", *asked).stdout, "once is enough"


def test_a_figure_of_another_study_is_refused_with_how_to_ask_for_it(tiny):
    done = snakemake(tiny, "-n", "paper_figures/tiny/fig01.pdf")
    assert done.returncode == 1 and "error: paper_figures/tiny/fig01.pdf: is of study tiny" in done.stdout, done.stdout
    done = snakemake(tiny, "-n", "experiment:bn")
    said = "error: command line: experiment:bn: config/studies/laptop.yaml has no such experiment"
    assert done.returncode == 1 and said in done.stdout and "with --config study=tiny it is there" in done.stdout
    assert snakemake(tiny, "-n", "paper_figures/tiny/fig01.pdf", "--config", "study=tiny").returncode == 0
    assert snakemake(tiny, "-n", "--apptainer-prefix", "results/tiny/images", "figures").returncode == 0, "no target"


def test_each_rule_says_what_it_does(project):
    done = snakemake(project, "--list")
    rules = [row for row in done.stdout.splitlines() if not row.startswith("Using")]
    assert {"claims", "experiment:alexnet", "figure:fig01"} < {row.partition(" ")[0] for row in rules}
    assert len(rules) > 15 and all(re.fullmatch(r"[\w:-]+ \(.+\.\)", row) for row in rules), done.stdout
