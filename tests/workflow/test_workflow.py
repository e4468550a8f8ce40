"""The workflow as users call it: dry-run, lint, end to end, and what a second call does."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile

import pandas as pd
import pytest
from faults import children_keep_to_permissions
from helpers import PROJECT, TINY, snakemake, write_study
from helpers.workflows import ALL, RUNS, check_rates, jobs, trained

from smallbatch.core.files import DAY_S


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
    crate = project / "results/tiny/tiny.crate.zip"
    with zipfile.ZipFile(crate) as archive:
        names = set(archive.namelist())
        archive.extractall(project / "elsewhere")
    assert {"Snakefile", "study.json", "data/digits/meta.json", "results/tiny/claims.csv"} < names
    assert {"workflow/rules/common.smk", "paper_figures/tiny/fig13.pdf", "ro-crate-metadata.json"} < names
    (project / "README.md").write_text("Another one.", encoding="utf-8")
    os.utime(project / "README.md", (0, 0))
    done = snakemake(project, "-n", *ALL[:-1], "crate")
    assert (
        "results/tiny/checksums/archive.json: made from other inputs" in done.stdout
        and jobs(done.stdout)["archive"] == 1
    )
    again = snakemake(project / "elsewhere", *ALL)
    assert again.returncode == 0 and trained(project / "elsewhere").keys() == trained(project).keys(), again.stdout


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


def test_what_is_set_for_another_program_is_not_taken_for_ours(copied, monkeypatch):
    """A notebook's kernel sets how to draw, a container of a training of several nodes that training's peers."""
    shutil.rmtree(next(copied.glob("results/runs/*resnet8*")))
    (copied / "paper_figures/tiny/fig13.png").unlink()
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    done = snakemake(copied, *ALL[:-1], "figure:fig13")
    assert done.returncode == 0 and jobs(done.stdout)["train"] == 1, done.stdout
    assert (copied / "paper_figures/tiny/fig13.png").exists()


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
