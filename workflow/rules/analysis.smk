# Runs become tidy tables.


rule table:
    input:
        packs=lacking,
        metas=[f"{DATA}/{label}/{META}" for label in STUDY.labels],
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
        results=lambda wildcards, output: str(Path(output.runs).parents[1]),
        threshold=config["convergence_threshold"],
        planned=STUDY.digest(),
    message:
        "Collecting the runs of study {wildcards.study}"
    script:
        "../scripts/table.py"
