# What is still to be made, found before Snakemake looks at any file: it seeks nothing behind whole tables.


def pending(e):
    """Files that the tables of an experiment wait for, whose data and rates are known; none where they show its runs."""
    meta = read_meta(meta_file(e.setting.data))
    check_against_data(STUDY, meta.label, meta.train)
    return _pending(e.name, meta.fingerprint, tuple(rates_of(e).items()))


@functools.cache
def _pending(experiment, fingerprint, rates):
    """The witnesses of packs that have to train, and a file newer than the tables, which makes Snakemake look for both.

    Runs are no outputs that Snakemake knows, and behind whole tables it seeks nothing. Asked once a process: the answer
    must not change while jobs run.
    """
    shown = checksums.made_from(Path(checksum_file(f"table-{experiment}")))
    work = pending_work.work(PLAN, experiment, fingerprint, dict(rates), shown, published_since())
    if not work.outdated:
        return []
    for run, damage in work.damaged.items():
        say_once(f"{STORE.root / run}: damaged: {damage}; to be made again")
    witnesses = [Path(RESULTS, "packs", f"{pack}.done") for pack in work.packs]
    if only_looks():  # and so writes no stamp: Snakemake is told itself
        workflow.dag.forcefiles.update(map(str, witnesses), tables("runs", [experiment]))
        return list(map(str, witnesses))
    for witness in witnesses:
        witness.unlink(missing_ok=True)  # of an earlier call, and wrong by now
    stamp = Path(RESULTS, "packs", f"{STUDY.name}.{experiment}.pending")
    with atomic(stamp, "w") as file:
        # Snakemake takes a newer file of the same content for unchanged; the time makes it differ.
        file.write("\n".join([f"pending at {time.time()}:", *map(str, witnesses)]) + "\n")
    return list(map(str, [stamp, *witnesses]))


@functools.cache
def say_once(text):
    """Say what is so of each experiment that shares a run."""
    print(text, file=sys.stderr)


def pending_runs(wildcards):
    """What the tables of an experiment wait for; Snakemake learns here that its data and its rates come first."""
    known = settle()
    e = STUDY.experiments[wildcards.experiment]
    check_source_of(e.setting.data)
    if workflow.dryrun and e.name in known:  # though data or rates are to be made again, most often the same
        return known[e.name] + [str(chosen_file(e.name))] * bool(e.best_of)
    checkpoints.prepare.get(label=e.setting.data)
    chosen = [checkpoints.choose.get(study=STUDY.name, experiment=e.name).output[0]] if e.best_of else []
    try:
        return known.get(e.name, []) + pending(e) + chosen
    except UserError as error:
        raise WorkflowError(str(error))


def prepared(label):
    """What says of a job that its data come first, but do not make it run.

    Nothing does in a dry run, where they are there: Snakemake forgets jobs that wait for `ancient` files which are to be
    made again, whatever else they would run for.
    """
    settle()  # of a pack that is asked for itself
    file = meta_file(label)
    return [] if workflow.dryrun and file.exists() and str(file) not in workflow.dag.forcefiles else ancient(file)


def data_files(wildcards):
    """The files of the study's data sets."""
    settle()
    for label in STUDY.labels:
        check_source_of(label)
    return [str(file) for file in data_files_of(STUDY.labels)]


def data_files_of(labels):
    return [Path(DATA, label, name) for label in labels for name in (META, *ARRAYS)]


@functools.cache
def settle():
    """Once, before Snakemake looks at any file: take in what was published and set aside what is damaged.

    Returns what each experiment waits for whose data and rates are known by then. Jobs on a cluster's nodes have been
    told.
    """
    if not workflow.is_main_process:
        return {}
    try:
        asked = workflow.dag_settings
        batch = asked.batch and str(asked.batch)
        pending_work.refuse_hidden(
            asked.until, asked.omit_from, asked.allowed_rules, asked.forcerun, batch, workflow.touch
        )
        check_folders()
        if not only_looks():
            take_in(STORE)
        set_aside_damaged()
        if not only_looks():
            set_clocks_right()
        waiting = {e.name: pending(e) for e in STUDY.experiments.values() if is_known(e)}
        trains = any(name not in waiting or packs_of(waiting[name]) for name in STUDY.experiments)
        if trains:
            check_device()
        whole = len(waiting) == len(STUDY.experiments) and not workflow.dag.forcefiles
        pending_work.refuse_report(sys.argv, STUDY.name, complete=whole or not only_looks())
    except UserError as error:
        sys.exit(f"error: {error}")
    if trains and (incomplete := origin()[1]):
        print(incomplete, file=sys.stderr)
    if only_looks() and (unknown := [name for name in STUDY.experiments if name not in waiting]):
        print(f"{', '.join(unknown)}: trainings are planned when data are prepared and rates chosen", file=sys.stderr)
    return waiting


@functools.cache
def published_since():
    """Published runs that a call which writes would have laid in the store by now, with the digests of their records."""
    return arriving(STORE) if workflow.is_main_process and only_looks() else {}


def set_clocks_right():
    """Snakemake ends a job whose inputs are newer than what it has made of them, as another machine's clock makes them."""
    inputs = [*data_files_of(STUDY.labels), *Path(RESULTS, STUDY.name).rglob("*"), *Path(FIGURES, STUDY.name).glob("*")]
    if ahead := bring_to_now(inputs):
        print(f"{', '.join(map(str, ahead))}: of a time to come; now as of this moment", file=sys.stderr)


def check_folders():
    """Make sure that what is made can be written; data that are prepared may lie where nobody can write."""
    for folder in map(Path, (RESULTS, FIGURES, *[DATA] * any(map(unprepared, STUDY.labels)))):
        if not only_looks():
            folder_is_writable(folder)
        elif folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: cannot be written: a file stands where a folder is needed")


