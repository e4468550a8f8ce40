"""Mistakes as users meet them, at the command line: one clear line, no traceback, nothing lost, exit code not 0.

What a message says for each mistake is tested beside the code that says it; here is that Snakemake passes it on.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import TINY, a_run, copy_project, made_data, snakemake, warm, write_study
from PIL import Image

from smallbatch.cluster import slurm_jobs as slurm
from smallbatch.core.console import log_and_exit_on_error
from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.runs.store import RunStore
from smallbatch.training.checkpoints import Checkpoint


def says(done, words):
    assert done.returncode != 0
    assert words in done.stdout, done.stdout
    assert "Traceback" not in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["study=laptp"], "study: 'laptp': no such study (did you mean 'laptop'?)"),
        (["stduy=laptop"], "stduy: unknown key (did you mean 'study'?)"),
        (["training={lanes: 0}"], "error: --config: training.lanes: 0 is not allowed; allowed: auto or a whole number"),
        (
            ["training={processes: 2, side_by_side: 4}"],
            "training.side_by_side: 4 is not allowed; allowed: 1, as training.processes is 2",
        ),
        (
            ["training={processes: 3}"],
            "--config: training.processes: 3 is not allowed; allowed: numbers that divide a mini-batch of 2 evenly",
        ),
        (
            ["training={device: 'cuda:99'}"],
            "error: --config: training.device: 'cuda:99' is not allowed; allowed: auto, cpu",
        ),
        (
            ["datasets={digits: {source: image-folder, path: /none/such, size: 8, label: mine}}"],
            "error: --config: datasets.digits.path: '/none/such' is not allowed; allowed: an existing file or folder",
        ),
    ],
)
def test_a_wrong_configuration(project, settings, words):
    says(snakemake(project, "-n", "--config", *settings, "--", "all"), words)
    assert not (project / "data").exists()


def test_what_a_cluster_has_is_not_looked_for_where_jobs_are_submitted(project):
    given = (
        "training={device: 'cuda:99'}",
        "datasets={digits: {source: image-folder, path: /none/such, size: 8, label: mine}}",
    )
    done = snakemake(project, "-n", "--profile", "slurm", "--config", *given, "--", "all")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("entry", "line", "code"),
    [
        ("training={device: 'cuda:99'}", "--config: training.device: 'cuda:99' is not allowed; allowed: auto, cpu", 0),
        (
            "datasets={digits: {source: image-folder, path: /none/such, size: 8, label: mine}}",
            "error: --config: datasets.digits.path: '/none/such' is not allowed; allowed: an existing file or folder",
            1,
        ),
    ],
)
def test_a_check_without_snakemake_says_what_is_not_here(project, entry, line, code):
    """A GPU may be elsewhere."""
    done = checked(project, entry)
    assert line in done.stderr and done.returncode == code


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("seeds=nan", "--config: seeds: 'nan' is not allowed; allowed: study, or a whole number from 1 to 10000"),
        (
            "training={lanes: auto, lanes: 2}",
            "command line: --config: 'training={lanes: auto, lanes: 2}' is not allowed",
        ),
        ("study=nix", "--config: study: 'nix': no such study; allowed: those of config/studies: adamw, cifar10, "),
        (
            "study=paper",
            "config/config.yaml: datasets.imagenet.path: 'data/ILSVRC2012' is not allowed; "
            "allowed: an existing file or folder",
        ),
    ],
)
def test_snakemake_and_the_library_say_the_same_of_a_command_line(project, entry, line):
    ours = checked(project, entry)
    theirs = snakemake(project, "-n", "--config", entry)
    last = ours.stderr.splitlines()[-1].partition(" ")[2]
    assert last == theirs.stdout.splitlines()[-1] and last.startswith(f"error: {line}")
    assert ours.returncode and theirs.returncode


def checked(project, *entries):
    called = [warm.python(), "-m", "smallbatch", "check", "--config", *entries]
    places = os.environ | {"PYTHONPATH": str(project / "workflow")}
    return subprocess.run(called, cwd=project, env=places, capture_output=True, text=True)


def test_a_wrong_study(project):
    write_study(project, "tiny", {"title": "Tiny", "seeds": [1, 1], "experiments": {}, "figures": {}})
    says(snakemake(project, "-n", "--config", "study=tiny"), "config/studies/tiny.yaml: experiments: {} is not allowed")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"study: M\xf6we", "config/config.yaml: line 1: not UTF-8, in which settings are written"),
        (b"[" * 5000, "config/config.yaml: nested too deeply; allowed: 20 levels"),
        (b"study: a\nstudy: b", "config/config.yaml: line 2: not valid YAML: key 'study' stands twice"),
        (None, "config/config.yaml: cannot be read: it is no file"),
    ],
    ids=["latin1", "deep", "twice", "a folder"],
)
def test_a_configuration_that_snakemake_would_fail_at(content, words, project):
    file = project / "config/config.yaml"
    file.unlink()
    file.mkdir() if content is None else file.write_bytes(content)
    says(snakemake(project, "-n"), f"error: {words}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("seeds: 1\nseeds: 3\n", "error: {}: line 2: not valid YAML: key 'seeds' stands twice"),
        ("seeds: 0", "error: config/config.yaml or {}: seeds: 0 is not allowed"),
        ("study: nix", "error: config/config.yaml or {}: study: 'nix': no such study"),
    ],
)
def test_another_configuration_file_is_named(content, words, project):
    (project / "mine.yaml").write_text(content, encoding="utf-8")
    says(snakemake(project, "-n", "--configfile", "mine.yaml"), words.format(project / "mine.yaml"))


def test_an_archive_that_is_missing(project):
    given = "datasets={cifar10: {archive: /nowhere/cifar.tar.gz}}"
    done = snakemake(project, "--cores", "1", "--config", "study=cifar10-quick", given, "--", "datasets")
    says(done, "/nowhere/cifar.tar.gz")


def test_the_rest_of_a_study_needs_no_photos(project):
    looked = snakemake(project, "-n", "--config", "study=paper", "--", "paper_figures/paper/fig01.pdf")
    assert looked.returncode == 0, looked.stdout


@pytest.mark.parametrize(
    ("settings", "folders", "words"),
    [
        ("source: image-folder, size: 32", "", "no class folders with images"),
        ("source: image-folder, size: 32", "cat dog", "test_fraction: None is not allowed"),
        ("source: image-folder, size: 32", "train/cat train/dog holdout", "doubtful: train/ beside holdout/"),
        ("source: imagenet", "train/cat", "no validation images; allowed: ILSVRC2012_img_val.tar, or val/"),
    ],
)
def test_folders_that_cannot_be_prepared_are_refused_before_any_job(settings, folders, words, project, tmp_path):
    (tmp_path / "pictures").mkdir()
    for folder in folders.split():
        (tmp_path / "pictures" / folder).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "pictures" / folder / "a.png")
    given = "study=cifar10-quick", f"datasets={{cifar10: {{{settings}, path: {tmp_path}/pictures, label: pictures}}}}"
    line = f"error: {tmp_path}/pictures: {words}"
    says(snakemake(project, "-n", "--config", *given, "--", "datasets"), line)
    assert line in checked(project, *given).stderr


def test_a_file_where_a_job_makes_a_folder(project):
    (project / "results/laptop/experiments").mkdir(parents=True)
    (project / "results/laptop/experiments/alexnet").write_text("a file, not a folder")
    line = "error: results/laptop/experiments/alexnet: a file stands where a folder is needed; move it away"
    says(snakemake(project, "-n"), line)


def test_folders_have_spaces_brackets_and_quotes(tmp_path):
    folder = copy_project(tmp_path / "My (Drive) & 'x' $y")
    environment = folder / "an environment"
    environment.symlink_to(sys.prefix)
    write_study(folder, "tiny", TINY)
    command = [
        environment / "bin" / "python",
        "-m",
        "snakemake",
        "--cores",
        "1",
        "--config",
        "study=tiny",
        "--",
        "datasets",
    ]
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["a{b}c", "a:b"])
def test_a_folder_whose_name_nobody_can_work_in_is_refused(name, tmp_path):
    says(snakemake(copy_project(tmp_path / name), "-n"), f"/{name}: has")


@pytest.fixture
def disk(tmp_path):
    """A disk of 96 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("only root can make a small disk, and not everywhere")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_too_full_for_data_or_checkpoints_is_named(disk):
    full = "the disk is full; free some space and call again"
    with pytest.raises(UserError, match=full):
        made_data(disk / "made", train=4000)
    with pytest.raises(UserError, match=full):
        Checkpoint(disk / "c.pt").save({"weights": torch.zeros(100_000)})
    assert not list(disk.glob("made/*")) and not list(disk.glob("*.pt"))


