"""What the detector sees of each shape in a video whose weights are known: the table of docs/heads.md.

    python tools/video_figures.py [--frames 10] [--seed 4]

A face that the shipped model draws makes one shape after the other, each rising and falling within so many frames,
while its head turns a little; `write_preview` films it, and `read_video` reads the film. Printed is, for each shape,
the correlation over the whole film of the weight that was played with the one that was seen, and for the head's turns.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from meshgan.model.drive import PREVIEW_FPS, Performance, write_preview
from meshgan.model.load import load_model
from meshgan.model.rig import ARKIT, rig
from meshgan.registration.landmarks import read_video

UNSEEN = ("mouthClose", "tongueOut")  # the one is a corrective, the other moves nothing


def main() -> None:
    """Film, read, and print the table."""
    parser = argparse.ArgumentParser(description="Correlation of what is seen in a video with what was played.")
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--seed", type=int, default=4)
    asked = parser.parse_args()
    made = rig(load_model("identity").sample(1, asked.seed)[0], "arkit")
    played_names = [name for name in ARKIT if name not in UNSEEN]
    bump = np.sin(np.pi * (np.arange(asked.frames) + 0.5) / asked.frames) ** 2
    count = len(played_names) * asked.frames
    weights = np.zeros((count, len(ARKIT)))
    for place, name in enumerate(played_names):
        weights[place * asked.frames : (place + 1) * asked.frames, ARKIT.index(name)] = bump
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
    for name in played_names:
        column = ARKIT.index(name)
        told, found = there.weights[:, column], seen.weights[:, column]
        agreed = np.corrcoef(told, found)[0, 1] if found.std() > 0 else 0.0
        print(f"| `{name}` | {agreed:.2f} | {found[told > 0.9].mean():.2f} | {found[told == 0].mean():.2f} |")
    for axis, name in enumerate(("yaw", "pitch", "roll")):
        print(f"| {name} | {np.corrcoef(there.head[:, axis], seen.head[:, axis])[0, 1]:.2f} | | |")


if __name__ == "__main__":
    main()
