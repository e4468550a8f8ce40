"""What the status says of made results: each state of runs and jobs, speed and time left; and that it only looks."""

import copy
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import GRID, PROJECT, an_outcome, write_study
from helpers.studies import enter_project
from snakemake.cli import parse_config
from snakemake.utils import update_config

from smallbatch import data
from smallbatch.__main__ import main
from smallbatch.core.errors import UserError
from smallbatch.core.files import read_sealed, write_sealed
from smallbatch.data.prepared import META, Meta
from smallbatch.runs.chosen_rates import chosen_file, write_chosen
from smallbatch.runs.heartbeat import (
    BLOCKED,
    DONE,
    FAILED,
    SILENCE,
    STOPPED,
    Heartbeat,
    HeartbeatWriter,
    first_heartbeat,
)
from smallbatch.runs.status import COLUMNS, Status, format_line, format_status, stopped_message, study_status
from smallbatch.runs.store import RunStore
from smallbatch.study.yaml_validation import overridden, read_yaml
from smallbatch.study_file import check_config, load_study
from smallbatch.training import own_models

PLAIN = GRID | {"epochs": 10, "train_images": 100, "batch_sizes": [2, 4], "base_lrs": ["2^-8", "2^-6"]}
STUDY = {
    "title": "Mine",
    "seeds": [1, 2],
    "experiments": {
        "plain": PLAIN,
        "long": PLAIN | {"epochs": 20},
        "taken": PLAIN | {"norm": "batch", "bn_batch_sizes": [2], "base_lrs": {"best_of": ["plain"]}},
        "unseen": PLAIN | {"batch_sizes": [8], "base_lrs": ["2^-8"]},
    },
    "figures": {
        "fig01": {"kind": "accuracy", "title": "One", "experiments": ["plain"]},
        "fig04": {"kind": "convergence", "title": "Four", "experiments": ["plain"], "base_lr": "2^-8"},
        "fig13": {"kind": "bn-batch", "title": "Thirteen", "experiments": ["taken"]},
        "fig15": {"kind": "best", "title": "Fifteen", "experiments": ["plain", "long"]},
    },
}
SIZES = {"fig01": 8, "fig04": 4, "fig13": 12, "fig15": 16, "none": 2, "all": 22}
DATA, RESULTS, STORE = Path("data"), Path("results"), RunStore(Path("results"))


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """The folder of a project whose data are not prepared."""
    enter_project(tmp_path, monkeypatch, STUDY)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def study(**config):
    return load_study(read_yaml(Path("config/config.yaml")) | {"study": "mine"} | config)


@pytest.fixture
def prepared():
    meta = Meta("digits", ("0", "1"), (1, 8, 8), (0.5,), (0.5,), 1000, 100, "f")
    write_sealed(DATA / "digits" / META, vars(meta))


@pytest.fixture
def runs(prepared):
    """The runs of experiment `plain`, in the order of its grid."""
    return list(study().experiments["plain"].runs())


def store(run, diverged_at=None):
    STORE.write(run, "f", an_outcome(run, diverged_at=diverged_at), {}, None)


def say(pack, runs, *, ago=0.0, **news):
    """A pack's job says something about its runs, some seconds ago."""
    path = RESULTS / "packs" / f"{pack}.json"
    heartbeat = replace(
        first_heartbeat([run.name("f") for run in runs], f"logs/train/{pack}.log"), host="node07", process=42
    )
    HeartbeatWriter(path, heartbeat).update(at_once=True, **{"title": "alexnet on digits, m=2, 2 lanes", **news})
    write_sealed(path, read_sealed(path) | {"updated": time.time() - ago})


def training(*runs, **news):
    return {"group": [run.name("f") for run in runs], "epoch": 2, "epochs": 10, "speed": 500.0, "left": 65.0} | news


def seen(**config):
    return study_status(study(**config), DATA, RESULTS)


