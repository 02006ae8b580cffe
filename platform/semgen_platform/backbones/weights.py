"""Weights as safetensors, loaded strictly: what is missing, unexpected or of another shape is named, never skipped.

Source: USERS.md 33 (weights that load "successfully" but are random) and 40 (no pickles).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from semgen_platform.errors import Damage, InputError

NAMES_SHOWN = 4


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, on the CPU. Raises Damage if it cannot be read."""
    import safetensors
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise Damage(f"weights {path.name} cannot be read ({error}); fetch or publish them again") from error
    return tensors


def tensors_to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A safetensors file; the same tensors give the same bytes."""
    from safetensors.torch import save

    data: bytes = save({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)})
    return data


def load_strictly(network: nn.Module, tensors: Mapping[str, torch.Tensor], origin: str) -> None:
    """Fill the network with tensors of the same names and shapes.

    Raises InputError that lists what is missing, unexpected and of another shape; nothing is loaded then.
    """
    wanted = network.state_dict()
    both = wanted.keys() & tensors.keys()
    faults = {
        "missing": sorted(wanted.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - wanted.keys()),
        "of another shape": sorted(
            f"{n} {tuple(tensors[n].shape)} for {tuple(wanted[n].shape)}"
            for n in both
            if tensors[n].shape != wanted[n].shape
        ),
    }
    if any(faults.values()):
        told = "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in faults.items() if names)
        raise InputError(
            f"weights {origin} do not fit {type(network).__name__}: {told}; {len(both)} of {len(wanted)} names match"
        )
    network.load_state_dict(dict(tensors), strict=True)


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
