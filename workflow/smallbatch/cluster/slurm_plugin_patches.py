"""Patches of snakemake-executor-plugin-slurm 2.8 that long studies need, applied while Snakemake runs."""

import collections
import functools
from typing import Any

from smallbatch.cluster.sbatch_options import sbatch_options


def cache_min_job_age() -> None:
    """Prevent the executor from losing its jobs while the controller does not answer.

    Plugin 2.8 then treats `MinJobAge` as unknown and falls back to sacct, which cannot answer without accounting; so
    the plugin loses the jobs that it asked about.
    """
    import snakemake_executor_plugin_slurm as plugin

    plugin.get_min_job_age = functools.cache(plugin.get_min_job_age)
    plugin.get_min_job_age()


def group_job_arrays(settings: Any) -> None:
    """Submit jobs that request the same resources as one array, if the profile enables arrays.

    Plugin 2.8 submits all jobs of a rule with the resources of the first, and forgets the jobs that it holds back while
    others of the rule are ready.

    Args:
        settings: the executor's settings.
    """
    import snakemake_executor_plugin_slurm as plugin

    submit = plugin.Executor.run_jobs

    def run_jobs(executor: Any, jobs: list[Any]) -> None:
        alike = collections.defaultdict(list)
        for job in jobs:
            alike[job.name, *sbatch_options(job, settings)].append(job)
        for some in alike.values():
            submit(executor, some)

    def no_others(dag: Any, name: str) -> int:
        return 0

    plugin.Executor.run_jobs, plugin.pending_jobs_for_rule = run_jobs, no_others


def correct_array_logs() -> None:
    """Record for each task of an array the log that SLURM writes.

    Plugin 2.8 asks for `RULE/JOB_TASK.log`, but names `RULE/WILDCARDS/JOB_TASK.log` where a task fails, and looks there
    for the logs to remove when tasks have succeeded.
    """
    import snakemake_executor_plugin_slurm as plugin

    report = plugin.Executor._report_job_submission_threadsafe

    def report_with_log(executor: Any, job_info: Any) -> None:
        if "_" in job_info.external_jobid:
            log = job_info.aux["slurm_logfile"]
            rule, *_ = log.relative_to(executor.slurm_logdir).parts
            job_info.aux["slurm_logfile"] = executor.slurm_logdir / rule / log.name
        report(executor, job_info)

    plugin.Executor._report_job_submission_threadsafe = report_with_log
