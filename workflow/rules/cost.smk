# What a study takes, printed before anything is trained.


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
