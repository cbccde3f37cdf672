"""`meshgan data …`: corpora, imports, and what a FaceSet holds."""

import typer

app = typer.Typer(help="Make, import and look at sets of faces.", no_args_is_help=True)
