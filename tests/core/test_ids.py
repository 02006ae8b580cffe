"""Names are made from content: the same content has the same name, and nothing else has."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from semgen_platform import ids

VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
AFFINE = np.diag([0.7, 0.7, 1.5, 1.0])


def base32(digest: bytes) -> str:
    return base64.b32encode(digest).decode().lower()[:24]


def test_a_scan_id_is_blake3_over_dtype_shape_voxels_and_the_affine_in_micrometres() -> None:
    header = b"<i2(2, 3, 4)"
    affine = np.array([700, 0, 0, 0, 0, 700, 0, 0, 0, 0, 1500, 0, 0, 0, 0, 1000], dtype="<i8")
    expected_content = "c" + base32(blake3(header + VOXELS.tobytes()).digest())
    expected_scan = "s" + base32(blake3(header + VOXELS.tobytes() + affine.tobytes()).digest())
    assert ids.scan_and_content_id(VOXELS, AFFINE) == (expected_scan, expected_content)
    assert ids.content_id(VOXELS) == expected_content


def test_an_id_does_not_depend_on_byte_order_or_memory_layout() -> None:
    big_endian = VOXELS.astype(">i2")
    fortran = np.asfortranarray(VOXELS)
    assert ids.scan_and_content_id(big_endian, AFFINE) == ids.scan_and_content_id(VOXELS, AFFINE)
    assert ids.scan_and_content_id(fortran, AFFINE) == ids.scan_and_content_id(VOXELS, AFFINE)


def test_the_same_voxels_elsewhere_are_another_scan_of_the_same_content() -> None:
    moved = AFFINE.copy()
    moved[2, 3] = 246.0
    (here, content_here), (there, content_there) = (ids.scan_and_content_id(VOXELS, a) for a in (AFFINE, moved))
    assert content_here == content_there
    assert here != there


@pytest.mark.parametrize("other", [VOXELS + 1, VOXELS.reshape(4, 3, 2), VOXELS.astype(np.float32)])
def test_other_voxels_another_shape_or_another_dtype_are_other_content(other: np.ndarray) -> None:
    assert ids.content_id(other) != ids.content_id(VOXELS)


def test_rounding_of_the_affine_below_half_a_micrometre_changes_nothing() -> None:
    rounded = AFFINE + 4e-4
    assert ids.scan_and_content_id(VOXELS, rounded) == ids.scan_and_content_id(VOXELS, AFFINE)


@pytest.mark.parametrize("content", [b"", b"CT", bytes(range(256)) * 4096])
def test_a_file_digest_is_blake3_of_its_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "shard").write_bytes(content)
    assert ids.file_digest(tmp_path / "shard") == blake3(content).hexdigest()


def test_a_keyed_id_is_hmac_sha256_over_length_prefixed_parts() -> None:
    message = (3).to_bytes(4, "big") + b"lid" + (2).to_bytes(4, "big") + "é".encode()
    assert ids.keyed_id(b"k" * 32, "lid", "é") == base32(hmac.new(b"k" * 32, message, hashlib.sha256).digest())


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_two_lists_of_parts_never_run_together(one: list[str], other: list[str]) -> None:
    assert (ids.keyed_id(b"k" * 32, *one) == ids.keyed_id(b"k" * 32, *other)) == (one == other)


def test_another_key_gives_another_name() -> None:
    assert ids.keyed_id(b"a" * 32, "patient") != ids.keyed_id(b"b" * 32, "patient")


def test_an_artefact_id_depends_on_recipe_revision_parents_and_scans_but_not_on_their_order() -> None:
    def name(recipe: dict[str, object], revision: int, parents: list[str], selection: str) -> str:
        return ids.artefact_id("encoder", recipe=recipe, revision=revision, parents=parents, selection=selection)

    base = name({"seed": 1, "width": 8}, 1, ["ea", "eb"], "x")
    assert base.startswith("e")
    assert len(base) == 25
    assert name({"width": 8, "seed": 1}, 1, ["eb", "ea"], "x") == base
    others = [
        name({"seed": 2, "width": 8}, 1, ["ea", "eb"], "x"),
        name({"seed": 1, "width": 8}, 2, ["ea", "eb"], "x"),
        name({"seed": 1, "width": 8}, 1, ["ea"], "x"),
        name({"seed": 1, "width": 8}, 1, ["ea", "eb"], "y"),
    ]
    assert len({base, *others}) == 5


def test_a_selection_digest_ignores_the_order_of_its_rows() -> None:
    rows = [("s1", "p1", "g1"), ("s2", "p2", "g1")]
    assert ids.selection_digest(rows) == ids.selection_digest(reversed(rows))
    assert ids.selection_digest(rows) != ids.selection_digest([("s1", "p1", "g1"), ("s2", "p2", "g2")])


def test_canonical_json_refuses_what_json_has_no_number_for() -> None:
    assert json.loads(ids.canonical_json({"b": 1, "a": [0.1]})) == {"a": [0.1], "b": 1}
    assert ids.canonical_json({"b": 1, "a": 2}) == '{"a":2,"b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        ids.canonical_json(float("nan"))


def test_a_stream_of_numbers_is_a_pure_function_of_its_key() -> None:
    first, again = (ids.uniform_stream(7, "members", 3).random(5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, ids.uniform_stream(7, "members", 4).random(5))
    assert not np.array_equal(first, ids.uniform_stream(7, "anchors", 3).random(5))
