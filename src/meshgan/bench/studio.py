"""How long the studio's server needs for a slider's movement, of faces with an expression model and heads with a rig.

Two figures: the work itself (move the code, decode both networks, measure the face), and the whole way as a browser
sees it, from sending the slider's value to holding the new vertices, over a WebSocket on this machine. The viewer
collects what it sends for up to a sixtieth of a second, which the second figure includes. What the browser then needs
to draw is measured by tests/studio/test_browser.py.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from meshgan.errors import missing_extra

LIMIT_MS, WORK_LIMIT_MS = 50.0, 15.0
MOVES = 200
PAUSE = 0.02  # seconds between movements: nobody is faster
CAMERA = {
    "type": "ViewerCameraMessage",
    "wxyz": (1.0, 0.0, 0.0, 0.0),
    "position": (0.0, 0.0, 500.0),
    "fov": 0.4,
    "near": 10.0,
    "far": 20000.0,
    "image_height": 900,
    "image_width": 1440,
    "look_at": (0.0, 0.0, 0.0),
    "up_direction": (0.0, 1.0, 0.0),
}


def run() -> dict[str, Any]:
    """Median and 95th percentile of both figures in milliseconds, for each pair of models; prints them."""
    if not find_spec("viser"):
        raise missing_extra("this", "studio")
    from meshgan.bench.twins import conditions
    from meshgan.studio.page import Shared

    result: dict[str, Any] = {"machine": conditions(), "limit_ms": LIMIT_MS, "work_limit_ms": WORK_LIMIT_MS}
    for name, pair in _models().items():
        shared = Shared(*pair)
        work, whole = _summary(_work(shared)), _summary(_round_trips(shared))
        vertices = len(shared.identity.template.vertices)
        print(f"{name}, {vertices:,} vertices")
        _show("decoding and measuring", work, WORK_LIMIT_MS)
        _show("slider to new vertices", whole, LIMIT_MS)
        result[name] = {
            "vertices": vertices,
            "work_ms": work,
            "round_trip_ms": whole,
            "within_limits": whole["median"] < LIMIT_MS and work["median"] < WORK_LIMIT_MS,
        }
    return result


def _show(what: str, times: dict[str, float], limit: float) -> None:
    held = "held" if times["median"] < limit else "MISSED"
    print(
        f"  {what}   median {times['median']:5.1f} ms, 95 % within {times['p95']:5.1f} ms; limit {limit:.0f} ms: {held}"
    )


def _models() -> dict[str, Any]:
    """Faces with an expression model, and heads with their rig: the networks of `meshgan`, with details of chance,
    untrained, for speed does not depend on weights."""
    from meshgan.data.corpora.basis import face_template
    from meshgan.data.corpora.heads import head_template
    from meshgan.studio.sliders import expression_model, identity_model, rig_model

    faces, heads = _untrained(face_template()), _untrained(head_template())
    return {
        "faces": (identity_model(faces, None), expression_model(faces, None)),
        "heads": (identity_model(heads, None), rig_model(heads.template)),
    }


def _untrained(template: Any) -> Any:
    from meshgan.geometry.hierarchy import Hierarchy
    from meshgan.model.face_model import FaceModel
    from meshgan.model.model_folder import ModelCard, ModelParts, Origin
    from meshgan.nn.networks import Decoder
    from meshgan.nn.plan import NetworkSpec

    torch.manual_seed(0)
    spec, hierarchy = NetworkSpec(linear=True, detail=True), Hierarchy.cached(template)
    origin = Origin(recipe="", data="none", source="", licence="CC0-1.0", synthetic=True, faces_seen=0, seed=0)
    card = ModelCard(
        kind="network", name="untrained", code=spec.code, network=spec, sampler="uniform", origin=origin,
        template=template.content_hash,
    )  # fmt: skip
    weights = Decoder(hierarchy, spec).state_dict()
    tensors = {f"generator/{name}": tensor.numpy() for name, tensor in weights.items()} | {
        "normalisation/mean": template.vertices.astype(np.float32),
        "normalisation/std": np.ones(template.vertices.shape, np.float32),
    }
    return FaceModel(ModelParts(card, template, hierarchy, tensors))


def _work(shared: Any) -> list[float]:
    from meshgan.studio.session import Session

    session = Session(shared.identity, shared.expression, seed=0)

    def move(value: float) -> None:
        session.slide("id-1", value)
        session.measure()

    return _times(move)


def _round_trips(shared: Any) -> list[float]:
    from meshgan.studio.gate import Gate
    from meshgan.studio.server import Studio

    running = Studio(shared, Gate(port=0))
    try:
        with _visitor(running.addresses[0]) as move:
            return _times(move)
    finally:
        running.stop()


@contextmanager
def _visitor(address: str) -> Iterator[Callable[[float], None]]:
    """Connect as a browser does. Gives what moves the first slider and waits for the vertices that follow."""
    import msgspec
    import viser
    from websockets.sync.client import connect

    protocol: Any = f"viser-v{viser.__version__}"
    with connect(address.replace("http", "ws", 1), subprotocols=[protocol], compression=None, max_size=None) as socket:
        socket.send(msgspec.msgpack.encode(CAMERA))
        messages = (message for data in socket for message in _messages(data))
        slider = next(m["uuid"] for m in messages if m["type"] == "GuiSliderMessage")
        time.sleep(1.0)  # the rest of the page

        def move(value: float) -> None:
            update = {"type": "GuiUpdateMessage", "uuid": slider, "updates": {"value": value}}
            socket.send(msgspec.msgpack.encode(update))
            next(m for m in messages if m.get("name") == "/face" and "vertices" in m.get("updates", ()))

        yield move


def _messages(data: Any) -> list[dict[str, Any]]:
    """The messages of one packet: two sizes, then compressed msgpack, then arrays, which are left aside."""
    import msgspec
    import zstandard

    end = 16 + int.from_bytes(data[8:16], "little")
    found: list[dict[str, Any]] = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(data[16:end]))[
        "messages"
    ]
    return found


def _times(move: Callable[[float], None]) -> list[float]:
    """Milliseconds of each of `MOVES` movements, after a few to warm up."""
    seconds = []
    for number in range(MOVES + 5):
        time.sleep(PAUSE)
        start = time.perf_counter()
        move(0.05 * (1 + number % 40))
        seconds.append(1000 * (time.perf_counter() - start))
    return seconds[5:]


def _summary(times: list[float]) -> dict[str, float]:
    return {"median": float(np.median(times)), "p95": float(np.quantile(times, 0.95))}
