"""Two small models of bent spheres, as identity and expression, that every test of the studio shares."""

import numpy as np
import pytest

from meshgan.model.directions import estimate_directions
from meshgan.model.pca import fit_pca
from meshgan.studio.page import Shared
from meshgan.studio.sliders import load_pair


@pytest.fixture(scope="session")
def folders(tmp_path_factory, tiny_faces):
    """Model folders of a PCA identity model with directions, and of a PCA expression model with directions."""
    base = tmp_path_factory.mktemp("studio")
    identity, expression = fit_pca(tiny_faces, 5), fit_pca(tiny_faces, 4)
    codes = identity.encode(tiny_faces.vertices[:])
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, len(codes)))
    labels = {"age": 40 + 15 * codes[:, 0] + noise[0], "female": (codes[:, 1] + 0.1 * noise[1] > 0).astype(float)}
    identity.save(base / "identity")
    estimate_directions(codes, labels).save(base / "identity")
    moods = rng.integers(0, 3, len(codes))
    words = {name: (moods == k).astype(float) for k, name in enumerate(("anger", "happiness", "neutral"))}
    expression.save(base / "expression")
    estimate_directions(expression.encode(tiny_faces.vertices[:]) + np.eye(4, dtype=np.float32)[moods], words).save(
        base / "expression"
    )
    return base


@pytest.fixture(scope="session")
def pair(folders):
    """The identity and the expression model, ready for the studio."""
    return load_pair(str(folders / "identity"), str(folders / "expression"))


@pytest.fixture(scope="session")
def shared(pair):
    return Shared(*pair)


@pytest.fixture(scope="module")
def studio(shared):
    """A studio that runs for the tests of one file, on this machine alone."""
    from meshgan.studio.gate import Gate
    from meshgan.studio.server import Studio

    running = Studio(shared, Gate(port=0))
    yield running
    running.stop()
