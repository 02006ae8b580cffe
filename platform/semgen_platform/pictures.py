"""Grey pictures: HU through a window, tiles laid beside each other, PNG bytes.

Pure functions of arrays; which slices are shown and what stands beside them is their callers' business.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUND = 24
"""Grey of what belongs to no picture; air in a soft-tissue window is black."""


def window(volume_hu: NDArray[Any], low_hu: float, high_hu: float) -> NDArray[np.uint8]:
    """HU of any shape as grey values: `low_hu` and below 0, `high_hu` and above 255."""
    scaled = (np.asarray(volume_hu, dtype=np.float32) - low_hu) * (255.0 / (high_hu - low_hu))
    grey: NDArray[np.uint8] = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return grey


def montage(tiles: Sequence[NDArray[np.uint8]], columns: int, *, gap: int = 2) -> NDArray[np.uint8]:
    """Grey or colour tiles of one shape laid row by row on a dark ground, `gap` pixels apart."""
    assert tiles, "a montage needs a tile"
    rows = -(-len(tiles) // columns)
    height, width = tiles[0].shape[:2]
    canvas = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, *tiles[0].shape[2:]), GROUND, np.uint8
    )
    for n, tile in enumerate(tiles):
        top, left = (n // columns) * (height + gap), (n % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def png(pixels: NDArray[np.uint8], notes: Mapping[str, str] | None = None) -> bytes:
    """PNG of grey (rows, columns) or colour (rows, columns, 3) uint8 pixels; the first row is the upper one.

    notes : key and text (ASCII) of what the file says of itself; `png_note` reads it again.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    buffer, info = io.BytesIO(), PngInfo()
    for key, text in (notes or {}).items():
        info.add_text(key, text)
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", optimize=True, pnginfo=info)
    return buffer.getvalue()


def png_note(data: bytes, key: str) -> str | None:
    """A note of a PNG, or None where it has none or is no PNG."""
    from PIL import Image, UnidentifiedImageError

    try:
        note = Image.open(io.BytesIO(data), formats=["PNG"]).info.get(key)
    except (UnidentifiedImageError, OSError, SyntaxError):
        return None
    return note if isinstance(note, str) else None
