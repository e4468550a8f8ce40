# Small-batch training studies: data -> runs -> tables -> figures -> report.
#
#   snakemake --cores 8 all                          the study that config/config.yaml names
#   snakemake --cores 8 all --config study=NAME      another one of config/studies
#   snakemake preview                                figures from the runs that exist so far
#   snakemake publish                                a finished study for others, through DVC
#   snakemake crate                                  a finished study with its provenance, as one RO-Crate
#   snakemake cost                                   what the study takes on this device
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/library.smk"


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/pending.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/cluster.smk"
include: "workflow/rules/datasets.smk"
include: "workflow/rules/cost.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/sharing.smk"


localrules:
    all,
    datasets,
    tables,
    figures,
    report,
    publish,
    crate,


rule all:
    default_target: True
    input:
        data_files,
        rules.tables.input,
        rules.figures.input,
        rules.report.input,
    message:
        f"Study {STUDY.name} is complete."
