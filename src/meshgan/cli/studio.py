"""`meshgan studio` and `meshgan export`: faces in the browser, and the generator as ONNX."""

import json
import signal
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated

import typer

from meshgan.cli import MODEL, SHIPPED, JsonOption, ModelName
from meshgan.cli.use import ModelArgument
from meshgan.errors import UsageError, missing_extra

if TYPE_CHECKING:
    from meshgan.studio.gate import Gate

OLDEST_OPSET = 18  # older ones lack what the exporter writes
DEMO = Path("demo/run")  # what `make demo` leaves
OPENS = ("head", "identity")  # of the models that ship, the first there is


def studio(
    identity: Annotated[
        ModelName | None,
        typer.Argument(metavar="ID_MODEL", help="Identity model: a folder, or the name of one that ships.", **MODEL),
    ] = None,
    expression: Annotated[
        ModelName | None, typer.Argument(metavar="EXP_MODEL", help="Expression model, of the same template.", **MODEL)
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes any free port.")] = 8080,
    host: Annotated[
        str, typer.Option(help="0.0.0.0 opens the studio to your network; then it asks visitors for a token.")
    ] = "127.0.0.1",
    behind: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="The address that browsers see, if a proxy stands in front: https://faces.example.org/studio/.",
        ),
    ] = "",
) -> None:
    """Make faces in the browser: random ones, by sliders, between others, like a mesh of yours; then take them away.

    Without models, the heads that ship are shown. Where no expression model is of the identity model's template,
    expressions are those of its rig. The page opens at once, and shows faces when the models are there. Ctrl-C stops
    the studio.

    Example: `meshgan studio runs/identity runs/expression`
    """
    if not find_spec("viser"):
        raise missing_extra("the studio", "studio")
    first = _first(identity)
    from meshgan.studio.gate import Gate  # what follows takes seconds, so the door is open before

    for number in (signal.SIGINT, signal.SIGTERM):  # also where Ctrl-C was ignored when we began
        signal.signal(number, _give_up)
    gate = Gate(host, port, behind)
    try:
        _announce(gate.addresses, bool(gate.token), wanted=port, got=gate.port)
        _show(gate, first, expression)
    except KeyboardInterrupt:
        pass  # while models are being loaded
    finally:
        gate.stop()
    print("The studio is closed.", flush=True)


def _first(identity: str | None) -> str:
    """The identity model that was named, else one that ships, else the demo's; `UsageError` if there is none."""
    if identity is None:
        for name in OPENS:
            if _is_model(SHIPPED / name):
                return name
        if not _is_model(DEMO / "model"):
            raise UsageError(
                f"there is no model to show: name one, as in `meshgan studio runs/first`, or let `make demo` train "
                f"{DEMO}."
            )
        return str(DEMO)
    if not any(map(_is_model, (Path(identity), Path(identity) / "model", SHIPPED / identity))):
        from meshgan.model.model_folder import find_model

        find_model(identity)  # says what is wrong, before there is an address
    return identity


def _show(gate: "Gate", first: str, expression: str | None) -> None:
    """Load the models, and let visitors in until somebody asks for the end.

    The shipped expressions also go with any identity model of their template.
    """
    print(f"Loading {first} …", flush=True)
    from meshgan.studio.page import Shared
    from meshgan.studio.server import Studio
    from meshgan.studio.sliders import load_pair, rig_model

    pair = None
    if expression is None and _is_model(SHIPPED / "expression"):
        with suppress(UsageError):
            pair = load_pair(first, "expression")
    person, feeling = pair or load_pair(first, expression)
    shared = Shared(person, feeling or rig_model(person.template))
    asked = _asked_to_end()
    running = Studio(shared, gate)
    try:
        print("Ready.", flush=True)
        asked.get()
    finally:
        running.stop()


def _is_model(folder: Path) -> bool:
    return (folder / "model.json").is_file()


def _announce(addresses: list[str], guarded: bool, wanted: int, got: int) -> None:
    """Say where the studio is, and what there is to know of it, at once: who reads an address may end it before the
    next line."""
    lines = [f"Port {wanted} is taken, so the studio is at {got}."] if wanted not in (0, got) else []
    lines.append(f"The studio is open at {' or '.join(addresses)} (Ctrl-C closes it).")
    if guarded:
        lines.append(
            "Warning: others on your network can reach it. Only who has an address with its token may enter; the "
            "connection is not encrypted, so share it only where you trust the network."
        )
    print("\n".join(lines), flush=True)


def _give_up(*_: object) -> None:
    raise KeyboardInterrupt


def _asked_to_end() -> "SimpleQueue[int]":
    """A queue that gets something at Ctrl-C, or when the process is asked to end.

    A queue, because it may be filled from a signal's handler, unlike an event, whose lock the waiting thread may hold.
    """
    asked: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda caught, _: asked.put(caught))
    return asked


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", help="The ONNX file to write.")],
    opset: Annotated[
        int | None, typer.Option(min=OLDEST_OPSET, help="Version of ONNX's operators, for engines that lag behind.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the generator as ONNX: codes in, vertices in millimetres out, any batch size.

    The file is checked against the model before it appears. Its metadata holds the model card and how codes are drawn.

    Example: `meshgan export runs/first --out face.onnx`
    """
    from meshgan.model.load import load_model
    from meshgan.model.onnx import export_onnx

    if out.suffix != ".onnx":
        raise UsageError(f"{out} should end in .onnx.")
    loaded = load_model(model)
    export_onnx(loaded, out, opset)
    if as_json:
        shape = [len(loaded.template.vertices), 3]
        print(json.dumps({"file": str(out), "code": loaded.code_size, "vertices": shape, "bytes": out.stat().st_size}))
        return
    print(
        f"Wrote {out}: codes (batch, {loaded.code_size}) in, vertices (batch, {len(loaded.template.vertices)}, 3) out."
    )
