# Tables become figures.

PICTURES = expand(f"{FIGURES}/{STUDY.name}/{{figure}}.{{form}}", figure=STUDY.figures, form=["pdf", "svg", "png"])


rule figure:
    """Draw a figure."""
    input:
        runs=lambda wildcards: tables("runs", figure_experiments(wildcards)),
        epochs=lambda wildcards: tables("epochs", figure_experiments(wildcards)),
        variance=lambda wildcards: tables("variance", figure_experiments(wildcards)),
    output:
        pdf=f"{FIGURES}/{{study}}/{{figure}}.pdf",
        svg=report(
            f"{FIGURES}/{{study}}/{{figure}}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels=lambda wildcards: figure_labels(wildcards.figure),
        ),
        png=f"{FIGURES}/{{study}}/{{figure}}.png",
        checksums=f"{RESULTS}/{{study}}/checksums/figure-{{figure}}.json",
    log:
        "logs/figure/{study}/{figure}.log",
    benchmark:
        "benchmarks/rules/figure/{study}/{figure}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=lambda wildcards: STUDY.figures[wildcards.figure],
        compared=lambda wildcards: STUDY.compared(wildcards.figure),
        pdf=config["figures"]["pdf"],
        code=CODE["figure"],
        made_by=lambda wildcards: JOB_DIGESTS[f"figure-{wildcards.figure}"],
    message:
        "Drawing {wildcards.figure} of study {wildcards.study}"
    script:
        "../scripts/figure.py"


rule figures:
    """Target: the figures of the study; trains what they lack."""
    input:
        PICTURES,
        [checksum_file(f"figure-{figure}") for figure in STUDY.figures],
    message:
        f"The figures of study {STUDY.name} are in {FIGURES}/{STUDY.name}."


# Has no output, nor a benchmark, which counts as one, so that it draws whenever it is asked to.
rule preview:
    """Target: figures from the runs that exist so far."""
    input:
        nothing,
    log:
        f"logs/preview/{STUDY.name}.log",
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        study=STUDY.as_json(),
        data=DATA,
        results=RESULTS,
        threshold=config["convergence_threshold"],
        folder=f"{RESULTS}/{STUDY.name}/preview",
    message:
        f"Drawing what there is of study {STUDY.name} into {{params.folder}}"
    script:
        "../scripts/preview.py"
