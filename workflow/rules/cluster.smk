# A SLURM cluster: what is asked of it, and whether it can be had. SLURM is asked, so that a profile fits any cluster.
from types import SimpleNamespace

from smallbatch.cluster import sbatch_options, slurm_jobs, slurm_plugin_patches


def training_gres(wildcards):
    """GPUs that a training job asks of its node, where jobs are submitted; SLURM is asked only where it decides."""
    if not workflow.is_main_process or runs_here():
        return None
    has_gpus = TRAINING["device"] == "auto" and gpus_in(profile_resource("train", "slurm_partition"))
    count = TRAINING["processes"] * TRAINING["side_by_side"]
    return sbatch_options.gres(
        TRAINING["device"], count, has_gpus=has_gpus, gpu_type=profile_resource("train", "gpu_type")
    )


gpus_in = functools.cache(slurm_jobs.has_gpus)


def profile_resource(rule, resource):
    """A resource of a rule as the profile or the command line sets it; None where neither does."""
    named = workflow.get_rule(rule).resources.get(resource)
    return named.raw if named else None


def submitted():
    """The jobs that are to run and be submitted."""
    jobs = list(workflow.dag.needrun_jobs())
    if any(job.is_checkpoint for job in jobs):  # training comes later, and is not among them yet
        jobs += map(training_job, PLAN.packs)
    return [job for job in jobs if not workflow.is_local(job.rule)]


def training_job(pack):
    """What of a job that trains a pack decides how it is submitted."""
    train = workflow.get_rule("train")
    resources = train.expand_resources(Wildcards(fromdict={"pack": pack}), [], attempt=1)
    return SimpleNamespace(rule=train, resources=resources, threads=resources._cores)


def check_cluster():
    """Before anything is submitted: whether the cluster can have it."""
    if workflow.executor_plugin.name == "slurm":
        try:
            slurm_jobs.check(sbatch_options.options_by_request(submitted(), workflow.executor_settings))
        except UserError as error:
            sys.exit(f"error: {error}")
        slurm_plugin_patches.cache_min_job_age()
        slurm_plugin_patches.group_job_arrays(workflow.executor_settings)
        slurm_plugin_patches.correct_array_logs()
