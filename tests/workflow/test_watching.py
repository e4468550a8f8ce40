"""What a call of snakemake shows: in a terminal of 80 columns, and without one."""

import os
import re
import sys

import pytest
from helpers import GRID, TINY, snakemake, terminal, warm, write_study

OPTIONS = ["--cores", "2", "--config", "study=tiny", "--", "all"]
CALL = [sys.executable, "-m", "snakemake", *OPTIONS]


@pytest.fixture
def tiny(project):
    write_study(project, "tiny", TINY)
    return project


def call_with_jobs_forked(folder, options=OPTIONS):
    """As `CALL`, but for the seconds that each job takes to import what it needs."""
    return terminal.call(folder, [sys.executable, "-c", terminal.FORKING_JOBS, str(warm.python()), *options])


def test_a_line_below_one_for_each_job_and_what_to_read_at_the_end(tiny):
    code, written = call_with_jobs_forked(tiny)
    assert code == 0, written
    lines = terminal.lines(written)
    done = [line[9:] for line in lines if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert done[0] == "Preparing data set digits: done" and len(done) == 12, "one for each job, and the end"
    assert sum(line.startswith("Training pack alexnet_m16to64_") and line.endswith(": done") for line in done) == 1
    assert {"Drawing fig01 of study tiny: done", "Writing the report of study tiny: done"} < set(done)
    end = "Study tiny is complete. Read results/tiny/report.html first; the figures are in paper_figures/tiny."
    assert "".join(lines[-3:])[9:] == end, lines[-3:]
    counts = re.findall(r"tiny: (\d+) of 8 runs", written)
    assert counts and counts == sorted(counts) and set(counts) <= set("012345678")
    assert not [line for line in lines if line.startswith("tiny: ")]
    assert not re.search("SNAKEMAKE|Building DAG|Using shell|Job stats|Reason:|steps|Finished|images/s]|it/s", written)
    [log] = (tiny / ".snakemake/log").glob("*.log")
    assert "Job stats" in log.read_text() and "Reason:" in log.read_text(), "Snakemake's own text is in its log"


def test_ctrl_c_says_in_one_line_what_is_saved_and_how_to_go_on(tiny):
    long = GRID | {"epochs": 3000, "batch_sizes": [16], "base_lrs": ["2^-10"]}
    figures = {"fig01": TINY["figures"]["fig01"]}
    write_study(tiny, "tiny", TINY | {"experiments": {"alexnet": long}, "figures": figures})
    code, written = terminal.call(tiny, CALL, lambda written: "images/s" in written)
    assert code == 1
    lines = terminal.lines(written.partition("^C")[2])
    assert lines == [
        "Stopping: trainings save their state first, which takes seconds.",
        "Stopped: 0 of 1 runs and 1 checkpoint are saved; the same command goes on.",
        "",
    ]
    assert "Traceback" not in written and "Error" not in written


def test_a_job_that_fails_shows_its_log_and_snakemakes(tiny):
    write_study(tiny, "tiny", TINY)
    (tiny / "workflow/scripts/claims.py").write_text("raise ValueError('broken on purpose')")
    code, written = call_with_jobs_forked(tiny)
    assert code == 1
    assert "Error in rule claims" in written and "ValueError: broken on purpose" in written, written
    assert "Complete log" in written and "At least one job did not complete" in written
    assert "Study tiny is complete" not in written


@pytest.mark.parametrize(
    ("option", "seen"), [("-n", "Job stats:"), ("--verbose", "SNAKEMAKE"), ("--printshellcmds", "SNAKEMAKE")]
)
def test_options_that_ask_for_snakemakes_text_have_it(tiny, option, seen):
    code, written = call_with_jobs_forked(tiny, [*OPTIONS[:-2], option, "--", "datasets"])
    assert code == 0 and seen in written and "Reason:" in written


def test_quiet_stays_quiet(tiny):
    code, written = call_with_jobs_forked(tiny, [*OPTIONS[:-2], "--quiet", "all", "--", "datasets"])
    assert code == 0 and "runs" not in written and "done" not in written, written


def test_a_refusal_is_one_line_at_the_end(tiny):
    code, written = terminal.call(tiny, [*CALL[:-3], "seed=1", "--", "all"])
    assert code == 1
    [refusal] = [line for line in written.splitlines() if line.startswith("error: ")]
    assert "seed" in refusal and "Traceback" not in written


def test_without_a_terminal_there_is_a_line_a_minute_in_snakemakes_text(tiny):
    module = tiny / "workflow/smallbatch/terminal/progress_line.py"
    text = module.read_text(encoding="utf-8")
    assert "\nLINE_INTERVAL_S = 60.0\n" in text
    module.write_text(text.replace("\nLINE_INTERVAL_S = 60.0\n", "\nLINE_INTERVAL_S = 1.0\n"), encoding="utf-8")
    done = snakemake(tiny, *OPTIONS[:-1], "datasets", env=os.environ | {"PYTHONPATH": str(tiny / "workflow")})
    assert done.returncode == 0 and "Job stats" in done.stdout and "Finished jobid" in done.stdout, done.stdout
    assert re.search(r"^\d\d:\d\d:\d\d tiny: [0-8] of 8 runs$", done.stdout, re.MULTILINE), done.stdout
    assert "\x1b" not in done.stdout and "\r" not in done.stdout
