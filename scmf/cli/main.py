"""The command line: the application, its entry point and its exit codes.

Lives here: which verbs exist and how errors end a process. Lives elsewhere: the verbs (reproduce, train, finetune,
evaluate, files, perturb, data, models, publish), shared options (options), printing (output). Each verb parses, calls
one function and prints. stdout carries the answer (a table, or one JSON value with --json); progress and errors go to
stderr. Nothing heavy is imported at the top, so that ``scmf --help`` answers at once.

Exit codes: 0 done and fine; 1 a negative answer (a verdict is off, a check found an error); 2 and above
are errors, see scmf/core/errors.py; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from scmf.cli.data import data_app
from scmf.cli.evaluate import compare, evaluate, tasks
from scmf.cli.files import check, embed, schema
from scmf.cli.finetune import finetune, predict
from scmf.cli.models import models_app
from scmf.cli.options import RENAMED_HELP, refuse_renamed
from scmf.cli.output import Commands, complain, print_json, show_traceback
from scmf.cli.perturb import perturb
from scmf.cli.plan import plan
from scmf.cli.publish import publish
from scmf.cli.reproduce import reproduce
from scmf.cli.train import sweep, train

if TYPE_CHECKING:
    from scmf.core.errors import ScmfError

app = typer.Typer(
    name="scmf",
    cls=Commands,
    help="Reproducible recipes for single-cell foundation models. AnnData in, AnnData out.",
    epilog=RENAMED_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (
    reproduce, compare, plan, train, finetune, sweep, evaluate, tasks, embed, predict, perturb, check, publish, schema,
):  # fmt: skip
    app.command()(verb)
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")

_STOPPED = 130
"""Exit code after Ctrl-C: 128 and the number of the signal, as shells have it."""
_FIRST_TELLS_S = 5
"""So long another process waits with its error, which mostly is that of all."""


@app.callback()
def every_command(
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Let classes that a file names by package.module:Class, and plugins, run."),
    ] = False,
) -> None:
    """Reproducible recipes for single-cell foundation models. AnnData in, AnnData out."""
    from scmf.core import registry

    registry.trust(trust)


def main() -> None:
    """Entry point: errors of ours, of the system and of libraries that read files, and Ctrl-C, become a few words.

    What nobody foresaw keeps its traceback: it is a fault of ours. Of several processes (torchrun, accelerate launch)
    the first one prints the answer.
    """
    from scmf.core.errors import ScmfError, resource_error

    sys.excepthook = show_traceback
    if next((word for word in sys.argv[1:] if not word.startswith("-")), "") == "train":
        _adopt()
    if (parent := os.environ.pop("SCMF_STARTED_BY", "")).isdecimal():
        from scmf.core import watch

        watch.follow(int(parent))
    several = os.environ.get("WORLD_SIZE", "1").strip() not in ("", "0", "1")
    first = not several or os.environ.get("RANK", "0").strip() == "0"
    if several:  # one error in our words, not the frames of a store that lost its processes
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    if not first:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  (for as long as the process lives)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name need not be text
    code = 0
    try:
        refuse_renamed(sys.argv[1:])
        if several and first:
            from scmf.core import watch

            watch.say = _say
        app()
    except ScmfError as error:
        if several and not first:  # the first process may say the same; torchrun ends this one then
            time.sleep(_FIRST_TELLS_S)
        code = _say(error)
    except (KeyboardInterrupt, SystemExit) as stop:
        # typer turns Ctrl-C into an exit with this code and no word
        code = stop.code if isinstance(stop, SystemExit) and isinstance(stop.code, int) else _STOPPED
        if code == _STOPPED:
            print("stopped; repeat the command to resume", file=sys.stderr)
    except Exception as error:
        known = resource_error(error)
        if known is None:
            raise
        code = _say(known)
    if several:
        from scmf.core.distributed import leave

        leave(code)
    raise SystemExit(code)


def _adopt() -> None:
    """Be the process of a run that srun says this is."""
    from scmf.core import slurm
    from scmf.core.errors import ScmfError

    try:
        slurm.adopt()
    except ScmfError as error:
        raise SystemExit(_say(error)) from error


def _say(error: ScmfError) -> int:
    """Print one of our errors; its exit code."""
    if "--json" in sys.argv:
        print_json(error.to_json())
    else:
        complain(f"{type(error).__name__}\n{error}")
    return error.exit_code
