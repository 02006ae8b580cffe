"""A small client of the server, with the standard library alone.

Client("http://127.0.0.1:8000").embed("demo", Path("scan.nii.gz"))["vector"]
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from semgen_platform.errors import InputError

TIMEOUT_S = 600.0


class Client:
    """Talks to a server at `url`, with a token where it needs one. Errors are InputError with the server's sentence."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url, self._token = url.rstrip("/"), token

    def wait(self, seconds: float) -> None:
        """Return once the server answers. Raises InputError if it does not within `seconds`."""
        end = time.monotonic() + seconds
        while True:
            try:
                self._ask("/healthz", None, timeout_s=5.0)
                return
            except InputError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def models(self) -> dict[str, Any]:
        """What is served: models with their input contracts, index, limits."""
        return self._ask("/v1/models", None)

    def embed(self, ref: str, nifti: Path) -> dict[str, Any]:
        """Vector of the scan in a NIfTI file, under `vector`."""
        return self._ask(f"/v1/models/{quote(ref, safe=':')}/embed", nifti)

    def similar(self, nifti: Path, k: int = 5) -> dict[str, Any]:
        """The k nearest scans of the lake, under `neighbours`."""
        return self._ask(f"/v1/similar?k={k}", nifti)

    def _ask(self, path: str, body: Path | None, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        if body is None:
            return self._send(urllib.request.Request(self._url + path, headers=headers), timeout_s)
        headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(body.stat().st_size)}
        with body.open("rb") as stream:  # sent as it is read, so a scan is never whole in memory
            return self._send(
                urllib.request.Request(self._url + path, data=stream, headers=headers, method="POST"), timeout_s
            )

    def _send(self, request: urllib.request.Request, timeout_s: float) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                document: dict[str, Any] = json.load(response)
                return document
        except urllib.error.HTTPError as error:
            raise InputError(f"{self._url} answered {error.code}: {_sentence(error)}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(getattr(error, "reason", error), (BrokenPipeError, ConnectionResetError)):
                raise InputError(f"{self._url} closed the line on the scan; it may be larger than it takes") from error
            raise InputError(f"{self._url} does not answer ({error}); is the server running there?") from error


def _sentence(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)
