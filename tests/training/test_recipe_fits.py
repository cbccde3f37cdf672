"""A recipe whose parts do not fit is refused before the first step, and what is not refused ends in a model."""

import itertools

import numpy as np
import pytest

from meshgan.errors import UsageError
from meshgan.model.load import load_model
from meshgan.training.loop import train
from meshgan.training.recipe import load_recipe, parse_recipe

OBJECTIVES = (
    {"kind": "began"},
    {"kind": "began-cs"},
    {"kind": "began-encoder"},
    {"kind": "began-judge", "window": 8, "memory": 32},
    {"kind": "gan"},
    {"kind": "wgan", "clip": 0.01},
    {"kind": "autoencoder"},
)
NETWORKS = {
    "code": (1, 4),
    "skips": (False, True),
    "linear": (False, True),
    "mapping": (0, 8),
    "code_activation": ("none", "relu"),
}
ENCODED = ("autoencoder", "began-cs", "began-encoder")
SAMPLINGS = (
    {"kind": "uniform", "faces": 0},
    {"kind": "standard-normal", "faces": 0},
    {"kind": "fitted-normal", "faces": 0},
    {"kind": "fitted-normal", "faces": 1},
    {"kind": "fitted-normal", "faces": 2, "steps": 2},
    {"kind": "mixture", "faces": 2},
)
PRODUCT = [
    {**objective, "network": dict(zip(NETWORKS, values, strict=True))}
    for objective in OBJECTIVES
    for values in itertools.product(*NETWORKS.values())
]


def table_of(recipe_table, choice, sampling):
    objective = {key: value for key, value in choice.items() if key != "network"}
    schedule = {**recipe_table["schedule"], "faces": 16, "collapse": 0}
    network = {**recipe_table["network"], **choice["network"]}
    return {**recipe_table, "objective": objective, "network": network, "sampling": sampling, "schedule": schedule}


def is_refused(table):
    """Whether the recipe is refused, with a sentence that says what to set."""
    try:
        parse_recipe(table, "mine.toml")
    except UsageError as error:
        assert str(error).startswith("mine.toml: ")
        assert str(error).endswith(".")
        return True
    return False


def half(choices):
    """Every second network: still all that two or three of its fields can be together."""
    codes, activations = NETWORKS["code"], NETWORKS["code_activation"]
    for choice in choices:
        network = choice["network"]
        odd = (codes.index(network["code"]), network["skips"], network["linear"], network["mapping"] > 0)
        if (sum(odd) + activations.index(network["code_activation"])) % 2 == 0:
            yield choice


@pytest.mark.parametrize("part", [half, pytest.param(list, marks=pytest.mark.slow)], ids=["half", "all"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective["kind"])
def test_every_network_is_refused_or_becomes_a_model(recipe_table, tiny_faces, tmp_path, objective, part):
    """The product of objectives and network fields: each is refused, or trained, saved, loaded and sampled."""
    kinds = set()
    for number, choice in enumerate(part(choice for choice in PRODUCT if choice["kind"] == objective["kind"])):
        sampling = SAMPLINGS[(0, 4, 1, 5)[number % (4 if choice["kind"] in ENCODED else 3)]]
        table = table_of(recipe_table, choice, sampling)
        refused = is_refused(table)
        kinds.add(refused)
        if refused:
            continue
        run = tmp_path / str(number)
        train(parse_recipe(table, "mine.toml"), tiny_faces, run)
        model = load_model(run)
        assert np.isfinite(model.sample(3)).all(), choice
        assert model.card.network.code == choice["network"]["code"]
    assert kinds == {True, False}


def test_which_combinations_are_refused(recipe_table):
    for choice, sampling in itertools.product(PRODUCT, SAMPLINGS):
        network, kind = choice["network"], choice["kind"]
        judged = kind == "began-judge"
        expected = (
            (judged and not (network["linear"] and network["mapping"]))
            or (not judged and network["mapping"] > 0)
            or (kind in ("gan", "wgan") and network["code_activation"] == "relu")
            or (sampling["kind"] == "standard-normal" and network["mapping"] > 0)
            or (sampling["kind"] == "fitted-normal" and sampling["faces"] < 2)
            or (sampling["kind"] == "mixture" and kind not in ENCODED)
        )
        assert is_refused(table_of(recipe_table, choice, sampling)) == expected, (choice, sampling)


@pytest.mark.parametrize(
    "change",
    ["objective.kind=began", "sampling.faces=1", "sampling.kind=standard-normal", "network.linear=false"],
)
def test_changes_that_break_the_flagship_are_refused(change):
    with pytest.raises(UsageError, match="meshgan, as changed: "):
        load_recipe("meshgan", [change])


@pytest.mark.parametrize(
    "content",
    [
        "name = 2024-01-01",
        'name = "x"\nschedule = 07:32:00',
        'name = "x"\n[schedule]\nepochs = inf',
        'name = "x"\n[schedule]\nepochs = 1e300',
        'name = "x"\n[schedule]\nfaces = 99999999999999999999999999',
        f'name = "x"\n[schedule]\nfaces = 0x{"f" * 5000}',
        f'name = "x"\n[schedule]\nfaces = {"9" * 5000}',
        f"name = {'[' * 5000}",
        f'name = "x"\n[schedule]\nepochs = 1\n[network]\nwidths = {"[" * 60}1{"]" * 60}',
        f'name = "x"\n{".".join("a" * 60)} = 1',
        f"{'k' * 60_000} = 1",
        f'"{"k" * 400_000}" = 1',
        'name = "x"\n[schedule]\nepochs = 1\n[network]\ncode = 1000000000',
        'name = "x"\n[schedule]\nepochs = 1\n[network]\nwidths = [4, 4, 4, 100000]',
        'name = "x"\n[schedule]\nepochs = 1\n[objective]\nkind = "autoencoder"\nl2 = nan',
        'name = "x"\n[schedule]\nepochs = 1\n[objective]\nkind = ["began"]',
        'name = "x"\nobjective = 3\n[schedule]\nepochs = 1',
        'name = "x"\n[schedule]\nepochs = 1\n[network.code]\nx = 1',
    ],
    ids=range(18),
)
def test_recipes_full_of_nonsense_are_refused_in_a_short_sentence(tmp_path, content):
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(UsageError) as refusal:
        load_recipe(path)
    assert len(str(refusal.value)) < 400
    assert "mine.toml" in str(refusal.value)
