"""Pictures of the `shapes` benchmark: a neutral cluttered background and at most one object.

An object has a shape, a colour and a place, each a word that questions and answers use. The
background, its clutter and its moving distractors are grey and blurred, so that no word describes
them. Reads and writes nothing; every picture follows from a numpy Generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SIZE = 96
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = ("red", "green", "blue", "yellow", "purple", "cyan")
PLACES = ("left", "right", "top", "bottom")

_RGB = {
    "red": (215, 35, 35),
    "green": (35, 165, 50),
    "blue": (40, 70, 220),
    "yellow": (235, 215, 40),
    "purple": (185, 50, 195),
    "cyan": (50, 205, 215),
}
_DIRECTION = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
_OFF_CENTRE = 24.0
_SUPERSAMPLING = 4

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Look:
    """One object as it is painted: its words, and what no question asks about.

    Attributes:
        radius: Half of the object's extent in pixels of the `SIZE` x `SIZE` picture.
        center: x and y in pixels at the start of its moment.
        drift: Pixels moved towards the border of its place by the end of its moment.
        angle: Rotation in radians.
        rgb: The colour as painted, a jittered version of the word's.
    """

    shape: str
    color: str
    place: str
    radius: float
    center: tuple[float, float]
    drift: float
    angle: float
    rgb: tuple[int, int, int]

    def center_at(self, progress: float) -> tuple[int, int]:
        """x and y of the centre, in whole pixels, at `progress` 0..1 of the moment."""
        dx, dy = _DIRECTION[self.place]
        x, y = self.center
        return round(x + dx * self.drift * progress), round(y + dy * self.drift * progress)


def draw_look(rng: np.random.Generator, shape: str, color: str, place: str) -> Look:
    """An object with the given words and random size, jitter, rotation, drift and tint."""
    dx, dy = _DIRECTION[place]
    middle = SIZE / 2
    jitter = rng.uniform(-5, 5, size=2)
    center = (middle + dx * _OFF_CENTRE + jitter[0], middle + dy * _OFF_CENTRE + jitter[1])
    tint = np.clip(np.array(_RGB[color]) + rng.integers(-18, 19, size=3), 0, 255)
    return Look(
        shape=shape,
        color=color,
        place=place,
        radius=float(rng.uniform(15, 20)),
        center=center,
        drift=float(rng.uniform(0, 5)),
        angle=float(rng.uniform(-0.22, 0.22)),
        rgb=(int(tint[0]), int(tint[1]), int(tint[2])),
    )


def _outline(shape: str, angle: float) -> list[tuple[float, float]]:
    """Corners of a polygonal shape in units of its radius."""
    if shape == "cross":
        arm = 0.34
        half = [(-arm, -1.0), (arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm), (arm, arm)]
        corners = half + [(-x, -y) for x, y in half]
    else:
        points, offset = {"square": (4, math.pi / 4), "triangle": (3, 0.0), "star": (10, 0.0)}[
            shape
        ]
        radii = (1.2, 0.5) if shape == "star" else (1.15, 1.15)
        turns = [offset + 2 * math.pi * i / points - math.pi / 2 for i in range(points)]
        corners = [
            (radii[i % 2] * math.cos(t), radii[i % 2] * math.sin(t)) for i, t in enumerate(turns)
        ]
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in corners]


def object_mask(look: Look) -> Mask:
    """Coverage 0..1 of the object on a square patch around its centre, antialiased."""
    half = math.ceil(look.radius * 1.2) + 2
    side = (2 * half + 1) * _SUPERSAMPLING
    image = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(image)
    middle, radius = side / 2, look.radius * _SUPERSAMPLING
    if look.shape in ("circle", "ring"):
        pen.ellipse([middle - radius, middle - radius, middle + radius, middle + radius], fill=255)
        if look.shape == "ring":
            hole = radius * 0.55
            pen.ellipse([middle - hole, middle - hole, middle + hole, middle + hole], fill=0)
    else:
        corners = _outline(look.shape, look.angle)
        pen.polygon([(middle + x * radius, middle + y * radius) for x, y in corners], fill=255)
    small = image.reduce(_SUPERSAMPLING)
    return np.asarray(small, dtype=np.float32) / 255.0


def paint(picture: Picture, mask: Mask, rgb: tuple[int, int, int], center: tuple[int, int]) -> None:
    """Blend a colour into `picture` [H, W, 3] where `mask` covers it; clips at the borders."""
    half = mask.shape[0] // 2
    x0, y0 = center[0] - half, center[1] - half
    left, top = max(0, -x0), max(0, -y0)
    right = min(mask.shape[1], picture.shape[1] - x0)
    bottom = min(mask.shape[0], picture.shape[0] - y0)
    cover = mask[top:bottom, left:right, None]
    region = picture[y0 + top : y0 + bottom, x0 + left : x0 + right]
    blended = region * (1 - cover) + np.array(rgb, dtype=np.float32) * cover
    region[:] = blended.astype(np.uint8)


def _smudge(rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """A blurred grey patch that no shape's name describes, as a brightness difference."""
    height, width = rng.integers(14, 34, size=2)
    y = np.linspace(-1, 1, height)[:, None]
    x = np.linspace(-1, 1, width)[None, :]
    skew = rng.uniform(-0.6, 0.6)
    bump = np.exp(-3.0 * (x * x + y * y + 2 * skew * x * y))
    strength = rng.uniform(20, 45) * rng.choice([-1.0, 1.0])
    return np.round(bump * strength).astype(np.int16)


