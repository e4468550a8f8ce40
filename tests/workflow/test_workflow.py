"""The workflow as users call it: dry-run, lint, end to end, and what a second call does."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from faults import children_keep_to_permissions
from helpers import PROJECT, TINY, copy_project, made_once, snakemake, write_study
from helpers.cifar import archive, cifar10_contents
from helpers.pictures import divided
from PIL import Image

from smallbatch.core.files import DAY_S, read_sealed, write_sealed
from smallbatch.data.download import md5_of
from smallbatch.data.prepared import read_meta
from smallbatch.runs.chosen_rates import write_chosen
from smallbatch.runs.store import RunStore
from smallbatch.study.settings import read_yaml
from smallbatch.study_file import load_study

RUNS = 8
ALL = ("--cores", "2", "--config", "study=tiny", "--", "all")


@pytest.fixture
def tiny(project):
    write_study(project, "tiny", TINY)
    return project


def trained(project):
    """Run folder -> when its record was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in project.glob("results/runs/*/run.json")}


def jobs(output):
    """Rule -> number of jobs, as Snakemake's table of job stats has it."""
    table = output.partition("Job stats:")[2].partition("total")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)}


def train_tiny(folder):
    project = copy_project(folder / "project")
    write_study(project, "tiny", TINY)
    done = snakemake(project, *ALL)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def copied(tmp_path_factory, tmp_path):
    """A finished study: a copy, as new and as old as what was trained."""
    return shutil.copytree(made_once(tmp_path_factory, "trained-tiny", train_tiny) / "project", tmp_path / "project")


def test_dry_run_of_the_default_study(project):
    done = snakemake(project, "-n", "all")
    assert done.returncode == 0, done.stdout
    planned = jobs(done.stdout)
    assert (
        planned["prepare"] == 1 and planned["figure"] >= 10 and planned["train"] == done.stdout.count(": Training pack")
    )
    assert (
        "\ndata of digits are not prepared, rates of resnet8-bn-batches are not chosen yet: their runs that are here "
        "are taken for finished, all others are planned\n"
    ) in done.stdout
    assert not (project / "data" / "digits").exists() and not list(project.glob("results/packs/*"))