@functools.cache
def check_source_of(label):
    """End where a data set is to be prepared here that cannot be; a cluster's nodes may see other folders."""
    if not (workflow.is_main_process and runs_here() and unprepared(label)):
        return
    key = next(key for key, settings in config["datasets"].items() if label_of(key, settings) == label)
    try:
        check_source(place(f"datasets.{key}.path", SAID_IN, given), key, DATASETS[label])
    except UserError as error:
        sys.exit(f"error: {error}")


def check_device():
    """Make sure that a GPU which is asked for by name is there; a cluster's nodes may have what this machine lacks."""
    if TRAINING["device"].startswith("cuda") and runs_here():
        with contextlib.suppress(ImportError):  # where nothing trains either
            from smallbatch.training.resources import device

            device.check_there(TRAINING["device"], place("training.device", SAID_IN, given))


def runs_here():
    """Whether jobs run on this machine, and not on a cluster's nodes."""
    return workflow.resource_settings.nodes is None


def only_looks():
    """Whether no job is to run: a dry run, or one that prints the graph of jobs."""
    return workflow.executor_plugin is None or workflow.dryrun


def is_known(e):
    """Whether an experiment's data are prepared and its rates chosen."""
    needed = [meta_file(e.setting.data), *[chosen_file(e.name)] * bool(e.best_of)]
    return all(file.exists() and str(file) not in workflow.dag.forcefiles for file in needed)


DAMAGED = "edited or damaged"


def set_aside_damaged():
    """Set aside what is not as it was made: Snakemake makes again what is missing."""
    for label in STUDY.labels:
        if reason := unprepared(label):
            make_again([*damaged_arrays(Path(DATA, label)), meta_file(label)], reason, aside)
    for e in STUDY.experiments.values():
        try:
            rates_of(e)
        except UserError:
            make_again([chosen_file(e.name)], f"{chosen_file(e.name)}: {DAMAGED}")
    for job in RECIPES:
        sums = Path(checksum_file(job))
        damaged = checksums.damaged(sums, *files_of(job))
        if drawn := [file for file in damaged if file.is_relative_to(FIGURES)]:
            draw_again(sums, drawn)
        for file in set(damaged).difference(drawn):
            make_again([file], f"{file}: {DAMAGED}")
    for file, reason in outdated().items():
        print(f"{file}: {reason}; to be made again", file=sys.stderr)
        remove(file)


def files_of(job):
    """What a job with checksums makes, and what it notes that this was made from, as its rule has them."""
    name, _, of = job.partition("-")
    asked, values = getattr(rules, name), {"study": STUDY.name, "experiment": of, "figure": of}
    made = [file.format(**values) for file in asked.output]
    if name == "table":  # made from runs, which are no files that Snakemake knows
        return made, []
    parts = [part(Wildcards(fromdict=values)) if callable(part) else [part.format(**values)] for part in asked.input]
    return made, [file for part in parts for file in part if not os.path.isabs(file)]  # without what the library has


def outdated():
    """Files without which their jobs run again, and why they are to: whole, but not as they would be made now."""
    found = pending_work.outdated({Path(checksum_file(job)): recipe for job, recipe in RECIPES.items()})
    for e in filter(is_known, STUDY.experiments.values()):
        file, sources = chosen_file(e.name), map(Path, table_checksums(e))
        if e.best_of and (reason := pending_work.chosen_otherwise(file, sources, CHOICE)):
            found[file] = reason
    return found


def draw_again(sums, pictures):
    """Let pictures be drawn again, over those that are there: git keeps these, and has brought other people's perhaps."""
    print(f"{', '.join(map(str, pictures))}: not as drawn from these tables; to be drawn again", file=sys.stderr)
    remove(sums)


def remove(file):
    """Let a file be made again; where nothing is to be run, Snakemake plans as if it were gone."""
    if only_looks():
        workflow.dag.forcefiles.add(str(file))
    else:
        file.unlink()


def make_again(files, reason, aside=set_aside):
    """Set files of one job aside and say so; where nothing is to be run, only say so, and plan as if they were gone."""
    there = [file for file in files if file.exists()]
    names = ", ".join(file.name for file in there)
    if there and only_looks():
        workflow.dag.forcefiles.update(map(str, there))
        print(f"{reason}; a call without -n would make {names} again", file=sys.stderr)
    elif there:
        moved = ", ".join(str(aside(file)) for file in there)
        print(f"{reason}; set aside as {moved}, to make {names} again", file=sys.stderr)


def unprepared(label):
    """Why a data set has to be prepared, or prepared anew, in words; none where it is as its settings say."""
    return reason_to_prepare(label, DATASETS[label], Path(DATA, label))


def complete(wildcards):
    """What a study to be published consists of; one with pending runs is refused rather than trained."""
    unfinished = [e.name for e in STUDY.experiments.values() if waits(e)]
    if not unfinished:  # and so the rates that others take from them can be chosen, if they are not yet
        dependent = [e for e in STUDY.experiments.values() if e.best_of]
        for e in dependent:
            checkpoints.choose.get(study=STUDY.name, experiment=e.name)
        unfinished = [e.name for e in dependent if packs_of(pending(e))]
    if unfinished:
        raise WorkflowError(
            f"study {STUDY.name} is not complete: {', '.join(unfinished)} lack runs; `snakemake all` trains them"
        )
    return [*rules.tables.input, *rules.figures.input, *rules.report.input]


def waits(e):
    """Whether data or, as far as they are known, runs of an experiment are still to be made."""
    return not meta_file(e.setting.data).exists() or bool(packs_of(settle().get(e.name, [])))


def packs_of(files):
    return [file for file in files if file.endswith(".done")]