def counts(status, figure):
    """Runs of each column that has some."""
    return {column: status.counts[figure][column] for column in COLUMNS if status.counts[figure].get(column)}


def test_before_anything_is_there_all_runs_wait():
    status = seen()
    assert {figure: counts(status, figure) for figure in status.counts} == {
        figure: {"runs": size, "waiting": size} for figure, size in SIZES.items()
    }
    assert (status.unprepared, status.heartbeats, status.speed, status.left) == (["digits"], {}, None, None)
    assert (
        "Runs that wait for data to be prepared: digits. Nothing is running, so the time left is unknown."
        in format_status(status).replace("\n", " ")
    )


@pytest.mark.parametrize("file", ["data/digits/meta.json", "results/mine/chosen/taken.json"])
def test_a_damaged_file_of_data_or_rates_is_named_under_the_table(file, runs):
    store(runs[0])
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text("{}", encoding="utf-8")
    status, data = seen(), file.startswith("data")
    assert counts(status, "all")["waiting"] == 22 - (not data) and status.unprepared == ["digits"] * data
    text = format_status(status)
    assert text.count("\nfig") == 5 and f"\n{file}: damaged or edited: it has no digest of its content" in text


def test_published_runs_that_are_not_pulled_are_named_under_the_table(runs):
    Path("results/published").mkdir(parents=True)
    Path("results/published/s-1.zip.dvc").write_text("outs:", encoding="utf-8")
    line = "results/published/s-1.zip: not pulled yet; `dvc pull results/published/s-1.zip.dvc` gets it"
    assert format_status(seen()).endswith(f"\n\n{line}")


def test_a_run_is_in_one_state_and_counts_in_each_figure_that_shows_it(runs):
    store(runs[0])
    store(runs[1], diverged_at=3)
    say("begun", runs[2:5], **training(*runs[2:4]))
    say("broken", runs[5:6], state=FAILED, reason="data/digits: damaged")
    status = seen()
    # The grid is m=2: 2^-8 (runs 0, 1), 2^-6 (2, 3); m=4: 2^-8 (4, 5), 2^-6 (6, 7).
    plain = {"done": 2, "diverged": 1, "running": 2, "failed": 1}
    assert counts(status, "fig01") == plain | {"runs": 8, "waiting": 3}
    assert counts(status, "fig04") == {"runs": 4, "done": 2, "diverged": 1, "waiting": 1, "failed": 1}
    assert counts(status, "fig13") == plain | {"runs": 12, "waiting": 7}, (
        "its own, and those that it takes its rates from"
    )
    assert counts(status, "fig15") == plain | {"runs": 16, "waiting": 11}
    assert counts(status, "all") == plain | {"runs": 22, "waiting": 17}
    assert list(status.counts) == list(SIZES)


def test_a_run_that_experiments_share_counts_once_in_all(project, prepared):
    twice = STUDY | {"experiments": STUDY["experiments"] | {"unseen": PLAIN | {"batch_sizes": [4, 8]}}}
    write_study(project, "mine", twice)
    status = seen()
    assert counts(status, "none") == {"runs": 4, "waiting": 4}, "m = 8 alone: m = 4 is shown by fig01"
    assert counts(status, "all") == {"runs": 24, "waiting": 24}


def test_a_job_that_does_not_speak_is_silent_and_nothing_is_known_to_run(runs):
    say("quiet", runs[:2], ago=SILENCE + 5, **training(runs[0]))
    say("alive", runs[2:4], ago=SILENCE - 60, **training(runs[2]))
    status = seen()
    assert counts(status, "fig01") == {"runs": 8, "running": 1, "waiting": 7}
    assert status.speed == 500
    text = format_status(status)
    since = time.strftime("%H:%M", time.localtime(time.time() - SILENCE - 5))
    assert f"silent since {since}, on node07, process 42\n    logs/train/quiet.log" in text
    assert "process 42, 500 images/s, 1:05 left\n    logs/train/alive.log" in text
    assert text.index("quiet.log") < text.index("alive.log")


