# What a call shows: in a terminal a line for the study below one for each job, elsewhere Snakemake's text and a line a minute.
#
# Snakemake finds logger plugins among installed modules alone, and a profile that names one which is not there stops each
# call: one from a clone without `make env`, or in an older environment. So the handler is put in here instead.
from smallbatch.runs import status
from smallbatch.terminal import progress_line

TALKING = {"cost", "preview", "publish"}
"""Rules whose jobs write to the terminal themselves."""


def look():
    return status.study_status(STUDY, Path(DATA), Path(RESULTS))


def watched():
    """Whether jobs are to run, as this project's own call, and Snakemake's text was not asked for by an option."""
    asked = workflow.output_settings
    own = workflow.is_main_process and workflow.modifier.is_main_snakefile()
    return own and not (asked.dryrun or asked.quiet or asked.verbose or asked.debug_dag or asked.printshellcmds)


def terminal_lines():
    """Put the handler of the terminal in the place of Snakemake's; none where there is no terminal, or another logger."""
    logger = workflow.logger_manager.logger
    handler = next((handler for handler in logger.handlers if handler.name == "DefaultStreamHandler"), None)
    if not (watched() and handler and handler.stream is sys.stderr and os.isatty(2)):
        return None
    lines = progress_line.StatusLogHandler(handler, look)
    logger.removeHandler(handler)
    logger.addHandler(lines)
    return lines


TERMINAL = terminal_lines()


onstart:
    check_cluster()
    if watched() and not TALKING.intersection(job.rule.name for job in workflow.dag.needrun_jobs()):
        if TERMINAL:
            TERMINAL.watch()
        else:
            progress_line.print_progress_lines(look)
