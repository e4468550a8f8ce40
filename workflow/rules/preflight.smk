# Before any job: what is damaged or would be made otherwise is found, said, and taken out of the way to be made again.


@functools.cache
def preflight():
    """Once, before Snakemake looks at any file; a call that is to run jobs takes in what was published, too.

    Jobs on a cluster's nodes find it done.
    """
    if not workflow.is_main_process:
        return
    asked, ancient = workflow.dag_settings, workflow.workflow_settings.consider_ancient
    batch = asked.batch and str(asked.batch)
    try:
        snakemake_option_checks.refuse_skipping_options(
            asked.until, asked.omit_from, asked.allowed_rules, asked.forcerun, ancient, batch, workflow.touch
        )
        if not only_looks():
            check_folders()
            check_lock()
            for folder in folders_of_files():
                remove_abandoned(folder)
            import_published(STORE)
        for invalid in find_invalid_files():
            act_on(invalid)
        workflow.dag.forcefiles.update(map(str, invalid_files.incomplete(checked_jobs())))
        look_again()
        if not only_looks():
            set_clocks_right()
    except UserError as error:
        sys.exit(f"error: {error}")
    if strays := invalid_files.unexpected_files(Path(FIGURES, STUDY.name), map(Path, PICTURES)):
        names = ", ".join(map(str, strays))
        print(f"{names}: of no figure of {STUDY.file}; nothing brings it up to date", file=sys.stderr)


def only_looks():
    """Whether no job is to run: a dry run, or one that prints the graph of jobs."""
    return workflow.executor_plugin is None or workflow.dryrun


def runs_here():
    """Whether jobs run on this machine, and not on a cluster's nodes."""
    return workflow.resource_settings.nodes is None


def asked_labels():
    """The study's data sets, and others of the configuration whose files are asked for."""
    asked = {label for label in DATASETS if any(f"{DATA}/{label}/" in argument for argument in sys.argv[1:])}
    return sorted(asked.union(STUDY.labels))


def find_invalid_files():
    """What has to be made again: what is damaged is out of the way before it is asked what is outdated."""
    yield from invalid_files.unprepared({label: DATASETS[label] for label in asked_labels()}, Path(DATA))
    dependent = [e for e in STUDY.experiments.values() if e.best_of]
    yield from invalid_files.damaged_rates(chosen_file(e.name) for e in dependent)
    yield from invalid_files.damaged_files(checked_jobs(), Path(FIGURES))
    sources = {chosen_file(e.name): map(Path, table_checksums(e)) for e in dependent if is_known(e)}
    yield from [*invalid_files.outdated_files(checked_jobs()), *invalid_files.outdated_rates(sources, CHOICE)]


def act_on(invalid):
    """Take the files out of the way; where nothing is to be run, plan as if they were."""
    if only_looks():
        workflow.dag.forcefiles.update(map(str, invalid.files))
    print(invalid.planned if only_looks() else invalid.discard(), file=sys.stderr)


def look_again():
    """Make Snakemake ask for each file from now on: what it has listed before may be set aside by now, and a list shows
    links to nothing as files, whose times it then fails to find."""
    workflow.iocache.clear()
    workflow.iocache.exists_local.has_inventory.clear()
    workflow.iocache.remaining_wait_time = 0


@functools.cache
def checked_jobs():
    """The jobs whose files have checksums: what each makes, and what it notes that this was made from, as its rule has it."""
    return [job_files(*job.partition("-")[::2], made_by) for job, made_by in JOB_DIGESTS.items()]


def job_files(name, of, made_by):
    """Of one: its rule, and the experiment or figure that it is for, if any."""
    asked, values = getattr(rules, name), {"study": STUDY.name, "experiment": of, "figure": of}
    made = [file.format(**values) for file in asked.output]
    read = []
    if name != "table":  # which is made from runs: they are no files that Snakemake knows
        parts = [
            part(Wildcards(fromdict=values)) if callable(part) else [part.format(**values)] for part in asked.input
        ]
        read = [file for part in parts for file in part if not os.path.isabs(file)]  # without what the library has
    return invalid_files.Job(Path(checksum_file(f"{name}-{of}" if of else name)), made, read, made_by)


def is_known(e):
    """Whether an experiment's data are prepared and its rates chosen."""
    needed = [meta_file(e.setting.data), *[chosen_file(e.name)] * bool(e.best_of)]
    return all(map(is_made, needed))


