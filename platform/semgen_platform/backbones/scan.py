"""One vector for a whole scan: the mean over crops on a fixed lattice in the body.

The lattice is that of crops laid side by side along the patient's axes, one of them centred on the middle of the body's
box; crops that are half body or more count. A volume that is in no lake is written into a temporary one first, so that
it is read exactly as if it were in a lake. Shapes: M centres, D values.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.backbones.backbone import BATCH, Backbone
from semgen_platform.backbones.contract import Preprocessing, Vector
from semgen_platform.discovery.body_frame import FRAME_SPACING_MM, BodyConfig, Frame, body_frame
from semgen_platform.lake.crops import CropReader, CropRequest
from semgen_platform.lake.pyramid import Level
from semgen_platform.lake.selection import Scan
from semgen_platform.lake.volumes import write_volume
from semgen_platform.volume import Volume

LEAST_BODY = 0.5
"""Share of a crop that must be body (lungs and bowel gas are) for it to count."""

MOST_CROPS = 64
"""Of more crops, so many are taken evenly along the lattice; it bounds the time of one scan."""

FloatArray = NDArray[np.float64]


def embed_scan(backbone: Backbone, reader: CropReader, scan: Scan) -> NDArray[np.float32]:
    """Vector (D,) float32 of a scan that the reader was given; the same on every machine but for rounding."""
    level = reader.level(scan.scan_id, FRAME_SPACING_MM)
    frame = body_frame(level.voxels_ZYX, level.zyx_to_lps_mm, scan.padding_hu, BodyConfig())
    contract = backbone.config.preprocessing
    requests = [
        crop_request(scan.scan_id, centre, contract) for centre in lattice_centres(frame, contract.extent_zyx_mm)
    ]
    vectors_ND = embed_crops(backbone, reader, requests)
    return np.asarray(vectors_ND.mean(axis=0, dtype=np.float64), np.float32)


def embed_volume(backbone: Backbone, volume: Volume) -> NDArray[np.float32]:
    """Vector (D,) float32 of a canonical volume, equal to that of the same scan in a lake."""
    with tempfile.TemporaryDirectory(prefix="semgen-") as folder:
        scan = _scan_from(write_volume(Path(folder), volume, run_id=""), volume)
        return embed_scan(backbone, CropReader(Path(folder), [scan]), scan)


def embed_crops(backbone: Backbone, reader: CropReader, requests: Sequence[CropRequest]) -> NDArray[np.float32]:
    """Vectors (N, D) of crops, read and embedded batch by batch so that memory does not grow with their number."""
    starts = range(0, len(requests), BATCH)
    return np.concatenate([backbone.embed(reader.read(requests[start : start + BATCH])) for start in starts])


def crop_request(scan_id: str, centre_zyx_mm: Sequence[float] | FloatArray, contract: Preprocessing) -> CropRequest:
    """The crop of the contract's shape and spacing round a centre (z, y, x) in LPS mm, its axes along the patient's."""
    spacing, shape = np.array(contract.spacing_zyx_mm), np.array(contract.crop_shape_zyx)
    first_zyx_mm = np.asarray(centre_zyx_mm, dtype=np.float64) - (shape - 1) / 2 * spacing
    zyx_to_lps_mm = np.eye(4)
    zyx_to_lps_mm[:3, :3] = np.diag(spacing)[::-1]
    zyx_to_lps_mm[:3, 3] = first_zyx_mm[::-1]
    return CropRequest(scan_id, zyx_to_lps_mm, contract.crop_shape_zyx)


def lattice_centres(frame: Frame, extent_zyx_mm: Vector) -> FloatArray:
    """(M, 3) centres (z, y, x) in LPS mm, in lexical order, at least one.

    A scan without a crop that is half body gives the one with most of it, a scan without a body its own middle.
    """
    extent = np.array(extent_zyx_mm)
    if frame.body_box_zyx_mm is None:
        low, high = frame.grid.edges_zyx_mm
        return ((low + high) / 2)[None]
    middle = (frame.body_box_zyx_mm[0] + frame.body_box_zyx_mm[1]) / 2
    body_zyx_mm = frame.grid.to_mm(np.argwhere(frame.body_ZYX))
    cells, counts = np.unique(np.floor((body_zyx_mm - middle) / extent + 0.5), axis=0, return_counts=True)
    shares = counts * frame.grid.spacing_mm**3 / extent.prod()
    kept = cells[shares >= min(LEAST_BODY, shares.max())]
    chosen = np.unique(np.rint(np.linspace(0, len(kept) - 1, MOST_CROPS)).astype(int))
    return np.asarray(middle + kept[chosen] * extent, dtype=np.float64)


def _scan_from(row: dict[str, Any], volume: Volume) -> Scan:
    """The scan of a row that `write_volume` gave, as if one nameless source stood for it."""
    return Scan(
        scan_id=row["scan_id"],
        content_id=row["content_id"],
        patient_id="",
        split_group="",
        collection="",
        modality=volume.modality,
        shape_zyx=volume.shape_zyx,
        ijk_to_lps_mm=volume.ijk_to_lps_mm,
        flags=(),
        attempt=row["attempt"],
        levels=tuple(Level(tuple(level["shape_zyx"]), tuple(level["factor_zyx"])) for level in row["levels"]),
        padding_hu=volume.padding_hu,
        dtype=volume.voxels.dtype.name,
    )
