"""Print what a demo made and how good it is, from the JSON that its stages left in FOLDER/results.

python examples/demo_summary.py demo
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Results = dict[str, Any]


def read(folder: Path) -> Results:
    """Documents and seconds of the stages by name."""
    documents = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return documents | {"seconds": {path.stem: int(path.read_text()) for path in folder.glob("*.seconds")}}


def scans(results: Results) -> list[str]:
    lines = [f"scans in the lake        {results['lake']['scans']}"]
    for name in ("ingest", "ingest_held_out", "ingest_real"):
        if name in results:
            counts = results[name]
            reasons = ", ".join(f"{reason} {count}" for reason, count in counts["reasons"].items()) or "none"
            done = f"ingested {counts['ingested']}, already {counts['already']}"
            lines.append(f"  {name:<22} found {counts['found']}, {done}")
            lines.append(f"  {'':<22} refused {counts['rejected']}: {reasons}")
    return lines


def patterns(results: Results) -> list[str]:
    """Purity and coverage on the phantoms' truth, for both recipes and for random centres."""
    lines = ["patterns                 purity   label coverage   tissue coverage   centre error (median, p95 mm)"]
    measured = {name: results[f"audit_{name}"] for name in ("published", "aligned")}
    rows = [("random centres", measured["aligned"]["random"])]
    rows += [(name, document["patterns"]) for name, document in measured.items()]
    for name, row in rows:
        lines.append(
            f"  {name:<22} {number(row['purity'])}    {number(row['label_coverage'])}            "
            f"{number(row['tissue_coverage'])}             "
            f"{number(row['centre_error_median_mm'])}, {number(row['centre_error_p95_mm'])}"
        )
    return lines


def probe(results: Results) -> list[str]:
    """Balanced accuracy on held-out patients."""
    document = results["evaluate"]
    lines = [f"probe of anatomy         {document['places']} places, {document['classes']} classes, unseen patients"]
    for row in document["scores"]:
        lines.append(f"  {row['probe']:<8}{row['feature']:<14} {number(row['mean'])} +- {number(row['sd'])}")
    return [*lines, f"  ({document['spread_is']})"]


def answer(results: Results) -> list[str]:
    """What the server said."""
    query = results["query"]
    nearest = [f"{n['scan_id'][:10]} at {number(n['similarity'])}" for n in query["similar"]["neighbours"]]
    vector = f"{query['embed']['dimensions']} numbers from {query['model']}"
    return [f"server                   {vector}; nearest {', '.join(nearest)}"]


def reports(demo: Path) -> list[str]:
    found = sorted(str(path) for path in demo.glob("lake/*/*/*/report.html"))
    return ["reports", *(f"  {path}" for path in found)]


def times(results: Results) -> list[str]:
    seconds = results["seconds"]
    order = [name for name in STAGES if name in seconds]
    each = ", ".join(f"{name} {seconds[name]}" for name in order)
    return [f"seconds                  {sum(seconds.values())}", f"  {each}"]


STAGES = (
    "phantom", "phantom_held_out", "ingest", "ingest_held_out", "ingest_real", "train_encoder", "embed", "build_index",
    "discover_published", "audit_published", "discover_aligned", "audit_aligned", "pretrain", "publish", "evaluate",
    "serve",
)  # fmt: skip


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def main(demo: str) -> None:
    folder = Path(demo)
    results = read(folder / "results")
    for part in (scans(results), patterns(results), probe(results), answer(results), reports(folder), times(results)):
        print("\n".join(part))


if __name__ == "__main__":
    main(sys.argv[1])