def test_time_left_is_that_of_the_images_of_running_and_waiting_runs(runs):
    for run in [run for name in ("long", "unseen") for run in study().experiments[name].runs()]:
        store(run)
    store(runs[0], diverged_at=1)
    say("one", runs[1:3], **training(*runs[1:3], speed=300.0))
    say("two", runs[3:5], **training(runs[3], epoch=5, speed=200.0))
    say("starting", runs[6:7])
    say("broken", runs[5:6], state=FAILED, reason="?")
    status = seen()
    # A run has 10 epochs of 100 images: 2 x 800 and 500 are left of those that run, 3 x 1000 of those that wait.
    # Those of `taken` wait for their rates, so that it is 4 x 1000 more.
    assert (status.speed, status.images, status.left) == (500, 9100, 9100 / 500)
    assert "Running now: 3 packs, 500 images/s, about 0:18 left at this speed." in format_status(status)
    say("one", runs[1:3], state=STOPPED)
    say("two", runs[3:5], state=STOPPED)
    assert (seen().speed, seen().left, seen().images) == (None, None, 1000 * (8 - 2) + 4000), (
        "of 8 one is done, one failed"
    )
    assert "Running now: 1 pack, speed unknown, time left unknown." in format_status(seen())


def test_where_nothing_is_said_the_whole_training_split_is_counted(project, prepared):
    whole = {name: value for name, value in PLAIN.items() if name != "train_images"}
    values = STUDY | {"experiments": {"plain": whole}, "figures": {"fig01": STUDY["figures"]["fig01"]}}
    write_study(project, "mine", values)
    runs = study().runs()
    say("one", runs, **training(runs[0], epoch=0))
    assert seen().left == 8 * 10 * 1000 / 500


def test_the_last_to_speak_of_a_run_decides(runs):
    say("failed", runs[:3], ago=60, state=FAILED, reason="?")
    say("again", runs[:2], ago=30, **training(runs[0]))
    status = seen()
    assert counts(status, "fig01") == {"runs": 8, "running": 1, "waiting": 6, "failed": 1}
    say("again", runs[:3], ago=30, **training(runs[0]))
    status = seen()
    assert counts(status, "fig01") == {"runs": 8, "running": 1, "waiting": 7}
    assert list(status.heartbeats) == ["again"], "all that failed is tried again"


@pytest.mark.parametrize("state", [DONE, STOPPED])
def test_a_job_that_ended_well_is_not_spoken_of_and_what_it_lacks_waits(state, runs):
    say("ended", runs, state=state, **training(runs[0]))
    assert counts(seen(), "fig01") == {"runs": 8, "waiting": 8}
    assert not seen().heartbeats


def test_jobs_that_lack_nothing_of_the_study_are_not_spoken_of(runs):
    stranger = replace(runs[0], seed=77)
    say("other-study", [stranger], **training(stranger))
    store(runs[0])
    say("mended", runs[:1], state=FAILED, reason="?")
    assert not seen().heartbeats and seen().speed is None


def test_a_job_that_waits_for_another_says_so(runs):
    say("patient", runs, state=BLOCKED)
    assert counts(seen(), "fig01") == {"runs": 8, "waiting": 8}
    assert (
        "waits for another job, on node07, process 42\n"
        "    logs/train/patient.log\n"
        "    alexnet on digits, m=2, 2 lanes" in format_status(seen())
    )


def test_a_record_that_is_missing_or_damaged_is_no_run(runs):
    for run, content in zip(runs, [None, "", "[]", '{"outcome": {}}', '{"outcome": null}'], strict=False):
        store(run)
        record = STORE.folder(run, "f") / "run.json"
        record.unlink() if content is None else record.write_text(content)
    store(runs[5])
    assert counts(seen(), "fig01") == {"runs": 8, "done": 1, "waiting": 7}


