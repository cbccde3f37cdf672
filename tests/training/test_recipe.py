"""Recipes: strict in what they accept, and the same after a round trip through TOML."""

import json
import tomllib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from meshgan.errors import UsageError
from meshgan.nn.plan import NetworkSpec
from meshgan.training.began import Began
from meshgan.training.gan import Wgan
from meshgan.training.recipe import (
    SHIPPED,
    Adam,
    Averaging,
    Momentum,
    Recipe,
    Sampling,
    Schedule,
    differences,
    load_recipe,
    parse_recipe,
    recipe_toml,
)

NAMES = sorted(path.stem for path in SHIPPED.glob("*.toml"))


@pytest.mark.parametrize("name", NAMES)
def test_shipped_recipes_are_valid_and_carry_their_own_name(name):
    assert load_recipe(name).name == name


def test_the_paper_preset_has_the_papers_numbers():
    recipe = load_recipe("paper")
    assert recipe.network == NetworkSpec(code=64, widths=(16, 16, 16, 32), terms=6)
    assert recipe.objective == Began(gamma=0.7, lambda_k=0.001)
    assert recipe.optimiser == Momentum(lr=0.008, momentum=0.9, decay=0.99)
    assert (recipe.schedule.epochs, recipe.schedule.batch) == (300, 16)
    assert recipe.hierarchy.laplacian == "cotangent"
    assert recipe.sampling.kind == "uniform"


positive = st.floats(1e-6, 1e3)
recipes = st.builds(
    Recipe,
    name=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20),
    schedule=st.builds(Schedule, batch=st.integers(1, 512), epochs=positive),
    network=st.builds(NetworkSpec, code=st.integers(1, 99), widths=st.tuples(st.integers(1, 64)), skips=st.booleans()),
    objective=st.one_of(st.builds(Began, gamma=st.floats(0.1, 1)), st.builds(Wgan, clip=st.none().map(lambda _: 0.1))),
    optimiser=st.one_of(st.builds(Adam, lr=positive), st.builds(Momentum, lr=positive)),
    averaging=st.builds(Averaging, half_life=st.integers(0, 10**9)),
)


@given(recipes)
def test_a_recipe_survives_toml(recipe):
    assert parse_recipe(tomllib.loads(recipe_toml(recipe)), "again") == recipe


