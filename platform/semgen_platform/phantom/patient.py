"""A patient: how he differs from the canonical body, and the map from the scanner's room into that body.

World points are LPS+ millimetres. The map is a similarity with one scale an axis (pose), then breathing and a smooth
random displacement (shape). Everything is drawn from a stream that only the seed and the patient's number enter, so a
patient is the same in every cohort that contains him.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator
from pydantic import Field as Setting

from semgen_platform.config import Config
from semgen_platform.ids import uniform_stream
from semgen_platform.phantom.anatomy import canonical_body
from semgen_platform.phantom.bowel import fill_stomach, paint_bowel
from semgen_platform.phantom.canvas import OUTSIDE, Canvas, ellipsoid
from semgen_platform.phantom.fields import Field
from semgen_platform.phantom.labels import LABELS, SIDE_SIGNS, labels_like
from semgen_platform.phantom.texture import add_texture
from semgen_platform.phantom.trees import scatter_inside
from semgen_platform.phantom.trunk import WALL

PIVOT_XYZ_MM = np.array([0.0, 0.0, 250.0])
"""Body point about which a patient is turned and scaled."""

WAVES, WAVELENGTH_MM = 12, (170.0, 420.0)
BREATHING_LEVELS_MM = (40.0, 250.0, 400.0)
"""Breathing moves the organs between the first and last level, most at the middle one."""

Sex = Literal["female", "male"]


def ascending(pair: tuple[float, float]) -> tuple[float, float]:
    """The pair itself. Raises ValueError if it is no range of numbers from 0 on."""
    if not 0 <= pair[0] <= pair[1]:
        raise ValueError("give two numbers from 0 on, the smaller first")
    return pair


Size = Annotated[float, Setting(gt=0)]
Range = Annotated[tuple[Size, Size], AfterValidator(ascending)]
"""Two positive numbers that values are drawn between."""


class PatientConfig(Config):
    """How much patients differ."""

    pose_variation: bool = True
    """False: no shift, no rotation, scale 1 and exact ends of the coverage, whatever the ranges below say."""
    size: Range = (0.85, 1.15)
    """Range of the scale of each body axis."""
    rotation_deg: float = Setting(10.0, ge=0, le=45)
    """Largest total angle."""
    shift_mm: float = Setting(40.0, ge=0)
    """Largest shift in the field of view, an axis."""
    deformation_mm: float = Setting(3.5, ge=0, le=8)
    """Root mean square of the smooth random displacement, an axis; above 8 mm it could fold."""
    fat_mm: Range = (5.0, 30.0)
    """Thickness of the subcutaneous fat at the belly."""
    breathing_mm: float = Setting(15.0, ge=0, le=25)
    """Largest rise of the diaphragm below full inspiration."""
    contrast_share: float = Setting(0.6, ge=0, le=1)
    """Share of patients with contrast medium."""
    nodule_share: float = Setting(0.25, ge=0, le=1)
    """Share of patients with one to four lung nodules."""


@dataclass(frozen=True, eq=False)
class Patient:
    """What makes one patient. Lengths in mm; `size_xyz`, `shift_xyz_mm` and `rotation` are the pose."""

    number: int
    patient_id: str
    sex: Sex
    size_xyz: NDArray[np.float64]
    shift_xyz_mm: NDArray[np.float64]
    rotation: NDArray[np.float64]
    waves: NDArray[np.float64]
    """(waves, 7): wave vector in 1/mm, amplitude in mm, phase."""
    fat_mm: float
    breast_mm: float
    breathing_mm: float
    contrast_hu: float
    nodules: int
    seed: int

    def to_body(self, world_xyz_mm: Any) -> NDArray[np.float64]:
        """Body coordinates of (..., 3) LPS points."""
        turned = (np.asarray(world_xyz_mm, dtype=np.float64) - PIVOT_XYZ_MM - self.shift_xyz_mm) @ self.rotation
        body = PIVOT_XYZ_MM + turned / self.size_xyz
        return np.asarray(body + self._displacement(body))

    def pose_to_world(self, body_xyz_mm: Any) -> NDArray[np.float64]:
        """LPS points of (..., 3) body points by the pose alone, without breathing and shape."""
        offset = (np.asarray(body_xyz_mm, dtype=np.float64) - PIVOT_XYZ_MM) * self.size_xyz
        return np.asarray(PIVOT_XYZ_MM + self.shift_xyz_mm + offset @ self.rotation.T)

    def _displacement(self, body: NDArray[np.float64]) -> NDArray[np.float64]:
        phase = body @ self.waves[:, :3].T + self.waves[:, 6]
        shape = np.sin(phase) @ self.waves[:, 3:6]
        shape[..., 2] -= self.breathing_mm * _breathing_share(body)
        return shape

    def skin_distance_mm(self, body_xyz_mm: NDArray[Any]) -> Field:
        """Distance from the skin at body points, negative inside; in body mm."""
        x, y, z = (np.asarray(body_xyz_mm[..., a], np.float32) for a in range(3))
        return np.asarray(WALL.distance(x, y, z) - self._fat_at(x, y, z), np.float32)

    def _fat_at(self, x: Field, y: Field, z: Field) -> Field:
        level = np.interp(z, [-130, -40, 40, 150, 260, 400, 480, 540], [1.0, 1.05, 1.0, 0.95, 0.6, 0.45, 0.5, 0.5])
        angle = np.arctan2(x, -y)  # 0 in front, pi at the back
        around = 0.8 + 0.2 * np.cos(angle) + 0.08 * np.cos(2 * angle)
        bulge = np.exp(-(((np.abs(x) - 80) / 42) ** 2) - ((z - 342) / 48) ** 2) * (y < 0)
        return np.asarray(4 + (self.fat_mm - 4) * level * around + self.breast_mm * bulge, np.float32)

    def anatomy(self) -> Canvas:
        """The canonical body with what is this patient's own: bowel, nodules, breasts, contrast medium, texture."""
        rng = uniform_stream(self.seed, "anatomy", self.number)
        canvas = canonical_body().copy()
        paint_bowel(canvas, rng)
        fill_stomach(canvas, float(rng.uniform(-60, 5)), float(rng.uniform(5, 60)), rng)
        if self.breast_mm > 0:
            _paint_breasts(canvas, self.breast_mm)
        if self.nodules:
            _paint_nodules(canvas, self.nodules, rng)
        canvas.hu[...] += np.float32(self.contrast_hu) * canvas.uptake
        _vary_tissues(canvas, rng)
        add_texture(canvas, rng)
        return canvas


