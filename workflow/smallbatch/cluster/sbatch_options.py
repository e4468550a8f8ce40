"""Resources that jobs request: the options of `sbatch` that the executor plugin makes from a job's resources."""

import shlex
from collections.abc import Iterable
from typing import Any


def gres(device: str, processes: int, *, has_gpus: bool, gpu_type: str | None = None) -> str | None:
    """GPUs that a training job requests, one per process; None if it needs no GPU.

    Args:
        device: `device` of the configuration: auto, cpu, cuda or cuda:N.
        processes: the number of processes that train at the same time.
        has_gpus: whether the partition has GPUs, which decides if the device is `auto`.
        gpu_type: their type, as the cluster names it, which requests them for device `auto` in any case; None: any.
    """
    needs_gpus = (has_gpus or gpu_type is not None) if device == "auto" else device != "cpu"
    return ":".join(["gpu", *filter(None, [gpu_type]), str(processes)]) if needs_gpus else None


def sbatch_options(job: Any, settings: Any) -> list[str]:
    """The options of `sbatch` that request a job's resources.

    Args:
        job: an object with the `resources` and `threads` of a Snakemake job.
        settings: the executor's settings.
    """
    from snakemake_executor_plugin_slurm import submit_string, utils

    account, partition = job.resources.get("slurm_account"), job.resources.get("slurm_partition")
    queue = {"account": f"-A {account}" if account else "", "partition": f"-p {partition}" if partition else ""}
    names = dict.fromkeys(["run_uuid", "slurm_logfile", "comment_str", "workdir"], "")
    command = submit_string.get_submit_command(job, queue | names, settings)
    words = shlex.split(command + utils.set_gres_string(job))
    return words[words.index("--comment") + 2 :]  # before it: names and files


def options_by_request(jobs: Iterable[Any], settings: Any) -> dict[str, list[str]]:
    """Description of a request -> its options of `sbatch`; jobs of a rule with the same options are one request."""
    asked = [(job.rule.name, sbatch_options(job, settings)) for job in jobs]
    return {f"{name} jobs ({shlex.join(words)})": words for name, words in asked}
