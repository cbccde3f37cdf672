"""Damaged, strange and hostile files of every kind that is read: `python tests/fuzz.py --count 20000`.

Whole files of each kind are made once, each input damages a copy of one, and what reads the kind must answer with
a sentence (`MeshganError`) or with content that makes sense, within ten seconds of processor time and two gigabytes.
Anything else is printed with the file kept beside. `make fuzz` runs it; `tests/test_fuzz.py` runs a part of it.
"""

import argparse
import dataclasses
import hashlib
import io
import json
import random
import re
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import safetensors.torch

from meshgan.errors import MeshganError

SECONDS, GIGABYTES = 10.0, 2.0
WORDS = ["", "nan", "inf", "-1", "0", "1e999", "1e-320", "9" * 25, "9" * 5000, "0.5", "x", "ü", "\ud800", "null"]
WORDS += [
    "true",
    "[]",
    "{}",
    '""',
    "2147483648",
    "-9223372036854775808",
    "1_000",
    "1,5",
    "0x10",
    "2026-01-01",
    "[" * 3000,
]
VALUES = [None, True, -1, 0, 0.5, 2**63, 10**400, 1e308, -1e308, "", "x", "\ud800", "\0", [], {}, [[]], [1], {"a": 1}]


class TooLong(BaseException):
    """Ten seconds of processor time went by."""


@dataclass(frozen=True)
class Kind:
    """A kind of file: a folder with whole ones, which of them are damaged, and what reads the folder."""

    folder: Path
    damaged: tuple[str, ...]
    read: Callable[[Path], Any]
    mend: Callable[[Path], None] = lambda _: None  # makes the hashes right again, so that what is below them is tried


# --- damage


