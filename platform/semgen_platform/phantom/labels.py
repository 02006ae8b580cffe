"""Names of the phantom's anatomy and the small integers that stand for them in a label map.

Large structures are split by side, level or segment, so that the label histogram of a crop says where the crop lies
(METHOD.md section 5b, purity). `left` and `right` are the patient's.
"""

from __future__ import annotations

import re

SIDES = ("right", "left")
SIDE_SIGNS = {"right": -1.0, "left": 1.0}
"""Sign of x on each side of the body."""
THORACIC = tuple(f"T{n}" for n in range(1, 13))
LUMBAR = tuple(f"L{n}" for n in range(1, 6))


def _both(*stems: str) -> list[str]:
    return [f"{stem}_{side}" for stem in stems for side in SIDES]


NAMES: tuple[str, ...] = (
    "air", "table", "skin",
    *_both("fat_chest_front", "fat_chest_back", "fat_belly_front", "fat_belly_back"),
    "fat_mediastinal", "fat_peritoneal", *_both("fat_perirenal", "breast"),
    *_both("muscle_chest_upper", "muscle_chest_lower", "muscle_shoulder", "muscle_abdominal", "muscle_rectus"),
    *_both("muscle_back_thoracic", "muscle_back_lumbar", "psoas", "gluteus"),
    "neck",
    "lung_upper_right", "lung_middle_right", "lung_lower_right", "lung_upper_left", "lung_lower_left",
    *_both("lung_vessels"), "trachea", *_both("bronchus"), "nodule",
    "heart_muscle", "ventricle_right", "ventricle_left", "atrium_right", "atrium_left", "pulmonary_artery",
    "aorta_ascending", "aorta_arch", "aorta_thoracic", "aorta_abdominal",
    "great_vessels", "vena_cava_superior", "vena_cava_inferior", "oesophagus",
    *THORACIC, *LUMBAR, "cervical_spine", "sacrum",
    "disc_thoracic", "disc_lumbar", "spinal_canal_thoracic", "spinal_canal_lumbar",
    *[f"rib_{n}_{side}" for n in range(1, 13) for side in SIDES], *_both("costal_cartilage"),
    "manubrium", "sternum", *_both("clavicle", "scapula", "humerus", "hip"),
    "liver_left", "liver_middle", "liver_right_front", "liver_right_back", "liver_vessels", "gallbladder",
    "spleen", "pancreas", *_both("kidney_cortex", "kidney_medulla", "adrenal"),
    "stomach_wall", "stomach_content", "colon", *_both("bowel_upper", "bowel_lower"),
)  # fmt: skip
"""Position in this tuple is the label; 0 is air."""

LABELS: dict[str, int] = {name: number for number, name in enumerate(NAMES)}
"""Name to label."""

assert len(NAMES) < 256, "a label map is uint8"


def labels_like(pattern: str) -> list[int]:
    """Labels whose whole name matches a regular expression, e.g. "lung_(upper|lower)_.*"."""
    return [number for name, number in LABELS.items() if re.fullmatch(pattern, name)]