def test_lint_is_clean(project):
    done = snakemake(project, "--lint")
    assert done.returncode == 0 and "Congratulations" in done.stdout, done.stdout


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check"], ["snakefmt", "--check"]])
def test_style_is_clean(command):
    done = subprocess.run([sys.executable, "-m", *command, "."], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_computing_rule_has_its_directives():
    rules = "".join(path.read_text() for path in (PROJECT / "workflow" / "rules").glob("*.smk"))
    computing = [rule for rule in re.split(r"\n(?=rule |checkpoint )", rules) if re.search(r"^    script:", rule, re.M)]
    assert len(computing) >= 6
    for rule in computing:
        # A benchmark counts as an output, and what has none is done whenever it is asked for.
        benchmark = ("benchmark",) if re.search(r"^    output:", rule, re.MULTILINE) else ()
        for directive in ("log", *benchmark, "conda", "threads", "resources", "message"):
            assert re.search(rf"^    {directive}:", rule, re.MULTILINE), f"{directive} is missing in {rule[:40]}"


def test_end_to_end_and_what_follows(copied):
    first = trained(copied)
    assert len(first) == RUNS
    check_outputs(copied)
    check_rates(copied)
    check_crate(copied)

    again = snakemake(copied, *ALL)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout, again.stdout

    picture = (copied / "paper_figures/tiny/fig01.png").read_bytes()
    restyle(copied)
    assert snakemake(copied, *ALL).returncode == 0
    assert trained(copied) == first
    assert (copied / "paper_figures/tiny/fig01.png").read_bytes() != picture
    assert "Tinier" in (copied / "results/tiny/report.html").read_text()

    one_more_seed(copied, first)
    a_lost_run_is_trained_again(copied)
    modification_times_train_nothing(copied)


def check_crate(project):
    assert snakemake(project, *ALL[:-1], "crate").returncode == 0
    with zipfile.ZipFile(project / "results/tiny/tiny.crate.zip") as archive:
        names = set(archive.namelist())
    assert {"Snakefile", "study.json", "data/digits/meta.json", "results/tiny/claims.csv"} < names
    assert {"workflow/rules/common.smk", "paper_figures/tiny/fig13.pdf", "ro-crate-metadata.json"} < names
    (project / "README.md").write_text("Another one.", encoding="utf-8")
    os.utime(project / "README.md", (0, 0))
    done = snakemake(project, "-n", *ALL[:-1], "crate")
    assert (
        "results/tiny/checksums/archive.json: made from other inputs" in done.stdout
        and jobs(done.stdout)["archive"] == 1
    )


def check_outputs(project):
    runs = pd.read_parquet(project / "results/tiny/runs.parquet")
    assert len(runs) == RUNS and set(runs["status"]) <= {"finished", "diverged"}
    assert len(pd.read_csv(project / "results/tiny/runs.csv")) == RUNS
    assert set(pd.read_parquet(project / "results/tiny/epochs.parquet")["run"]) <= set(runs["run"])
    for form in ("pdf", "svg", "png"):
        assert (project / f"paper_figures/tiny/fig01.{form}").stat().st_size > 1000
    assert "Tiny" in (project / "results/tiny/report.html").read_text()
    record = json.loads(next(project.glob("results/runs/*/run.json")).read_text())
    assert {"settings", "data_fingerprint", "outcome", "environment", "ended", "files"} <= record.keys()
    assert {"torch", "python", "commit", "device"} <= record["environment"].keys()
    assert not list(project.glob("results/checkpoints/*/*.pt"))
    logs = "".join(path.read_text() for path in project.glob("logs/train/*.log"))
    there = [int(size) for size in re.findall(r"needs up to \d+ MB, (\d+) MB are available", logs)]
    assert there and all(0 < size < 2000 for size in there), "mem_mb is what a job may take"


def check_rates(project):
    """The rate of each m is the best of the other experiment's; returns how many runs there are."""
    runs = pd.read_parquet(project / "results/tiny/runs.parquet")
    means = runs[runs["experiment"] == "alexnet"].groupby(["batch_size", "base_lr"])["accuracy"].mean()
    for m, taken in runs[runs["experiment"] == "bn"].groupby("batch_size")["base_lr"]:
        assert set(taken) == {means[m].idxmax()}
    return len(runs)


def restyle(project):
    style = project / "workflow" / "smallbatch" / "figures" / "style.py"
    style.write_text(style.read_text().replace("COLUMN = 3.4", "COLUMN = 3.0"))
    study = project / "config" / "studies" / "tiny.yaml"
    study.write_text(study.read_text().replace("title: Tiny", "title: Tinier"))


def one_more_seed(project, before):
    write_study(project, "tiny", TINY | {"seeds": [1, 2]})
    assert snakemake(project, *ALL).returncode == 0
    after = trained(project)
    assert all(after[name] == time for name, time in before.items())
    assert sum("alexnet" in name for name in after) == 8
    # With two seeds another rate may be the best; then its runs are new with both seeds.
    assert len(after) >= 2 * RUNS and check_rates(project) == 2 * RUNS


def a_lost_run_is_trained_again(project):
    before = trained(project)
    lost, damaged = sorted(before)[:2]
    (project / "results/runs" / lost / "run.json").unlink()
    (project / "results/runs" / damaged / "metrics.csv").write_text("")
    looked, done = snakemake(project, "-n", *ALL), snakemake(project, *ALL)
    after = trained(project)
    told = f"results/runs/{damaged}: damaged: metrics.csv does not fit its digest in run.json; to be made again"
    assert all(call.stdout.count(told) == 1 for call in (looked, done)), done.stdout
    assert done.returncode == 0 and lost in after, done.stdout
    assert {name for name in before if before[name] != after[name]} == {lost, damaged}
    assert (project / "results/runs" / f"{damaged}.damaged-1").is_dir()


def modification_times_train_nothing(project):
    for path in sorted(project.glob("data/digits/*")):
        path.touch()
    subprocess.run(["rm", "-r", project / ".snakemake"], check=True)
    done = snakemake(project, "-n", *ALL)
    assert "train" not in jobs(done.stdout), done.stdout


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


def test_missing_data_and_rates_hide_no_missing_runs(copied):
    """What cannot be known without them is made first, and then what is missing is trained."""
    before = trained(copied)
    shutil.rmtree(copied / "data/digits")
    lost = next(name for name in sorted(before) if "resnet8" in name)
    shutil.rmtree(copied / "results/runs" / lost)
    (copied / "results/tiny/chosen/bn.json").unlink()
    done = snakemake(copied, *ALL)
    after = trained(copied)
    assert done.returncode == 0, done.stdout
    assert {name for name in after if after[name] != before.get(name)} == {lost}
    assert "Nothing to be done" in snakemake(copied, *ALL).stdout
    prepared = copied / "data/digits/train_images.npy"
    prepared.unlink()
    assert snakemake(copied, *ALL).returncode == 0
    assert prepared.exists() and trained(copied) == after
    prepared.write_bytes(b"damaged")
    assert snakemake(copied, *ALL).returncode == 0
    assert (copied / "data/digits.train_images.npy.damaged-1").read_bytes() == b"damaged" and trained(copied) == after


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


def test_what_is_set_for_another_program_is_not_taken_for_ours(copied, monkeypatch):
    """A notebook's kernel sets how to draw, a container of a training of several nodes that training's peers."""
    shutil.rmtree(next(copied.glob("results/runs/*resnet8*")))
    (copied / "paper_figures/tiny/fig01.png").unlink()
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    done = snakemake(copied, *ALL)
    assert done.returncode == 0 and jobs(done.stdout)["train"] == 1, done.stdout
    assert (copied / "paper_figures/tiny/fig01.png").exists()


def test_tables_follow_a_run_that_came_out_otherwise(copied):
    store, name = RunStore(copied / "results"), next(name for name in trained(copied) if "alexnet" in name)
    record = store.read(name)
    other = [epoch._replace(test_accuracy=0.125) for epoch in record.outcome.epochs]
    outcome = replace(record.outcome, epochs=other)
    store.write(record.run, record.fingerprint, outcome, record.environment, None)
    (copied / "results/tiny/experiments/alexnet/epochs.parquet").unlink()
    done = snakemake(copied, *ALL[:-1], "paper_figures/tiny/fig01.pdf")
    assert done.returncode == 0 and jobs(done.stdout) == {"figure": 1, "table": 1}, done.stdout
    runs = pd.read_parquet(copied / "results/tiny/experiments/alexnet/runs.parquet").set_index("run")
    assert runs.loc[name, "accuracy"] == 0.125


def test_times_to_come_stop_no_job_and_what_a_killed_call_left_goes(copied):
    """As another machine's clock makes them, or a copy from it."""
    before, ahead = trained(copied), time.time() + 3600
    lost = next(name for name in sorted(before) if "resnet8" in name)
    shutil.rmtree(copied / "results/runs" / lost)
    files = [
        path for folder in ("data", "results/tiny", "paper_figures/tiny") for path in copied.glob(f"{folder}/**/*")
    ]
    for file in files:
        os.utime(file, (ahead, ahead))
    killed = [file.with_name(f".{file.name}.abcd1234") for file in files if file.is_file()]
    killed += [file.with_name(f".{file.name}.abcd1234") for file in copied.glob("results/packs/*.json")]
    for file in killed:
        file.touch()
        os.utime(file, (time.time() - DAY_S,) * 2)
    done = snakemake(copied, *ALL)
    assert done.returncode == 0, done.stdout
    said, future, _ = done.stdout.partition(": dated in the future")
    assert "data/digits/meta.json" in said and future
    assert not [str(file) for file in killed if file.exists()], "what a call that was killed a day before left"
    after = trained(copied)
    assert {name for name in after if after[name] != before.get(name)} == {lost}
    assert "Nothing to be done" in snakemake(copied, *ALL).stdout


def test_edited_tables_are_named_and_made_again(copied):
    names = ("runs.csv", "claims.csv", "experiments/bn/runs.parquet", "chosen/bn.json", "checksums/page.json")
    before = {name: (copied / "results/tiny" / name).read_bytes() for name in names}
    for name, content in before.items():
        (copied / "results/tiny" / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    report = snakemake(copied, "--report", "report.html", "--config", "study=tiny")
    assert report.returncode == 1 and "error: command line: --report: study tiny is not complete" in report.stdout
    looked, done = snakemake(copied, "-n", *ALL), snakemake(copied, *ALL)
    assert done.returncode == 0, done.stdout
    planned = {"choose": 1, "table": 1, "figure": 1, "gather": 1, "claims": 1, "page": 1, "all": 1}
    assert looked.returncode == 0 and jobs(looked.stdout) == planned, looked.stdout
    for name, content in before.items():
        file, told = copied / "results/tiny" / name, f"results/tiny/{name}: edited or damaged; "
        assert f"{told}a call without -n would make {file.name} again" in looked.stdout
        assert f"{told}set aside as results/tiny/{name}.damaged-1, to make {file.name} again" in done.stdout
        assert file.read_bytes() == content and file.with_name(f"{file.name}.damaged-1").exists()


@pytest.mark.parametrize("target", ["report", "results/tiny/report.html", "paper_figures/tiny/fig01.svg"])
def test_an_edited_picture_is_drawn_again_whatever_is_asked_for(target, copied):
    """Whoever asks for another file of its job, or for what shows it, would not miss the job's checksums."""
    picture = copied / "paper_figures/tiny/fig01.svg"
    whole = picture.read_bytes()
    picture.write_bytes(whole.replace(b"</svg>", b"<!-- edited --></svg>"))
    done = snakemake(copied, *ALL[:-1], target)
    assert done.returncode == 0 and "fig01.svg: not as drawn from these tables; to be drawn again" in done.stdout
    assert picture.read_bytes() == whole and b"edited -->" not in (copied / "results/tiny/report.html").read_bytes()
    assert "Nothing to be done" in snakemake(copied, *ALL[:-1], target).stdout


def test_edited_tables_and_those_without_checksums_are_made_again_whatever_is_asked_for(copied):
    table = copied / "results/tiny/runs.parquet"
    whole = table.read_bytes()
    for without_checksums in (False, True):
        table.write_bytes(whole[:-9] + b"edited...")
        if without_checksums:
            (copied / "results/tiny/checksums/gather.json").unlink()
        done = snakemake(copied, *ALL[:-1], "claims")
        assert done.returncode == 0 and table.read_bytes() == whole, done.stdout


def test_verdicts_of_other_thresholds_are_made_again_for_the_report_without_snakemakes_memory(copied):
    file = copied / "config/config.yaml"
    text = file.read_text()
    assert text.count("margin: ") == 1
    file.write_text(re.sub(r"margin: \S+", "margin: 0.5", text))
    shutil.rmtree(copied / ".snakemake")
    (copied / "results/tiny/claims.csv").unlink()  # the report that shows it is whole
    report = (copied / "results/tiny/report.html").read_bytes()
    done = snakemake(copied, *ALL[:-1], "report")
    assert done.returncode == 0 and jobs(done.stdout) == {"claims": 1, "page": 1, "report": 1}, done.stdout
    assert (copied / "results/tiny/report.html").read_bytes() != report


def test_damaged_data_are_planned_again_and_reported_in_one_line(copied):
    folder = copied / "data/digits"
    for names in (["meta.json"], ["train_images.npy", "meta.json"]):
        aside = ", ".join(f"data/digits.{name}.damaged-1" for name in names)
        whole = {name: (folder / name).read_bytes() for name in names}
        (folder / names[0]).write_bytes(whole[names[0]][:-1] + b"?")
        looked = snakemake(copied, "-n", *ALL)
        assert looked.returncode == 0 and jobs(looked.stdout)["prepare"] == 1, looked.stdout
        done = snakemake(copied, *ALL)
        for output, told in (
            (looked, f"a call without -n would make {', '.join(names)} again"),
            (done, f"set aside as {aside}, to make {', '.join(names)} again"),
        ):
            [line] = [line for line in output.stdout.splitlines() if "again" in line]
            assert line.startswith(f"data/digits/{names[0]}: ") and line.endswith(told)
        assert {name: (folder / name).read_bytes() for name in names} == whole
        (copied / "data/digits.meta.json.damaged-1").unlink()


def test_pictures_that_are_new_are_seen_of_a_data_set_that_the_study_does_not_have_too(project, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8), 60 * number).save(tmp_path / "pictures" / name / f"{number}.png")
    source = f"source: image-folder, path: {tmp_path}/pictures, size: 8, test_fraction: 0.5, label: pictures"
    asked = ("--config", f"datasets={{cifar10: {{{source}}}}}", "--", "data/pictures/meta.json")
    done = snakemake(project, "--cores", "1", *asked)
    assert done.returncode == 0 and jobs(done.stdout) == {"prepare": 1}, done.stdout
    assert "Nothing to be done" in snakemake(project, "-n", *asked).stdout
    Image.new("L", (8, 8)).save(tmp_path / "pictures" / "a" / "new.png")
    assert jobs(snakemake(project, "-n", *asked).stdout) == {"prepare": 1}


def test_what_lies_there_whole_but_would_be_made_otherwise_is_made_again(copied):
    """As after a move to another machine or out of a backup: Snakemake knows no earlier settings, and times are new."""
    results, rates = copied / "results/tiny", copied / "results/tiny/chosen/bn.json"
    before = rates.read_bytes()
    write_chosen(rates, {16: 2.0**-10, 64: 2.0**-8}, ["of other runs"], read_sealed(rates)["code"])
    shutil.rmtree(copied / ".snakemake")
    tried = snakemake(copied, "-n", *ALL[:-2], "convergence_threshold=0.25", *ALL[-2:])
    assert "Study tiny-convergence_threshold0.25 would be complete" in tried.stdout, tried.stdout
    assert "train" not in jobs(tried.stdout) and jobs(tried.stdout)["table"] == 2, tried.stdout
    config = copied / "config/config.yaml"
    config.write_text(config.read_text().replace("convergence_threshold: 0.8", "convergence_threshold: 0.25"))
    done = snakemake(copied, *ALL)
    assert done.returncode == 0 and "results/tiny/chosen/bn.json: chosen from other runs; to be made" in done.stdout
    told = "made by other settings or another version of the code; to be made again"
    assert all(f"results/tiny/checksums/table-{name}.json: {told}" in done.stdout for name in ("alexnet", "bn"))
    assert rates.read_bytes() == before and len(trained(copied)) == RUNS
    runs = pd.read_csv(results / "runs.csv").groupby("experiment").get_group("alexnet")
    assert runs["bar"].tolist() == pytest.approx([0.1 + 0.25 * (runs["accuracy"].max() - 0.1)] * 4)


def test_what_was_copied_from_another_study_is_made_again(copied):
    """Its checksums are of the other's files, whatever these are like."""
    (copied / "config/studies/twin.yaml").write_text((copied / "config/studies/tiny.yaml").read_text())
    for folder in ("results", "paper_figures"):
        shutil.copytree(copied / folder / "tiny", copied / folder / "twin")
    claims, figures = copied / "results/twin/claims.csv", copied / "paper_figures/twin"
    claims.write_text(claims.read_text().replace("not run", "confirmed"))
    shutil.copy(figures / "fig01.svg", figures / "fig13.svg")
    (copied / "results/twin/checksums/figure-fig13.json").unlink()
    figure = copied / "results/twin/checksums/figure-fig01.json"
    shutil.copy(figure, figure.with_name("figure-fig13.json"))
    done = snakemake(copied, *["study=twin" if part == "study=tiny" else part for part in ALL])
    assert done.returncode == 0, done.stdout
    for job in ("table-bn", "gather", "claims", "page", "figure-fig01", "figure-fig13"):
        assert f"results/twin/checksums/{job}.json: edited or damaged; set aside" in done.stdout
    for made in [*copied.glob("paper_figures/tiny/*"), *copied.glob("results/tiny/*.csv")]:
        assert Path(str(made).replace("/tiny/", "/twin/")).read_bytes() == made.read_bytes()


def test_a_picture_that_git_has_brought_is_drawn_again(copied):
    folder = copied / "paper_figures/tiny"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "fig01.svg").write_text("<svg>another</svg>")
    done = snakemake(copied, *ALL)
    said = "paper_figures/tiny/fig01.svg: not as drawn from these tables; to be drawn again"
    assert done.returncode == 0 and said in done.stdout, done.stdout
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_data_that_are_complete_may_lie_where_nobody_can_write(copied):
    for path in (copied / "data", copied / "data/digits"):
        path.chmod(0o555)
    (copied / "results/tiny/claims.csv").unlink()
    obeying = {"preexec_fn": children_keep_to_permissions}
    assert snakemake(copied, *ALL, **obeying).returncode == 0
    assert (copied / "results/tiny/claims.csv").exists()
    (copied / "data").chmod(0o755)
    (copied / "data/digits").rename(copied / "data/moved")
    (copied / "data").chmod(0o555)
    done = snakemake(copied, *ALL, **obeying)
    assert done.returncode == 1 and "error: data: cannot be written: no permission to write there" in done.stdout


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