def damage(data: bytes, rng: random.Random) -> bytes:
    """One to four changes of a file's bytes."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        data = rng.choice(DAMAGES)(data, rng)[: 4 * 2**20]
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 4, 32])):
        if changed:
            head = rng.random() < 0.5  # headers hold what matters
            place = rng.randrange(min(len(changed), 400) if head else len(changed))
            changed[place] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    pieces = [b"\0" * 8, b"\xff" * 8, b"\n" * 3000, b" " * 3000, rng.randbytes(20), b"\r", b"\x1a", data[:200]]
    more = rng.choice(pieces)
    return data[:place] + more + data[place:]


def _remove(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice([1, 4, 12, 100]) :]


def _number(data: bytes, rng: random.Random) -> bytes:
    """A word of a text becomes another; in binary, four bytes."""
    words = list(re.finditer(rb"[-+.\w]+", data[:20_000]))
    if not words:
        return data
    word = rng.choice(words)
    new = rng.choice(WORDS).encode("utf-8", "surrogatepass")
    return data[: word.start()] + new + data[word.end() :]


def _line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            del lines[place]
        case 1:
            lines.insert(place, lines[place])
        case 2:
            lines[place] = b""
        case _:
            other = rng.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
    return b"\n".join(lines)


def _encode(data: bytes, rng: random.Random) -> bytes:
    marked, wide = b"\xef\xbb\xbf" + data, data.decode("latin-1").encode("utf-16")
    return rng.choice([marked, wide, data.replace(b"\n", b"\r"), data.replace(b",", b";"), data.upper()])


def _integer(data: bytes, rng: random.Random) -> bytes:
    if len(data) < 8:
        return data
    place = rng.randrange(min(len(data) - 4, 2000))
    value = rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, len(data), len(data) * 2])
    return data[:place] + value.to_bytes(4, "little") + data[place + 4 :]


def _structure(data: bytes, rng: random.Random) -> bytes:
    """A value within JSON becomes another, goes, or is put into lists."""
    with suppress(ValueError, RecursionError):
        tree = json.loads(data)
        places = list(_places(tree))
        if not places:
            return data
        holder, key = rng.choice(places)
        match rng.randrange(4):
            case 0:
                del holder[key]
            case 1:
                for _ in range(rng.choice([1, 500])):
                    holder[key] = [holder[key]]
            case _:
                holder[key] = rng.choice(VALUES)
        return json.dumps(tree).encode()
    return data


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items)[:50]:
        yield tree, key
        yield from _places(value)


def _glb(data: bytes, rng: random.Random) -> bytes:
    """The description inside of a GLB file, changed as JSON is."""
    if not data.startswith(b"glTF") or len(data) < 20:
        return data
    size = int.from_bytes(data[12:16], "little")
    text = _structure(data[20 : 20 + size], rng)
    text += b" " * (-len(text) % 4)
    rest = data[20 + size :]
    length = 20 + len(text) + len(rest)
    return data[:8] + length.to_bytes(4, "little") + len(text).to_bytes(4, "little") + b"JSON" + text + rest


def _tensors(data: bytes, rng: random.Random) -> bytes:
    """The header inside of a safetensors file, changed as JSON is."""
    size = int.from_bytes(data[:8], "little")
    if not 0 < size < len(data) or data[8:9] != b"{":
        return data
    text = _structure(data[8 : 8 + size], rng)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _archive(data: bytes, rng: random.Random) -> bytes:
    """A file within an archive is damaged before it is packed, so that no checksum tells."""
    if not data.startswith(b"PK"):
        return data
    with suppress(zipfile.BadZipFile, KeyError, ValueError, OSError, NotImplementedError, zlib.error):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        name = rng.choice(list(files))
        files[name] = rng.choice([_flip, _flip, _cut, _remove, _number, _values])(files[name], rng)
        if rng.random() < 0.1:
            del files[name]
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
            for key, content in files.items():
                archive.writestr(key, content)
        return packed.getvalue()
    return data


def _values(data: bytes, rng: random.Random) -> bytes:
    """Floats in the second half become numbers that are none, or are too large."""
    if len(data) < 100:
        return data
    changed = bytearray(data)
    for _ in range(rng.choice([1, 50])):
        place = rng.randrange(len(data) // 2, len(data) - 4) // 4 * 4
        changed[place : place + 4] = np.float32(rng.choice([np.nan, np.inf, 3e38, 1e-44, -1.0])).tobytes()
    return bytes(changed)


DAMAGES = [_flip, _cut, _insert, _remove, _number, _number, _line, _encode, _integer, _structure, _structure]
DAMAGES += [_glb, _glb, _tensors, _values, _archive, _archive]


# --- whole files


def kinds(place: Path) -> dict[str, Kind]:
    """Whole files of every kind, made below `place`, with what reads them."""
    from meshgan.cli.fitting import read_code
    from meshgan.data.corpora.naming import read_labels
    from meshgan.data.faceset import Card, FaceSet, create_faceset
    from meshgan.data.summary import describe, summarise
    from meshgan.evaluation.metrics import Score
    from meshgan.evaluation.yardstick import Row
    from meshgan.geometry import glb
    from meshgan.geometry.align import Similarity
    from meshgan.geometry.files import read_mesh, write_mesh
    from meshgan.geometry.hierarchy import Hierarchy
    from meshgan.geometry.mesh import Mesh
    from meshgan.model.classifier import Classifier, ClassifierCard
    from meshgan.model.directions import FILE, Axes, Directions, estimate_directions
    from meshgan.model.drive import read_performance
    from meshgan.model.load import load_model
    from meshgan.nn.spline import ExpressionClassifier
    from meshgan.registration import jobs
    from meshgan.registration.landmarks import read_landmarks
    from meshgan.registration.templates import default_template, with_own_landmarks
    from meshgan.remembered import remember, remember_array
    from meshgan.report import pages
    from meshgan.report.results import Results
    from meshgan.studio.exchange import read_code as read_seed
    from meshgan.training.checkpoint import RunFolder, read_checkpoint
    from meshgan.training.loop import train
    from meshgan.training.recipe import load_recipe, parse_recipe

    tiny = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["RECIPE"]  # by path: there is another conftest
    from shapes import icosphere

    rng = np.random.default_rng(0)
    ball = icosphere(2, 80.0)
    text_ply = "ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nproperty float y\nproperty float z\n"
    text_ply += "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
    text_ply += "0 0 0\n9 0 0\n9 9 0\n0 9 0\n1.5 2e0 -3\n3 0 1 2\n4 0 2 3 4\n"
    mixed = text_ply.replace("ascii", "binary_big_endian").split("0 0 0\n")[0].encode()
    mixed += rng.random((5, 3)).astype(">f4").tobytes()
    mixed += b"".join(bytes([len(p)]) + np.array(p, ">i4").tobytes() for p in ([0, 1, 2], [0, 2, 3, 4]))
    text_stl = "solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0.5\nvertex 0 1e1 0\nendloop\n" * 3

    def sound_mesh(path: Path) -> None:
        mesh = read_mesh(path)
        assert len(mesh.triangles)
        assert np.isfinite(mesh.vertices).all()
        assert 0 <= mesh.triangles.min() <= mesh.triangles.max() < len(mesh.vertices)

    found: dict[str, Kind] = {}

    def add(name: str, files: dict[str, bytes | str], read: Callable[[Path], Any]) -> None:
        folder = place / name
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
        found[name] = Kind(folder, tuple(files), lambda here: [read(here / file) for file in files])

    write_mesh(place / "a.ply", ball)
    write_mesh(place / "a.obj", ball)
    write_mesh(place / "a.stl", ball)
    shift = {"smile": rng.normal(size=ball.vertices.shape)}
    whole = {ending: (place / f"a.{ending}").read_bytes() for ending in ("ply", "obj", "stl")}
    text_obj = "v 0 0 0\nv 1 0 0\nv 1 1 .5\nv 0 1 1e0\nvt 0 0\nf 1/1 2/1 3/1\nf -4 -2 -1\nf 1 2 3 4\n"
    add("obj", {"a.obj": text_obj}, sound_mesh)
    add("obj large", {"a.obj": whole["obj"]}, sound_mesh)
    add("ply", {"a.ply": whole["ply"]}, sound_mesh)
    add("ply text", {"a.ply": text_ply}, sound_mesh)
    add("ply mixed", {"a.ply": mixed}, sound_mesh)
    add("stl", {"a.stl": whole["stl"]}, sound_mesh)
    add("stl text", {"a.stl": text_stl}, sound_mesh)
    add("glb", {"a.glb": glb.write(ball, shift, {"smile": 0.5})}, sound_mesh)
    points = {str(k): rng.normal(size=3).round(3).tolist() for k in range(17, 29)}
    names = [str(k) for k in range(79)]

    def sound_marks(path: Path) -> None:
        marks = read_landmarks(path, names)
        assert np.isfinite(marks.points).all()
        assert len(marks)

    add("landmarks json", {"a.json": json.dumps(points)}, sound_marks)
    ljson = {"version": 2, "labels": [{"label": "nose", "mask": list(range(9))}]}
    ljson["landmarks"] = {"points": rng.random((9, 3)).tolist()}
    add("landmarks ljson", {"a.ljson": json.dumps(ljson)}, sound_marks)
    rows = "".join(f"{k},{x},{y},{z}\n" for k, (x, y, z) in points.items())
    add("landmarks csv", {"a.csv": "name,x,y,z\n" + rows}, sound_marks)
    picked = "".join(f'<point x="{x}" y="{y}" z="{z}" active="1" name="{k}"/>' for k, (x, y, z) in points.items())
    add("landmarks pp", {"a.pp": f"<!DOCTYPE PickedPoints><PickedPoints>{picked}</PickedPoints>"}, sound_marks)
    labels = "file,subject,age\n" + "".join(f"{k}.ply,s{k},{20 + k}\n" for k in range(9))
    add("labels", {"labels.csv": labels}, read_labels)

    def sound_take(path: Path) -> None:
        played = read_performance(path)
        assert len(played.times) == len(played.weights) == len(played.head)
        assert np.isfinite(played.weights).all()
        assert np.isfinite(played.head).all()
        assert (np.diff(played.times) > 0).all()

    shots = [(k / 4, 0.1 * k, -0.02 * k) for k in range(9)]
    take = "Timecode,BlendShapeCount,JawOpen,eyeBlinkLeft,HeadYaw\n"
    take += "".join(f"10:25:59:{k:02d}.000,61,{open_},{0.5},{yaw}\n" for k, (_, open_, yaw) in enumerate(shots))
    add("performance csv", {"a.csv": take}, sound_take)
    timed = [
        {"time": t, "blendshapes": {"jawOpen": open_, "viseme_aa": 0.2}, "headYaw": yaw} for t, open_, yaw in shots
    ]
    add("performance json", {"a.json": json.dumps(timed)}, sound_take)
    matrix = {"exportFps": 30, "facsNames": ["jawOpen", "cheekPuff"], "weightMat": [[o, 0.5] for _, o, _ in shots]}
    add("performance matrix", {"a.json": json.dumps({"fps": 30, **matrix})}, sound_take)
    add("recipe", {"a.toml": (Path(str(load_recipe.__globals__["SHIPPED"])) / "meshgan.toml").read_text()}, load_recipe)

    template = Mesh(ball.vertices, ball.triangles)
    faces = template.vertices * (1 + 0.05 * rng.normal(size=(24, 1, 3)))
    card = Card(name="small", source="made by a test", licence="CC0-1.0", synthetic=True)
    with create_faceset(place / "set", template, len(faces), card) as writer:
        writer.append(faces, [{"subject": f"s{row // 2}", "age": row} for row in range(len(faces))])

    def sound_set(folder: Path) -> None:
        opened = FaceSet.open(folder)
        describe(summarise(opened))
        assert opened.fingerprint
        assert np.isfinite(opened.normalisation.mean).all()
        assert len(opened.split.train)
        assert opened.vertices.shape == (len(opened.subjects), *opened.template.vertices.shape)

    files = ("card.json", "labels.csv", "template.ply", "vertices.npy")
    found["set"] = Kind(place / "set", files, sound_set)

    recipe = parse_recipe(tiny, "tiny.toml")
    train(recipe, FaceSet.open(place / "set"), place / "run")
    shutil.copytree(place / "run/model", place / "model")

    def sound_model(folder: Path) -> None:
        sample = load_model(folder).sample(1)
        assert np.isfinite(sample).all()

    model_files = _names(place / "model")
    found["model"] = Kind(place / "model", model_files, sound_model, rehash)

    def sound_run(folder: Path) -> None:
        run = RunFolder(folder)
        run.latest()
        run.lines()
        load_recipe(folder / "recipe.toml")

    run_files = _names(place / "run")
    found["run"] = Kind(place / "run", run_files, sound_run)
    shutil.copytree(place / "run", place / "page")
    drawn, draw = {}, pages._panel

    def panel(title: str, curves: Any) -> str:
        """Draw each panel once: most damage leaves most of them as they are."""
        key = repr((title, curves))
        if key not in drawn:
            drawn[key] = draw(title, curves)
        return drawn[key]

    def sound_page(folder: Path) -> None:
        with patch.object(pages, "_panel", panel):
            pages.write_run_page(folder, folder / "report.html")

    found["run page"] = Kind(place / "page", run_files, sound_page)
    newest = sorted(place.glob("run/checkpoint-*"))[-1]
    folder = place / "checkpoint"
    folder.mkdir()
    shutil.copy(newest, folder / newest.name)
    found["checkpoint"] = Kind(
        folder, (newest.name,), lambda here: read_checkpoint(here / newest.name), lambda here: resum(here / newest.name)
    )
    levels = place / "levels"
    levels.mkdir()
    Hierarchy.build(template, [40, 10]).save(levels / "h.npz")
    found["hierarchy"] = Kind(levels, ("h.npz",), lambda folder: Hierarchy.load(folder / "h.npz"))

    model = load_model(place / "model")
    add("code", {"a.json": json.dumps({"code": [0.1] * 4, "mean_mm": 0.3})}, lambda path: read_code(model, path, "mm"))
    add("seed", {"a.json": json.dumps({"code": [0.1] * 4})}, lambda path: read_seed(path.name, path.read_bytes()))

    anew = Axes.of(model)

    def sound_axes(folder: Path) -> None:
        with patch.object(Axes, "of", lambda _: anew):  # the same each time
            found = Axes.find(model, folder)
        assert found._fit(model)

    shutil.copytree(place / "model", place / "axes")
    anew.save(place / "axes")
    found["axes"] = Kind(place / "axes", ("axes.npz",), sound_axes)

    def sound_parts(folder: Path) -> None:
        def missing() -> Any:
            raise MeshganError("it is computed anew.")

        row = remember(folder, "row", "0", Row, missing)
        assert all(np.isfinite(score.value) for score in row.scores.values() if score)
        remember_array(folder, "fit", "0", (3, 5), missing)

    parts = place / "parts"
    parts.mkdir()
    scores = {"specificity_mm": Score(1.5, 0.1, (1.4, 1.6)), "diversity_mm": Score(5.0)}
    remember(parts, "row", "0", Row, lambda: Row(sampler="uniform", samples=5, scores=scores))
    remember_array(parts, "fit", "0", (3, 5), lambda: np.ones((3, 5), np.float32))
    found["evaluation parts"] = Kind(parts, ("row-0.json", "fit-0.f4"), sound_parts, resum_parts)

    tables = Path(__file__).parents[1] / "docs/results"
    for name in ("table1-desk.json",) if tables.is_dir() else ():
        add("results", {name: (tables / name).read_bytes()}, lambda path: Results.read(path).json())

    ours = default_template()
    size, names = len(ours.mesh.vertices), ours.landmark_names
    job = jobs.Job(Path("a.ply"), "a.ply", None, jobs.Settings("mm"), place / "registered", "a")
    job.work.mkdir()
    result = jobs.Result(ours.mesh.vertices.astype("f4"), np.arange(9), rng.normal(size=(9, 3)), Similarity.none())
    jobs.save(job, jobs.Outcome(scan="a.ply", verdict="good", median_mm=0.1, seconds=1.0), result)

    def sound_result(folder: Path) -> None:
        here = dataclasses.replace(job, work=folder)
        if jobs.outcome_of(here) is None:
            raise MeshganError("it is registered anew.")
        kept = jobs.result_of(here)
        assert kept.vertices.shape == (size, 3)
        assert np.isfinite(kept.to_scan(kept.vertices)).all()
        assert np.isfinite(kept.landmarks).all()

    found["registration"] = Kind(job.work, ("a.json", "a.npz"), sound_result)
    marks = [{"name": name, "vertices": [1, 2, 3], "weights": [0.5, 0.25, 0.25]} for name in names[:9]]
    add(
        "template landmarks",
        {"a.landmarks.json": json.dumps(marks)},
        lambda path: np.testing.assert_array_equal(
            np.isfinite(with_own_landmarks(ours, path).landmark_rows.toarray()), True
        ),
    )
    hierarchy = Hierarchy.build(template, [120, 80, 40, 10])
    judge_card = ClassifierCard(classes=("a", "b", "c"), origin=model.card.origin)
    Classifier(ExpressionClassifier(hierarchy, 3), hierarchy, judge_card).save(place / "classifier")

    def sound_classifier(folder: Path) -> None:
        assert np.isfinite(Classifier.load(folder).probabilities(faces[:1].astype("f4"))).all()

    found["classifier"] = Kind(place / "classifier", _names(place / "classifier"), sound_classifier, rehash)

    def sound_directions(folder: Path) -> None:
        loaded = Directions.load(folder)
        assert np.isfinite(loaded.move(codes, loaded.names[0], 1.0)).all()

    meaning = place / "meaning"
    meaning.mkdir()
    codes = rng.normal(size=(40, 4))
    estimate_directions(codes, {"age": codes[:, 0] + 0.1 * rng.normal(size=40)}).save(meaning)
    found["directions"] = Kind(meaning, (FILE,), sound_directions)
    return found


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(file.name for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")))


def rehash(folder: Path) -> None:
    """Write the true hashes into model.json, as somebody would who wants a damaged file to be believed."""
    with suppress(ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        card = json.loads((folder / "model.json").read_bytes())
        for name in card["files"]:
            card["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / "model.json").write_text(json.dumps(card))


def resum(path: Path) -> None:
    """Write the true digest into a damaged checkpoint."""
    from meshgan.training.checkpoint import Identity, _digest

    with suppress(Exception), safetensors.safe_open(path, framework="pt") as file:
        head = json.loads(file.metadata()["meshgan"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        head["digest"] = _digest(Identity.model_validate(head["run"]), head["step"], tensors)
        path.write_bytes(safetensors.torch.save(tensors, {"meshgan": json.dumps(head)}))


def resum_parts(folder: Path) -> None:
    """Write the true sums in front of damaged parts of an evaluation."""
    for path in folder.iterdir():
        content = path.read_bytes()[65:]
        path.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


# --- trying


def attempt(kind: Kind, folder: Path, verbose: bool = False) -> str:
    """What became of reading a damaged folder: `read`, `refused`, or what is wrong."""

    def stop(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGVTALRM, stop)
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = "read"
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(folder)
    except MeshganError as error:
        outcome = f"refused: {error}" if verbose else "refused"
        if "\n" in str(error) or len(str(error)) > 600:
            outcome = f"a message that is no sentence: {str(error)[:300]!r}"
    except TooLong:
        outcome = f"more than {SECONDS:.0f} s"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome = f"{type(error).__name__}: {str(error)[:120]} ({Path(place.filename).name}:{place.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if after - before > GIGABYTES * 2**20:
        outcome = f"{(after - before) / 2**20:.1f} GB"
    if time.process_time() - start > SECONDS:
        outcome = f"{time.process_time() - start:.0f} s"
    return outcome


def run(count: int, seed: int = 0, only: str = "", keep: Path | None = None, quiet: bool = False) -> dict[str, int]:
    """Try `count` damaged inputs of all kinds in turn; returns how often each fault occurred, with its kind."""
    resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    faults: Counter[str] = Counter()
    outcomes: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="meshgan-fuzz-") as scratch:
        (Path(scratch) / "whole").mkdir()
        chosen = {name: kind for name, kind in kinds(Path(scratch) / "whole").items() if only in name}
        for name, kind in chosen.items():
            if (outcome := attempt(kind, kind.folder, verbose=True)) != "read":
                raise AssertionError(f"{name}: the whole files are not read: {outcome}")
        for number in range(count):
            rng = random.Random(f"{seed} {number}")
            name = list(chosen)[number % len(chosen)]
            kind = chosen[name]
            folder = Path(scratch) / f"{number}"
            shutil.copytree(kind.folder, folder)
            target = folder / rng.choice(kind.damaged)
            target.write_bytes(damage(target.read_bytes(), rng))
            if target.name != "model.json":
                kind.mend(folder)
            outcome = attempt(kind, folder)
            outcomes[name, outcome if outcome in ("read", "refused") else "fault"] += 1
            if outcome not in ("read", "refused"):
                faults[f"{name}, {target.name}: {outcome}"] += 1
                if keep and faults[f"{name}, {target.name}: {outcome}"] == 1:
                    shutil.copytree(folder, keep / f"{number}-{name}", dirs_exist_ok=True)
            shutil.rmtree(folder)
    if not quiet:
        for name in chosen:
            print(f"{name:16s}", *(f"{outcomes[name, what]:6d} {what}" for what in ("read", "refused", "fault")))
    return dict(faults)


def main() -> int:
    """Print what was found; the exit status is 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    parser.add_argument("--keep", type=Path, help="a folder for the first file of each fault")
    asked = parser.parse_args()
    faults = run(asked.count, asked.seed, asked.only, asked.keep)
    for fault, times in sorted(faults.items(), key=lambda item: -item[1]):
        print(f"{times:6d}  {fault}")
    print(f"{sum(faults.values())} of {asked.count} inputs found a fault.")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
