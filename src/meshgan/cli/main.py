"""The command line: `meshgan VERB`. Each verb calls one function; this file holds how errors are shown."""

import atexit
import gc
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from meshgan import __version__
from meshgan.cli import Verbs, bench, data, evaluate, studio, train, use
from meshgan.errors import MeshganError, MeshganWarning
from meshgan.machine import end_in_order

PARAMETER = re.compile(r"(?<!extra )`([a-z_]+)(?:=([^`]*))?`")  # of a function, in what the library says

app = Verbs(
    name="meshgan",
    help="Generative models of 3D faces on triangle meshes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# What `meshgan -h` shows, in the order of a piece of work.
GROUPS = {
    "Data": (data.register, data.measure),
    "Train": (train.train,),
    "Use": (
        use.sample,
        use.fit,
        use.interpolate,
        use.compose,
        use.rig,
        use.drive,
        use.directions,
        studio.studio,
        studio.export,
    ),
    "Measure": (evaluate.evaluate, evaluate.report, evaluate.reproduce),
}
for group, verbs in GROUPS.items():
    for verb in verbs:
        app.command(rich_help_panel=group)(verb)
app.add_typer(data.app, name="data", rich_help_panel="Data")
app.add_typer(train.recipes, name="recipes", rich_help_panel="Train")
app.add_typer(bench.app, name="bench", rich_help_panel="Measure")


@app.callback(invoke_without_command=True)
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Generative models of 3D faces on triangle meshes."""
    if debug:
        os.environ["MESHGAN_DEBUG"] = "1"
        logging.basicConfig(force=True)
    if version:
        print(f"meshgan {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; exit status 0, 2 for wrong use, 1 for failure, 130 for Ctrl-C.

    Whatever ends a verb is one sentence; `--debug` shows the traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter shows its number
    os.environ["MPLBACKEND"] = "agg"  # no verb opens a window, whatever the user's settings say
    end_in_order()
    gc.set_threshold(10_000, 10, 10)  # what libraries make on being imported is no rubbish: looking for it takes 5 %
    atexit.register(gc.freeze)  # at its end Python would look through all objects, some times over
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # it takes whatever comes behind
    logging.getLogger().addHandler(logging.NullHandler())  # other libraries' logs, with tracebacks, are for developers
    try:
        app()
    except KeyboardInterrupt:
        print("meshgan: interrupted.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if "MESHGAN_DEBUG" in os.environ:
            raise
        print(f"meshgan: {sentence(error)}", file=sys.stderr)
        sys.exit(error.exit_status if isinstance(error, MeshganError) else 1)


def sentence(error: Exception) -> str:
    """What ended a verb, in one line for a person."""
    if isinstance(error, MeshganError):
        text = in_options(str(error), sys.argv[1:])
    elif isinstance(error, MemoryError):
        text = "the memory does not suffice; ask for fewer at a time, or close other programs."
    elif isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        text = f"{place}{error.strerror or error}; choose another place, or mend this one."
    else:
        text = f"this is a fault of meshgan ({type(error).__name__}: {error}); `meshgan --debug …` shows where."
    return " ".join(text.split())


def in_options(text: str, words: Sequence[str]) -> str:
    """A sentence of the library, whose parameters are those of Python, in the options of the verb that `words` call.

    `resume=True` becomes `--resume`, `seed=3` becomes `--seed 3`, and `out` becomes `--out`; what the verb has no
    option for stays.
    """
    command: Any = typer.main.get_command(app)
    for word in words:
        command = getattr(command, "commands", {}).get(word, command)
    options = {
        parameter.name: max(parameter.opts, key=len)
        for parameter in command.params
        if parameter.opts[0].startswith("-")
    }

    def worded(match: re.Match[str]) -> str:
        option, value = options.get(match[1]), match[2]
        if option is None:
            return match[0]
        return f"`{option}`" if value in (None, "True") else f"`{option} {value.strip(chr(39))}`"

    return PARAMETER.sub(worded, text)


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """What a reader has to tell (see `MeshganWarning`) as a line; other libraries' warnings are for developers."""
    if issubclass(category, MeshganWarning):
        print(f"meshgan: {' '.join(in_options(str(message), sys.argv[1:]).split())}", file=sys.stderr)


if __name__ == "__main__":
    main()  # `torchrun -m meshgan.cli.main train …`
