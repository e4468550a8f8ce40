# Where the library is; and the configuration as the library reads it, in one line where Snakemake would fail at it.
import importlib.util
import os
import shlex
import signal
import sys
from pathlib import Path

# Jobs find the library by this too, in whatever environment they run (`--sdm conda`). A workflow that uses this one as a
# module from a forge (`github(...)`) has no folder of it, and takes the library that is installed.
if workflow.current_basedir.is_local:
    LIBRARY = os.path.dirname(workflow.current_basedir.get_path_or_uri(secret_free=False))
    if found := set("{}:").intersection(LIBRARY):
        reason = (
            f"has {' '.join(sorted(found))} in its path, which Snakemake and Python read as theirs; rename the folder"
        )
        sys.exit(f"error: {os.path.dirname(LIBRARY)}: {reason}")
    sys.path.insert(0, LIBRARY)
    os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [LIBRARY, os.getenv("PYTHONPATH")])))
elif installed := importlib.util.find_spec("smallbatch"):
    LIBRARY = os.path.dirname(os.path.dirname(installed.origin))
else:
    reason = "its library is not installed here; see docs/install.md"
    sys.exit(f"error: {workflow.current_basedir.get_path_or_uri(secret_free=True)}: {reason}")
# Snakemake 9.27 puts it into shell lines as it stands, and folders may have spaces, brackets and quotes.
sys.executable = shlex.quote(sys.executable)
# A notebook sets a way to draw that it alone has.
os.environ.update(MPLBACKEND="agg")
# So that a training knows that it has a job of the cluster for itself.
if not workflow.is_main_process:
    os.environ.update(SMALLBATCH_SUBMITTED="yes")


def hung_up(number, frame):
    """A terminal that closes ends Snakemake as Ctrl-C does, which leaves no lock behind."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if os.getsid(0) == os.getpid():  # to which alone it is sent
        os.killpg(0, signal.SIGHUP)
    raise KeyboardInterrupt


# `nohup` has it ignored.
if workflow.is_main_process and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
    signal.signal(signal.SIGHUP, hung_up)

from smallbatch.core.errors import UserError
from smallbatch.study.yaml_validation import read_yaml

try:
    if os.path.lexists("config/config.yaml"):
        read_yaml(Path("config/config.yaml"))
except UserError as error:
    sys.exit(f"error: {error}")
