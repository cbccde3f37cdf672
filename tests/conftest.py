"""A tiny corpus and a recipe on which training takes a second, for every test that needs a trained model."""

import copy
import os
import shutil
import signal
import tempfile
import threading

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import HealthCheck, settings

from meshgan.cli import main
from meshgan.data.faceset import Card, FaceSet, create_faceset
from meshgan.geometry.mesh import Mesh
from meshgan.model.model_folder import ModelCard, ModelParts, Origin
from meshgan.model.pca import PcaModel
from meshgan.training.loop import train
from meshgan.training.recipe import parse_recipe

RECIPE = {
    "name": "tiny",
    "schedule": {"faces": 320, "batch": 8, "log_every": 5, "sample_every": 320, "checkpoint_every": 80},
    "network": {"code": 4, "widths": [4, 4], "terms": 2},
    "hierarchy": {"counts": [40, 10]},
    "averaging": {"half_life": 100},
    "sampling": {"faces": 16, "steps": 3},
}
COUNT, SUBJECTS = 80, 40
LONGEST = ("test_docs.py", "test_processors.py", "test_fuzz.py")
CACHE = "MESHGAN_TESTS_CACHE"  # an environment variable that processes of one run inherit


def pytest_configure(config):
    """What holds for all tests: no clock decides, and what is remembered is kept in one place."""
    settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("tests")
    _hear_signals()
    _share_a_cache(config)


def _hear_signals():
    """Tests send signals to themselves; a shell that runs them in the background has some ignored."""
    if threading.current_thread() is threading.main_thread():
        for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, usual)


def _share_a_cache(config):
    """Keep what tests remember out of the user's cache, in one folder for all processes of a run: each hierarchy, and
    matplotlib's list of fonts, is made once."""
    if CACHE not in os.environ:
        os.environ[CACHE] = tempfile.mkdtemp(prefix="meshgan-tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ[CACHE], ignore_errors=True))
    os.environ["XDG_CACHE_HOME"] = os.environ[CACHE]
    os.environ["MPLCONFIGDIR"] = f"{os.environ[CACHE]}/matplotlib"


def pytest_collection_modifyitems(items):
    """Begin with what takes longest, or the last of several workers ends long after the others."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Leave the machine's other cores alone."""
    torch.set_num_threads(1)


@pytest.fixture
def meshgan(monkeypatch, capsys):
    """Run the command line in this process; returns exit status, output and errors."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["meshgan", *map(str, arguments)])
        try:
            main.main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def recipe_table():
    """The tables of a tiny recipe, to change and parse."""
    return copy.deepcopy(RECIPE)


@pytest.fixture(scope="session")
def tiny_recipe():
    return parse_recipe(RECIPE, "tiny.toml")


@pytest.fixture(scope="session")
def tiny_faces(tmp_path_factory):
    """80 "faces" of 40 subjects: spheres of 162 vertices, bent in five ways."""
    sphere = trimesh.creation.icosphere(2, radius=80.0)
    template = Mesh(sphere.vertices, sphere.faces)
    rng = np.random.default_rng(0)
    weights, ways = rng.normal(size=(COUNT, 5)), rng.normal(size=(5, 3, 3))
    faces = template.vertices @ (np.eye(3) + 0.05 * np.einsum("nk,kij->nij", weights, ways))
    labels = [{"subject": f"s{row % SUBJECTS:02d}", "age": 20 + row % 50} for row in range(COUNT)]
    card = Card(name="tiny", source="made by a test", licence="CC0-1.0", synthetic=True)
    path = tmp_path_factory.mktemp("data") / "tiny"
    with create_faceset(path, template, COUNT, card) as writer:
        writer.append(faces, labels)
    return FaceSet.open(path)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, tiny_faces, tiny_recipe):
    """The run folder of a finished run."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    train(tiny_recipe, tiny_faces, path)
    return path


@pytest.fixture(scope="session")
def head_model():
    """A linear model of heads that are wider, higher or deeper than the template, by 4 % each."""
    from meshgan.data.corpora.heads import head_template

    template = head_template()
    basis = 0.04 * template.vertices[None] * np.eye(3)[:, None]
    origin = Origin(recipe="", data="none", source="", licence="CC0-1.0", synthetic=True, faces_seen=0, seed=0)
    card = ModelCard(
        kind="pca", name="heads", code=3, sampler="standard-normal", origin=origin, template=template.content_hash
    )
    tensors = {"pca/mean": template.vertices.astype(np.float32), "pca/basis": basis.astype(np.float32)}
    return PcaModel(ModelParts(card, template, None, tensors))
