"""What holds for all values that are handed from one function to another."""

import dataclasses
from collections.abc import Collection
from types import ModuleType

HELD = (
    "array",
    "Tensor",
    "Mesh",
    "Level",
    "principal.Components",
    "FaceIndex",
    "BandFilter",
    "Module",
)  # have no one answer to ==


def assert_sound_values(module: ModuleType, changing: Collection[str] = ()) -> None:
    """Those of a module cannot be changed, but for `changing` ones, and are compared only where that means something.

    `==` of two arrays is an array: what is compared with it all the same fails far from there.
    """
    for name, kind in vars(module).items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__:
            held = any(word in str(field.type) for field in dataclasses.fields(kind) for word in HELD)
            parameters = kind.__dataclass_params__  # type: ignore[attr-defined]
            assert parameters.frozen == (name not in changing), name
            assert parameters.eq == (not held) or name in changing, name
