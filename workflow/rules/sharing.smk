# A finished study goes to others: its runs to a DVC remote, its results into docs/results.md; all of it, with its
# provenance, into one archive.


# Has no output, nor a benchmark, which counts as one, so that it publishes whenever it is asked to; what is published
# already stays as it is.
rule publish:
    """Target: publish the finished study through DVC."""
    input:
        complete,
        runs=f"{RESULTS}/{STUDY.name}/runs.parquet",
        claims=f"{RESULTS}/{STUDY.name}/claims.csv",
    log:
        f"logs/publish/{STUDY.name}.log",
    conda:
        "../../envs/sharing.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        study=STUDY.name,
        results=lambda wildcards, input: str(Path(input.runs).parents[1]),
        figures=f"{FIGURES}/{STUDY.name}",
        publish=config["publish"],
        remote_set_in=location("publish.remote", CONFIG_FILES, given),
    message:
        f"Publishing study {STUDY.name}"
    script:
        "../scripts/publish.py"


rule archive:
    """Write the study with its provenance as an RO-Crate."""
    input:
        runs=f"{RESULTS}/{{study}}/runs.parquet",
        claims=f"{RESULTS}/{{study}}/claims.csv",
        citation="CITATION.cff",
        documents=["README.md", "LICENSE"],
        code=lambda wildcards: workflow_files(),
        settings=["config/config.yaml", STUDY.file, *user_files(STUDY, DATASETS)],
        data=[f"{DATA}/{label}/{META}" for label in STUDY.labels],
        results=[*rules.gather.output, *rules.claims.output, *rules.page.output, *rules.figures.input],
    output:
        archive=f"{RESULTS}/{{study}}/{{study}}.crate.zip",
        checksums=f"{RESULTS}/{{study}}/checksums/archive.json",
    log:
        "logs/archive/{study}.log",
    benchmark:
        "benchmarks/rules/archive/{study}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        study=STUDY.as_json(),
        publisher=config["publish"].get("publisher", {}),
        version=snakemake_version,
        code=CODE["crate"],
        made_by=JOB_DIGESTS["archive"],
    message:
        "Writing study {wildcards.study} with its provenance into one archive"
    script:
        "../scripts/crate.py"


rule crate:
    """Target: the finished study with its provenance, as one RO-Crate."""
    input:
        f"{RESULTS}/{STUDY.name}/{STUDY.name}.crate.zip",
        checksum_file("archive"),
    message:
        f"Study {STUDY.name} with its provenance is {{input[0]}}."