def test_a_damaged_word_is_named(runs):
    for name in "abcde":
        say(name, runs[:1])
        (RESULTS / "packs" / f"{name}.json").write_text("{")
    lines = format_status(seen()).splitlines()
    assert [line.partition(": ")[0] for line in lines[-4:-1]] == [f"results/packs/{name}.json" for name in "abc"]
    assert lines[-1] == "and 2 more such files"
    for name in "bcde":
        (RESULTS / "packs" / f"{name}.json").unlink()
    assert format_status(seen()).splitlines()[-1].startswith("results/packs/a.json: damaged or edited")


def test_rates_that_are_chosen_later_wait_and_then_are_looked_up(runs):
    taken = study().experiments["taken"]
    rates = {2: runs[0].base_lr, 4: runs[2].base_lr}
    for run in taken.runs(rates):
        store(run)
    assert counts(seen(), "fig13") == {"runs": 12, "waiting": 12}
    write_chosen(chosen_file(RESULTS, "mine", "taken"), rates, [], "code")
    assert counts(seen(), "fig13") == {"runs": 12, "done": 4, "waiting": 8}


def test_a_damaged_run_is_named_and_waits(runs):
    for run in runs:
        store(run)
    folder = STORE.folder(runs[0], "f")
    (folder / "metrics.csv").write_text("")
    status = seen()
    assert counts(status, "all") == {
        "runs": SIZES["all"],
        "done": len(runs) - 1,
        "waiting": SIZES["all"] - len(runs) + 1,
    }
    assert f"{folder}: damaged: metrics.csv does not fit its digest in run.json; to be made again" in format_status(
        status
    )


def test_checkpoints_of_stopped_trainings_are_counted(runs):
    for name in ("a/1.pt", "b/2.pt", "b/notes.txt"):
        file = RESULTS / "checkpoints" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert format_status(seen()).endswith("Trainings that were stopped go on from 2\ncheckpoints.")
    file = RESULTS / "checkpoints/a/1.pt"
    file.unlink()
    assert format_status(seen()).endswith("go on from 1\ncheckpoint.")


def test_when_all_is_done(runs):
    write_chosen(chosen_file(RESULTS, "mine", "taken"), {2: runs[0].base_lr, 4: runs[2].base_lr}, [], "code")
    planned = {e.name: e.runs({2: runs[0].base_lr, 4: runs[2].base_lr}) for e in study().experiments.values()}
    for run in [run for some in planned.values() for run in some]:
        store(run)
    say("late", runs, **training(runs[0]))
    text = format_status(seen())
    assert text.endswith("\nAll runs are complete.")
    assert text.splitlines()[-3].split() == ["all", "22", "22", "-", "-", "-", "-"]


def test_the_screen(runs, monkeypatch):
    store(runs[0])
    reason = "data/digits: damaged (a very long story of what the disk said); " * 3
    title = "resnet8 batch norm b=128 on cifar100, m=128, 40 lanes"
    say("resnet8-bn-augmented_m2to512_0123456789", runs[:4], **training(*runs[1:3], speed=12345.6, title=title))
    say("resnet8-bn-augmented_m2to512_9876543210", runs[5:6], state=FAILED, reason=reason, job="4711")
    since = time.time() - 3 * 86400
    say("terminal", runs[6:7], log=None, title="", since=since)
    for width, allowed in [("100", 100), ("80", 80), ("300", 100)]:
        monkeypatch.setenv("COLUMNS", width)
        text = format_status(seen())
        lines = text.splitlines()
        assert max(map(len, lines)) <= allowed
        assert len({len(line) for line in lines[2 : 3 + len(SIZES)]}) == 1, "the table is aligned"
    assert lines[0].startswith("Study mine, ")
    assert lines[2].split() == ["figure", *COLUMNS] and lines[3].split() == ["fig01", "8", "1", "-", "2", "4", "1"]
    assert "failed at" in text and ", job 4711\n    logs/train/resnet8-bn-augmented_m2to512_9876543210.log\n" in text
    log = "logs/train/resnet8-bn-augmented_m2to512_0123456789.log"
    assert f", 12,346 images/s, 1:05 left\n    {log}\n    {title}: 2 of 10 epochs\n" in text
    day = time.strftime("%d %b %H:%M", time.localtime(since))
    assert f"running since {day}, on node07, process 42\n    terminal: its log is its terminal\n    starting" in text


