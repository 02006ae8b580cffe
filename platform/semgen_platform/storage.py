"""Bytes at an address: a local folder or an s3:// prefix behind one small interface.

Only creates are conditional, since local disks have no conditional replace (DESIGN.md section 4, Leases).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from semgen_platform.errors import InputError

RETRY_S = 180.0
"""How long a request is repeated while a server is away or busy; a failover or a restart takes less."""
RETRIES, FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 100, 0.1, 5.0
CONNECT_S, SILENCE_S = 5.0, 30.0
"""A connection or an answer that takes longer is broken off and tried again."""


class Storage:
    """A folder of objects. Keys are relative, with forward slashes.

    uri : a local path, file:// or s3://bucket/prefix. S3 credentials and endpoint come from the usual AWS_ variables.
    """

    def __init__(self, uri: str) -> None:
        import obstore.store

        self.uri = uri.rstrip("/") if "://" in uri else str(Path(uri).absolute())
        parsed = urlparse(uri)
        self.local_root: Path | None = None
        self._store: Any
        if parsed.scheme == "s3":
            self._store = s3_store(self.uri)
        elif parsed.scheme in ("", "file"):
            self.local_root = Path(parsed.path if parsed.scheme == "file" else uri).absolute()
            self.local_root.mkdir(parents=True, exist_ok=True)
            self._store = obstore.store.LocalStore(str(self.local_root))
        else:
            raise InputError(
                f"address {uri} has the unknown scheme {parsed.scheme}; give a folder or s3://bucket/prefix"
            )

    def get(self, key: str) -> bytes | None:
        """The object's bytes, or None where there is none."""
        import obstore

        try:
            return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            return None

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole; a reader sees the old or the new one."""
        import obstore

        obstore.put(self._store, key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object only if there is none; exactly one of several writers gets True."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            obstore.put(self._store, key, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""
        import obstore

        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            return

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Keys below a prefix (whole path parts), sorted within each listing batch."""
        import obstore

        for batch in obstore.list(self._store, prefix=prefix or None):
            for item in batch:
                yield item["path"]


@lru_cache(maxsize=64)
def s3_store(url: str, *, patient: bool = True) -> Any:
    """The obstore store of an s3://bucket or s3://bucket/prefix; one a process and address, since it keeps connections.

    patient : whether a request outlasts a server that is away for RETRY_S.
    """
    import obstore.store

    return obstore.store.S3Store.from_url(
        url,
        client_options={  # given whole, since they replace those that the environment would set
            "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes", "on"),
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "read_timeout": timedelta(seconds=SILENCE_S),
            "timeout": timedelta(days=1),  # of a whole answer, which may be a large file: silence is what counts
        },
        retry_config={
            "max_retries": RETRIES if patient else 0,
            "retry_timeout": timedelta(seconds=RETRY_S),
            "backoff": {
                "init_backoff": timedelta(seconds=FIRST_BACKOFF_S),
                "max_backoff": timedelta(seconds=LONGEST_BACKOFF_S),
                "base": 2,
            },
        },
    )
