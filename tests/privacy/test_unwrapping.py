"""What bytes hold when they are opened: each container and each escape, also one within another."""

from __future__ import annotations

import gzip
import html
import io
import json
import tarfile
import zipfile
from urllib.parse import quote

import pytest
from PIL import Image, PngImagePlugin

from semgen_platform.privacy.unwrapping import CannotOpen, unwrapped

SECRET = "Müller^Jürgen <O'Brien>"


def holds(data: bytes) -> bool:
    return any(SECRET.encode() in piece for piece in unwrapped(data))


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def tarred(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("a")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def png(**text: object) -> bytes:
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    for name, value in text.items():
        if name == "plain":
            info.add_text("Comment", "nothing", zip=False)
        elif name == "zipped":
            info.add_text("Comment", str(value), zip=True)
        else:
            info.add_itxt("Comment", str(value), zip=name == "zipped_international")
    Image.new("L", (4, 4)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        SECRET.encode(),
        gzip.compress(SECRET.encode()),
        gzip.compress(b"first member") + gzip.compress(SECRET.encode()),
        gzip.compress(gzip.compress(SECRET.encode())),
        zipped("a", SECRET.encode()),
        zipped(SECRET, b""),
        tarred(SECRET.encode()),
        json.dumps({"a": [SECRET]}).encode(),
        json.dumps({"inner": json.dumps(SECRET)}).encode(),
        repr(SECRET.encode()).encode(),
        quote(SECRET).encode(),
        html.escape(SECRET).encode(),
        b"\xff\xfe" + SECRET.encode("utf-16-le"),
        zipped("log.json.gz", gzip.compress(json.dumps(SECRET).encode())),
        png(international=SECRET),
        png(zipped_international=SECRET),
    ],
    ids=[
        "plain", "gzip", "second member", "gzip twice", "zip", "name in zip", "tar.gz", "json", "json in json", "repr",
        "url", "html", "utf-16", "json in gzip in zip", "png text", "png compressed text",
    ],
)  # fmt: skip
def test_what_is_inside_comes_out(data: bytes) -> None:
    assert holds(data)


def test_compressed_latin_text_of_a_png_comes_out() -> None:
    assert any("Jürgen".encode("latin-1") in piece for piece in unwrapped(png(zipped="Jürgen")))


@pytest.mark.parametrize("data", [gzip.compress(b"abc" * 1000)[:-12], zipped("a", b"abc")[:-30]], ids=["gzip", "zip"])
def test_damaged_containers_are_no_silence(data: bytes) -> None:
    with pytest.raises(CannotOpen):
        list(unwrapped(data))


def test_text_without_escapes_comes_out_once() -> None:
    assert list(unwrapped(b"100% plain \\ text & more")) == [b"100% plain \\ text & more"]
