# Runs become tidy tables.


rule table:
    input:
        packs=lambda wildcards: packs_to_train(),
        metas=[ancient(f"{DATA}/{label}/{META}") for label in STUDY.labels],
    output:
        runs=report(f"{RESULTS}/{{study}}/runs.parquet", caption="../report/table.rst", category="Tables"),
        csv=report(f"{RESULTS}/{{study}}/runs.csv", caption="../report/table.rst", category="Tables"),
        epochs=f"{RESULTS}/{{study}}/epochs.parquet",
    log:
        "logs/table/{study}.log",
    benchmark:
        "benchmarks/rules/table/{study}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        study=STUDY.name,
        datasets=config["datasets"],
        results=RESULTS,
        threshold=config["convergence_threshold"],
        planned=STUDY.digest(),
    message:
        "Collecting the runs of study {wildcards.study}"
    script:
        "../scripts/table.py"
