# What the tables of an experiment wait for, found before Snakemake looks at any file: it seeks nothing behind whole tables.


@functools.cache
def settle():
    """Once, before Snakemake looks at any file: what each experiment waits for whose data and rates are known by then.

    A call that only looks expects it of the others. Jobs on a cluster's nodes are given it.
    """
    if not workflow.is_main_process:
        return {}
    preflight()
    try:
        waiting = {e.name: pending(e) for e in STUDY.experiments.values() if is_known(e)}
        trains = any(name not in waiting or packs_of(waiting[name]) for name in STUDY.experiments)
        if trains:
            check_device()
        whole = len(waiting) == len(STUDY.experiments) and not workflow.dag.forcefiles
        snakemake_option_checks.refuse_report(sys.argv, STUDY.name, complete=whole or not only_looks())
    except UserError as error:
        sys.exit(f"error: {error}")
    unknown = [name for name in STUDY.experiments if name not in waiting]
    # Behind whole tables Snakemake would not miss the data and rates that are to be made.
    workflow.dag.forcefiles.update(tables("runs", unknown))
    if trains and (incomplete := git_commit()[1]):
        print(incomplete, file=sys.stderr)
    if only_looks() and unknown:
        print(not_known(unknown), file=sys.stderr)
        waiting |= {name: expected(STUDY.experiments[name]) for name in unknown}
    return waiting


def not_known(experiments):
    """What a call that only looks says of experiments whose data are not prepared, or whose rates are not chosen."""
    theirs = [STUDY.experiments[name] for name in experiments]
    data = dict.fromkeys(e.setting.data for e in theirs if not is_made(meta_file(e.setting.data)))
    rates = [e.name for e in theirs if e.best_of and not is_made(chosen_file(e.name))]
    unknown = [f"data of {', '.join(data)} are not prepared"] * bool(data)
    unknown += [f"rates of {', '.join(rates)} are not chosen"] * bool(rates)
    return f"{', '.join(unknown)} yet: their runs that are here are taken for finished, all others are planned"


def expected(e):
    """Files `.done` of packs that will have to train for an experiment, as far as is known before data and rates."""
    label, file = e.setting.data, chosen_file(e.name)
    rates = rates_of(e) if is_made(file) else None
    packs = PLAN.expected(e.name, fingerprints(label), rates, published_since())
    done_files = [f"{RESULTS}/packs/{pack.name}.done" for pack in packs]
    workflow.dag.forcefiles.update(done_files)
    return done_files


@functools.cache
def fingerprints(label):
    """Of the data that a data set may be: as it is prepared, or as runs here were trained on."""
    if is_made(meta_file(label)):
        return {read_meta(meta_file(label)).fingerprint}
    to_unpack = {record.fingerprint for record in published_since().values() if record.run.setting.data == label}
    return STORE.fingerprints(label) | to_unpack


def pending(e):
    """Files that the tables of an experiment wait for, whose data and rates are known; none where they show its runs."""
    meta = read_meta(meta_file(e.setting.data))
    check_against_data(STUDY, meta.label, meta.train, size_of(meta))
    return _pending(e.name, meta.fingerprint, tuple(rates_of(e).items()))


@functools.cache
def _pending(experiment, fingerprint, rates):
    """Files `.done` of packs that have to train, and a file newer than the tables, which makes Snakemake look for both.

    Runs are no outputs that Snakemake knows, and behind whole tables it seeks nothing. Asked once a process: the answer
    must not change while jobs run.
    """
    work = PLAN.pending(experiment, fingerprint, dict(rates), published_since())
    if not work.outdates(checksums.made_from(Path(checksum_file(f"table-{experiment}")))):
        return []
    for run, damage in work.damaged.items():
        say_once(f"{STORE.root / run}: damaged: {damage}; to be made again")
    done_files = [Path(RESULTS, "packs", f"{pack.name}.done") for pack in work.packs]
    if only_looks():  # and so writes no stamp: Snakemake is told itself
        workflow.dag.forcefiles.update(map(str, done_files), tables("runs", [experiment]))
        return list(map(str, done_files))
    for done_file in done_files:
        with writing_errors(done_file):
            done_file.unlink(missing_ok=True)  # of an earlier call, and wrong by now
    stamp = Path(RESULTS, "packs", f"{STUDY.name}.{experiment}.pending")
    with atomic(stamp, "w") as file:
        # Snakemake takes a newer file of the same content for unchanged; the time makes it differ.
        file.write("\n".join([f"pending at {time.time()}:", *map(str, done_files)]) + "\n")
    return list(map(str, [stamp, *done_files]))


@functools.cache
def say_once(text):
    """Say what is so of each experiment that shares a run."""
    print(text, file=sys.stderr)


@functools.cache
def published_since():
    """Published runs that a call which writes would have laid in the store by now, with their records."""
    return records_to_import(STORE) if workflow.is_main_process and only_looks() else {}


def pending_runs(wildcards):
    """What the tables of an experiment wait for; Snakemake learns here that its data and its rates come first."""
    known = settle()
    e = STUDY.experiments[wildcards.experiment]
    check_source_of(e.setting.data)
    if only_looks():  # though data or rates are to be made, or made again, most often the same
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
    return [] if workflow.dryrun and is_made(file) else ancient(file)


def complete(wildcards):
    """What a study to be published consists of; one with pending runs is refused rather than trained."""
    if unfinished := [e.name for e in STUDY.experiments.values() if waits(e)]:
        sys.exit(f"error: {not_complete(unfinished)}")
    # So the rates that others take from them can be chosen, if they are not yet.
    dependent = [e for e in STUDY.experiments.values() if e.best_of]
    for e in dependent:
        checkpoints.choose.get(study=STUDY.name, experiment=e.name)
    if unfinished := [e.name for e in dependent if packs_of(pending(e))]:
        raise WorkflowError(not_complete(unfinished))  # an exit while jobs run would say nothing
    return [*rules.tables.input, *rules.figures.input, *rules.report.input]


def not_complete(experiments):
    names = ", ".join(experiments)
    return f"study {STUDY.name} is not complete: runs of {names} are missing; `snakemake all` trains them"


def waits(e):
    """Whether data or, as far as they are known, runs of an experiment are still to be made."""
    return not meta_file(e.setting.data).exists() or bool(packs_of(settle().get(e.name, [])))


def packs_of(files):
    return [file for file in files if file.endswith(".done")]
