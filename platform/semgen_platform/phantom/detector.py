"""What the scanner makes of true HU: reconstruction kernel, correlated noise, whole numbers, round field of view."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from semgen_platform.phantom.fields import Field

Kernel = Literal["soft", "standard", "sharp"]

KERNELS: dict[Kernel, tuple[float, float, float]] = {
    "soft": (0.75, 0.95, 0.0),
    "standard": (0.45, 0.6, 0.0),
    "sharp": (0.0, 0.35, 0.7),
}
"""Blur of the picture (sd, mm), grain of the noise (sd, mm), and how much edges are raised."""

PADDING_HU, LARGEST_HU = -1024, 3071
"""The range of 12 bits with an offset of 1024."""
MIDDLE_TRUNK_MM, NOISE_PER_MM = 270.0, 0.0045
"""Noise grows by e for about 220 mm more of water: photon statistics, eased by control of the tube current."""


def measured(
    hu: Field, *, pixel_mm: float, kernel: Kernel, noise_hu: float, round_view: bool, rng: np.random.Generator
) -> NDArray[np.int16]:
    """int16 HU (z, y, x) as the scanner reports them; with `round_view`, `PADDING_HU` outside the circle."""
    blur, grain, raised = KERNELS[kernel]
    picture = gaussian_filter(hu, (0, blur / pixel_mm, blur / pixel_mm)) if blur > 0.25 * pixel_mm else hu
    if raised:
        picture = picture + np.float32(raised) * (
            picture - gaussian_filter(picture, (0, 1.1 / pixel_mm, 1.1 / pixel_mm))
        )
    strength, streaks = _noise_levels(hu, pixel_mm)
    noise = _noise(hu.shape, grain / pixel_mm, streaks, rng) * (np.float32(noise_hu) * strength)[:, None, None]
    voxels = np.clip(np.rint(picture + noise), PADDING_HU, LARGEST_HU).astype(np.int16)
    if round_view:
        voxels[:, outside_circle(hu.shape[1])] = PADDING_HU
    return voxels


def outside_circle(size: int) -> NDArray[np.bool_]:
    """(size, size): True outside the largest circle in a square picture."""
    away = np.arange(size) - (size - 1) / 2
    return np.asarray(away[:, None] ** 2 + away[None, :] ** 2 > (size / 2) ** 2)


def _noise_levels(hu: Field, pixel_mm: float) -> tuple[Field, Field]:
    """Each slice's noise against a middle trunk's, and its share of streaks: shoulders are noisy and streak."""
    water = np.clip(hu * np.float32(1e-3) + 1, 0, 2)
    diameter = 2 * np.sqrt(water.sum(axis=(1, 2)) / np.pi) * pixel_mm
    strength = np.exp((diameter - MIDDLE_TRUNK_MM) * NOISE_PER_MM)
    across, through = (np.percentile(water.sum(axis=a), 95, axis=1) for a in (2, 1))
    streaks = np.clip((across / np.maximum(through, 1) - 1.75) / 0.9, 0, 0.85)
    return np.clip(strength, 0.5, 2.0).astype(np.float32), streaks.astype(np.float32)


def _noise(shape: tuple[int, ...], grain: float, streaks: Field, rng: np.random.Generator) -> Field:
    """Unit-variance noise, correlated in plane over `grain` pixels, and along x where slices streak."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if grain > 0.25:
        noise = gaussian_filter(noise, (0, grain, grain))
    noise /= noise.std()
    for k in np.flatnonzero(streaks > 0.02):
        long = gaussian_filter1d(noise[k], 14 * max(grain, 0.5), axis=1)
        noise[k] = np.sqrt(1 - streaks[k] ** 2) * noise[k] + streaks[k] * long / long.std()
    return noise