def test_the_line(runs):
    assert format_line(seen()) == "mine: 0 of 22 runs"
    assert format_line(seen(), beside="Drawing fig01") == "mine: 0 of 22 runs; Drawing fig01"
    for run in [run for name in ("long", "unseen") for run in study().experiments[name].runs()]:
        store(run)
    say("one", runs[:2], **training(*runs[:2], speed=1300.0))
    # Of 8 runs two have 800 images left each and six 1000; four more, of 1000, take their rates from these.
    text = "mine: 10 of 22 runs, 1,300 images/s, 0:09 left; alexnet on digits, m=2, 2 lanes"
    assert format_line(seen()) == format_line(seen(), len(text)) == text
    assert format_line(seen(), 60) == "mine: 10 of 22 runs, 1,300 images/s, 0:09 left; alexnet on …"
    say("two", runs[2:4], **training(*runs[2:4], speed=None, title="resnet8 on digits"))
    assert format_line(seen()).endswith("; alexnet on digits, m=2, 2 lanes | resnet8 on digits")
    say("one", runs[:2], ago=SILENCE + 5, **training(*runs[:2]))
    assert format_line(seen(), beside="Drawing fig01") == "mine: 10 of 22 runs; resnet8 on digits"


def test_what_is_saved_of_a_study_that_was_stopped(runs):
    assert stopped_message(seen()) == "Stopped: 0 of 22 runs are saved; the same command goes on."
    store(runs[0])
    for count, word in enumerate(("checkpoint", "checkpoints"), start=1):
        file = RESULTS / "checkpoints" / "a" / f"{count}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        assert (
            stopped_message(seen()) == f"Stopped: 1 of 22 runs and {count} {word} are saved; the same command goes on."
        )


NOW = time.mktime((2025, 3, 7, 17, 41, 39, 0, 0, -1))  # another day than today
MINUTE, DAY = 60, 86400


def a_heartbeat(state, log, **more):
    """Of a job that began an hour ago and spoke a minute ago."""
    said = {
        "since": NOW - 60 * MINUTE,
        "updated": NOW - MINUTE,
        "host": "node07",
        "process": 42,
        "job": None,
        "runs": [],
    }
    return Heartbeat(state=state, log=log, **said | more)


SCREEN = """\
Study mine, 07 Mar 2025, 17:41:39

figure        runs      done  diverged   running   waiting    failed
fig01            8         3         1         2         2         1
variance      1234         -         -         -      1234         -
all           1242         3         1         2      1236         1

Runs that wait for data to be prepared: digits, cifar10. Running now: 2
packs, 12,346 images/s, about 1:01:05 left at this speed.

failed at 17:40, on node07, process 42
    logs/c.log
failed at 05 Mar 17:40, on node08, job 4711
    logs/d.log
    data/digits: damaged, which takes many words to say and so takes two
    lines
silent since 17:36, on node07, process 42
    logs/s.log
    starting
waits for another job, on node07, process 42
    logs/w.log
    resnet8 on digits
running since 16:41, on node07, process 42
    a: its log is its terminal
    alexnet on digits
running since 06 Mar 16:41, on node07, process 42, 1,234 images/s, 1:05 left
    logs/b.log
    alexnet on digits, m=2: 2 of 10 epochs
results/packs/1.json: damaged
results/packs/2.json: damaged
results/packs/3.json: damaged
and 1 more such files"""