def test_cost_is_reported_before_anything_is_trained(tiny):
    done = snakemake(tiny, "--config", "study=tiny", "--", "cost")
    assert done.returncode == 0, done.stdout
    assert re.search(r"fig01 +4 +5.12e\+02 ", done.stdout) and re.search(r"all +8 ", done.stdout), done.stdout
    assert not trained(tiny) and not (tiny / "data/digits").exists()
    jobs_follow_it(tiny)


def test_cost_prepares_what_tells_its_size_by_that_alone(project, tmp_path):
    """Class folders of one's own, and a part of the original: counted as the original they would cost far more."""
    divided(tmp_path / "pictures")  # 6 images to train on
    small = archive(tmp_path, cifar10_contents(per_batch=3))  # 15
    datasets = {
        "digits": {"source": "image-folder", "path": f"{tmp_path}/pictures", "size": 8, "label": "pets"},
        "cifar10": {"source": "cifar10", "archive": str(small), "md5": md5_of(small), "label": "small"},
    }
    grid = {"model": "alexnet", "weight_decay": 0, "epochs": 1, "batch_sizes": [2], "base_lrs": ["2^-8"]}
    experiments = {"pets": grid | {"data": "digits"}, "small": grid | {"data": "cifar10"}}
    figures = {name: {"kind": "accuracy", "title": name, "experiments": [name]} for name in experiments}
    study = {"title": "Own", "seeds": [1], "experiments": experiments, "figures": figures}
    write_study(project, "own", study)
    asked = ("--cores", "1", "--config", "study=own", f"datasets={json.dumps(datasets)}", "--", "cost")
    assert jobs(snakemake(project, "-n", *asked).stdout) == {"cost": 1, "prepare": 2}
    done = snakemake(project, *asked)
    assert jobs(done.stdout) == {"cost": 1, "prepare": 2}, done.stdout
    assert re.search(r"^ *pets +1 +6\.00e\+00 ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^ *small +1 +1\.50e\+01 ", done.stdout, re.MULTILINE), done.stdout
    assert jobs(snakemake(project, *asked).stdout) == {"cost": 1}
    experiments["pets"]["train_images"] = 7
    write_study(project, "own", study)
    refused = snakemake(project, *asked)
    words = "experiments.pets.train_images: 7 is not allowed; allowed: whole numbers up to 6"
    assert refused.returncode == 1 and words in refused.stdout, refused.stdout