def draw_patient(config: PatientConfig, seed: int, number: int) -> Patient:
    """The patient of this number, a pure function of (config, seed, number)."""
    rng = uniform_stream(seed, "patient", number)
    sex: Sex = "female" if rng.random() < 0.5 else "male"
    size = rng.uniform(*config.size, 3)
    shift = rng.uniform(-config.shift_mm, config.shift_mm, 3)
    turn = _turn(rng, config.rotation_deg)
    waves = _waves(rng, config.deformation_mm)
    fat, breast = rng.uniform(*config.fat_mm), rng.uniform(14, 42)
    breath, dose = rng.uniform(0, config.breathing_mm), rng.uniform(80, 190)
    contrast = dose if rng.random() < config.contrast_share else 0.0
    nodules = int(rng.integers(1, 5)) if rng.random() < config.nodule_share else 0
    posed = config.pose_variation
    return Patient(
        number=number,
        patient_id=f"PHANTOM-{number:04d}",
        sex=sex,
        size_xyz=size if posed else np.ones(3),
        shift_xyz_mm=shift if posed else np.zeros(3),
        rotation=turn if posed else np.eye(3),
        waves=waves,
        fat_mm=float(fat),
        breast_mm=float(breast) if sex == "female" else 0.0,
        breathing_mm=float(breath),
        contrast_hu=float(contrast),
        nodules=nodules,
        seed=seed,
    )


def _turn(rng: np.random.Generator, largest_deg: float) -> NDArray[np.float64]:
    """A rotation about a random axis, most often near the long one: patients roll more than they tilt."""
    from scipy.spatial.transform import Rotation

    axis = rng.normal(0, (0.45, 0.45, 1.0))
    angle = np.radians(rng.uniform(-largest_deg, largest_deg))
    return np.asarray(Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix())