def test_every_line_of_a_screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "76")
    one = {"runs": 8, "done": 3, "diverged": 1, "running": 2, "waiting": 2, "failed": 1}
    counts = {"fig01": one, "variance": {"runs": 1234, "done": 0, "waiting": 1234},
              "all": one | {"runs": 1242, "waiting": 1236}}  # fmt: skip
    reason = "data/digits: damaged, which takes many words to say and so takes two lines"
    running = {"title": "alexnet on digits, m=2", "group": ["x"], "epoch": 2, "epochs": 10}
    heartbeats = {
        "b": a_heartbeat("running", "logs/b.log", since=NOW - DAY - 60 * MINUTE, speed=1234.4, left=65.4, **running),
        "a": a_heartbeat("running", None, title="alexnet on digits", epoch=3, epochs=4),
        "s": a_heartbeat("running", "logs/s.log", updated=NOW - SILENCE - 1, speed=9.0, left=9.0),
        "w": a_heartbeat("blocked", "logs/w.log", title="resnet8 on digits", speed=9.0),
        "d": a_heartbeat(
            "failed", "logs/d.log", updated=NOW - 2 * DAY - MINUTE, host="node08", job="4711", reason=reason, **running
        ),
        "c": a_heartbeat("failed", "logs/c.log", **running),
    }
    wrong = [f"results/packs/{i}.json: damaged" for i in (1, 2, 3, 4)]
    status = Status("mine", NOW, counts, ["digits", "cifar10"], heartbeats, 12345.6, 3665.4, wrong)
    assert format_status(status) == SCREEN
    quiet = format_status(replace(status, heartbeats={}, wrong=[], unprepared=[]))
    assert quiet.endswith("1\n\nNothing is running, so the time left is unknown.")
    silent = format_status(replace(status, heartbeats={"s": heartbeats["s"]}, wrong=[], unprepared=[]))
    assert "Nothing is running, so the time left is unknown.\n\nsilent since 17:36" in silent


def test_a_job_is_silent_after_five_minutes_unless_it_has_ended():
    for state, silent in (("running", True), ("blocked", True), ("done", False), ("stopped", False), ("failed", False)):
        assert a_heartbeat(state, None, updated=NOW - 301).silent(NOW) == silent
        assert not a_heartbeat(state, None, updated=NOW - 300).silent(NOW)


def command(*arguments):
    """The command as a user calls it, finished."""
    code = (
        "import sys\n"
        "from smallbatch.__main__ import main\n"
        "main()\n"
        "assert not sys.modules.keys() & {'torch', 'pandas', 'snakemake'}, 'these take seconds to import'\n"
    )
    places = os.environ | {"PYTHONPATH": str(PROJECT / "workflow")}
    called = [sys.executable, "-c", code, "status", *arguments]
    return subprocess.run(called, env=places, text=True, capture_output=True)


def test_it_writes_nothing_and_imports_nothing_heavy(project, runs):
    store(runs[0])
    say("one", runs[:4], **training(runs[1]))
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*")}
    done = command("--config", "study=mine")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "fig01" in done.stdout and "logs/train/one.log" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*")} == before


def test_a_terminal_that_lacks_a_letter_ends_nothing(project, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "iso-8859-1")
    (RESULTS / "packs").mkdir(parents=True)
    (RESULTS / "packs" / "2⁻⁸.json").write_text("{")
    done = command("--config", "study=mine")
    assert done.returncode == 0 and r"results/packs/2\u207b\u2078.json: damaged or edited" in done.stdout, done.stderr


