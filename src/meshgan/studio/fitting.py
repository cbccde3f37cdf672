"""The tab Fit: a visitor's own mesh comes in, and the nearest face of the model is shown with its errors."""

import html
from functools import partial

import numpy as np
import viser

from meshgan.geometry.files import READERS
from meshgan.studio import uploads
from meshgan.studio.page import Page, View
from meshgan.view.figures import heat_colours

VIEWS: dict[str, View] = {"Face": "face", "Errors": "errors", "My mesh": "mesh"}


def fit_controls(page: Page) -> None:
    """The controls of the tab."""
    gui = page.gui
    unit = gui.add_dropdown("Unit of the file", uploads.UNITS, hint="GLB is always in metres")
    smiling = gui.add_checkbox(
        "Fit expression",
        False,
        visible=page.session.expression is not None,
        hint="Fit identity and expression in turn",
    )
    upload = gui.add_upload_button("Load a mesh", icon=viser.Icon.UPLOAD, mime_type=",".join([*READERS, ".json"]))
    upload.on_upload(page.act(lambda: _load(page, upload, str(unit.value), smiling.value), keep_view=True))
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
    session = page.session
    if name.lower().endswith(".json"):
        session.use_seed(uploads.read_code(name, content))
        page.view = "face"
        return
    mesh = uploads.read_upload(name, content, unit)
    known = len(mesh.mesh.vertices) == len(session.identity.template.vertices)
    expression = session.expression if smiling else None
    title = "Fitting the model to your mesh" if known else "Finding the face in your scan, then fitting the model"
    with page.busy(title), page.shared.turn:
        found = uploads.fit(mesh, session.identity, expression)
    session.adopt(found.target, found.identity, found.expression)
    page.view = "errors"
    page.scale_errors()


def _told(errors: np.ndarray) -> str:
    return f"The face is **{errors.mean():.2f} mm** from your mesh on average, {errors.max():.1f} mm at most."


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
