"""Draw docs/images/phantom.png: three phantom patients in three planes, as a viewer would show them.

Run from the repository's root: python examples/phantom_picture.py [OUT.png]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semgen_platform import geometry
from semgen_platform.phantom.anatomy import vertebra_xyz_mm
from semgen_platform.phantom.cohort import CohortConfig
from semgen_platform.phantom.patient import Patient, draw_patient
from semgen_platform.phantom.scanner import PhantomScan, draw_protocol, scan_patient

Picture = NDArray[np.uint8]

SEED, PATIENTS = 3, (0, 5, 8)
MM_PER_PIXEL = 1.6
SOFT, LUNG = (40.0, 400.0), (-550.0, 1500.0)
"""Window centre and width in HU."""
AXIAL, TALL = (210, 280), (420, 280)
"""Height and width of the panels in pixels."""


def main(out: Path) -> None:
    """Scan the patients and save their planes, one row each."""
    rows = [_row(draw_patient(_config(), SEED, number)) for number in PATIENTS]
    picture = Image.fromarray(np.vstack(rows) // 6 * 6)  # fewer greys: noise hardly compresses
    picture.save(out, optimize=True)
    print(f"{out} {out.stat().st_size // 1024} KiB")


def _config() -> CohortConfig:
    return CohortConfig(
        matrix=320,
        field_of_view_mm=(420, 440),
        slice_mm=(1.5, 2),
        coverage=("chest_abdomen",),
        noise_hu=(6, 11),
        oblique_share=0,
    )


def _row(patient: Patient) -> Picture:
    """Four axial planes, then a coronal and a sagittal one through the heart and the spine."""
    scan = scan_patient(patient, draw_protocol(_config(), patient, SEED, exact=False))
    levels = {name: _index(scan, patient, vertebra_xyz_mm(name))[0] for name in ("T4", "T8", "T12", "L3")}
    axial = [
        _panel(scan, scan.volume.voxels[levels["T8"]], "yx", LUNG, AXIAL),
        _panel(scan, scan.volume.voxels[levels["T8"]], "yx", SOFT, AXIAL),
        _panel(scan, scan.volume.voxels[levels["T12"]], "yx", SOFT, AXIAL),
        _panel(scan, scan.volume.voxels[levels["L3"]], "yx", SOFT, AXIAL),
    ]
    _, heart_y, _ = _index(scan, patient, (20.0, -20.0, 320.0))
    _, _, spine_x = _index(scan, patient, vertebra_xyz_mm("T10"))
    coronal = _panel(scan, scan.volume.voxels[::-1, heart_y], "zx", SOFT, TALL)
    sagittal = _panel(scan, scan.volume.voxels[::-1, :, spine_x], "zy", SOFT, TALL)
    return np.hstack([np.vstack(axial[:2]), np.vstack(axial[2:]), coronal, sagittal])


def _index(scan: PhantomScan, patient: Patient, body_xyz_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """Voxel (z, y, x) of a place in the body, kept inside the scan."""
    to_index = np.asarray(np.linalg.inv(scan.volume.ijk_to_lps_mm), np.float64)
    xyz = geometry.apply_affine(to_index, patient.pose_to_world(body_xyz_mm))
    z, y, x = np.clip(np.rint(xyz[::-1]), 0, np.array(scan.volume.voxels.shape) - 1).astype(int).tolist()
    return z, y, x


def _panel(
    scan: PhantomScan, plane_hu: NDArray[np.int16], axes: str, window: tuple[float, float], size: tuple[int, int]
) -> Picture:
    """A plane in a window, at one scale for all panels, centred on black."""
    centre, width = window
    grey = np.clip((plane_hu.astype(np.float32) - centre) / width + 0.5, 0, 1) * 255
    spacing = dict(zip("zyx", scan.volume.spacing_zyx_mm, strict=True))
    shape = [round(n * spacing[a] / MM_PER_PIXEL) for n, a in zip(grey.shape, axes, strict=True)]
    scaled = np.asarray(Image.fromarray(grey.astype(np.uint8)).resize((shape[1], shape[0]), Image.Resampling.LANCZOS))
    panel = np.zeros(size, np.uint8)
    cut = [max(0, (s - n) // 2) for s, n in zip(scaled.shape, size, strict=True)]
    part = scaled[cut[0] : cut[0] + size[0], cut[1] : cut[1] + size[1]]
    gap = [(n - s) // 2 for s, n in zip(part.shape, size, strict=True)]
    panel[gap[0] : gap[0] + part.shape[0], gap[1] : gap[1] + part.shape[1]] = part
    return panel


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/phantom.png"))
