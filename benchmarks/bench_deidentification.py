"""De-identification in the manner of MIDI-B: identifiers planted wherever files have room, then a real ingest.

    python benchmarks/bench_deidentification.py            written to benchmarks/results/deidentification.json
    python benchmarks/bench_deidentification.py --tiny     fewer files, prints only; the tests run it so

Every planted identifier is invented, occurs once, and counts as handled rightly if neither `lake lint-phi` nor a plain
decode (pyarrow, zarr-python) finds it in the lake, the command's output or Ray's session folder. What must be kept
(kernel, kVp, spacing, voxels, intervals between dates, one pseudonym a patient ...) counts if it is kept exactly.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import zarr
from planted_identifiers import Planted, digest, write_archive

from semgen_pipelines.runtime import ray_session
from semgen_platform.lake.lake import create_lake, open_lake
from semgen_platform.lake.lint_phi import lint
from semgen_platform.privacy import key_fingerprint
from semgen_platform.privacy.canaries import Canaries

KEY = bytes(range(32))
RESULTS = Path(__file__).resolve().parent / "results"


def command(logs: Path, *arguments: object) -> tuple[int, str]:
    """Exit code and stdout of the real command line, whose output stays in `logs` to be searched."""
    done = subprocess.run(
        [sys.executable, "-m", "semgen_cli.main", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    name = str(arguments[0]) if arguments[0] != "lake" else str(arguments[1])
    (logs / f"{name}.out").write_text(done.stdout)
    (logs / f"{name}.err").write_text(done.stderr)
    return done.returncode, done.stdout


def plain_text(folder: Path) -> Iterator[str]:
    """All that lies below a folder as text in lower case, decoded by other readers than ours."""
    import pyarrow.parquet as pq

    for path in sorted(folder.rglob("*")):
        yield str(path.relative_to(folder)).casefold()
        if not path.is_file():
            continue
        data = path.read_bytes()
        yield from (data.decode(encoding, "replace").casefold() for encoding in ("utf-8", "latin-1", "utf-16-le"))
        if path.suffix == ".parquet":
            yield json.dumps(pq.read_table(path).to_pylist(), default=str, ensure_ascii=False).casefold()
        if path.suffix == ".json":
            for line in data.splitlines() if "_delta_log" in path.parts else [data]:
                with suppress(ValueError):  # a log of Ray's may be cut
                    yield json.dumps(json.loads(line), ensure_ascii=False).casefold()
        if path.name == "zarr.json" and json.loads(data)["node_type"] == "array":
            array: Any = zarr.open_array(path.parent, mode="r")
            yield np.asarray(array[...]).tobytes().decode("latin-1").casefold()


def left_by_plain_search(identifiers: Iterable[str], folders: list[Path]) -> set[str]:
    text = "\n".join(piece for folder in folders for piece in plain_text(folder))
    spellings = {i: {i, i.replace("^", " "), i.replace("^", "_"), " ".join(i.split("^")[::-1])} for i in identifiers}
    return {i for i, forms in spellings.items() if any(form.casefold() in text for form in forms)}


def kept_wrong(plan: Planted, lake_folder: Path, report: Path) -> Iterator[str]:
    """What should have been kept and was not, one sentence each."""
    lake = open_lake(str(lake_folder))
    with report.open(newline="") as file:
        found = {"/".join(filter(None, (r["source"], r["member"]))): r["scan_id"] for r in csv.DictReader(file)}
    sources = {row["scan_id"]: row for row in lake.table("sources").to_pylist()}
    scans = {row["scan_id"]: row for row in lake.table("scans").to_pylist()}
    persons: dict[str, set[str]] = {}
    days: dict[str, list[tuple[date, date]]] = {}
    for path, expected in plan.kept.items():
        scan = found.get(path, "")
        if scan not in sources:
            yield from (f"{what} of a scan that was not ingested" for what in expected)
            continue
        row = {**scans[scan], **{k: v for k, v in sources[scan].items() if k not in ("flags", "bytes")}}
        folder = lake.root / "volumes" / scan[1:3] / scan / scans[scan]["attempt"]
        array: Any = zarr.open_array(folder / "0", mode="r")
        row["voxels"] = digest(np.asarray(array[...]))
        yield from (f"{what} is not what it was" for what, value in expected.items() if row[what] != value)
        if path in plan.patients:
            persons.setdefault(plan.patients[path], set()).add(row["patient_id"])
            shifted = date.fromisoformat(json.loads(row["attributes"]).get("study_date", "0001-01-01"))
            days.setdefault(plan.patients[path], []).append((plan.studied[path], shifted))
    yield from ("a patient has two pseudonyms" for names in persons.values() if len(names) != 1)
    if len(set().union(*persons.values())) != len(persons):
        yield "two patients have one pseudonym"
    for (true_a, stored_a), (true_b, stored_b) in (pairs for pairs in days.values() if len(pairs) == 2):
        if true_b - true_a != stored_b - stored_a or not 1 <= (true_a - stored_a).days <= 3650:
            yield "an interval between dates did not survive"


def control_is_found(lake: Path, copy: Path, plan: Planted) -> bool:
    """Whether both searches find an identifier that is put into a copy of the lake."""
    shutil.copytree(lake, copy)
    control = next(text for text in plan.identifiers if "^" in text and text.isascii())
    volume = next((copy / "volumes").glob("*/*/*/zarr.json"))
    document = json.loads(volume.read_text())
    document["attributes"]["note"] = control.replace("^", " ")
    volume.write_text(json.dumps(document))
    found = lint(copy, [], Canaries([control]), quiet=True).found
    where = volume.relative_to(copy).as_posix()
    return [hit.where for hit in found] == [where] and left_by_plain_search([control], [copy]) == {control}


def measure(size: int) -> dict[str, Any]:
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module="pydicom")  # names are longer than some fields may be
    plan = Planted(np.random.default_rng(20260701))
    with tempfile.TemporaryDirectory() as name, ray_session(None, needs={"ingest workers": 2}) as ray:
        work = Path(name)
        archive, canaries, logs, lake = (work / part for part in ("archive", "canaries.txt", "logs", "lake"))
        write_archive(archive, plan, size)
        canaries.write_text("\n".join(plan.identifiers))
        logs.mkdir()
        session = Path(ray._private.worker._global_node.get_session_dir_path())
        (work / "key").write_bytes(KEY)
        create_lake(str(lake), key_fingerprint=key_fingerprint(KEY))
        code, printed = command(
            logs, "ingest", archive, "--lake", lake, "--key-file", work / "key", "--dates", "shift",
            "--report", work / "report.csv", "--address", ray.get_runtime_context().gcs_address, "-v", "--json",
        )  # fmt: skip
        assert code == 0, (logs / "ingest.err").read_text()
        code, said = command(
            work, "lake", "lint-phi", archive, logs, session, "--lake", lake, "--canaries", canaries, "--json", "-q"
        )
        assert code == 5, (work / "lint-phi.err").read_text()
        texts, found = list(plan.identifiers), json.loads(said)
        hits = [(hit["where"].partition("/")[0] == archive.name, texts[hit["line"] - 1], hit) for hit in found["found"]]
        planted = {text for in_source, text, _ in hits if in_source}
        places = {text: hit["where"] for in_source, text, hit in hits if not in_source}
        plain = left_by_plain_search(plan.identifiers, [lake, logs, session])
        wrong = list(kept_wrong(plan, lake, work / "report.csv"))
        control = control_is_found(lake, work / "control", plan)
    left = [{"planted in": plan.identifiers[t], "found in": places.get(t, "plain decode")} for t in {*places, *plain}]
    left += [{"planted in": "to be kept", "found in": sentence} for sentence in wrong]
    kept = sum(len(values) for values in plan.kept.values()) + 2 * len(set(plan.patients.values())) + 1
    total = len(plan.identifiers) + kept
    summary = json.loads(printed)
    return {
        "what": f"{len(plan.identifiers)} identifiers planted in {summary['found']} sources, {kept} values to be kept",
        "machine": machine(),
        "identifiers": len(plan.identifiers),
        "identifiers_by_place": dict(sorted(Counter(plan.identifiers.values()).items())),
        "kept": kept,
        "handled_rightly": round(1 - len(left) / total, 5),
        "left": left,
        "control_found": control,
        "found_in_the_sources": len(planted),
        "not_found_in_the_sources": sorted({plan.identifiers[text] for text in plan.identifiers.keys() - planted}),
        "ingest": {name: summary[name] for name in ("found", "ingested", "rejected", "reasons")},
        "searched": {"files": found["files"], "bytes": found["bytes"]},
    }


def machine() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return {"cores": os.cpu_count(), "python": platform.python_version(), "commit": commit.stdout.strip()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="fewer files; prints and writes nothing")
    tiny = parser.parse_args().tiny
    result = measure(1 if tiny else 8)
    text = json.dumps(result, indent=2)
    print(text)
    if not tiny:
        (RESULTS / "deidentification.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
