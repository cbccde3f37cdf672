"""The models that ship: they load by name, are light, say what they are, and draw faces like those of the corpus."""

import re

import numpy as np
import pytest

from meshgan.data.corpora.basis import face_template
from meshgan.model.directions import Directions
from meshgan.model.face_model import FaceModel
from meshgan.model.model_folder import SHIPPED

NAMES = ("identity", "expression")


def test_together_they_are_light():
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 8 * 2**20
    assert sorted(folder.name for folder in SHIPPED.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_draws_varied_faces_of_our_template(name):
    model = FaceModel.load(name)
    assert model.card.name == name
    assert model.card.origin.synthetic and model.card.origin.licence == "CC0-1.0"
    assert model.template.content_hash == face_template().content_hash
    faces = model.sample(40, seed=3)
    apart = np.linalg.norm(faces[:20] - faces[20:], axis=2).mean()
    from_mean = np.linalg.norm(faces - model.normalisation.mean, axis=2).mean()
    least, most = {"identity": (4.0, 8.0), "expression": (1.0, 3.0)}[name]  # mm; real faces: 6.2 and 2.0 apart
    assert least < apart < most
    assert from_mean < apart


@pytest.mark.parametrize(
    ("name", "directions"),
    [
        ("identity", {"age", "weight", "female", "african", "asian", "caucasian"}),
        ("expression", {"anger", "disgust", "fear", "happiness", "sadness", "surprise"}),
    ],
)
def test_its_directions_have_names(name, directions):
    found = Directions.load(SHIPPED / name)
    assert directions <= set(found.names)
    assert found.vectors.shape[1] == FaceModel.load(name).code_size


@pytest.mark.parametrize("name", NAMES)
def test_its_card_says_what_it_is_made_of_and_where_it_ends(name):
    card = (SHIPPED / name / "README.md").read_text()
    for word in ("**Data**", "Synthetic", "CC0-1.0", "**Recipe**", "**Numbers**", "**Limits**", "FID"):
        assert word in card
    moved = re.search(r"moves by more than ([\d.]+) mm", card)
    assert moved and float(moved[1]) < 0.05
