"""What all visitors of a studio have in common."""

import threading

from meshgan.model.compose import Shifts
from meshgan.studio.downloads import morph_targets
from meshgan.studio.models import StudioModel


class Shared:
    """The two models, the morph targets made of them, and one turn at a time for what takes seconds."""

    def __init__(self, identity: StudioModel, expression: StudioModel | None) -> None:
        self.identity, self.expression = identity, expression
        self.turn = threading.Lock()  # fits wait for each other: more at a time would only slow each other down
        self._targets: Shifts | None = None

    def targets(self) -> Shifts:
        """The morph targets of every GLB; made when they are first wanted."""
        with self.turn:
            if self._targets is None:
                self._targets = morph_targets(self.identity, self.expression)
            return self._targets
