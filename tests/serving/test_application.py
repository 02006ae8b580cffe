"""The server over real HTTP: vectors of scans, access by token, limits, and errors in one sentence."""

import asyncio
import gzip
import json
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np
import pytest
from fastapi import FastAPI

from semgen_platform.backbones.registry import load_backbone
from semgen_platform.backbones.scan import embed_volume
from semgen_platform.discovery.neighbours import Neighbour
from semgen_platform.errors import InputError
from semgen_platform.lake.lake import Lake
from semgen_platform.serving.application import Limits, ServedIndex, ServedModel, application
from semgen_platform.serving.client import Client
from semgen_platform.volume import Volume, canonical


def post(url: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """Status and document, whatever the status."""
    request = urllib.request.Request(url, data=body, headers=headers or {}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ask(app: FastAPI, path: str, body: bytes | AsyncIterator[bytes]) -> httpx.Response:
    """One request straight to an application, without sockets."""

    async def sent() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, content=body)

    return asyncio.run(sent())


def test_a_scan_sent_has_the_vector_that_plain_torch_gives(
    client: Client, scan: Path, volume: Volume, lake: Lake
) -> None:
    answer = client.embed("small", scan)
    expected = embed_volume(load_backbone("small", lake=lake), canonical(volume))
    assert answer["model"] == "small:1"
    assert answer["dimensions"] == len(expected) == 64
    np.testing.assert_allclose(answer["vector"], expected, atol=1e-5)


def test_compressed_and_plain_bodies_in_any_orientation_are_one_scan(url: str, scan: Path) -> None:
    image: Any = nibabel.load(scan)
    flipped = image.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]])).to_bytes()
    answers = [
        post(f"{url}/v1/models/small:1/embed", body)
        for body in (scan.read_bytes(), gzip.decompress(scan.read_bytes()), flipped)
    ]
    assert [status for status, _ in answers] == [200, 200, 200]
    assert len({document["content_id"] for _, document in answers}) == 1
    assert answers[0][1]["vector"] == answers[1][1]["vector"]
    np.testing.assert_allclose(answers[2][1]["vector"], answers[0][1]["vector"], atol=1e-6)


def test_models_say_their_contract_and_the_limits(client: Client) -> None:
    document = client.models()
    (model,) = document["models"]
    assert model["ref"] == "small:1"
    assert model["preprocessing"]["window_hu"] == [-1000, 1000]
    assert "mean over crops" in model["vector"]
    assert document["index"] is None
    assert document["limits"]["upload_bytes"] == Limits().upload_bytes


def test_without_the_token_nothing_but_health_is_answered(start: Any, scan: Path) -> None:
    secret = "correct-horse-battery"
    client = start(token=secret, show=secret)
    assert client.embed("small", scan)["dimensions"] == 64
    url = client._url
    for headers in (
        {},
        {"Authorization": "Bearer wrong-horse-battery"},
        {"Authorization": secret},
        {"Authorization": f"Basic {secret}"},
    ):
        for path in ("/v1/models/small/embed", "/v1/similar", "/v1/models/absent/embed"):
            status, document = post(url + path, b"x", headers)
            assert (status, document["code"]) == (401, "unauthorised")
            assert secret not in json.dumps(document)
    with pytest.raises(InputError, match="answered 401"):
        Client(url, "wrong-horse-battery").models()
    with urllib.request.urlopen(url + "/healthz") as response:
        assert json.load(response) == {"status": "ok"}


def test_one_byte_over_the_limit_is_too_large_and_at_the_limit_is_not(start: Any, scan: Path) -> None:
    size = scan.stat().st_size
    assert start(limits=Limits(upload_bytes=size)).embed("small", scan)["dimensions"] == 64
    status, document = post(
        start(limits=Limits(upload_bytes=size - 1))._url + "/v1/models/small/embed", scan.read_bytes()
    )
    assert (status, document["code"], document["evidence"]) == (413, "too_large", {"limit_bytes": size - 1})


def test_a_body_far_over_the_limit_is_not_received(start: Any, tmp_path: Path) -> None:
    """The server answers or closes the line long before the 64 MB are sent."""
    (tmp_path / "large.nii").write_bytes(bytes(2**26))
    with pytest.raises(InputError, match=r"413|closed the line"):
        start(limits=Limits(upload_bytes=1000)).embed("small", tmp_path / "large.nii")


def test_a_body_that_hides_its_length_is_cut_at_the_limit() -> None:
    app = application({}, _index(), token=None, limits=Limits(upload_bytes=1000))

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100

    assert ask(app, "/v1/similar", chunks()).status_code == 413


