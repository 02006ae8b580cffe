"""Names made from content: scan ids, artefact ids, keyed pseudonyms.

The same content gives the same name on every machine, which is what makes each stage resumable (DESIGN.md section 1).
Importable with the standard library and NumPy alone; BLAKE3 is loaded by the functions that digest voxels.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ID_CHARACTERS = 24  # base32: 120 bits, so a billion names collide with a chance below 1e-18


def _base32(digest: bytes) -> str:
    return base64.b32encode(digest).decode("ascii").lower().rstrip("=")[:ID_CHARACTERS]


def _voxel_hash(voxels_ZYX: NDArray[Any]) -> Any:
    """BLAKE3 over dtype, shape and little-endian voxels in C order."""
    from blake3 import blake3

    little = np.ascontiguousarray(voxels_ZYX, dtype=voxels_ZYX.dtype.newbyteorder("<"))
    hasher = blake3(f"{little.dtype.str}{little.shape}".encode())
    hasher.update(little.reshape(-1).view(np.uint8).data)
    return hasher


def content_id(voxels_ZYX: NDArray[Any]) -> str:
    """`c` + 24 characters over canonical voxels (int16 or float32, axes z, y, x) and shape, wherever they lie."""
    return "c" + _base32(_voxel_hash(voxels_ZYX).digest())


SLICE_SAMPLE = 4  # of 16 slices, the fewest of a scan, four


def scan_and_content_id(voxels_ZYX: NDArray[Any], ijk_to_lps_mm: NDArray[np.float64]) -> tuple[str, str]:
    """(scan id, content id) with the voxels digested once; the affine enters the scan id as integers of 1e-3 mm."""
    hasher = _voxel_hash(voxels_ZYX)
    content = "c" + _base32(hasher.digest())
    hasher.update(np.rint(np.asarray(ijk_to_lps_mm, dtype=np.float64) * 1000).astype("<i8").tobytes())
    return "s" + _base32(hasher.digest()), content


def slice_digests(voxels_ZYX: NDArray[Any]) -> list[int]:
    """Digests of a sample of slices, in the order of slices: a part of a scan has those of its slices and no others.

    Which slices are sampled their digests decide (one in SLICE_SAMPLE), so that two scans with equal slices sample the
    same ones. Every eighth row is digested, which tells two slices of a scanner apart; constant ones are left out.
    """
    from blake3 import blake3

    digests = []
    for slab in voxels_ZYX[:, ::8]:
        if (slab == slab.flat[0]).all():
            continue
        data = slab.astype(slab.dtype.newbyteorder("<")).tobytes()
        digest = int.from_bytes(blake3(data).digest(length=8), "little", signed=True)
        if digest % SLICE_SAMPLE == 0:
            digests.append(digest)
    return digests


def file_digest(path: Path) -> str:
    """BLAKE3 hex digest of a file's bytes."""
    from blake3 import blake3

    return str(blake3().update_mmap(path).hexdigest()) if path.stat().st_size else str(blake3(b"").hexdigest())


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space, the form that digests are taken of. Raises ValueError on NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def digest_of(value: Any) -> str:
    """24 base32 characters of SHA-256 over the canonical JSON of `value`."""
    return _base32(hashlib.sha256(canonical_json(value).encode()).digest())


def artefact_id(kind: str, *, recipe: dict[str, Any], revision: int, parents: Iterable[str], selection: str) -> str:
    """Name of an encoder, index, discovery or run: its kind's first letter and a digest of what it is made from.

    `selection` is the digest of the selected (scan_id, patient, split_group) triples. Workers, devices and versions of
    libraries are no part of it, so the same command finds what another machine made. Source: DESIGN.md section 4.
    """
    payload = {"kind": kind, "recipe": recipe, "revision": revision, "parents": sorted(parents), "selection": selection}
    return kind[0] + digest_of(payload)


def selection_digest(rows: Iterable[tuple[str, str, str]]) -> str:
    """Digest of the selected (scan_id, patient_id, split_group) triples, in any order."""
    return digest_of(sorted(list(row) for row in rows))


def keyed_id(key: bytes, *parts: str) -> str:
    """24 base32 characters of HMAC-SHA-256 under the lake's key.

    Parts are length-prefixed, so no two lists run together.
    """
    encoded = [part.encode("utf-8", "surrogateescape") for part in parts]  # paths need not be valid UTF-8
    message = b"".join(len(part).to_bytes(4, "big") + part for part in encoded)
    return _base32(hmac.new(key, message, hashlib.sha256).digest())


def uniform_stream(*key: int | str) -> np.random.Generator:
    """A generator that is a pure function of its key, e.g. (seed, "members", pattern).

    Counter-based, so it is the same on every worker.
    """
    digest = hashlib.sha256(canonical_json(list(key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
