# What a job that trains a pack gets: its runs, threads, memory, time, and when it is its turn.


def pack_runs(wildcards):
    """Settings of a pack's runs, at the rates that were chosen for them."""
    pack = PLAN.packs[wildcards.pack]
    e = STUDY.experiments[pack.experiment]
    return [run.settings for run in with_rates(pack.runs, rates_of(e) if chosen_file(e.name).exists() else None)]


def training_slots(wildcards):
    """Threads that a training job takes of `--cores`: all jobs together keep each processor busy once."""
    at_once = TRAINING["processes"] * TRAINING["side_by_side"]
    return at_once * max(1, (workflow.resource_settings.cores or 1) // processors())


def training_memory(wildcards, attempt):
    return job_resources.memory_mb(PLAN.packs[wildcards.pack].runs, TIMINGS, TRAINING["side_by_side"], attempt)


def training_minutes(wildcards, attempt):
    return job_resources.minutes(PLAN.packs[wildcards.pack].runs, TIMINGS, TRAINING["side_by_side"], attempt)


def training_estimate(wildcards):
    return job_resources.work_in_words(PLAN.packs[wildcards.pack].runs, TIMINGS, TRAINING["side_by_side"])


def training_priority(wildcards):
    pack = PLAN.packs[wildcards.pack]
    return job_resources.priority(pack.runs, TIMINGS, awaited=pack.name in PLAN.rate_sources)