def test_it_is_reported_of_a_study_as_snakemake_is(project):
    done = command("--config", "study=mine", "seeds=1", "scale={name: look, figures: [fig01]}")
    assert done.stdout.startswith("Study mine-look-seeds1, ") and done.stdout.count("fig") == 2, done.stdout
    assert re.search(r"^all +4 ", done.stdout, re.MULTILINE)
    wrong = command("--config", "study=mien")
    assert wrong.returncode == 1 and "study: 'mien': no such study (did you mean 'mine'?)" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize(
    "entries",
    [
        ["study=paper", "seeds=3"],
        ["convergence_threshold=0.5"],
        ["training={lanes: 1, device: 'cuda:1'}", "training={processes: 2}"],
        ["scale={name: glimpse, epochs: 0.05, batch_sizes: [2, 8], base_lrs: [2^-12, 2^-10]}"],
        ["datasets={mine: {source: cifar10, archive: /a=b, md5: 00000000000000000000000000000012, label: 0123}}"],
        ["datasets={pictures: {source: image-folder, path: p, size: 32, test_fraction: .2, label: on}}"],
        ["study=2024"],
    ],
)
def test_values_in_place_of_others_mean_what_they_mean_to_snakemake(entries):
    config = read_yaml(Path("config/config.yaml"))
    theirs = copy.deepcopy(config)
    update_config(theirs, parse_config(entries))
    given = overridden(config, entries, "here")
    before = copy.deepcopy(given)
    ours, theirs = check_config(given), check_config(theirs)
    assert given == before
    assert ours | {"study": str(ours["study"])} == theirs | {"study": str(theirs["study"])}
    assert ours["datasets"].get("mine", {}).get("label", "0123") == "0123", "a name, however like a number"
    assert config == read_yaml(Path("config/config.yaml")), "what was read stays as it was"


@pytest.mark.parametrize("entry", ["paper", "scale={name: ", "a: b", "training={lanes: auto, lanes: 2}"])
def test_what_is_no_key_with_a_value_is_refused(entry):
    with pytest.raises(
        UserError,
        match=r"^here: --config: .* is not allowed; allowed: KEY=VALUE, the value in YAML with each key "
        r"once, in quotes where it has spaces$",
    ):
        overridden({}, [entry], "here")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["study=a", "seeds=1", "study=b"], "'study=b' is not allowed; allowed: each key once; study was given before"),
        (["study=a", "study=a"], "'study=a' is not allowed; allowed: each key once; study was given before"),
        (["training={lanes: 1, device: cpu}", "training={device: cuda}"], "each key once; training.device was given"),
        (["training={lanes: 1}", "training=1"], "each key once; training was given before"),
        (["training.device=cuda"], "a key within another as YAML has it: 'training={device: cuda}'"),
        (["datasets.mine.path=x=y"], "a key within another as YAML has it: 'datasets={mine: {path: x=y}}'"),
    ],
)
def test_values_given_twice_and_keys_with_dots_are_refused(entries, words):
    with pytest.raises(UserError, match=r"^here: --config: ") as caught:
        overridden({}, entries, "here")
    assert words in str(caught.value)


def command_here(monkeypatch, name):
    """What `python -m smallbatch NAME` does for the study."""
    monkeypatch.setattr(sys, "argv", ["smallbatch", name, "--config", "study=mine"])
    main()


def test_how_far_a_study_is_can_be_seen_whatever_its_models_are_like(prepared, monkeypatch, capsys):
    def refused(*arguments):
        raise UserError("model mine cannot be trained")

    monkeypatch.setattr(own_models, "check", refused)
    command_here(monkeypatch, "status")
    assert "mine" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command_here(monkeypatch, "check")
    assert "model mine cannot be trained" in capsys.readouterr().err


def test_a_check_knows_how_many_images_are_prepared(monkeypatch, capsys):
    too_many = copy.deepcopy(STUDY)
    too_many["experiments"]["plain"]["train_images"] = 1400
    write_study(Path(), "mine", too_many)
    data.prepare("digits", {"source": "digits"}, DATA / "digits", DATA / "downloads")
    command_here(monkeypatch, "check")
    too_many["experiments"]["plain"]["train_images"] = 1500
    write_study(Path(), "mine", too_many)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        command_here(monkeypatch, "check")
    assert (
        "experiments.plain.train_images: 1500 is not allowed; allowed: whole numbers up to 14"
        in capsys.readouterr().err
    )
