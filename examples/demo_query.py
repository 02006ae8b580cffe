"""Ask a running server: the vector of one NIfTI scan and its nearest scans of the lake, as JSON on stdout.

python examples/demo_query.py http://127.0.0.1:8117 FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from semgen_platform.serving.client import Client

START_S = 180.0


def main(url: str, folder: str) -> None:
    scan = sorted(Path(folder).glob("*.nii.gz"))[0]
    client = Client(url)
    client.wait(START_S)
    model = client.models()["models"][0]["ref"]
    print(json.dumps({"model": model, "embed": client.embed(model, scan), "similar": client.similar(scan, k=3)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