def test_a_full_disk_is_named_and_what_was_finished_stays(tmp_path, disk):
    folder = made_data(tmp_path / "made")
    code = (
        "import sys; sys.path[:0] = sys.argv[3:]\n"
        "from pathlib import Path\n"
        "from helpers import TINY, a_run\n"
        "from smallbatch.core.console import log_and_exit_on_error\n"
        "from smallbatch.training.pack import train_pack\n"
        "with log_and_exit_on_error():\n"
        "    runs = [a_run(seed=seed, epochs=1) for seed in range(12)]\n"
        "    train_pack(runs, Path(sys.argv[1]), Path(sys.argv[2]), keep_weights='none', lanes=1)\n"
    )
    command = [sys.executable, "-c", code, str(folder), str(disk), *sys.path]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    says(done, "the disk is full; free some space and call again")
    store, fingerprint = RunStore(disk), prepared.read(folder).meta.fingerprint
    finished = [seed for seed in range(12) if store.has(a_run(seed=seed, epochs=1), fingerprint)]
    assert 0 < len(finished) < 12 and finished == list(range(len(finished)))
    assert not list(disk.glob("runs/*/.*"))


def test_a_gpu_that_is_not_there(project):
    write_study(project, "tiny", TINY)
    given = ("--config", "study=tiny", "training={device: 'cuda:99'}")
    says(snakemake(project, "--cores", "1", *given, "--", "all"), "training.device: 'cuda:99' is not allowed")


def test_a_machine_without_slurm(project, tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in map(Path, os.environ["PATH"].split(os.pathsep)):
        for program in folder.glob("*"):
            link = programs / program.name
            if program.name not in slurm.PROGRAMS and not link.is_symlink():
                link.symlink_to(program)
    monkeypatch.setenv("PATH", str(programs))
    done = snakemake(project, "--profile", "slurm", "figures")
    says(done, "error: this machine has no SLURM (sbatch, squeue, scancel, sinfo, scontrol: not found in PATH): call ")
    assert not (project / "data" / "digits").exists() and not list(project.glob(".snakemake/locks/*"))


def test_what_the_system_refuses_to_open_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    for log in (None, tmp_path / "log"):
        with pytest.raises(SystemExit) as end, log_and_exit_on_error(log):
            (tmp_path / "file" / "a\nb").read_text()
        line = f"error: {tmp_path}/file/a\\nb: Not a directory"
        assert end.value.code == (line if log else 1)
    assert capsys.readouterr().err.endswith(f" {line}\n")
    assert line in (tmp_path / "log").read_text() and "Traceback" in (tmp_path / "log").read_text()
