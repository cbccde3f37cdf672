"""The controls beside the face, tab by tab. Each calls one method of the visitor's session."""

import html
import re
from functools import partial

import numpy as np
import viser
from PIL import Image

from meshgan.geometry.files import READERS
from meshgan.studio import exchange
from meshgan.studio.page import Page, View
from meshgan.studio.session import GRID, Half
from meshgan.studio.sliders import Slider, StudioModel
from meshgan.view.figures import fitting, heat_colours, tiles, write

Icon = viser.Icon

THUMBNAIL, LETTER = 170, 24  # pixels
SAVED = {"Mesh": ("glb", "obj", "ply"), "Picture": ("png",), "Code": ("json",)}
FORMATS_EXPLAINED = (
    "**GLB** opens in game engines and Blender, in metres, and has morph targets for expressions. **OBJ** and **PLY** "
    "are in millimetres. **PNG** is a picture of 1024 pixels from where you look. **JSON** holds the code: bring it "
    "back in the tab Fit."
)
VIEWS: dict[str, View] = {"Face": "face", "Errors": "errors", "My mesh": "mesh"}
NO_DIRECTIONS = (
    "This model has no named sliders yet. Stop the studio, run `meshgan directions MODEL --data SET {labels}`, "
    "and start it again. The axes below work without."
)


def build(page: Page) -> None:
    """Put all controls on a page."""
    gui, session = page.gui, page.session
    status = gui.add_html(page.status())
    page.refresh.append(lambda: setattr(status, "content", page.status()))
    _always(page)
    tabs = gui.add_tab_group()
    with tabs.add_tab("Face"):
        _face(page)
    with tabs.add_tab("Traits"):
        _sliders(page, session.identity, "identity", "--labels age,sex,ancestry,weight")
    if session.expression is not None:
        with tabs.add_tab("Expression"):
            _sliders(page, session.expression, "expression", "--labels expression")
    with tabs.add_tab("Blend"):
        _blend(page)
    with tabs.add_tab("Fit"):
        _fit(page)
    with tabs.add_tab("Save"):
        _save(page)
    page.show()


def _always(page: Page) -> None:
    """What is at hand in every tab."""
    gui, session = page.gui, page.session
    gui.add_button("Random face", icon=Icon.DICE_5).on_click(page.act(session.random))
    if session.expression is not None:
        halves = {"Identity": lambda: session.random("identity"), "Expression": lambda: session.random("expression")}
        page.choice("Only a new", halves)
    page.choice("History", {"Undo": session.history.undo, "Redo": session.history.redo})
    back = gui.add_button("Back to my face", icon=Icon.ARROW_LEFT, visible=False)
    back.on_click(page.act(lambda: session.pick(-1)))
    page.refresh.append(lambda: setattr(back, "visible", session.gallery is not None))


def _face(page: Page) -> None:
    gui, session = page.gui, page.session
    page.choice("Look around", {"Similar faces": lambda: session.offer_similar(2 if page.stage.portrait else 4)})
    starts = {"Mean face": lambda: session.start_over("identity")}
    if session.expression is not None:
        starts |= {"Neutral": lambda: session.start_over("expression")}
    page.choice("Start from", starts)
    page.choice("View", {"From the front": page.stage.look}, keep_view=True)
    _lock(page, "identity", "Keep identity")
    if session.expression is not None:
        _lock(page, "expression", "Keep expression")
    seed = gui.add_text("Seed", session.state.seed, hint="Copy it, and paste it later to get the same face back")
    page.mirror(seed, lambda: session.state.seed)
    page.choice("", {"Go to this seed": lambda: session.use_seed(seed.value)})


def _lock(page: Page, half: Half, label: str) -> None:
    locked = page.session.locked
    box = page.gui.add_checkbox(label, False, hint=f"Random faces and blends leave the {half} as it is")
    box.on_update(page.act(lambda: (locked.add if box.value else locked.discard)(half), keep_view=True))


def _sliders(page: Page, model: StudioModel, half: Half, labels: str) -> None:
    """Named sliders, and in a folder of their own the principal axes, or single shapes."""
    gui = page.gui
    named = [slider for slider in model.sliders.values() if not slider.expert]
    if not named:
        gui.add_markdown(NO_DIRECTIONS.format(labels=labels))
    for slider in named:
        _slider(page, slider)
    page.choice("Sliders", {"All to zero": lambda: page.session.reset_sliders(half)}, keep_view=True)
    title = f"The {len(model.shapes)} ARKit shapes" if model.shapes else "Expert: principal axes"
    with gui.add_folder(title, expand_by_default=False):
        for slider in model.sliders.values():
            if slider.expert:
                _slider(page, slider)


def _slider(page: Page, slider: Slider) -> None:
    session = page.session
    control = page.gui.add_slider(slider.title, slider.low, slider.high, slider.step, 0.0, marks=slider.marks)
    follow = page.mirror(control, lambda: float(session.amount(slider.key)))
    control.on_update(page.act(lambda: session.slide(slider.key, follow()), keep_view=True))


def _blend(page: Page) -> None:
    gui, session = page.gui, page.session
    picture = gui.add_image(_pair(page), format="png")
    shown = [session.a, session.b]

    def refresh() -> None:
        if [session.a, session.b] != shown:
            shown[:] = [session.a, session.b]
            picture.image = _pair(page)

    page.refresh.append(refresh)
    page.choice("My face is now", {"A": lambda: session.keep("A"), "B": lambda: session.keep("B")})
    low, high = GRID[0], GRID[-1]
    marks = ((low, f"{low:g}".replace("-", "−")), (0.0, "A"), (1.0, "B"), (high, f"{high:g}"))
    mix = gui.add_slider("From A to B", low, high, 0.01, 0.0, marks=marks, hint="Beyond A and B it exaggerates")
    mix.on_update(page.act(lambda: session.blend(mix.value)))
    page.choice("All between", {"Grid of blends": session.offer_grid}, hint="Identity changes down, expression across")


