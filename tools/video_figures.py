"""What the detector sees of each shape in a video whose weights are known: the table of docs/heads.md.

    python tools/video_figures.py [--frames 8] [--seed 4] [--model head]

A head, or face, that a model draws makes one shape of the mouth after the other, on both sides at once, each rising and
falling within so many frames; meanwhile it makes those of eyes and brows, and its head turns a little. `write_preview`
films it, and `read_video` reads the film. Printed is, for each shape, the correlation over the whole film of the weight
that was played with the one that was seen (the mean of both sides), and for the head's turns.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from meshgan.model.drive import PREVIEW_FPS, Performance, write_preview
from meshgan.model.load import load_model
from meshgan.model.rig import ARKIT, rig
from meshgan.registration.landmarks import read_video

UNSEEN = ("mouthClose", "tongueOut")  # the one is a corrective, the other nobody looks for
ABOVE = ("eye", "brow", "cheekSquint", "noseSneer")


def groups(above: bool) -> dict[str, list[int]]:
    """The columns of each shape, both sides together, of the upper or of the lower face."""
    found: dict[str, list[int]] = {}
    for column, name in enumerate(ARKIT):
        if name not in UNSEEN and name.startswith(ABOVE) == above:
            whole = name if name.startswith(("jaw", "mouthLeft", "mouthRight")) else name.removesuffix("Left")
            whole = whole if whole.startswith(("jaw", "mouthLeft", "mouthRight")) else whole.removesuffix("Right")
            found.setdefault(whole, []).append(column)
    return found


def main() -> None:
    """Film, read, and print the table."""
    parser = argparse.ArgumentParser(description="Correlation of what is seen in a video with what was played.")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--model", default="head")
    asked = parser.parse_args()
    made = rig(load_model(asked.model).sample(1, asked.seed)[0], "arkit")
    bump = np.sin(np.pi * (np.arange(asked.frames) + 0.5) / asked.frames) ** 2
    upper, lower = groups(above=True), groups(above=False)
    slots = max(len(upper), len(lower))
    count = slots * asked.frames
    weights = np.zeros((count, len(ARKIT)))
    for some in (upper, lower):
        for slot in range(slots):
            columns = list(some.values())[slot % len(some)]
            weights[slot * asked.frames : (slot + 1) * asked.frames, columns] = bump[:, None]
    times = np.arange(count) / PREVIEW_FPS
    swing = [0.25 * np.sin(times / 2.3), 0.15 * np.sin(times / 1.7), 0.1 * np.sin(times / 3.1)]
    played = Performance(times, weights, np.stack(swing, axis=1))
    with TemporaryDirectory() as folder:
        write_preview(Path(folder) / "film.mp4", made, played)
        seen = read_video(Path(folder) / "film.mp4")
    there = played.at(seen.times)
    print(
        f"{len(seen.times)} of {count} frames seen\n\n| shape | correlation | seen at 1 | at rest |\n|---|---|---|---|"
    )
    for name, columns in (upper | lower).items():
        told, found = there.weights[:, columns], seen.weights[:, columns]
        agreed = [np.corrcoef(*both)[0, 1] if np.ptp(both[1]) else 0.0 for both in zip(told.T, found.T, strict=True)]
        print(f"| `{name}` | {np.mean(agreed):.2f} | {found[told > 0.9].mean():.2f} | {found[told == 0].mean():.2f} |")
    for axis, name in enumerate(("yaw", "pitch", "roll")):
        print(f"| {name} | {np.corrcoef(there.head[:, axis], seen.head[:, axis])[0, 1]:.2f} | | |")


if __name__ == "__main__":
    main()
