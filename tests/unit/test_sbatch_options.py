"""What jobs ask a cluster for, against options of `sbatch` written by hand; how the plugin is made to submit them."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from smallbatch.cluster import sbatch_options, slurm_plugin_patches

slurm = pytest.importorskip("snakemake_executor_plugin_slurm")


class Resources(dict):
    """As Snakemake has them: by key and as attributes."""

    __getattr__ = dict.get


def a_job(rule="train", threads=2, **resources):
    named = SimpleNamespace(name=rule)
    return SimpleNamespace(
        name=rule, rule=named, threads=threads, resources=Resources(resources), is_group=lambda: False
    )


def settings(**changed):
    return SimpleNamespace(requeue=False, no_requeue=False, qos=None, reservation=None, **changed)


@pytest.mark.parametrize(
    ("device", "has_gpus", "asked"),
    [
        ("cpu", True, None), ("cpu", False, None), ("auto", False, None), ("auto", True, "gpu:4"),
        ("cuda", False, "gpu:4"), ("cuda:1", True, "gpu:4"),
    ],
)  # fmt: skip
def test_gpus_are_asked_for_one_a_process_where_training_may_use_them(device, has_gpus, asked):
    assert sbatch_options.gres(device, 4, has_gpus=has_gpus) == asked


def test_gpus_of_a_type_are_asked_for_by_it_and_none_where_none_are_used():
    assert sbatch_options.gres("auto", 2, has_gpus=True, gpu_type="h100") == "gpu:h100:2"
    assert (
        sbatch_options.gres("auto", 1, has_gpus=False, gpu_type="h100") == "gpu:h100:1"
    )  # SLURM says that it has none
    assert sbatch_options.gres("cuda", 1, has_gpus=False, gpu_type="h100") == "gpu:h100:1"
    assert sbatch_options.gres("cpu", 1, has_gpus=True, gpu_type="h100") is None
    job = a_job(mem_mb=500, gres="gpu:h100:2", gpu_type="h100")
    assert [word for word in sbatch_options.sbatch_options(job, settings()) if "gpu" in word] == ["--gres=gpu:h100:2"]


def test_the_options_of_a_job_are_those_of_its_resources():
    job = a_job(mem_mb=2000, runtime=60, slurm_partition="main", slurm_account="lab", gres="gpu:2")
    words = sbatch_options.sbatch_options(job, settings())
    assert [words[i : i + 2] for i, word in enumerate(words) if word in ("-A", "-p", "-t", "--mem")] == [
        ["-A", "lab"], ["-p", "main"], ["-t", "60"], ["--mem", "2000"]
    ]  # fmt: skip
    assert "--gres=gpu:2" in words and "" not in words and "--comment" not in words and "--output" not in words
    plain = sbatch_options.sbatch_options(a_job(mem_mb=500), settings())
    assert not {"-A", "-p", "-t"} & set(plain) and not any(word.startswith("--gres") for word in plain)


def test_jobs_that_ask_for_the_same_are_one_request():
    alike = [a_job(mem_mb=2000), a_job(mem_mb=2000), a_job(mem_mb=4000), a_job("table", mem_mb=2000)]
    found = sbatch_options.options_by_request(alike, settings())
    assert [name.partition(" (")[0] for name in found] == ["train jobs", "train jobs", "table jobs"]
    assert [words[words.index("--mem") + 1] for words in found.values()] == ["2000", "4000", "2000"]


def test_an_array_is_made_of_jobs_that_ask_for_the_same(monkeypatch):
    submitted = []
    monkeypatch.setattr(slurm.Executor, "run_jobs", lambda executor, jobs: submitted.append(jobs))
    monkeypatch.setattr(slurm, "pending_jobs_for_rule", lambda dag, name: 7)
    slurm_plugin_patches.group_job_arrays(settings())
    small, large, again = a_job(mem_mb=2000), a_job(mem_mb=4000), a_job(mem_mb=2000)
    slurm.Executor.run_jobs(None, [small, large, again])
    assert submitted == [[small, again], [large]] and slurm.pending_jobs_for_rule(None, "train") == 0


def test_the_controller_is_asked_once_how_long_it_remembers_jobs(monkeypatch):
    answers = iter([300, None])  # then the controller is away
    monkeypatch.setattr(slurm, "get_min_job_age", lambda: next(answers))
    slurm_plugin_patches.cache_min_job_age()
    assert [slurm.get_min_job_age() for _ in range(3)] == [300] * 3


def test_the_log_of_a_task_is_the_one_that_slurm_writes(monkeypatch):
    reported = []
    monkeypatch.setattr(
        slurm.Executor, "_report_job_submission_threadsafe",
        lambda executor, info: reported.append(info.aux["slurm_logfile"]),
    )  # fmt: skip
    slurm_plugin_patches.correct_array_logs()
    executor = SimpleNamespace(slurm_logdir=Path("/logs"))
    for job, log in (
        ("17_2", "rule_train/pack/17_2.log"),
        ("18", "rule_train/pack/18.log"),
        ("19_1", "rule_all/19_1.log"),
    ):
        info = SimpleNamespace(external_jobid=job, aux={"slurm_logfile": Path("/logs", log)})
        slurm.Executor._report_job_submission_threadsafe(executor, info)
    assert [str(log) for log in reported] == [
        "/logs/rule_train/17_2.log", "/logs/rule_train/pack/18.log", "/logs/rule_all/19_1.log"
    ]  # fmt: skip
