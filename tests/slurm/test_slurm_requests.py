"""Requests that a cluster cannot meet are refused before the work, in one line with SLURM's own reason."""

import re
from pathlib import Path

import pytest
from cluster import ask
from helpers import snakemake


def call(project, *arguments, training="device: auto"):
    """`snakemake --profile slurm figures` of `laptop`'s smallest figure; what it said last, in one line."""
    chosen = ("study=laptop", "scale={name: small, figures: [fig04]}", f"training={{{training}}}")
    done = snakemake(project, "--profile", "slurm", *arguments, "--config", *chosen, "--", "figures")
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and lines[-1].startswith("error: "), done.stdout
    assert sum("rror" in line for line in lines) == 1, done.stdout
    assert (
        not ask("squeue", "-h") and not list(project.glob("results/runs/*")) and not (project / "data/digits").exists()
    )
    assert not list(project.glob(".snakemake/locks/*"))
    return lines[-1]


@pytest.fixture
def partition(cluster):
    """Changes a limit of the partition `main` for a test."""
    changed = []

    def change(limit, value, usual):
        changed.append(f"{limit}={usual}")
        ask("scontrol", "update", "partition=main", f"{limit}={value}")

    yield change
    for limit in changed:
        ask("scontrol", "update", "partition=main", limit)


def test_an_unknown_partition(cluster, project):
    said = call(project, "--default-resources", "slurm_partition=nope", "mem_mb=2000", "runtime=60")
    assert "SLURM refuses " in said and "-p nope" in said
    assert said.endswith(
        "invalid partition specified: nope; Batch job submission failed: Invalid partition name specified"
    )


def test_impossible_memory(cluster, project):
    said = call(project, "--set-resources", "train:mem_mb=999999")
    assert "train jobs (" in said and "--mem 999999" in said and "gpu" not in said
    assert "Memory specification can not be satisfied" in said


def test_a_gpu_where_there_is_none(cluster, project):
    said = call(project, "--set-resources", "train:gres=gpu:1")
    assert "--gres=gpu:1): Invalid generic resource (gres) specification" in said
    assert "--gres=gpu:1" in call(project, training="device: cuda"), "cuda was asked for"


def test_a_time_limit_that_the_partition_does_not_allow(cluster, project, partition):
    partition("MaxTime", "300", "INFINITE")
    said = call(project, "--set-resources", "train:runtime=301")
    assert "SLURM would never start train jobs (-t 301 " in said and said.endswith(": PartitionTimeLimit")


def test_memory_that_the_partition_does_not_allow(cluster, project, partition):
    partition("MaxMemPerNode", "5000", "0")
    said = call(project, "--set-resources", "train:mem_mb=6000")
    assert "SLURM would never start train jobs (" in said and said.endswith(": MaxMemPerLimit")


def test_a_partition_for_others(cluster, project, partition):
    partition("AllowAccounts", "others", "ALL")
    assert "so it can't use this partition (main allows others)" in call(project)


def test_a_controller_that_does_not_answer(cluster, project):
    cluster.kill("slurmctld")
    try:
        assert "Unable to contact slurm controller" in call(project)
    finally:
        cluster.start_controller()


ALONE, TOGETHER, LARGE = ("MinMemoryNode=2000M", False), ("MinMemoryNode=2001M", True), ("MinMemoryNode=4000M", False)
"""What a pack asks for, and whether as a task of an array; tasks get a megabyte for the list of all of them."""


@pytest.mark.parametrize(("at_once", "wanted"), [(100, [TOGETHER, TOGETHER, LARGE]), (1, [ALONE, ALONE, LARGE])])
def test_packs_that_ask_for_the_same_are_one_array_and_none_is_forgotten(cluster, project, at_once, wanted):
    """Three packs, one of which asks for more memory; one at a time, the others are ready while it is submitted."""
    scale = "scale={name: small, epochs: 0.1, batch_sizes: [2, 8, 512], figures: [fig04]}"
    chosen = ("--config", "seeds=1", scale, "training={runs_per_pack: 1, device: cpu}")
    jobs = ("--profile", "slurm", "--jobs", str(at_once), "--slurm-init-seconds-before-status-checks=2")
    done = snakemake(project, *jobs, *chosen, "--", "results/laptop-small-seeds1/experiments/resnet8-bn/runs.parquet")
    assert done.returncode == 0, done.stdout
    told = [line for line in ask("scontrol", "--oneliner", "show", "jobs").splitlines() if f"WorkDir={project}" in line]
    asked = [(*re.findall(r"MinMemoryNode=\S+", job), "ArrayTaskId" in job) for job in told if "rule_train_" in job]
    assert sorted(asked) == wanted, told


def test_a_task_that_fails_names_a_log_that_is_there(cluster, project):
    (project / "workflow" / "scripts" / "train.py").write_text("raise SystemExit('it fails')\n")
    scale = "scale={name: small, epochs: 0.1, batch_sizes: [2, 8], figures: [fig04]}"
    chosen = ("--config", "seeds=1", scale, "training={runs_per_pack: 1, device: cpu}")
    quick = ("--profile", "slurm", "--retries", "0", "--slurm-init-seconds-before-status-checks=2")
    done = snakemake(project, *quick, *chosen, "--", "results/laptop-small-seeds1/experiments/resnet8-bn/runs.parquet")
    logs = set(re.findall(r"\S+/slurm_logs/rule_train/\S+\.log", done.stdout))
    assert done.returncode == 1 and "Submitted array job" in done.stdout and len(logs) == 2, done.stdout
    assert all("it fails" in Path(log).read_text(encoding="utf-8") for log in logs)


@pytest.mark.parametrize("cluster", [{"gpus": 2}], indirect=True)
class TestOnGPUs:
    """A cluster whose nodes have two GPUs each."""

    def test_training_asks_for_one_unless_it_is_to_use_none(self, cluster, project):
        impossible = ("--set-resources", "train:mem_mb=999999")
        assert "--gres=gpu:1" in call(project, *impossible)
        assert "gpu" not in call(project, *impossible, training="device: cpu")

    def test_more_than_a_node_has(self, cluster, project):
        said = call(project, "--set-resources", "train:gres=gpu:3")
        assert said.endswith("Requested node configuration is not available")

    def test_gpus_of_a_type_as_many_as_processes(self, cluster, project):
        impossible = ("--set-resources", "train:gpu_type=fake", "train:mem_mb=999999")
        assert "--gres=gpu:fake:2)" in call(project, *impossible, training="device: auto, processes: 2")
        said = call(project, "--set-resources", "train:gpu_type=h100")
        assert "--gres=gpu:h100:1)" in said and said.endswith("Requested node configuration is not available")
        assert "gpu" not in call(project, *impossible, training="device: cpu")

    def test_a_kind_that_is_not_there(self, cluster, project):
        said = call(project, "--set-resources", "train:gres=gpu:a100:1")
        assert said.endswith("Requested node configuration is not available")


@pytest.mark.parametrize("cluster", [{"accounting": True}], indirect=True)
def test_an_unknown_account(cluster, project):
    said = call(project, "--default-resources", "slurm_account=nope", "mem_mb=2000", "runtime=60")
    assert said.endswith("Invalid account or account/partition combination specified")
