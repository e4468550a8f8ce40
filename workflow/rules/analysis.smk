# Runs become tidy tables, best rates and claims.


rule table:
    """Collect the runs of an experiment."""
    input:
        pending=pending_runs,
        meta=lambda wildcards: prepared(STUDY.experiments[wildcards.experiment].setting.data),
    output:
        runs=f"{RESULTS}/{{study}}/experiments/{{experiment}}/runs.parquet",
        epochs=f"{RESULTS}/{{study}}/experiments/{{experiment}}/epochs.parquet",
        variance=f"{RESULTS}/{{study}}/experiments/{{experiment}}/variance.parquet",
        checksums=f"{RESULTS}/{{study}}/checksums/table-{{experiment}}.json",
    log:
        "logs/table/{study}/{experiment}.log",
    benchmark:
        "benchmarks/rules/table/{study}/{experiment}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        experiment=lambda wildcards: STUDY.experiments[wildcards.experiment].as_json(),
        chosen=lambda wildcards: str(chosen_file(wildcards.experiment)),
        results=lambda wildcards, output: str(Path(output.runs).parents[3]),
        threshold=config["convergence_threshold"],
        protocol=PROTOCOL,
        code=CODE["table"],
        made_by=lambda wildcards: JOB_DIGESTS[f"table-{wildcards.experiment}"],
    message:
        "Collecting the runs of experiment {wildcards.experiment} of study {wildcards.study}"
    script:
        "../scripts/table.py"


# Experiments that take the best rate of others for each batch size learn it here.
checkpoint choose:
    """Choose the best rates for an experiment that takes them from others."""
    input:
        lambda wildcards: tables("runs", STUDY.experiments[wildcards.experiment].best_of),
    output:
        f"{RESULTS}/{{study}}/chosen/{{experiment}}.json",
    log:
        "logs/choose/{study}/{experiment}.log",
    benchmark:
        "benchmarks/rules/choose/{study}/{experiment}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=CODE["choose"],
        choice=CHOICE,
        sums=lambda wildcards: table_checksums(STUDY.experiments[wildcards.experiment]),
    message:
        "Choosing the best rates for experiment {wildcards.experiment} of study {wildcards.study}"
    script:
        "../scripts/choose.py"


rule gather:
    """Collect the tables of all experiments."""
    input:
        runs=tables("runs", STUDY.experiments),
        epochs=tables("epochs", STUDY.experiments),
        variance=tables("variance", STUDY.experiments),
    output:
        runs=report(
            f"{RESULTS}/{{study}}/runs.parquet",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "All runs", "form": "Parquet"},
        ),
        csv=report(
            f"{RESULTS}/{{study}}/runs.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "All runs", "form": "CSV"},
        ),
        epochs=f"{RESULTS}/{{study}}/epochs.parquet",
        variance=f"{RESULTS}/{{study}}/variance.parquet",
        checksums=f"{RESULTS}/{{study}}/checksums/gather.json",
    log:
        "logs/gather/{study}.log",
    benchmark:
        "benchmarks/rules/gather/{study}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=CODE["gather"],
        made_by=JOB_DIGESTS["gather"],
    message:
        "Collecting the tables of study {wildcards.study}"
    script:
        "../scripts/gather.py"


rule claims:
    """Target: the verdicts on the study's claims; trains what they lack."""
    input:
        runs=f"{RESULTS}/{STUDY.name}/runs.parquet",
        epochs=f"{RESULTS}/{STUDY.name}/epochs.parquet",
        variance=f"{RESULTS}/{STUDY.name}/variance.parquet",
    output:
        claims=report(
            f"{RESULTS}/{STUDY.name}/claims.csv",
            caption="../report/claims.rst",
            category="Tables",
            labels={"table": "Claims and verdicts", "form": "CSV"},
        ),
        checksums=f"{RESULTS}/{STUDY.name}/checksums/claims.json",
    log:
        f"logs/claims/{STUDY.name}.log",
    benchmark:
        f"benchmarks/rules/claims/{STUDY.name}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        figures=STUDY.figures,
        reproduces=STUDY.reproduces,
        claims=STUDY.claims,
        functions={str(path): files_digest(path) for path in files_of(STUDY.claims.values())},
        thresholds=config["claims"],
        code=CODE["claims"],
        made_by=JOB_DIGESTS["claims"],
    message:
        f"Judging the claims of study {STUDY.name} (into {{output.claims}})"
    script:
        "../scripts/claims.py"


# Every one is named: of files that only others need Snakemake does not make again those that were deleted.
rule tables:
    """Target: the tables and the claims of the study; trains what they lack."""
    input:
        [str(chosen_file(e.name)) for e in STUDY.experiments.values() if e.best_of],
        [tables(kind, STUDY.experiments) for kind in KINDS],
        [checksum_file(f"table-{experiment}") for experiment in STUDY.experiments],
        [file.format(study=STUDY.name) for file in (*rules.gather.output, *rules.claims.output)],
    message:
        f"The tables of study {STUDY.name} are in {RESULTS}/{STUDY.name}."
