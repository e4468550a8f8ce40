# Packs of runs are trained. Runs go to the run store, results/runs, which is addressed by content: a run's folder is whole
# or not there, and its name says all that it depends on. Its file `.done` says only that the pack is through.


rule train:
    """Train what is missing of a pack of runs."""
    input:
        meta=lambda wildcards: prepared(PLAN.packs[wildcards.pack].data),
    output:
        touch(f"{RESULTS}/packs/{{pack}}.done"),
    log:
        "logs/train/{pack}.log",
    benchmark:
        "benchmarks/rules/train/{pack}.tsv"
    priority: training_priority
    conda:
        "../../envs/training.yaml"
    threads: training_slots
    resources:
        mem_mb=training_memory,
        runtime=training_minutes,
        gres=training_gres,
        estimate=training_estimate,
    params:
        runs=pack_runs,
        results=lambda wildcards, output: str(Path(output[0]).parents[1]),
        training=config["training"],
    message:
        "Training pack {wildcards.pack} ({resources.estimate}; at most {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/train.py"


rule trained:
    """Target: the runs of the study, without tables and figures but for those that rates are chosen from."""
    input:
        lambda wildcards: [file for e in STUDY.experiments for file in pending_runs(SimpleNamespace(experiment=e))],
    message:
        f"The runs of study {STUDY.name} are trained."
