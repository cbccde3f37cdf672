"""Six basic expressions as recipes of action units, and action units as facial actions of the basis.

The recipes follow the prototypes and major variants that the FACS Investigator's Guide (Ekman, Friesen and Hager
2002, table 10-1 and 10-2) and EMFACS (Friesen and Ekman 1983) list for the emotions; strengths are ours, on a scale
where 1 is as far as the unit goes. Units without a counterpart in the basis (11, 38, 39) are left out.
"""

from collections.abc import Mapping

Units = Mapping[int, float]

EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")

# What each unit does; names without Left or Right stand for both sides.
UNITS: dict[int, dict[str, float]] = {
    1: {"browInnerUp": 1.4},  # inner brow raiser
    2: {"browOuterUp": 1.3},  # outer brow raiser
    4: {"browDown": 1.0},  # brow lowerer
    5: {"eyeWide": 1.0},  # upper lid raiser
    6: {"cheekSquint": 1.0, "eyeSquint": 0.45},  # cheek raiser
    7: {"eyeSquint": 1.0},  # lid tightener
    9: {"noseSneer": 1.0, "mouthUpperUp": 0.15},  # nose wrinkler
    10: {"mouthUpperUp": 0.9},  # upper lip raiser
    12: {"mouthSmile": 1.0},  # lip corner puller
    14: {"mouthDimple": 1.0},  # dimpler
    15: {"mouthFrown": 1.0},  # lip corner depressor
    16: {"mouthLowerDown": 1.0},  # lower lip depressor
    17: {"mouthShrugLower": 0.9},  # chin raiser
    18: {"mouthPucker": 1.0},  # lip pucker
    20: {"mouthStretch": 1.0},  # lip stretcher
    22: {"mouthFunnel": 0.8},  # lip funneler
    23: {"mouthPucker": 0.3, "mouthRollUpper": 0.3, "mouthRollLower": 0.3},  # lip tightener
    24: {"mouthPress": 0.45, "mouthRollUpper": 0.15},  # lip pressor
    25: {"mouthLowerDown": 0.45, "mouthUpperUp": 0.25},  # lips part
    26: {"jawOpen": 0.4},  # jaw drop
    27: {"jawOpen": 0.8},  # mouth stretch
    28: {"mouthRollLower": 0.8, "mouthRollUpper": 0.6},  # lip suck
    30: {"jawSide": 1.0},  # jaw sideways: to the left or to the right
    43: {"eyeBlink": 1.0},  # eyes closed
    64: {"eyeLookDown": 1.0},  # eyes down
}
# What faces do besides, which the plain corpus does not know; the last two have no number in FACS.
MORE_UNITS: dict[int, dict[str, float]] = {
    8: {"mouthClose": 1.0},  # lips toward each other
    29: {"jawForward": 1.0},  # jaw thrust
    34: {"cheekPuff": 0.5},  # cheek puff
    63: {"eyeLookUp": 1.0},  # eyes up
    130: {"mouthSide": 0.6},  # mouth sideways: to the left or to the right
    117: {"mouthShrugUpper": 0.9},  # upper lip raised by the lower one
}

# For each expression its variants; the first is what most people do.
RECIPES: dict[str, tuple[Units, ...]] = {
    "anger": (
        {4: 0.95, 5: 0.35, 7: 0.7, 17: 0.35, 23: 0.6, 24: 0.6},
        {4: 0.95, 5: 0.45, 7: 0.6, 10: 0.45, 22: 0.35, 25: 0.5, 26: 0.4},
        {4: 1.0, 7: 0.8, 9: 0.25, 10: 0.35, 25: 0.7, 16: 0.4},
    ),
    "disgust": (
        {4: 0.3, 7: 0.35, 9: 0.95, 10: 0.45, 17: 0.45},
        {6: 0.35, 7: 0.3, 9: 0.6, 10: 0.9, 16: 0.35, 25: 0.35},
        {4: 0.35, 6: 0.3, 9: 0.9, 10: 0.7, 15: 0.25, 26: 0.4, 25: 0.3},
    ),
    "fear": (
        {1: 0.9, 2: 0.55, 4: 0.5, 5: 0.95, 20: 0.75, 25: 0.4, 26: 0.3},
        {1: 0.9, 2: 0.6, 4: 0.5, 5: 0.9, 20: 0.8, 25: 0.6},
        {1: 0.95, 2: 0.6, 4: 0.4, 5: 1.0, 20: 0.6, 25: 0.3, 27: 0.45},
    ),
    "happiness": (
        {6: 0.8, 12: 0.9, 25: 0.5},
        {6: 0.7, 12: 0.75},
        {6: 0.95, 12: 1.0, 25: 0.6, 26: 0.6},
    ),
    "sadness": (
        {1: 0.9, 4: 0.5, 15: 0.8, 17: 0.45},
        {1: 0.9, 4: 0.45, 15: 0.6, 17: 0.35, 64: 0.6},
        {1: 0.7, 4: 0.6, 6: 0.3, 15: 0.75, 43: 0.35, 17: 0.5},
    ),
    "surprise": (
        {1: 0.85, 2: 0.9, 5: 0.75, 26: 0.9, 25: 0.2},
        {1: 0.95, 2: 1.0, 5: 0.95, 27: 1.0},
        {1: 0.8, 2: 0.9, 5: 0.7, 18: 0.2, 26: 0.6},
    ),
}  # fmt: skip

# What else a face does while it is watched: blinks, glances, and movements of speech.
BESIDES: tuple[Units, ...] = (
    {43: 0.9}, {64: 0.7}, {26: 0.5}, {22: 0.5}, {18: 0.7}, {28: 0.6}, {14: 0.8}, {17: 0.5}, {30: 0.6}, {2: 0.5},
)  # fmt: skip
MORE_BESIDES: tuple[Units, ...] = (
    {43: 1.0}, {63: 0.8}, {26: 0.6, 8: 0.9}, {34: 0.8}, {29: 0.7}, {130: 0.8}, {117: 0.6, 17: 0.5}, {22: 0.5, 26: 0.4},
    {20: 0.4, 25: 0.5}, {16: 0.5, 24: 0.4},
)  # fmt: skip

# How far an action may go where 1 is not far enough.
LIMITS = {"browInnerUp": 1.5, "browOuterUp": 1.4, "mouthSmile": 1.15}
