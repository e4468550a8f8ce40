# What a study takes, printed before anything is trained.


def sized_by_preparing(wildcards):
    """Of the study's data sets those whose size only preparing tells; an original's is known before it is downloaded."""
    preflight()
    labels = [label for label in STUDY.labels if original_size(DATASETS[label]) is None]
    for label in labels:
        check_source_of(label)
    return [str(meta_file(label)) for label in labels]


# Has no output, nor a benchmark, which counts as one, so that it measures whenever it is asked to.
rule cost:
    """Target: measure what the study takes on this device, before anything is trained."""
    input:
        sized_by_preparing,
    log:
        f"logs/cost/{STUDY.name}.log",
    conda:
        "../../envs/training.yaml"
    threads: workflow.cores or 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        study=STUDY.as_json(),
        datasets=config["datasets"],
        data=DATA,
        training=config["training"],
        timings=str(TIMINGS_FILE),
    message:
        f"Measuring what study {STUDY.name} takes on this device"
    script:
        "../scripts/cost.py"