def jobs_follow_it(project):
    """Training jobs ask for the memory and time that were measured, instead of what does for most."""
    prepared = snakemake(project, "--cores", "1", "--config", "study=tiny", "--", "datasets")
    assert prepared.returncode == 0, prepared.stdout
    timings = project / "results/tiny/cost.json"
    known, asked = read_sealed(timings), ("-n", "--config", "study=tiny", "--", "figures")
    assert known["device"] and {kind["model"] for kind in known["kinds"]} == {"alexnet", "resnet8"}
    assert re.search(r"\(4 runs, about 0:0\d; at most (1000|1500) MB, 10 min\)", snakemake(project, *asked).stdout)
    for kind in known["kinds"]:
        kind["speeds"] = {m: speed | {"training": 5.0, "memory": 3.1e9} for m, speed in kind["speeds"].items()}
    write_sealed(timings, known)
    # 4 runs of 128 images make 43 minutes, twice that and 5 are 90; a quarter more of memory is 3875.
    assert "(4 runs, about 42:40; at most 4000 MB, 120 min)" in snakemake(project, *asked).stdout
    timings.unlink()
    assert "(4 runs; at most 2000 MB, 240 min)" in snakemake(project, *asked).stdout


def test_preview_draws_what_there_is_each_time(tiny, monkeypatch):
    asked = ("--cores", "1", "--config", "study=tiny", "--", "preview")
    early = snakemake(tiny, *asked)
    assert early.returncode != 0 and "not prepared yet" in early.stdout
    assert snakemake(tiny, "--cores", "1", "--config", "study=tiny", "--", "datasets").returncode == 0
    picture = tiny / "results/tiny/preview/fig01.png"
    picture.parent.mkdir(parents=True)
    picture.with_name("fig99.png").touch()
    for _ in range(2):
        done = snakemake(tiny, *asked)
        assert done.returncode == 0, done.stdout
        assert "0 of 8 runs exist" in done.stdout and picture.stat().st_size > 1000
        assert {path.name for path in picture.parent.iterdir()} == {"fig01.png", "fig13.png"}
        picture.unlink()
    monkeypatch.chdir(tiny)
    study = load_study(read_yaml(Path("config/config.yaml")) | {"study": "tiny"})
    name = study.runs()[0].name(read_meta(Path("data/digits/meta.json")).fingerprint)
    (tiny / "results/runs" / name).mkdir(parents=True)
    done = snakemake(tiny, *asked)
    assert f"results/runs/{name}: damaged: run.json is missing; not drawn" in done.stdout, done.stdout
    touched = snakemake(tiny, "--touch", *asked)
    assert touched.returncode != 0 and "error: command line: --touch is not allowed" in touched.stdout
    lock = tiny / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("results/another")
    beside = snakemake(tiny, *asked)
    assert beside.returncode != 0 and "locks: another call of snakemake works in this folder; wait" in beside.stdout
    assert snakemake(tiny, "--nolock", *asked).returncode == 0 and lock.exists()
    lock.unlink()
    stray = tiny / "paper_figures/tiny/fig99.png"
    stray.parent.mkdir(parents=True)
    stray.touch()
    done = snakemake(tiny, *asked)
    assert "fig99.png: of no figure of config/studies/tiny.yaml; nothing brings it up to date" in done.stdout