def _pair(page: Page) -> np.ndarray:
    """A and B side by side, as a picture."""
    session = page.session
    template = session.identity.template
    pair = session.faces([session.a, session.b])
    drawn = tiles(pair, template.triangles, THUMBNAIL, colour=exchange.colour_of(template))
    sheet = Image.new("RGB", (2 * THUMBNAIL, THUMBNAIL + LETTER), "white")
    for number, (name, picture) in enumerate(zip("AB", drawn, strict=True)):
        sheet.paste(Image.fromarray(picture), (number * THUMBNAIL, 0))
        middle = ((number + 0.5) * THUMBNAIL, THUMBNAIL + LETTER / 2)
        write(sheet, name, middle, fitting((), LETTER - 6, THUMBNAIL))
    return np.asarray(sheet)


def _save(page: Page) -> None:
    """Files to download."""
    for label, kinds in SAVED.items():
        page.choice(label, {kind.upper(): partial(_send, page, kind) for kind in kinds}, keep_view=True)
    origin = page.session.identity.model.card.origin
    synthetic = "; no real person is in it" if origin.synthetic else ""
    page.gui.add_markdown(FORMATS_EXPLAINED)
    page.gui.add_markdown(
        f"The model was trained on *{plain(origin.data)}*, licence {plain(origin.licence)}{synthetic}."
    )


def _send(page: Page, kind: str) -> None:
    """Send the present face to the browser as a file."""

    def make() -> bytes:
        targets = page.shared.targets() if kind == "glb" else {}
        yaw, pitch = page.stage.view if kind == "png" else (0.0, 0.0)
        return exchange.download(page.session, kind, targets, yaw, pitch)

    page.send(f"face.{kind}", make)


def plain(text: str) -> str:
    """Words from a file as Markdown that shows them as they are: no HTML, no formatting, no link, one line."""
    letters = "".join(letter if letter.isprintable() else " " for letter in text[:300])
    return re.sub(r"([^\w\s])", lambda found: f"&#{ord(found[1])};", letters)


def _fit(page: Page) -> None:
    """A visitor's own mesh comes in, and the nearest face of the model is shown with its errors."""
    gui = page.gui
    unit = gui.add_dropdown("Unit of the file", exchange.UNITS, hint="GLB is always in metres")
    smiling = gui.add_checkbox(
        "Fit expression",
        False,
        visible=page.session.expression is not None,
        hint="Fit identity and expression in turn",
    )
    upload = gui.add_upload_button("Load a mesh", icon=viser.Icon.UPLOAD, mime_type=",".join([*READERS, ".json"]))
    upload.on_upload(
        page.act(
            lambda: _load(page, upload, str(unit.value), smiling.value),
            keep_view=True,
        )
    )
    result = gui.add_markdown(
        f"A scan of a face, or a mesh of the model's own triangles ({', '.join(READERS)}); or a code that was saved "
        "here (.json). A scan takes about a quarter of a minute."
    )
    views = {name: partial(setattr, page, "view", view) for name, view in VIEWS.items()}
    shown = page.choice("Show", views, keep_view=True)
    legend = gui.add_html("", visible=False)

    def refresh() -> None:
        shown.visible = page.session.target is not None
        legend.visible = shown.visible and page.view == "errors"
        if page.session.target is not None:
            result.content, legend.content = _told(page.errors), _legend(page.limit_mm)

    page.refresh.append(refresh)


def _load(page: Page, upload: viser.GuiUploadButtonHandle, unit: str, smiling: bool) -> None:
    """Read what was uploaded, fit a mesh, or go on with a code."""
    name, content = upload.value.name, upload.value.content
    upload.value.content = b""  # or the server would keep it as long as the visitor stays
    session, shared = page.session, page.shared
    try:
        if name.lower().endswith(".json"):
            session.use_seed(exchange.read_code(name, content))
            page.view = "face"
            return
        exchange.check_upload(name, len(content), unit)
        with page.busy("Your mesh") as tell:
            found = shared.worker.fit(name, content, unit, smiling, lambda: page.closed, tell)
    finally:
        page.guest.guard.close()
    session.adopt(found.target, found.identity, found.expression)
    page.view = "errors"
    page.scale_errors()
    page.stage.look(*page.stage.room(session.face))


def _told(errors: np.ndarray) -> str:
    told = f"The face is **{np.nanmean(errors):.2f} mm** from your mesh on average, {np.nanmax(errors):.1f} mm at most."
    return told + (" Grey is what your mesh does not show." if np.isnan(errors).any() else "")


def _legend(limit_mm: float) -> str:
    """The colours of errors from 0 to `limit_mm`, as HTML."""
    stops = (255 * heat_colours(np.linspace(0, limit_mm, 12), limit_mm)).astype(int)
    colours = ", ".join(f"rgb({r},{g},{b})" for r, g, b in stops)
    ends = f"<span>0</span><span>{limit_mm / 2:g}</span><span>{html.escape(f'{limit_mm:g} mm and more')}</span>"
    return (
        f'<div style="margin:0.2em 0.75em 0.8em;font-size:0.8em">'
        f'<div style="height:0.8em;border-radius:0.2em;background:linear-gradient(90deg, {colours})"></div>'
        f'<div style="display:flex;justify-content:space-between">{ends}</div></div>'
    )
