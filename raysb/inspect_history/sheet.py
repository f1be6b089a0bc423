"""A contact sheet: pictures side by side, with lines of text under each.

Small pictures are enlarged by a whole factor, pixel by pixel (nearest), so that nothing is smoothed
away; large ones are shrunk. H, W height and width of a picture, C channels (1 grey, 3 RGB).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 96  # pixels of the longer side of a small picture, about
LARGEST = 192
COLUMNS = 10
GAP = 10
FONT, TITLE_FONT = 12, 15
LINE = FONT + 3
BLACK, GREY, RED, GREEN = "#111111", "#777777", "#b3001b", "#1a7f37"


@dataclass(frozen=True)
class Line:
    """A line of text under a picture."""

    text: str
    colour: str = BLACK


def draw_sheet(
    pictures: Sequence[npt.NDArray[np.uint8]], captions: Sequence[Sequence[Line]], title: str
) -> "Image":
    """Draw pictures in rows of at most ten, in the order given.

    Args:
        pictures: At least one, all of one shape [H, W, C].
        captions: Lines under each picture; what is too wide is cut.
        title: Above all of them.

    Raises:
        ImportError: pillow is not installed.
    """
    pillow, draw_on, font = _pillow()
    sized = [_resized(pillow, each) for each in pictures]
    wide, high = max(SIDE, sized[0].width), sized[0].height
    step = wide + GAP, high + LINE * max(map(len, captions)) + GAP
    columns = min(COLUMNS, len(sized))
    rows = -(-len(sized) // columns)
    small, large = font(FONT), font(TITLE_FONT)
    top = TITLE_FONT + 2 * GAP
    width = max(columns * step[0] + GAP, int(large.getlength(title)) + 2 * GAP)
    sheet: Image = pillow.new("RGB", (width, top + rows * step[1]), "white")
    pen = draw_on(sheet)
    pen.text((GAP, GAP), title, fill=BLACK, font=large)
    for number, (picture, lines) in enumerate(zip(sized, captions, strict=True)):
        x, y = GAP + number % columns * step[0], top + number // columns * step[1]
        sheet.paste(picture, (x, y))
        for place, line in enumerate(lines):
            at = (x, y + high + 2 + place * LINE)
            pen.text(at, _cut(line.text, wide, small), fill=line.colour, font=small)
    return sheet


def _resized(pillow: Any, pixels: npt.NDArray[np.uint8]) -> "Image":
    picture: Image = pillow.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    longer = max(picture.size)
    if longer > LARGEST:
        picture.thumbnail((LARGEST, LARGEST))
        return picture.convert("RGB")
    factor = max(1, round(SIDE / longer))
    size = picture.width * factor, picture.height * factor
    return picture.convert("RGB").resize(size, pillow.Resampling.NEAREST)


def _cut(text: str, width: int, font: Any) -> str:
    """The text, or as much of its start as fits with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def _pillow() -> tuple[Any, Any, Any]:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError(
            "a contact sheet (--images) needs pillow: pip install 'raysb[images]'"
        ) from error
    return Image, ImageDraw.Draw, ImageFont.load_default