def test_without_snakemake_and_then_with_it(tiny):
    assert "Runs that wait for data to be prepared: digits." in alone(tiny, "status")
    for command in ("prepare", "train"):
        alone(tiny, command)
    first = trained(tiny)
    assert len(first) == RUNS
    assert "All runs are complete." in alone(tiny, "status")
    done = snakemake(tiny, *ALL)
    assert done.returncode == 0 and "train" not in jobs(done.stdout), done.stdout
    assert "chosen by another version" not in done.stdout
    assert trained(tiny) == first and check_rates(tiny) == RUNS


def alone(project, command):
    """Call the library without Snakemake; returns what it printed."""
    called = [sys.executable, "-m", "smallbatch", command, "--config", "study=tiny"]
    places = os.environ | {"PYTHONPATH": str(project / "workflow")}
    done = subprocess.run(called, cwd=project, env=places, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_status_tells_what_jobs_said(tiny):
    broken = ("--cores", "1", "--config", "study=tiny", "--set-resources", "train:mem_mb=1", "--", "all")
    assert snakemake(tiny, *broken).returncode != 0
    said = alone(tiny, "status")
    assert re.search(r"^fig01 +4 +- +- +- +- +4$", said, re.MULTILINE), said
    reason = r"^failed at .*\n    logs/train/alexnet_\S+\.log\n    .*out of memory: "
    assert re.search(reason, said, re.MULTILINE), said
    assert snakemake(tiny, *ALL).returncode == 0
    said = alone(tiny, "status")
    assert "failed at" not in said and "All runs are complete." in said
