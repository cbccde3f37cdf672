"""Faces that must be the same on every machine, from seeds alone: `python everywhere.py OUT.npz [TESTS… | corpora]`.

It writes them in mm, and then runs the tests. `test_processors.py` calls it as if on other processors. It computes
whatever a numerical library might turn over, put in another order or round in another way before a face comes of it.
"""

import sys

import numpy as np
import pytest
import torch

from meshgan.data.corpora import anny, expressions
from meshgan.data.corpora.basis import FaceBasis, face_template
from meshgan.geometry.decomposition import principal_axes
from meshgan.registration.prior import learn
from meshgan.studio.session import read_seed
from meshgan.studio.sliders import load_pair

STEPS = 30  # of a fit: what rounding does to it is to be seen long before its end
SEEDS = (
    "id=48213 exp=7051",
    "id=48213 id-1=1 id-2=-1 id-3=1 id-4=2 id-5=-2 exp=start",
    "id=start exp=7051 exp-1=1 exp-2=-1 exp-3=1 exp-4=1 exp-5=-1",
)


def faces() -> dict[str, np.ndarray]:
    """Named faces (N, V, 3) in mm."""
    found = {}
    identity, expression = load_pair("identity", "expression")
    for number, seed in enumerate(SEEDS):
        state = read_seed(seed, identity, expression)
        found[f"studio {number} identity"] = identity.decode(state.identity.code(identity)[None])
        found[f"studio {number} expression"] = expression.decode(state.expression.code(expression)[None])
    people = identity.model.sample(150, seed=1)
    found |= {"identity sampled": people[:4], "expression sampled": expression.model.sample(4, seed=5)}
    bent = people[:2] + 2 * np.sin(people[:2] / 20)  # faces that no code gives exactly
    found["identity fitted"] = identity.model.fit(bent, steps=STEPS).vertices
    variances, axes = principal_axes(people.reshape(len(people), -1) - people.reshape(len(people), -1).mean(0), 64)
    found["principal axes, three deviations"] = (3 * np.sqrt(variances)[:, None] * axes).reshape(len(axes), -1, 3)
    symmetric = people.copy()  # left and right as large as each other, to the bit
    symmetric[:, :2500] = people[:, 2500:5000] * np.array([-1, 1, 1], np.float32)
    basis = learn(symmetric, 40).basis
    found["registration's axes"] = 3 * basis.transpose(1, 2, 0)
    return found


def corpora() -> dict[str, np.ndarray]:
    """A few faces of both corpora (N, V, 3) in mm."""
    with pytest.MonkeyPatch.context() as few:
        few.setattr(anny, "BLOCK", 8)
        few.setattr(expressions, "BLOCK", 8)
        people, _ = anny.identities(FaceBasis.read(), face_template(), 0, 0)
        plan = expressions.ExpressionPlan(subjects=2, posed=12, spontaneous=4)
        rows = np.arange(len(plan))[-16:]
        return {"identities": people, "expressions": plan.faces(rows, plan.takes(rows)), "pure": plan.pure(rows)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[2:] == ["corpora"]:
        np.savez(sys.argv[1], **corpora())
        sys.exit()
    np.savez(sys.argv[1], **faces())
    if sys.argv[2:]:
        sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not gpu", *sys.argv[2:]]))
