"""From a recipe and a set of faces to a model."""

from importlib import import_module
from typing import Any


class Later:
    """A module that is imported when something of it is first used.

    PyTorch takes seconds, and recipes and run folders are also read where nothing is trained. What a file says to be
    for later, it imports `if TYPE_CHECKING` for its annotations.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)
