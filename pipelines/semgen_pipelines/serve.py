"""`serve`: the ASGI application of semgen_platform.serving on Ray Serve.

Everything that can be wrong with the request to serve (token, port, models, index) is found before Ray starts. Replicas
are stateless: each loads the same model versions by digest from the lake at one version, and the token reaches them as
an argument, never through the environment.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semgen_pipelines.runtime import ray_session
from semgen_platform.errors import InputError
from semgen_platform.lake.lake import Lake, open_lake
from semgen_platform.serving.application import Limits
from semgen_platform.serving.artefacts import served_index, served_models
from semgen_platform.serving.auth import token_for

NAME = "semgen"
REQUESTS_A_REPLICA = 16  # in flight; uploads are received meanwhile, and scans are embedded one by one


@dataclass(frozen=True)
class Serving:
    """What is being served, and where."""

    url: str
    models: tuple[str, ...]
    index_id: str | None
    token_needed: bool
    lake_version: int


@contextmanager
def serving(
    lake: Lake,
    refs: Sequence[str],
    *,
    host: str,
    port: int,
    token_file: Path | None,
    limits: Limits,
    address: str | None,
) -> Iterator[Serving]:
    """Serve inside the block and end with it.

    refs : models to serve; none means the latest version of each.
    Raises InputError (no token off loopback, port in use, Ray), NotFound (models), Damage (their files, or the index').
    """
    token = token_for(host, token_file)
    _check_port(host, port)
    served = served_models(
        lake, refs
    )  # loaded once here, so that what is wrong is one sentence and not a replica's log
    index = served_index(lake)
    with ray_session(address, needs={"server": 1.0}):
        from ray import serve

        _check_alone(serve)
        try:
            with _no_information():
                _start(serve, host, port, (lake.uri, lake.version, sorted(served), token, limits))
            exact = tuple(sorted({model.ref for model in served.values()}))
            index_id = index.index_id if index else None
            yield Serving(f"http://{_in_url(host)}:{port}", exact, index_id, token is not None, lake.version)
        finally:
            serve.shutdown()


def _start(serve: Any, host: str, port: int, arguments: tuple[Any, ...]) -> None:
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    serve.start(http_options=HTTPOptions(host=host, port=port), logging_config=quiet)
    deployment = serve.deployment(serve.ingress()(Replica)).options(
        name=NAME,
        num_replicas=1,
        max_ongoing_requests=REQUESTS_A_REPLICA,
        ray_actor_options={"num_cpus": 1},
        logging_config=quiet,
    )
    serve.run(deployment.bind(*arguments), name=NAME, route_prefix="/")


@contextmanager
def _no_information() -> Iterator[None]:
    """No INFO line inside the block: Serve sets its logger's level as it starts, and then announces itself."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


class Replica:
    """One process that answers; Ray Serve builds it and asks it for its application."""

    def __init__(self, lake_uri: str, version: int, refs: Sequence[str], token: str | None, limits: Limits) -> None:
        self._lake, self._refs = open_lake(lake_uri, version=version), refs
        self._token, self._limits = token, limits

    def __serve_build_asgi_app__(self) -> Any:
        from semgen_platform.serving.application import application

        models = served_models(self._lake, self._refs)
        return application(models, served_index(self._lake), token=self._token, limits=self._limits)


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just given up is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"port {port} on {host} cannot be used ({error.strerror}); give another --port") from None


def _check_alone(serve: Any) -> None:
    """Ray Serve has one HTTP address in a Ray; a second server there would silently get the first one's."""
    if running := serve.status().applications:
        raise InputError(
            f"the Ray that was joined serves {', '.join(running)} already; end that, or leave --address out"
        )


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
