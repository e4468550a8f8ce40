# Small-batch training studies: data -> runs -> tables -> figures -> report.
#
#   snakemake --cores 8 all                          the study that config/config.yaml names
#   snakemake --cores 8 --config study=NAME all      another one of config/studies
#   snakemake --cores 1 preview                      figures from the runs that exist so far
from snakemake.utils import min_version

min_version("9.0")


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/datasets.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    datasets,
    figures,
    report,


rule all:
    default_target: True
    input:
        rules.figures.input,
        rules.report.input,
    message:
        "Study {STUDY.name} is complete."