def test_a_small_body_that_promises_a_large_volume_is_refused_before_it_is_inflated(url: str) -> None:
    image: Any = nibabel.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4))
    header = bytearray(image.to_bytes())
    header[42:48] = np.array([2000, 2000, 2000], "<i2").tobytes()
    status, document = post(f"{url}/v1/models/small/embed", gzip.compress(bytes(header)))
    assert (status, document["code"]) == (413, "too_large")
    assert document["evidence"]["limit_voxels"] == 2**29


def _nifti(voxels: Any, affine: Any = None) -> bytes:
    image: Any = nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    data: bytes = image.to_bytes()
    return data


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "empty"),
        (b"not a scan at all", 422, "corrupt"),
        (b"\x1f\x8b damaged gzip", 422, "corrupt"),
        (b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\ndata file: /etc/passwd\n\n", 422, "unsupported_format"),
        (b"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementDataFile = body.raw\n", 422, "unsupported_format"),
        (_nifti(np.zeros((30, 30, 30, 4), np.int16)), 422, "four_d"),
        (_nifti(np.random.default_rng(0).integers(0, 4, (30, 30, 30)).astype(np.uint8)), 422, "label_map"),
        (_nifti(np.random.default_rng(0).uniform(0, 1, (30, 30, 30)).astype(np.float32)), 422, "not_ct"),
        (_nifti(np.full((30, 30, 30), np.nan, np.float32)), 422, "not_finite"),
        (_nifti(np.random.default_rng(0).normal(0, 300, (40, 40, 40)).astype(np.int16))[:9000], 422, "truncated"),
    ],
)
def test_a_body_that_is_no_usable_scan_is_refused_with_its_reason(
    body: bytes, status: int, code: str, url: str
) -> None:
    found, document = post(f"{url}/v1/models/small/embed", body)
    assert (found, document["code"]) == (status, code), document
    assert document["error"]
    assert "\n" not in document["error"]
    assert "/tmp" not in json.dumps(document)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/v1/models/large/embed", 404, "there are small, small:1"),
        ("/v1/similar", 404, "no index"),
        ("/v1/similar?k=0", 400, "parameter k"),
        ("/v1/similar?k=many", 400, "parameter k"),
        ("/v2", 404, "is not served"),
        ("/healthz", 405, "is not served"),
    ],
)
def test_a_wrong_address_or_parameter_is_one_sentence(path: str, status: int, said: str, url: str) -> None:
    found, document = post(url + path, b"x")
    assert found == status
    assert said in document["error"]


def _index() -> ServedIndex:
    near = [Neighbour("s1", 0.9), Neighbour("s2", 0.8)]
    return ServedIndex("i-one", "e-one", lambda volume, k: near[:k])


def test_neighbours_come_with_the_index_and_the_encoder_that_found_them(scan: Path) -> None:
    app = application({}, _index(), token=None, limits=Limits())
    document = ask(app, "/v1/similar?k=1", scan.read_bytes()).json()
    assert (document["index_id"], document["encoder_id"]) == ("i-one", "e-one")
    assert document["neighbours"] == [{"scan_id": "s1", "similarity": 0.9}]


def test_a_bug_is_a_500_that_says_so_and_no_traceback(scan: Path) -> None:
    def broken(volume: Volume) -> Any:
        raise RuntimeError("inner detail")

    app = application({"m": ServedModel("m:1", {}, broken)}, None, token=None, limits=Limits())
    response = ask(app, "/v1/models/m/embed", scan.read_bytes())
    assert (response.status_code, response.json()["code"]) == (500, "bug")
    assert "inner detail" not in response.text


def test_clients_at_once_get_their_own_answers(client: Client, scan: Path, tmp_path: Path) -> None:
    image: Any = nibabel.load(scan)
    other = tmp_path / "other.nii"
    voxels = np.asarray(image.dataobj)
    nibabel.Nifti1Image(np.where(voxels > -500, voxels + 50, voxels).astype(np.int16), image.affine).to_filename(other)
    alone = {path: client.embed("small", path)["vector"] for path in (scan, other)}
    assert alone[scan] != alone[other]
    answers: list[tuple[Path, Any]] = []
    threads = [
        threading.Thread(target=lambda p=path: answers.append((p, client.embed("small", p)["vector"])))
        for path in [scan, other] * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6
    assert all(vector == alone[path] for path, vector in answers)


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(InputError, match="does not answer"):
        Client("http://127.0.0.1:9").models()
