# A SLURM cluster: what is asked of it, and whether it can be had. SLURM is asked, so that a profile fits any cluster.
import collections
from types import SimpleNamespace

from smallbatch.cluster import slurm


def training_gres(wildcards):
    """GPUs that a training job asks of its node: one a process, where training may use GPUs and the partition has some."""
    device = TRAINING["device"]
    submits = workflow.is_main_process and workflow.resource_settings.nodes is not None
    if not submits or device == "cpu":
        return None
    wanted = device != "auto" or gpus_of(partition_of("train"))
    return f"gpu:{TRAINING['processes'] * TRAINING['side_by_side']}" if wanted else None


gpus_of = functools.cache(slurm.gpus)


def partition_of(rule):
    """The partition that a rule's jobs name; none: they take the cluster's default."""
    named = workflow.get_rule(rule).resources.get("slurm_partition")
    return named.raw if named else None


def requests():
    """For each kind of job that is to run: what it is -> the options of `sbatch` that it is submitted with."""
    jobs = list(workflow.dag.needrun_jobs())
    if any(job.is_checkpoint for job in jobs):  # training comes later, and is not among them yet
        jobs += map(training_job, PLAN.packs)
    options = [(job.rule.name, submission(job)) for job in jobs if not workflow.is_local(job.rule)]
    return {f"{name} jobs ({shlex.join(asked)})": asked for name, asked in options}


def training_job(pack):
    """What of a job that trains a pack decides how it is submitted."""
    train = workflow.get_rule("train")
    resources = train.expand_resources(Wildcards(fromdict={"pack": pack}), [], attempt=1)
    return SimpleNamespace(rule=train, resources=resources, threads=resources._cores)


def submission(job):
    """The options of `sbatch` that ask for resources, as the executor has them."""
    from snakemake_executor_plugin_slurm import submit_string, utils

    account, partition = job.resources.get("slurm_account"), job.resources.get("slurm_partition")
    place = {"account": f"-A {account}" if account else "", "partition": f"-p {partition}" if partition else ""}
    names = dict.fromkeys(["run_uuid", "slurm_logfile", "comment_str", "workdir"], "")
    command = submit_string.get_submit_command(job, place | names, workflow.executor_settings)
    words = shlex.split(command + utils.set_gres_string(job))
    return words[words.index("--comment") + 2 :]  # before it: names and files


def hold_on():
    """Keep the executor from losing sight of its jobs while the controller is away.

    Where that does not answer, plugin 2.8 takes its `MinJobAge` for unknown and asks sacct instead, which without
    accounting never answers; then it forgets the jobs that it asked for.
    """
    import snakemake_executor_plugin_slurm as plugin

    plugin.get_min_job_age = functools.cache(plugin.get_min_job_age)
    plugin.get_min_job_age()


def submit_alike_together():
    """Make one array of the jobs that ask for the same, where the profile wants arrays.

    Plugin 2.8 submits all jobs of a rule as the first of them asks, and forgets those that it has while others are ready.
    """
    import snakemake_executor_plugin_slurm as plugin

    submit = plugin.Executor.run_jobs

    def run_jobs(executor, jobs):
        alike = collections.defaultdict(list)
        for job in jobs:
            alike[job.name, *submission(job)].append(job)
        for some in alike.values():
            submit(executor, some)

    def no_others(dag, name):
        return 0

    plugin.Executor.run_jobs, plugin.pending_jobs_for_rule = run_jobs, no_others


onstart:
    if workflow.executor_plugin.name == "slurm":
        try:
            slurm.check(requests())
        except UserError as error:
            sys.exit(f"error: {error}")
        hold_on()
        submit_alike_together()
