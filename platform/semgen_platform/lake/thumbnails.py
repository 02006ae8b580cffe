"""Thumbnails of scans: three planes through the middle in one small PNG, kept in the lake once made.

The planes are the patient's own (axial, coronal, sagittal), whichever way the voxels lie, so the letters at their edges
hold for oblique scans too. They are seen as radiologists see them: the patient's right on the viewer's left, front or
head at the top. One scale serves all three, so proportions are right in mm. A thumbnail is a copy of what a volume
holds: it may be deleted, and is made again. Source: DESIGN.md section 4 (place in the lake).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semgen_platform.errors import StorageError
from semgen_platform.lake.crops import CropReader, CropRequest
from semgen_platform.lake.selection import Scan
from semgen_platform.pictures import GROUND, montage, png, png_note, window
from semgen_platform.storage import Storage

REVISION = 1
"""Raised by hand whenever the picture of the same scan changes; kept ones of another revision are made anew."""

PANEL_PX = 170  # a side of the square that holds a plane
GAP_PX = 5
LETTER_PX = 12  # height of the letters
LETTER_MARGIN_PX = 3

SOFT_TISSUE_HU = (-160.0, 240.0)
"""Level 40, width 400: the usual window of abdomen and mediastinum."""
NOT_HU = frozenset({"not_ct", "not_hu_like"})
"""Flags of scans whose values are not in HU: a window in HU would show them black or white."""

NOTE = "semgen-thumbnail"  # what a thumbnail says of itself: revision and window

_log = logging.getLogger(__name__)

ReadCrops = Callable[[Sequence[CropRequest]], NDArray[np.float32]]
"""Crops (N, z, y, x) in HU for requests of one shape, such as `CropReader.read`."""


@dataclass(frozen=True)
class Plane:
    """One view: the axis of (z, y, x) that it looks along, and the patient's directions at its edges."""

    name: str
    axis: int
    top: str
    bottom: str
    left: str
    right: str


PLANES = (
    Plane("axial", 0, top="A", bottom="P", left="R", right="L"),
    Plane("coronal", 1, top="S", bottom="I", left="R", right="L"),
    Plane("sagittal", 2, top="S", bottom="I", left="A", right="P"),
)
"""From left to right in a thumbnail."""


def thumbnail(storage: Storage, reader: CropReader, scan: Scan, window_hu: tuple[float, float]) -> bytes:
    """PNG of a scan's three planes: the lake's own if it is there, else made and kept there.

    Raises NotFound or Damage for a volume that is absent or broken.
    """
    key, made_as = thumbnail_key(scan.scan_id), f"{REVISION} {window_hu[0]:g} {window_hu[1]:g}"
    kept = storage.get(key)
    if kept is not None and png_note(kept, NOTE) == made_as:
        return kept
    made = png(picture(scan, reader.read, window_hu), {NOTE: made_as})
    _keep(storage, key, made)
    return made


def thumbnail_key(scan_id: str) -> str:
    """Where a scan's thumbnail lies in the lake."""
    return f"thumbnails/{scan_id[1:3]}/{scan_id}.png"


def window_of(flags: Collection[str], p01: float | None, p99: float | None) -> tuple[float, float]:
    """Soft tissue, or for a scan whose values are not in HU its own 1st to 99th percentile."""
    if NOT_HU.isdisjoint(flags) or p01 is None or p99 is None:
        return SOFT_TISSUE_HU
    return p01, max(p99, p01 + 1.0)


def picture(scan: Scan, read: ReadCrops, window_hu: tuple[float, float]) -> NDArray[np.uint8]:
    """The planes side by side as grey values (rows, columns), each centred in a square and lettered."""
    panels = []
    for plane, request in zip(PLANES, plane_requests(scan), strict=True):
        slice_hu = read([request])[0].squeeze(plane.axis)
        upright = slice_hu if plane.axis == 0 else slice_hu[::-1]  # z grows towards the head
        panels.append(_lettered(_centred(window(upright, *window_hu)), plane))
    return montage(panels, columns=len(panels), gap=GAP_PX)


def plane_requests(scan: Scan) -> list[CropRequest]:
    """The middle slice of the patient's box around a scan along z, y and x, at one spacing for all three."""
    extent_zyx_mm = box_zyx_mm(scan.zyx_to_lps_mm, scan.shape_zyx)
    spacing_mm = extent_zyx_mm.max() / PANEL_PX
    pixels_zyx = [max(1, round(extent / spacing_mm)) for extent in extent_zyx_mm.tolist()]
    centre_xyz_mm = (scan.zyx_to_lps_mm @ [*((n - 1) / 2 for n in scan.shape_zyx), 1.0])[:3]
    requests = []
    for plane in PLANES:
        depth, height, width = (1 if axis == plane.axis else n for axis, n in enumerate(pixels_zyx))
        affine = np.zeros((4, 4))
        affine[[2, 1, 0], [0, 1, 2]] = spacing_mm  # crop axes z, y, x are the patient's
        affine[:3, 3] = centre_xyz_mm - spacing_mm * (np.array([width, height, depth]) - 1) / 2
        affine[3, 3] = 1.0
        requests.append(CropRequest(scan.scan_id, affine, (depth, height, width)))
    return requests


def box_zyx_mm(zyx_to_lps_mm: NDArray[np.float64], shape_zyx: Sequence[int]) -> NDArray[np.float64]:
    """Extent along the patient's z, y and x of the box that holds a volume, voxel edges included."""
    return (np.abs(zyx_to_lps_mm[:3, :3]) @ np.asarray(shape_zyx, dtype=np.float64))[::-1]


def _centred(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A plane in the middle of its square; what lies outside the scan is not black as air is."""
    panel = np.full((PANEL_PX, PANEL_PX), GROUND, np.uint8)
    top, left = ((PANEL_PX - n) // 2 for n in grey.shape)
    panel[top : top + grey.shape[0], left : left + grey.shape[1]] = grey
    return panel


def _lettered(panel: NDArray[np.uint8], plane: Plane) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(panel)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(LETTER_PX)
    near, middle, far = LETTER_MARGIN_PX, PANEL_PX / 2, PANEL_PX - LETTER_MARGIN_PX
    places = {  # where the letter is held (Pillow's anchors): middle or end of the edge
        "mt": ((middle, near), plane.top),
        "mb": ((middle, far), plane.bottom),
        "lm": ((near, middle), plane.left),
        "rm": ((far, middle), plane.right),
    }
    for anchor, (place, letter) in places.items():
        draw.text(place, letter, fill=255, font=font, anchor=anchor, stroke_width=1, stroke_fill=0)
    return np.asarray(image)


def _keep(storage: Storage, key: str, data: bytes) -> None:
    """Write whole or not at all; a lake that may only be read gives its pictures all the same."""
    try:
        storage.put(key, data)
    except StorageError as error:
        _log.warning("thumbnail not kept error=%s", type(error).__name__)