@pytest.mark.parametrize(
    ("section", "key", "nearest"),
    [
        ("objective", "gama", "objective.gamma"),
        ("optimiser", "momentum_", "optimiser.momentum"),
        ("network", "width", "network.widths"),
        ("schedule", "epoch", "schedule.epochs"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(recipe_table, section, key, nearest):
    recipe_table["optimiser"] = {"kind": "momentum"}
    recipe_table.setdefault(section, {})[key] = 1
    with pytest.raises(UsageError, match=f"my.toml: unknown key '{section}.{key}'; did you mean '{nearest}'\\?"):
        parse_recipe(recipe_table, "my.toml")


def test_an_unknown_section_is_named(recipe_table):
    with pytest.raises(UsageError, match="unknown key 'scheduel'; did you mean 'schedule'"):
        parse_recipe({**recipe_table, "scheduel": {}}, "x")


def test_keys_of_another_kind_are_unknown(recipe_table):
    with pytest.raises(UsageError, match=r"unknown key 'optimiser.momentum'"):
        parse_recipe({**recipe_table, "optimiser": {"kind": "adam", "momentum": 0.9}}, "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"kind": "began", "gamma": 1.5}}, "objective.*gamma.*less than or equal to 1"),
        ({"objective": {"kind": "bigan"}}, "objective.*bigan"),
        ({"optimiser": {"kind": "adam", "lr": "fast"}}, "optimiser.*lr"),
        ({"optimiser": {"kind": "adam", "lr": float("nan")}}, "optimiser.*lr"),
        ({"schedule": {"epochs": 1, "faces": 1}}, "either epochs or faces"),
        ({"schedule": {"batch": 16}}, "either epochs or faces"),
        ({"schedule": {"epochs": 1, "batch": 2.5}}, "schedule.batch"),
        ({"network": {"widths": []}}, "at least 1"),
        ({"name": 3}, "name"),
    ],
)
def test_wrong_values_are_named(recipe_table, changes, message):
    with pytest.raises(UsageError, match=message):
        parse_recipe({**recipe_table, **changes}, "x.toml")


def test_changes_from_the_command_line():
    changes = ["objective.gamma=0.5", "network.widths=[8, 8]", "optimiser.kind=momentum", "optimiser.lr = 0.1"]
    recipe = load_recipe("paper", changes)
    assert recipe.objective == Began(gamma=0.5)
    assert recipe.network.widths == (8, 8)
    assert recipe.optimiser == Momentum(lr=0.1, momentum=0.9, decay=0.99)


@pytest.mark.parametrize("change", ["objective.gamma", "=3", "objective.gamme=3", "name.first=3"])
def test_wrong_changes_are_named(change):
    with pytest.raises(UsageError):
        load_recipe("paper", [change])


def test_a_missing_recipe_says_which_ones_ship():
    with pytest.raises(UsageError, match=r"nowhere is neither a file nor a recipe that ships; those are .*paper"):
        load_recipe("nowhere")


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe\x00", b"[schedule\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path, content):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"broken.toml is no TOML file"):
        load_recipe(path)


def test_another_kind_starts_its_section_anew():
    for changes in (["optimiser.kind=adam", "optimiser.lr=0.1"], ["optimiser.lr=0.1", "optimiser.kind = adam"]):
        assert load_recipe("paper", changes).optimiser == Adam(lr=0.1)
    changes = ["sampling.faces=3", "sampling.kind=fitted-normal"]
    assert load_recipe("paper", changes).sampling == Sampling("fitted-normal", faces=3)


def test_one_length_replaces_the_other():
    schedule = load_recipe("paper", ["schedule.faces=100"]).schedule
    assert (schedule.faces, schedule.epochs) == (100, None)


def test_differences_name_each_changed_value():
    old, new = load_recipe("paper"), load_recipe("paper", ["objective.gamma=0.5", "optimiser.kind=adam", "name=x"])
    found = differences(old, new)
    assert "objective.gamma (0.7 there, 0.5 here)" in found
    assert any(line.startswith("optimiser.beta1 (None there") for line in found)
    assert differences(old, old) == []


def test_a_recipe_is_changed_by_keywords():
    recipe = load_recipe("meshgan", schedule={"faces": 500, "batch": 8}, name="mine", network={"widths": (8, 8, 8, 8)})
    assert (recipe.schedule.faces, recipe.schedule.batch, recipe.name) == (500, 8, "mine")
    assert recipe.network.widths == (8, 8, 8, 8)
    assert recipe.changed(schedule={"epochs": 2}).schedule.faces is None
    assert (
        recipe.changed(schedule={"faces": np.int64(64)}, network={"widths": np.full(4, 9)}).network.widths == (9,) * 4
    )
    assert recipe.changed(optimiser={"lr": 0.1, "kind": "momentum"}).optimiser == Momentum(lr=0.1)
    with pytest.raises(UsageError, match=r"did you mean 'schedule\.batch'"):
        recipe.changed(schedule={"bach": 8})
    with pytest.raises(UsageError, match="mapping"):
        recipe.changed(objective={"kind": "began"})


def test_a_short_run_writes_as_often_as_a_long_one():
    short, long = (load_recipe("meshgan", schedule={"faces": faces}).schedule for faces in (4800, 2**30))
    assert short.intervals(300) == (3, 480, 480)
    assert long.intervals(2**26) == (50, 20_000, 20_000)
    assert Schedule(faces=1, log_every=7, sample_every=8, checkpoint_every=9).intervals(300) == (7, 8, 9)
    assert Schedule(faces=1, batch=16).intervals(1) == (1, 16, 16)


KEYS = """
Adam.kind "adam"
Adam.lr 0.0003 > 0 <= 1000000.0
Adam.beta1 0.5 >= 0 < 1
Adam.beta2 0.999 >= 0 < 1
Adam.decay 1.0 > 0 <= 1
Adam.final 1.0 > 0 <= 1
Adam.generator_factor 1.0 > 0 <= 1000000.0
Adam.clip 0.0 >= 0
Autoencoding.kind "autoencoder"
Autoencoding.l2 0.0005 >= 0
Averaging.half_life 0 >= 0 <= 1000000000000
Began.kind "began"
Began.gamma 0.7 > 0 <= 1
Began.lambda_k 0.001 > 0
BeganCs.kind "began-cs"
BeganCs.gamma 0.7 > 0 <= 1
BeganCs.lambda_k 0.001 > 0
BeganCs.alpha 0.1 > 0
BeganEncoder.kind "began-encoder"
BeganEncoder.gamma 0.7 > 0 <= 1
BeganEncoder.lambda_k 0.001 > 0
BeganEncoder.weight 0.2 > 0
BeganEncoder.spectrum 0.1 >= 0
BeganEncoder.memory 512 >= 2 <= 1048576
BeganJudge.kind "began-judge"
BeganJudge.gamma 0.7 > 0 <= 1
BeganJudge.lambda_k 0.001 > 0
BeganJudge.anchor 1.0 >= 0
BeganJudge.window 128 >= 2 <= 1048576
BeganJudge.memory 2048 >= 2 <= 1048576
BeganJudge.penalty 0.3 >= 0
BeganJudge.spectrum 0.0 >= 0
BeganJudge.validity 0.0 >= 0
Classification.kind "classification"
Classification.label "expression" letters <= 100
Classification.classes ["anger", "disgust", "fear", "happiness", "sadness", "surprise"] items >= 2 items <= 1000 letters >= 1 letters <= 100
Components.kind "pca"
Components.distribution "normal"
Gan.kind "gan"
HierarchySpec.laplacian "cotangent"
HierarchySpec.counts null items <= 16 >= 1 <= 1000000000000
Momentum.kind "momentum"
Momentum.lr 0.008 > 0 <= 1000000.0
Momentum.momentum 0.9 >= 0 < 1
Momentum.decay 0.99 > 0 <= 1
Momentum.final 1.0 > 0 <= 1
Momentum.generator_factor 1.0 > 0 <= 1000000.0
Momentum.clip 0.0 >= 0
NetworkSpec.code 64 <= 4096
NetworkSpec.widths [16, 16, 16, 32] items <= 16 <= 4096
NetworkSpec.terms 6 <= 64
NetworkSpec.skips false
NetworkSpec.linear false
NetworkSpec.mapping 0 >= 0 <= 4096
NetworkSpec.detail false
NetworkSpec.traits 0 >= 0 <= 4096
NetworkSpec.mixing 0 >= 0 <= 64
NetworkSpec.code_activation "none"
Sampling.kind "uniform"
Sampling.faces 500 >= 0 <= 1000000000000
Sampling.steps 40 >= 1 <= 1000000
Schedule.batch 16 >= 1 <= 1048576
Schedule.epochs null > 0 <= 1000000.0
Schedule.faces null >= 1 <= 1000000000000
Schedule.log_every null >= 1 <= 1000000000000
Schedule.sample_every null >= 1 <= 1000000000000
Schedule.checkpoint_every null >= 1 <= 1000000000000
Schedule.collapse 0.05 >= 0 < 1
Wgan.kind "wgan"
Wgan.clip 0.0 >= 0
Wgan.penalty 0.0 >= 0
"""  # noqa: E501
SIGNS = {
    "exclusiveMinimum": ">",
    "minimum": ">=",
    "exclusiveMaximum": "<",
    "maximum": "<=",
    "minItems": "items >=",
    "maxItems": "items <=",
    "minLength": "letters >=",
    "maxLength": "letters <=",
}


def bounds(field):
    found = [f"{sign} {field[name]}" for name, sign in SIGNS.items() if name in field]
    inner = [field["items"]] if isinstance(field.get("items"), dict) else []
    return found + [bound for one in (*field.get("anyOf", ()), *inner) for bound in bounds(one)]


def test_what_a_recipe_leaves_out_stays_what_it_was():
    """Recipes in files and in models leave keys out: another default makes another run of them. By section and key,
    with the bounds."""
    sections = TypeAdapter(Recipe).json_schema()["$defs"]
    found = [
        " ".join([f"{section}.{key}", json.dumps(field.get("default")), *bounds(field)])
        for section, one in sorted(sections.items())
        for key, field in one["properties"].items()
    ]
    assert found == KEYS.strip().splitlines()


def test_values_at_their_bounds_are_taken_and_those_beyond_are_not(recipe_table):
    for section, key, taken, refused in (
        ("schedule", "batch", [1, 2**20], [0, 2**20 + 1]),
        ("schedule", "collapse", [0.0, 0.999], [-0.001, 1.0]),
        ("optimiser", "decay", [1e-9, 1.0], [0.0, 1.001]),
        ("optimiser", "lr", [1e-9, 1e6], [0.0, 1.1e6]),
        ("sampling", "steps", [1, 10**6], [0, 10**6 + 1]),
        ("averaging", "half_life", [0, 10**12], [-1, 10**12 + 1]),
    ):
        for value in taken + refused:
            table = recipe_table | {section: recipe_table.get(section, {}) | {key: value}}
            table["optimiser"] = {"kind": "adam"} | table.get("optimiser", {})
            if value in taken:
                found = getattr(getattr(parse_recipe(table, "x"), section), key)
                assert found == value
            else:
                with pytest.raises(UsageError, match=rf"{section}.*{key}"):
                    parse_recipe(table, "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "x" * 201}, "name"),
        ({"description": "x" * 2001}, "description"),
        ({"sampling": {"faces": 1}}, "2 or more"),
        ({"sampling": {"kind": "fitted-normal", "faces": 0}}, "fit it to"),
        ({"sampling": {"kind": "mixture"}}, "encoder's codes"),
        ({"hierarchy": {"counts": [40]}}, r"2; for 5,000 vertices say \[1250, 312\]"),
        ({"hierarchy": {"counts": [40, 10, 5]}}, "as many numbers as network.widths"),
        ({"schedule": {"faces": 2**63}}, "64 bits"),
        ({"schedule": {"faces": -(2**63)}}, "64 bits"),
        ({"schedule": {"faces": 2**63 - 1}}, "less than or equal"),
        ({"network": {"widths": [[4]]}}, "64 bits nor a list"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_named(recipe_table, changes, message):
    with pytest.raises(UsageError, match=message):
        parse_recipe({**recipe_table, **changes}, "x.toml")
    parse_recipe({**recipe_table, "name": "x" * 200, "description": "x" * 2000}, "x.toml")
    parse_recipe({**recipe_table, "sampling": {"kind": "fitted-normal", "faces": 2}}, "x.toml")


def test_keys_have_few_parts_and_words_of_errors_an_end():
    deepest = ".".join(["a"] * 8)
    with pytest.raises(UsageError, match=r"unknown key 'a\.a'"):
        load_recipe("paper", [f"{deepest}=1"])
    with pytest.raises(UsageError, match="no key has so many parts"):
        load_recipe("paper", [f"{deepest}.a=1"])
    for length, shown in ((60, "x" * 60), (61, "x" * 59 + "…")):
        with pytest.raises(UsageError, match=f"unknown key '{shown}'"):
            load_recipe("paper", ["x" * length + "=1"])
    with pytest.raises(UsageError, match="'a\\?b'"):
        load_recipe("paper", ["a\x07b=1"])
