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
    """MB that a training job may take, doubled each time that they did not do.

    A quarter more than `snakemake cost` found, once that was called; before, what does for ResNet-32 on CIFAR.
    """
    runs = PLAN.packs[wildcards.pack].runs
    known = SPEEDS.memory(runs) if SPEEDS.know(runs) else 0
    # Rounded up, as minutes are: a cluster is not to be asked for as many kinds of jobs as there are packs.
    one = 500 * math.ceil(1.25 * known / 500e6) or 2000 * max(1, max(run.batch_size for run in runs) // 256)
    return one * TRAINING["side_by_side"] * 2 ** (attempt - 1)


def training_minutes(wildcards, attempt):
    """Minutes that a training job may take, more at each attempt: twice what `snakemake cost` found, once it was called.

    A day at most: on a cluster, what is not through by then goes on in another.
    """
    runs, steps = PLAN.packs[wildcards.pack].runs, (10, 20, 30, 60, 120, 240, 480, 960)
    minutes = 5 + 2 * SPEEDS.seconds(runs) / 60 / TRAINING["side_by_side"] if SPEEDS.know(runs) else 240
    return min(1440, attempt * next((step for step in steps if step >= minutes), 1440))


def training_priority(wildcards):
    """First what other trainings wait for, then long before short, so that the last ones end together.

    Below zero, the priority of the rest: tables and figures are made as soon as they can be.
    """
    pack = PLAN.packs[wildcards.pack]
    load = SPEEDS.seconds(pack.runs) if SPEEDS.know(pack.runs) else sum(map(cost, pack.runs))
    return -1 / (1 + load) - (pack.name not in PLAN.awaited)
