"""Fine texture of tissues: parenchyma, marrow, bowel content. It moves with the body, unlike the scanner's noise."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter

from semgen_platform.ids import uniform_stream
from semgen_platform.phantom.canvas import Canvas
from semgen_platform.phantom.fields import Field
from semgen_platform.phantom.labels import labels_like

TILE = 144
"""Edge of the periodic tile in grid points; each patient starts at another of its points."""

AMPLITUDE_HU = {
    r"fat_.*": 7.0,
    r"muscle.*|psoas.*|gluteus.*|neck": 9.0,
    r"lung_(upper|middle|lower).*": 30.0,
    r"T\d+|L\d|sacrum|cervical_spine": 28.0,
    r"rib_.*|sternum|manubrium|hip.*|scapula.*|clavicle.*|humerus.*": 25.0,
    r"liver_(left|middle|right).*|spleen|pancreas|kidney.*": 6.0,
    r"bowel.*|colon|stomach_wall": 14.0,
    r"breast.*": 22.0,
    r"costal_cartilage.*|disc.*": 10.0,
}


@cache
def _tile() -> Field:
    """(TILE, TILE, TILE) periodic noise of unit variance in two grain sizes."""
    white = uniform_stream("texture tile").standard_normal((TILE,) * 3, dtype=np.float32)
    fine, coarse = gaussian_filter(white, 0.8, mode="wrap"), gaussian_filter(white[::-1], 2.4, mode="wrap")
    grain = fine / fine.std() + coarse / coarse.std()
    return np.asarray(grain / grain.std(), np.float32)


def add_texture(canvas: Canvas, rng: np.random.Generator) -> None:
    """Add each tissue's texture to the canvas in place."""
    amplitude = np.zeros(256, np.float32)
    for pattern, hu in AMPLITUDE_HU.items():
        amplitude[labels_like(pattern)] = hu
    index = [(np.arange(n) + rng.integers(0, TILE)) % TILE for n in canvas.hu.shape]
    plane = _tile()[:, index[1]][:, :, index[2]]
    for z, source in enumerate(index[0]):
        canvas.hu[z] += amplitude[canvas.labels[z]] * plane[source]