def _waves(rng: np.random.Generator, rms_mm: float) -> NDArray[np.float64]:
    direction = rng.standard_normal((WAVES, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    vectors = direction * (2 * np.pi / rng.uniform(*WAVELENGTH_MM, (WAVES, 1)))
    amplitude = rng.standard_normal((WAVES, 3))
    amplitude *= rms_mm * np.sqrt(2 / np.sum(amplitude**2, axis=0))
    return np.concatenate([vectors, amplitude, rng.uniform(0, 2 * np.pi, (WAVES, 1))], axis=1)


def _breathing_share(body: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 to 1: where the diaphragm carries organs along, none at ribs, spine, neck and pelvis."""
    x, y, z = body[..., 0], body[..., 1], body[..., 2]
    low, middle, high = BREATHING_LEVELS_MM
    level = np.interp(z, [low, middle - 60, middle + 30, high], [0, 1, 1, 0])
    inside = np.clip(1.5 - 1.5 * ((x / 112) ** 4 + ((y + 8) / 66) ** 4), 0, 1)
    spine = np.clip((np.hypot(x, y - 40) - 24) / 24, 0, 1)
    return np.asarray(level * level * (3 - 2 * level) * inside * spine)


def _paint_breasts(canvas: Canvas, size_mm: float) -> None:
    """Glandular tissue in the fat before the chest muscles."""
    for side, sign in SIDE_SIGNS.items():
        centre = (sign * 84, -108 - 0.4 * size_mm, 338)
        box = canvas.box(tuple(c - 55 for c in centre), tuple(c + 55 for c in centre))
        lobes = 5 * np.sin(box.x / 5.1) * np.sin(box.z / 5.9) + 4 * np.sin(box.y / 3.7 + box.x / 9)
        gland = ellipsoid(box, centre, (34, 0.38 * size_mm + 5, 34)) + lobes
        gland = np.maximum(gland, 5 - WALL.distance(box.x, box.y, box.z))
        canvas.paint(box, np.asarray(gland, np.float32), LABELS[f"breast_{side}"], 25.0, 0.15)


def _paint_nodules(canvas: Canvas, count: int, rng: np.random.Generator) -> None:
    lung = np.isin(canvas.labels, labels_like("lung_(upper|middle|lower)_.*"))
    box = canvas.whole()
    for centre in scatter_inside(np.where(lung, np.float32(-1), np.float32(1)), box, count, 30.0, rng):
        radius = rng.uniform(2.5, 9.0)
        near = canvas.box(centre - 16, centre + 16)
        radii = tuple(radius * rng.uniform(0.85, 1.15, 3))
        rough = (
            0.12
            * radius
            * np.sin(near.x * 4 / radius)
            * np.sin(near.y * 4 / radius + 1)
            * np.sin(near.z * 4 / radius + 2)
        )
        body = ellipsoid(near, tuple(centre), radii) + rough
        keep = np.isin(canvas.labels[near.window], labels_like("lung_.*"))
        canvas.paint(
            near,
            np.where(keep, body, OUTSIDE),
            LABELS["nodule"],
            float(rng.uniform(-20, 60)),
            0.2,
        )


def _vary_tissues(canvas: Canvas, rng: np.random.Generator) -> None:
    """One offset in HU a tissue and patient: aeration, bone density, fatty liver."""
    offset = np.zeros(256, np.float32)
    offset[labels_like("lung_(upper|middle|lower)_.*")] = rng.uniform(-25, 60)
    offset[labels_like("liver_(left|middle|right).*")] = min(12.0, rng.normal(0, 9))
    offset[labels_like("muscle.*|psoas.*|gluteus.*")] = rng.normal(0, 4)
    canvas.hu[...] += offset[canvas.labels]
    bone = np.isin(
        canvas.labels,
        labels_like(r"T\d+|L\d|rib_.*|sternum|manubrium|sacrum|hip.*|cervical_spine|scapula.*|clavicle.*|humerus.*"),
    )
    canvas.hu[bone] *= np.float32(rng.uniform(0.75, 1.2))
