# Sources become prepared arrays.


checkpoint prepare:
    """Prepare a data set: download or read it, and write arrays that trainings map into memory."""
    input:
        nothing,
    output:
        meta=f"{DATA}/{{label}}/{META}",
        arrays=[f"{DATA}/{{label}}/{array}" for array in ARRAYS],
    log:
        "logs/prepare/{label}.log",
    benchmark:
        "benchmarks/rules/prepare/{label}.tsv"
    conda:
        "../../envs/training.yaml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        settings=lambda wildcards: DATASETS[wildcards.label],
        downloads=f"{DATA}/downloads",
    message:
        "Preparing data set {wildcards.label}"
    script:
        "../scripts/prepare.py"


rule datasets:
    """Target: the data sets of the study, prepared."""
    input:
        data_files,
    params:
        verb=lambda wildcards: "would be" if only_looks() else "are",
    message:
        f"The data sets of study {STUDY.name} {{params.verb}} prepared."
