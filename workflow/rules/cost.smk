# What a study takes, printed before anything is trained.


rule cost:
    log:
        f"logs/cost/{STUDY.name}.log",
    benchmark:
        f"benchmarks/rules/cost/{STUDY.name}.tsv"
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
        speeds=str(SPEEDS_FILE),
    message:
        "Measuring what study {STUDY.name} takes on this device"
    script:
        "../scripts/cost.py"
