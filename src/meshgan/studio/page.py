"""The page of one visitor: every control calls a method of the session, then shows what has become of the face."""

import asyncio
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import viser

from meshgan.errors import MeshganError
from meshgan.model.compose import Shifts
from meshgan.studio.exchange import morph_targets
from meshgan.studio.gate import Guest
from meshgan.studio.session import Gallery, Measure, Session
from meshgan.studio.sliders import StudioModel
from meshgan.studio.stage import Stage
from meshgan.studio.worker import GoneError, Worker
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
REST = 0.25  # after which a face that no control has moved stands still
TAKING = 20.0  # seconds that a visitor has to take a file before they get another one


class Shared:
    """What all visitors have in common: the models, the worker that fits, and one turn at a time for making files."""

    def __init__(self, identity: StudioModel, expression: StudioModel | None) -> None:
        self.identity, self.expression = identity, expression
        models = (identity.model, expression.model, expression.still) if expression else (identity.model, None, None)
        self.worker = Worker(*models)
        self.turn = threading.Lock()
        self._targets: Shifts | None = None

    def targets(self) -> Shifts:
        """The morph targets of every GLB; made when they are first wanted. Hold `turn`."""
        if self._targets is None:
            self._targets = morph_targets(self.expression)
        return self._targets


class Page:
    """One browser's page. `refresh` holds what brings the controls up to date; `changes` counts what has been done.

    What a visitor does comes in on the viewer's event loop and is only noted there: of each control, what it was last
    used for. The page's own thread does it, so that a visitor may keep themselves waiting, but nobody else.
    """

    def __init__(
        self,
        client: viser.ClientHandle,
        loop: asyncio.AbstractEventLoop,
        shared: Shared,
        guest: Guest,
        build: Callable[["Page"], None],
    ) -> None:
        self.client, self.shared, self.guest, self.gui = client, shared, guest, client.gui
        self.refresh: list[Change] = []
        self.view: View = "face"
        self.limit_mm = 1.0  # where the colours of errors end
        self.closed = False
        self.changes = 0
        self._loop = loop
        self._hung: Gallery | None = None
        self._wanted: dict[object, Change] = {}
        self._noted = threading.Condition()
        self._thread = threading.Thread(target=self._live, args=(build,), name="meshgan-page", daemon=True)
        self._thread.start()

    def _live(self, build: Callable[["Page"], None]) -> None:
        """What the page's thread does: build the page, then one wish after the other, the latest of each control."""
        self.attempt(lambda: self._begin(build))
        while True:
            with self._noted:
                while not self._wanted and not self.closed:
                    if not self._noted.wait(REST if self._unsettled else None):
                        break  # nothing was wanted for a while
                if self.closed:
                    break
                change = self._wanted.pop(next(iter(self._wanted))) if self._wanted else None
            if change is None:
                self.attempt(self.stage.settle)
                continue
            change()
            self.changes += 1
            del change  # it holds the page
        self.refresh.clear()
        if hasattr(self, "stage"):
            self.stage.gallery.clear()
            self.stage.later.clear()

    def _begin(self, build: Callable[["Page"], None]) -> None:
        self.session = Session(self.shared.identity, self.shared.expression)
        self.stage = Stage(self.client, self._loop, self.shared.identity, self.session.face)
        with self.client.atomic():  # no control is there to be used before what it does is known
            build(self)

    @property
    def _unsettled(self) -> bool:
        """Whether the face waits to be painted."""
        return hasattr(self, "stage") and bool(self.stage.later)

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting to be done."""
        return not self._wanted

    def _note(self, control: object, change: Change) -> None:
        """Note what a control is wanted to do, in place of what it was wanted to do before."""
        with self._noted:
            self._wanted.pop(control, None)
            self._wanted[control] = change
            self._noted.notify()

    def act(self, change: Change, keep_view: bool = False) -> Callable[[Any], Any]:
        """A callback that makes a change and shows it.

        `keep_view` leaves the errors of a fit, or the visitor's own mesh, on show.
        """

        def done() -> None:
            self.attempt(change)
            if not keep_view:
                self.view = "face"
            self.attempt(self.show)

        async def callback(event: Any) -> None:
            if event.client is not None:  # else it is our own assignment to a control
                self._note(done, done)

        return callback

    def choice(
        self, label: str, changes: Mapping[str, Change], hint: str | None = None, keep_view: bool = False
    ) -> viser.GuiButtonGroupHandle:
        """A row of small buttons, each with its change."""
        group = self.gui.add_button_group(label, tuple(changes), hint=hint)
        acts = {name: self.act(change, keep_view) for name, change in changes.items()}

        @group.on_click
        async def _(event: Any) -> None:
            await acts[event.target.value](event)

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
        except GoneError:
            return
        except Exception:
            if self.closed:
                return  # there is nobody to show it to
            traceback.print_exc()
            self.say("that went wrong, and it is the studio's fault; its console says more.")

    def say(self, sentence: str, title: str = "That did not work", colour: Any = "red") -> None:
        """Show a sentence on the page for a while."""
        self.client.add_notification(title, sentence, auto_close_seconds=SECONDS, color=colour)

    @contextmanager
    def busy(self, title: str) -> Iterator[Callable[[str], None]]:
        """Show that something takes seconds. Gives what changes the sentence below the title."""
        note = self.client.add_notification(title, "Please wait …", loading=True, with_close_button=False)
        self.client.flush()

        def tell(sentence: str) -> None:
            note.body = sentence
            self.client.flush()

        try:
            yield tell
        finally:
            note.remove()

    def send(self, name: str, make: Callable[[], bytes]) -> None:
        """Send a file to the browser, once it has taken the one before: who takes none gets no second one."""
        end = time.monotonic() + TAKING
        while self.guest.taking and not self.closed:
            if time.monotonic() > end:
                raise MeshganError("your browser has not taken the last file yet; try again later.")
            time.sleep(0.02)
        with self.shared.turn:
            if self.closed:
                raise GoneError
            content = make()
        self.client.send_file_download(name, content, save_immediately=True)

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
                pick = [self.act(partial(session.pick, number)) for number in range(len(offered.states))]
                stage.show_gallery(session.faces(offered.states), offered.above, offered.beside, pick)
        if session.gallery is not None:
            return
        if self.view == "face" or session.target is None:
            stage.show(session.face)
        elif self.view == "mesh":
            stage.show(np.where(np.isnan(session.target), session.face, session.target))
        else:
            stage.show_heat(session.face, heat_colours(self.errors, self.limit_mm))

    @property
    def errors(self) -> np.ndarray:
        """Distances (V,) in mm of the present face to the visitor's mesh, NaN where that shows nothing."""
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
        """Let go of everything, when the visitor has left. What is not begun is not done any more."""
        with self._noted:
            self.closed = True
            self._wanted.clear()
            self._noted.notify_all()


def describe(measure: Measure, expressive: bool) -> str:
    """Distance and place of a face, as HTML."""
    order = tuple(PLACES)
    worst = max(measure.identity, measure.expression, key=order.index)
    colour, word = PLACES[worst]
    if worst != "inside" and expressive:
        word = f"{'identity' if measure.identity == worst else 'expression'} {word}"
    return line(colour, f"{measure.distance_mm:.1f} mm from the mean face · {word}", HINTS[worst])


def line(colour: str, text: str, hint: str) -> str:
    """One line of HTML with a coloured dot before it and a small second line."""
    dot = f'<span style="color:{colour};font-size:1.2em;line-height:0">●</span>'
    small = f'<div style="font-size:0.78em;opacity:0.65;margin-top:0.15em">{hint}</div>' if hint else ""
    return f'<div style="padding:0 0.75em 0.65em;font-size:0.92em">{dot} {text}{small}</div>'
