"""What snakemake-executor-plugin-slurm 2.8 does otherwise than long studies need, put right while Snakemake runs."""

import collections
import functools
from typing import Any

from smallbatch.cluster.requests import sbatch_options


def cache_min_job_age() -> None:
    """Keep the executor from losing sight of its jobs while the controller is away.

    Where that does not answer, plugin 2.8 takes its `MinJobAge` for unknown and asks sacct instead, which without
    accounting never answers; then it forgets the jobs that it asked for.
    """
    import snakemake_executor_plugin_slurm as plugin

    plugin.get_min_job_age = functools.cache(plugin.get_min_job_age)
    plugin.get_min_job_age()


def group_job_arrays(settings: Any) -> None:
    """Make one array of the jobs that ask for the same, where the profile wants arrays.

    Plugin 2.8 submits all jobs of a rule as the first of them asks, and forgets those that it has while others are
    ready.

    Args:
        settings: of the executor.
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
