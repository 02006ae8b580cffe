"""`serve`: backbones and search behind HTTP."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from semgen_cli import common


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    lake: common.LakeOption,
    model: Annotated[list[str] | None, typer.Option("--model", help="REF to serve; repeatable. None: all.")] = None,
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; beyond loopback a token is needed.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="TCP port.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="One line: the token that clients send.")
    ] = None,
    upload_mib: Annotated[int, typer.Option("--upload-mib", min=1, help="Largest body of a request.")] = 1024,
    address: common.AddressOption = None,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Serve models and search until Ctrl-C.

    Example: semgen-platform serve --model demo --port 8000 --lake ./lake

    Then: curl --data-binary @scan.nii.gz http://127.0.0.1:8000/v1/models/demo/embed
    """
    common.set_up(verbose=verbose, quiet=quiet)
    import signal
    import threading

    from semgen_pipelines.serve import serving
    from semgen_platform.lake.lake import open_lake
    from semgen_platform.serving.application import Limits

    stop = threading.Event()
    opened, limits = open_lake(lake), Limits(upload_bytes=upload_mib * 2**20)
    with serving(
        opened, model or (), host=host, port=port, token_file=token_file, limits=limits, address=address
    ) as served:
        for number in (signal.SIGINT, signal.SIGTERM):  # after Ray, which sets its own
            signal.signal(number, lambda *_: stop.set())
        lines = [f"serving {', '.join(served.models)} at {served.url} until Ctrl-C"]
        common.show(asdict(served), as_json=as_json, lines=lines)
        stop.wait()