def _add_grey(picture: Picture, smudge: npt.NDArray[np.int16], x: int, y: int) -> None:
    region = picture[max(0, y) : y + smudge.shape[0], max(0, x) : x + smudge.shape[1]]
    part = smudge[max(0, -y) :, max(0, -x) :][: region.shape[0], : region.shape[1], None]
    region[:] = np.clip(region.astype(np.int16) + part, 0, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Background:
    """A still grey ground and smudges that wander over it."""

    ground: Picture
    smudges: tuple[npt.NDArray[np.int16], ...]
    starts: npt.NDArray[np.float64]
    speeds: npt.NDArray[np.float64]

    def at(self, seconds: float) -> Picture:
        """A fresh picture [SIZE, SIZE, 3] of the background at a time."""
        picture = self.ground.copy()
        path = self.starts + self.speeds * seconds
        # A triangle wave: smudges turn round at the borders instead of leaving the picture.
        bounced = np.abs((path % (2 * SIZE)) - SIZE) - 12
        for smudge, (x, y) in zip(self.smudges, bounced, strict=True):
            _add_grey(picture, smudge, round(x), round(y))
        return picture


def draw_background(rng: np.random.Generator) -> Background:
    """A random neutral background: gradient, soft texture, still and moving smudges."""
    axis = np.linspace(-1, 1, SIZE)
    slope = rng.uniform(-22, 22, size=2)
    gradient = slope[0] * axis[:, None] + slope[1] * axis[None, :]
    coarse = Image.fromarray(rng.uniform(-16, 16, size=(7, 7)).astype(np.float32))
    texture = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    grey = np.clip(rng.uniform(80, 170) + gradient + texture, 0, 255).astype(np.uint8)
    ground = np.repeat(grey[:, :, None], 3, axis=2)
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.integers(-10, SIZE - 10, size=2)
        _add_grey(ground, _smudge(rng), int(x), int(y))
    movers = int(rng.integers(1, 4))
    return Background(
        ground=ground,
        smudges=tuple(_smudge(rng) for _ in range(movers)),
        starts=rng.uniform(0, 2 * SIZE, size=(movers, 2)),
        speeds=rng.uniform(-14, 14, size=(movers, 2)),
    )


def draw_frame(rng: np.random.Generator, look: Look | None) -> Picture:
    """One picture [SIZE, SIZE, 3] outside any video: a background and, if given, an object."""
    picture = draw_background(rng).at(float(rng.uniform(0, 10)))
    if look is not None:
        paint(picture, object_mask(look), look.rgb, look.center_at(float(rng.uniform(0, 1))))
    return picture
