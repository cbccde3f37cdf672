"""The page of one visitor: every control calls a method of the session, then shows what has become of the face."""

import asyncio
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import viser

from meshgan.errors import MeshganError
from meshgan.studio.session import Gallery, Measure, Session
from meshgan.studio.shared import Shared
from meshgan.studio.stage import Stage
from meshgan.view.figures import heat_colours, heat_limit

View = Literal["face", "errors", "mesh"]
Change = Callable[[], Any]

PLACES = {"inside": ("#3a8f5c", "typical"), "edge": ("#c98a1b", "unusual"), "outside": ("#c0453a", "out of range")}
HINTS = {
    "inside": "within the range that the model was trained on",
    "edge": "rarer than 19 of 20 of the model's own random faces",
    "outside": "beyond anything that the model was trained on: expect artefacts",
}
SECONDS = 8.0  # that a sentence stays


class Page:
    """One browser's page. `refresh` holds what brings the controls up to date; `changes` counts what has been done."""

    def __init__(self, client: viser.ClientHandle, loop: asyncio.AbstractEventLoop, shared: Shared) -> None:
        self.client, self.shared, self.gui = client, shared, client.gui
        self.session = Session(shared.identity, shared.expression)
        self.stage = Stage(client, loop, shared.identity, self.session.face)
        self.view: View = "face"
        self.limit_mm = 1.0  # where the colours of errors end
        self.refresh: list[Change] = []
        self.closed = False
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._newest = self.changes = 0
        self._hung: Gallery | None = None

    def act(self, change: Change, keep_view: bool = False) -> Callable[[Any], None]:
        """A callback that makes a change and shows it. Where changes pile up, only the last one is shown.

        `keep_view` leaves the errors of a fit, or the visitor's own mesh, on show.
        """

        def callback(event: Any) -> None:
            if event.client is None:  # our own assignment to a control
                return
            with self._counting:
                self._newest += 1
                mine = self._newest
            with self._lock:
                self.attempt(change)
                if not keep_view:
                    self.view = "face"
                if mine == self._newest:
                    self.attempt(self.show)
                self.changes += 1

        return callback

    def choice(
        self, label: str, changes: Mapping[str, Change], hint: str | None = None, keep_view: bool = False
    ) -> viser.GuiButtonGroupHandle:
        """A row of small buttons, each with its change."""
        group = self.gui.add_button_group(label, tuple(changes), hint=hint)
        acts = {name: self.act(change, keep_view) for name, change in changes.items()}

        @group.on_click
        def _(event: Any) -> None:
            if event.target.value in acts:  # a browser may send anything
                acts[event.target.value](event)

        return group

    def mirror(self, control: Any, read: Callable[[], Any]) -> Callable[[], Any]:
        """Let a control show what `read` says. Returns how to take over the value that the visitor has given it.

        It is only touched when `read` says something new: the server must not pull back a slider that is being moved.
        """
        known = [control.value]

        def refresh() -> None:
            if (value := read()) != known[0]:
                known[0] = control.value = value

        def follow() -> Any:
            known[0] = control.value
            return known[0]

        self.refresh.append(refresh)
        return follow

    def attempt(self, change: Change) -> None:
        """Whatever goes wrong becomes a sentence on the page; the studio goes on."""
        try:
            change()
        except MeshganError as error:
            self.say(str(error))
        except Exception:
            if self.closed:
                return  # there is nobody to show it to
            traceback.print_exc()
            self.say("that went wrong, and it is the studio's fault; its console says more.")

    def say(self, sentence: str, title: str = "That did not work", colour: Any = "red") -> None:
        """Show a sentence on the page for a while."""
        self.client.add_notification(title, sentence, auto_close_seconds=SECONDS, color=colour)

    @contextmanager
    def busy(self, title: str) -> Iterator[None]:
        """Show that something takes seconds."""
        note = self.client.add_notification(title, "Please wait …", loading=True, with_close_button=False)
        self.client.flush()
        try:
            yield
        finally:
            note.remove()

    def show(self) -> None:
        """Bring the scene and all controls up to date with the session: the face first, for it is waited for."""
        for part in ([self._show_scene], self.refresh):
            with self.client.atomic():
                for change in part:
                    change()
            self.client.flush()

    def _show_scene(self) -> None:
        session, stage = self.session, self.stage
        if session.gallery is not self._hung:
            self._hung = session.gallery
            stage.close_gallery()
            if (offered := session.gallery) is not None:
                stage.show_gallery(session.faces(offered.states), offered.above, offered.beside, self._pick)
        if session.gallery is not None:
            return
        if self.view == "face" or session.target is None:
            stage.show(session.face)
        elif self.view == "mesh":
            stage.show(session.target)
        else:
            stage.show_heat(session.face, heat_colours(self.errors, self.limit_mm))

    def _pick(self, number: int) -> None:
        with self._lock:
            self.attempt(lambda: self.session.pick(number))
            self.attempt(self.show)

    @property
    def errors(self) -> np.ndarray:
        """Distances (V,) in mm of the present face to the visitor's mesh."""
        assert self.session.target is not None
        return np.linalg.norm(self.session.face - self.session.target, axis=1)

    def scale_errors(self) -> None:
        """Let the colours end at a round number that nearly all errors stay below."""
        self.limit_mm = heat_limit(self.errors)

    def status(self) -> str:
        """The line at the top of the page, as HTML."""
        if self.session.gallery is not None:
            return line("#3c5a78", "Click a face to go on with it", "")
        return describe(self.session.measure(), self.session.expression is not None)

    def close(self) -> None:
        """Let go of everything, when the visitor has left."""
        self.closed = True
        with self._lock:
            self.refresh.clear()
            self.stage.gallery.clear()


def describe(measure: Measure, expressive: bool) -> str:
    """Distance and place of a face, as HTML."""
    order = tuple(PLACES)
    worst = max(measure.identity, measure.expression, key=order.index)
    colour, word = PLACES[worst]
    if worst != "inside" and expressive:
        word = f"{word} {'identity' if measure.identity == worst else 'expression'}"
    return line(colour, f"{measure.distance_mm:.1f} mm from the mean face · {word}", HINTS[worst])


def line(colour: str, text: str, hint: str) -> str:
    """One line of HTML with a coloured dot before it and a small second line."""
    dot = f'<span style="color:{colour};font-size:1.2em;line-height:0">●</span>'
    small = f'<div style="font-size:0.78em;opacity:0.65;margin-top:0.15em">{hint}</div>' if hint else ""
    return f'<div style="padding:0 0.75em 0.65em;font-size:0.92em">{dot} {text}{small}</div>'
