# Tables and figures become one page; and what Snakemake's own report shows of them.

# The text of its front page has nothing else to take it from.
if "--report" in {argument.partition("=")[0] for argument in sys.argv}:
    from smallbatch.publish import report as own_report

    config["front"] = own_report.front(STUDY.name, STUDY.title, Path(RESULTS, STUDY.name, "claims.csv"))


rule page:
    """Write the report."""
    input:
        runs=f"{RESULTS}/{{study}}/runs.parquet",
        variance=f"{RESULTS}/{{study}}/variance.parquet",
        claims=f"{RESULTS}/{{study}}/claims.csv",
        figures=[f"{FIGURES}/{{study}}/{figure}.svg" for figure in STUDY.figures],
        template=workflow.source_path("../smallbatch/templates/report.html.j2"),
    output:
        page=report(
            f"{RESULTS}/{{study}}/report.html",
            caption="../report/page.rst",
            category="Report",
            labels={"page": "Claims, results, figures, settings"},
        ),
        checksums=f"{RESULTS}/{{study}}/checksums/page.json",
    log:
        "logs/page/{study}.log",
    benchmark:
        "benchmarks/rules/page/{study}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        study=STUDY.as_json(),
        near=config["claims"]["near"],
        repository=repository(Path(LIBRARY).parent),
        code=CODE["report"],
        made_by=JOB_DIGESTS["page"],
    message:
        "Writing the report of study {wildcards.study}"
    script:
        "../scripts/report.py"


rule report:
    """Target: the report of the study; trains what it lacks."""
    input:
        f"{RESULTS}/{STUDY.name}/report.html",
        checksum_file("page"),
    message:
        f"The report of study {STUDY.name} is {{input[0]}}."
