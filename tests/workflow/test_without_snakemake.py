"""The library's own commands in a project, beside Snakemake's calls."""

import re

from helpers import snakemake
from helpers.workflows import ALL, RUNS, check_rates, jobs, run_smallbatch, trained


def test_without_snakemake_and_then_with_it(tiny):
    assert "Runs that wait for data to be prepared: digits." in run_smallbatch(tiny, "status")
    for command in ("prepare", "train"):
        run_smallbatch(tiny, command)
    first = trained(tiny)
    assert len(first) == RUNS
    assert "All runs are complete." in run_smallbatch(tiny, "status")
    done = snakemake(tiny, *ALL)
    assert done.returncode == 0 and "train" not in jobs(done.stdout), done.stdout
    assert "chosen by another version" not in done.stdout
    assert trained(tiny) == first and check_rates(tiny) == RUNS


def test_status_tells_what_jobs_said(tiny):
    broken = ("--cores", "1", "--config", "study=tiny", "--set-resources", "train:mem_mb=1", "--", "all")
    assert snakemake(tiny, *broken).returncode != 0
    said = run_smallbatch(tiny, "status")
    assert re.search(r"^fig01 +4 +- +- +- +- +4$", said, re.MULTILINE), said
    reason = r"^failed at .*\n    logs/train/alexnet_\S+\.log\n    .*out of memory: "
    assert re.search(reason, said, re.MULTILINE), said
    assert snakemake(tiny, *ALL).returncode == 0
    said = run_smallbatch(tiny, "status")
    assert "failed at" not in said and "All runs are complete." in said
