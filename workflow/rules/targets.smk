# Targets for one experiment or one figure, and what is asked for that is none. Read last, when all rules are known.

for experiment, e in STUDY.experiments.items():

    rule:
        """Target: an experiment of the study, its runs and tables; trains what they lack."""
        name:
            f"experiment:{experiment}"
        input:
            [str(chosen_file(experiment))] if e.best_of else [],
            [tables(kind, [experiment]) for kind in KINDS],
            checksum_file(f"table-{experiment}"),
        message:
            f"The tables of experiment {experiment} are in {RESULTS}/{STUDY.name}/experiments/{experiment}."


for figure in STUDY.figures:

    rule:
        """Target: a figure of the study; trains what it lacks."""
        name:
            f"figure:{figure}"
        input:
            [picture for picture in PICTURES if Path(picture).stem == figure],
            checksum_file(f"figure-{figure}"),
        message:
            f"The figure is {FIGURES}/{STUDY.name}/{figure}.pdf, .svg and .png."


# Snakemake knows its targets only when all rules are read, and then says that it has no rule for them; and the folders
# that jobs write into it lists before any input is asked for. Of a module the caller has other rules.
if workflow.is_main_process and workflow.modifier.is_main_snakefile():
    try:
        known = {rule.name for rule in workflow.rules}
        if snakemake_option_checks.may_need_target_check(sys.argv[1:], STUDY, known):
            targets = get_argument_parser().parse_known_args()[0].targets  # takes a second
            snakemake_option_checks.refuse_other_studies(targets, STUDY.name, studies())
            snakemake_option_checks.refuse_unknown(targets, STUDY, known, studies_with)
        check_what_stands()
    except UserError as error:
        sys.exit(f"error: {error}")
