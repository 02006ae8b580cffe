"""The card of a backbone: what it is, how to use it, where it comes from and what must not be claimed. Markdown."""

from __future__ import annotations

from semgen_platform.backbones.contract import BackboneConfig


def card(config: BackboneConfig) -> str:
    """card.md of a published backbone; made of its configuration alone, so that card and contract cannot disagree."""
    architecture, contract, lineage = config.architecture, config.preprocessing, config.lineage
    low, high = contract.window_hu
    shape = " x ".join(map(str, contract.crop_shape_zyx))
    spacing = " x ".join(f"{mm:g}" for mm in contract.spacing_zyx_mm)
    licence = config.licence + (", non-commercial" if config.non_commercial else "")
    return f"""# {config.ref}

Encoder and decoder for CT, {config.parameters:,} parameters; {architecture.dimensions} values per crop.

{config.method}

## Input

| | |
|---|---|
| modality | {contract.modality}, Hounsfield units, unscaled |
| crop (z, y, x) | {shape} voxels at {spacing} mm |
| orientation | {contract.orientation}: x to the patient's left, y to posterior, z to superior |
| window | {low:g} to {high:g} HU, scaled to 0..1 by `preprocess` |
| outside the scan | {contract.outside_hu:g} HU |
| layout | {contract.axis_order}; one channel |

```python
from semgen_platform.backbones.registry import load_backbone

backbone = load_backbone("{config.ref}", lake="./lake")  # or a copy of this folder, without a lake
vectors = backbone.embed(crops_hu)  # (N, {shape.replace(" x ", ", ")}) HU -> (N, {architecture.dimensions})
```

`golden.safetensors` holds crops and their embedding; loading compares them.

## Network

{architecture.network}, width {architecture.width}, norm {architecture.norm} (trained with {architecture.trained_norm}).
No answer depends on the other crops of its batch.

## Origin

| | |
|---|---|
| run | {lineage.run}, attempt {lineage.attempt}, recipe {lineage.recipe} |
| discovery | {lineage.discovery or "none"} |
| encoder | {lineage.encoder or "none"} |
| lake | {lineage.lake_id}, version {lineage.lake_version} |
| licence of the weights | {licence} |

Quality is not part of this card: `semgen-platform evaluate` measures it and records it in the lake's table
`evaluations`. Not for clinical use.
"""