def is_made(file):
    """Whether a file is there and not to be made again."""
    return file.exists() and str(file) not in workflow.dag.forcefiles


def unprepared(label):
    """Why a data set has to be prepared, or prepared again, in words; none where it is as its settings say."""
    return reason_to_prepare(label, DATASETS[label], Path(DATA, label))


def check_folders():
    """Make sure that what is made can be written; data that are prepared may lie where nobody can write."""
    for folder in map(Path, (RESULTS, FIGURES, *[DATA] * any(map(unprepared, STUDY.labels)))):
        check_folder_writable(folder)


def check_what_stands():
    """Make sure that jobs can make their folders and write their logs: Snakemake fails at what stands there instead."""
    own = [getattr(rules, rule.name) for rule in workflow.rules if rule.log or rule.output]
    logs = [str(file) for one in own for file in one.log]
    logs += [str(one.benchmark) for one in own if one.rule.benchmark]
    folders = sorted({os.path.dirname(file) for file in [*logs, *(file for one in own for file in one.output)]})
    beside = [".snakemake", rules.prepare.params.downloads, rules.preview.params.folder]
    beside += [f"{RESULTS}/{kind}" for kind in RESERVED_NAMES]
    known = {"study": STUDY.name, "experiment": STUDY.experiments, "figure": STUDY.figures, "label": asked_labels()}
    check_path_kinds(map(Path, [*beside, *expand(folders, **known)]), map(Path, expand(logs, pack=PLAN.packs, **known)))


def check_lock():
    """End beside another call: Snakemake would let one without outputs pass, and delete the other's lock at its end."""
    locks = Path(workflow.persistence.path, "locks")
    if workflow.execution_settings.lock and any(locks.glob("*.lock")):
        beside = "wait for it; `snakemake preview --nolock` works beside it; after a crash: snakemake --unlock"
        raise UserError(f"{locks}: another call of snakemake works in this folder; {beside}")


def folders_of_files():
    """Where jobs make files, but for the folders of runs and checkpoints, which are made as a whole."""
    below = [path for path in Path(RESULTS, STUDY.name).rglob("*") if path.is_dir()]
    kinds = [Path(RESULTS, kind) for kind in ("", "packs", "published", "weights", STUDY.name)]
    return [*kinds, *below, Path(FIGURES, STUDY.name), Path(DATA), *[Path(DATA, label) for label in STUDY.labels]]


def set_clocks_right():
    """Snakemake ends a job whose inputs are newer than what it has made of them, as another machine's clock makes them."""
    inputs = [*data_files_of(STUDY.labels), *Path(RESULTS, STUDY.name).rglob("*"), *Path(FIGURES, STUDY.name).glob("*")]
    inputs += [TEMPLATE, *Path("config").rglob("*.yaml")]
    inputs += [path for folder in (".", "workflow", "workflow/rules", "envs") for path in Path(folder).glob("[!.]*")]
    if ahead := touch_future_files(inputs):
        print(f"{', '.join(map(str, ahead))}: dated in the future; now dated as of this moment", file=sys.stderr)


@functools.cache
def check_source_of(label):
    """End where a data set is to be prepared here that cannot be; a cluster's nodes may see other folders."""
    if not (workflow.is_main_process and runs_here() and unprepared(label)):
        return
    key = next(key for key, settings in config["datasets"].items() if label_of(key, settings) == label)
    try:
        if size := check_source(location(f"datasets.{key}.path", CONFIG_FILES, given), key, DATASETS[label]):
            check_against_data(STUDY, label, size.train, size)
    except UserError as error:
        sys.exit(f"error: {error}")


def check_device():
    """Make sure that a GPU which is asked for by name is there; a cluster's nodes may have what this machine lacks."""
    if TRAINING["device"].startswith("cuda") and runs_here():
        with contextlib.suppress(ImportError):  # where nothing trains either
            from smallbatch.training.resources import device

            device.check_available(TRAINING["device"], location("training.device", CONFIG_FILES, given))


def data_files(wildcards):
    """The files of the study's data sets."""
    preflight()
    for label in STUDY.labels:
        check_source_of(label)
    return [str(file) for file in data_files_of(STUDY.labels)]


def data_files_of(labels):
    return [Path(DATA, label, name) for label in labels for name in (META, *ARRAYS)]


def nothing(wildcards):
    """No input; before it is known, what is damaged is out of the way."""
    preflight()
    return []
