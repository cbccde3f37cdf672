"""The command line: `meshgan VERB`. Each verb calls one function; this file holds how errors are shown."""

import os
import sys
from typing import Annotated

import typer

from meshgan import __version__
from meshgan.cli import bench, compose, data, directions, evaluate, register, sample, studio, train
from meshgan.errors import MeshganError

app = typer.Typer(
    name="meshgan",
    help="Generative models of 3D faces on triangle meshes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.command()(register.register)
app.command()(train.train)
app.command()(sample.sample)
app.command()(sample.fit)
app.command()(sample.interpolate)
app.command()(evaluate.evaluate)
app.command()(evaluate.reproduce)
app.command()(evaluate.report)
app.command()(compose.compose)
app.command()(directions.directions)
app.command()(studio.studio)
app.command()(studio.export)


@app.callback(invoke_without_command=True)
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Generative models of 3D faces on triangle meshes."""
    if version:
        print(f"meshgan {__version__}")
        raise typer.Exit
    if debug:
        os.environ["MESHGAN_DEBUG"] = "1"


def main() -> None:
    """Run the command line; exit status 0, 2 for wrong use, 1 for failure, 130 for Ctrl-C."""
    try:
        app()
    except MeshganError as error:
        if "MESHGAN_DEBUG" in os.environ:
            raise
        print(f"meshgan: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("meshgan: interrupted.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()  # `torchrun -m meshgan.cli.main train …`
