"""Conversion of one source per CPU second: ours with everything, and what people write by hand with zarr's defaults.

    python benchmarks/bench_ingest.py           full size, written to benchmarks/results/ingest.json
    python benchmarks/bench_ingest.py --ray     also through Ray, with one and with two workers; takes some minutes more
    python benchmarks/bench_ingest.py --tiny    seconds, prints only; the tests run it so

Ours reads, checks, turns to canonical axes, counts the histogram, names the scan by its content, writes every level of
the pyramid with checksums, digests the shards and syncs them to disk; the others read and write voxels. All must store
the same voxels before they are timed. CPU seconds of one process with one thread, warm page cache, rounds interleaved;
the data are phantom-like bodies with noise, so the ratios carry over to real CT and the figures do not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gdcm
import imagecodecs
import nibabel as nib
import numcodecs.blosc
import numpy as np
import pydicom
import SimpleITK as sitk
import zarr
from bench_crops import body, machine
from isal import isal_zlib
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder

from semgen_pipelines.convert import IngestConfig
from semgen_pipelines.ingest import ingest
from semgen_platform import geometry
from semgen_platform.formats.nifti import write_nifti
from semgen_platform.formats.reader import read_source
from semgen_platform.formats.sniff import list_sources
from semgen_platform.formats.source import Source
from semgen_platform.lake.lake import create_lake
from semgen_platform.lake.volumes import open_level, write_volume
from semgen_platform.phantom.dicom import SERIES, Study, write_study
from semgen_platform.phantom.files import oriented
from semgen_platform.phantom.identity import made_up
from semgen_platform.privacy import key_fingerprint
from semgen_platform.volume import Volume

RESULTS = Path(__file__).resolve().parent / "results"
KEY = b"k" * 32
NIFTI_ORDERS = ("LAS", "RAS")
"""Of axes in the file: as dcm2niix writes axial CT, rows turned, and as many tools do, rows and columns."""
SYNTAXES = {
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG 2000 lossless": "1.2.840.10008.1.2.4.90",
    "JPEG-LS lossless": "1.2.840.10008.1.2.4.80",
    "HTJ2K lossless": "1.2.840.10008.1.2.4.201",
    "JPEG lossless SV1": "1.2.840.10008.1.2.4.70",
}

OURS = "semgen-platform"
Voxels = NDArray[Any]


@dataclass(frozen=True)
class Sizes:
    """How much is measured; a scan is of 512 x 512 pixels, except in the tests."""

    shape_zyx: tuple[int, int, int]
    rounds: int
    peak_slices: int
    syntax_slices: int
    known_series: int
    ray_scans: int
    ray_rounds: int


FULL = Sizes(
    (200, 512, 512), rounds=15, peak_slices=600, syntax_slices=32, known_series=100, ray_scans=90, ray_rounds=2
)
TINY = Sizes((32, 64, 64), rounds=1, peak_slices=64, syntax_slices=16, known_series=2, ray_scans=2, ray_rounds=1)


@dataclass(frozen=True)
class Way:
    """A way to store a scan: `convert` into an empty folder, and what it must have `stored` there."""

    convert: Callable[[Path], Any]
    read_back: Callable[[Path], Voxels]
    stored: Voxels


# --- ours ---


def ours(source: Source, voxels: Voxels) -> Way:
    return Way(lambda root: convert(source, root), level_0, voxels)


def convert(source: Source, root: Path) -> None:
    volume = read_source(source)
    assert isinstance(volume, Volume), volume
    write_volume(root, volume, "ibench")


def level_0(root: Path) -> Voxels:
    (folder,) = root.glob("volumes/*/*/*")
    return open_level(root, folder.parent.name, folder.name, 0).whole()


def only_source(path: Path) -> Source:
    (source,) = list_sources(path)
    return source


# --- what people write by hand ---


def by_hand(read: Callable[[], Voxels], voxels: Voxels) -> Way:
    """Read, and write with zarr's defaults: its own chunks, zstd, no shards, no pyramid."""
    return Way(
        lambda folder: zarr.create_array(store=folder / "scan.zarr", data=read()),
        lambda folder: np.asarray(zarr.open_array(folder / "scan.zarr", mode="r")[...]),
        voxels,
    )


def with_nibabel(path: Path) -> Voxels:
    image: Any = nib.load(path)
    return np.asarray(image.dataobj).T


def with_simpleitk(path: Path) -> Voxels:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def with_pydicom(folder: Path) -> Voxels:
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    slices.sort(key=lambda dataset: float(dataset.ImagePositionPatient[2]))
    volume = np.empty((len(slices), slices[0].Rows, slices[0].Columns), np.int16)
    for index, dataset in enumerate(slices):
        hu = dataset.pixel_array.astype(np.int16) * int(dataset.RescaleSlope) + int(dataset.RescaleIntercept)
        volume[index] = hu
    return volume


def with_simpleitk_series(folder: Path) -> Voxels:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayFromImage(reader.Execute())


def clipped_body(seed: int, shape_zyx: tuple[int, int, int]) -> Volume:
    """A noisy body in the range that scanners store, from -1024 HU up."""
    volume = body(seed, shape_zyx)
    return replace(volume, voxels=np.maximum(volume.voxels, np.int16(-1024)))


def ways(folder: Path, volume: Volume) -> dict[str, Way]:
    found = {}
    for order in NIFTI_ORDERS:
        path, turned = folder / f"{order}.nii.gz", oriented(volume, order)
        write_nifti(turned, path)
        found[f"{order}.nii.gz: {OURS}"] = ours(only_source(path), volume.voxels)
    found[f"{order}.nii.gz: nibabel + zarr"] = by_hand(lambda: with_nibabel(path), turned.voxels)
    found[f"{order}.nii.gz: SimpleITK + zarr"] = by_hand(lambda: with_simpleitk(path), turned.voxels)
    series = write_series(folder, volume)
    found[f"DICOM: {OURS}"] = ours(only_source(series), volume.voxels)
    found["DICOM: pydicom loop + zarr"] = by_hand(lambda: with_pydicom(series), volume.voxels)
    found["DICOM: SimpleITK series + zarr"] = by_hand(lambda: with_simpleitk_series(series), volume.voxels)
    return found


def write_series(folder: Path, volume: Volume, number: int = 0) -> Path:
    """A CT series of one file a slice, uncompressed, as a scanner sends it; its folder."""
    study = Study(made_up(0, number, f"BENCH{number}", "female"), seed=0, number=number)
    write_study(folder / f"study{number}", volume, study, kernel="standard", syntax="plain", extras=False)
    return folder / f"study{number}" / SERIES


# --- measuring ---


def cpu_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def figure(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    rounded = [round(value, digits) for value in (statistics.median(values), min(values), max(values))]
    return dict(zip(("median", "low", "high"), rounded, strict=True))


def check(found: Mapping[str, Way], folder: Path) -> None:
    for label, way in found.items():
        target = new_folder(folder)
        way.convert(target)
        assert np.array_equal(way.read_back(target), way.stored), f"{label} stores other voxels"


def interleaved(found: Mapping[str, Way], folder: Path, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each way, a list of one a round."""
    seconds: dict[str, list[float]] = {label: [] for label in found}
    for _ in range(rounds):
        for label, way in found.items():
            target = new_folder(folder)
            seconds[label].append(cpu_seconds(partial(way.convert, target)))
    return seconds


def new_folder(folder: Path) -> Path:
    target = folder / "target"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    return target


def conversions(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Million voxels per CPU second of each way, ours over each other one, and the share of the bound that we reach."""
    volume = clipped_body(0, sizes.shape_zyx)
    found = ways(folder, volume)
    check(found, folder)
    seconds = interleaved(found, folder, sizes.rounds)
    millions = volume.voxels.size / 1e6
    ratios = {}
    for kind in dict.fromkeys(label.partition(":")[0] for label in found):
        own = seconds[f"{kind}: {OURS}"]
        for label, theirs in seconds.items():
            if label.startswith(f"{kind}:") and OURS not in label:
                ratios[label] = figure([t / o for t, o in zip(theirs, own, strict=True)], 2)
    limits = bounds(folder, volume, sizes.rounds)
    reached = {}
    for kind, read in (("RAS.nii.gz", "inflate (ISA-L)"), ("DICOM", "read slices")):
        own_speed = millions / statistics.median(seconds[f"{kind}: {OURS}"])
        allowed = 1 / (1 / limits[read]["median"] + 1 / limits["encode (LZ4)"]["median"])
        reached[kind] = round(own_speed / allowed, 3)
    return {
        "readers": {label: figure([millions / s for s in values]) for label, values in seconds.items()},
        "ours_over_theirs": ratios,
        "bounds": limits,
        "share_of_bound_reached": reached,
    }


def bounds(folder: Path, volume: Volume, rounds: int) -> dict[str, dict[str, float]]:
    """Million voxels per CPU second of what no conversion can do without."""
    packed = (folder / "RAS.nii.gz").read_bytes()
    size, millions = volume.voxels.nbytes, volume.voxels.size / 1e6
    files = sorted((folder / "study0" / SERIES).iterdir())
    slice_bytes = volume.voxels[0].nbytes
    chunks = [np.ascontiguousarray(chunk) for chunk in cubes(volume.voxels)]
    numcodecs.blosc.use_threads = False

    def read() -> None:
        out = np.empty(volume.shape_zyx, np.int16)
        for path, into in zip(files, out, strict=True):
            with path.open("rb") as file:
                file.seek(-slice_bytes, 2)
                file.readinto(into.data)

    work: dict[str, Callable[[], Any]] = {
        "inflate (ISA-L)": lambda: isal_zlib.decompress(packed, wbits=31, bufsize=size + 1024),
        "read slices": read,
        "encode (LZ4)": lambda: [
            numcodecs.blosc.compress(chunk, b"lz4", 5, numcodecs.blosc.SHUFFLE) for chunk in chunks
        ],
    }
    return {label: figure([millions / cpu_seconds(step) for _ in range(rounds)]) for label, step in work.items()}


def cubes(voxels: Voxels) -> Iterable[Voxels]:
    z, y, x = (range(0, n, 32) for n in voxels.shape)
    return (voxels[a : a + 32, b : b + 32, c : c + 32] for a in z for b in y for c in x)


# --- memory ---


def peaks(folder: Path, sizes: Sizes) -> dict[str, float]:
    """Largest memory of a fresh worker over what it had before, in uncompressed volumes."""
    part = clipped_body(1, (sizes.peak_slices // 4, *sizes.shape_zyx[1:])).voxels
    volume = Volume(np.concatenate([part] * 4), geometry.affine_from((0.8, 0.8, 1.5), (0, 0, 0)), modality="CT")
    write_nifti(oriented(volume, "RAS"), folder / "large.nii.gz")
    paths = {".nii.gz": folder / "large.nii.gz", "DICOM": write_series(folder, volume, 1)}
    bytes_ = volume.voxels.nbytes
    del volume, part
    warm_up = folder / "small.nii.gz"
    write_nifti(body(2, (16, 64, 64)), warm_up)
    return {label: round(peak_bytes(path, warm_up, new_folder(folder)) / bytes_, 2) for label, path in paths.items()}


def peak_bytes(path: Path, warm_up: Path, root: Path) -> int:
    command = [sys.executable, __file__, "--peak", str(path), str(warm_up), str(root)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(path: Path, warm_up: Path, root: Path) -> None:
    """In the fresh worker. VmHWM and not ru_maxrss, which begins with that of the process that started this one."""
    convert(only_source(warm_up), root)  # loads the libraries
    source, before = only_source(path), memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins again
    convert(source, root)
    print(memory_bytes("VmHWM") - before)


def memory_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith(name + ":")]
    return int(line.split()[1]) * 1024


# --- compressed transfer syntaxes ---


def syntaxes(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Slices per CPU second in each compressed syntax: converted with everything, and decoded only."""
    volume = clipped_body(3, (sizes.syntax_slices, *sizes.shape_zyx[1:]))
    plain = sorted(write_series(folder, volume, 2).iterdir())
    figures: dict[str, Any] = {}
    for name, uid in SYNTAXES.items():
        place = folder / name
        place.mkdir()
        for path in plain:
            encode(path, place / path.name, uid)
        source, series = only_source(place), [pydicom.dcmread(path) for path in sorted(place.iterdir())]
        check({name: ours(source, volume.voxels)}, folder)
        decode = get_decoder(pydicom.uid.UID(uid)).as_array
        times: dict[str, list[float]] = {"converted": [], "decoded only": []}
        for _ in range(sizes.rounds):
            target = new_folder(folder)
            times["converted"].append(cpu_seconds(partial(convert, source, target)))
            times["decoded only"].append(cpu_seconds(partial(each, decode, series)))
        figures[name] = {label: figure([len(series) / s for s in seconds]) for label, seconds in times.items()}
    return figures


def each(work: Callable[[Any], Any], items: Iterable[Any]) -> None:
    for item in items:
        work(item)


def encode(plain: Path, target: Path, uid: str) -> None:
    """A DICOM file without loss in a compressed syntax, by a coder that has it."""
    if uid == SYNTAXES["JPEG lossless SV1"]:
        encode_with_gdcm(plain, target)
        return
    dataset = pydicom.dcmread(plain)
    if uid == SYNTAXES["HTJ2K lossless"]:
        dataset.PixelData = encapsulate([bytes(imagecodecs.htj2k_encode(dataset.pixel_array, reversible=True))])
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
    else:
        dataset.compress(pydicom.uid.UID(uid), generate_instance_uid=False)
    dataset.save_as(target, enforce_file_format=True)


def encode_with_gdcm(plain: Path, target: Path) -> None:
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


# --- what is there already, and Ray ---


def already_there(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Files per CPU second of an ingest that has nothing to do."""
    for number in range(sizes.known_series):
        write_series(folder / "known", clipped_body(number, (20, 32, 32)), number)
    lake = create_lake(str(folder / "known lake"), key_fingerprint=key_fingerprint(KEY))

    def again() -> Any:
        return ingest([folder / "known"], lake.refresh(), KEY, IngestConfig(), workers=1, quiet=True)

    first = again()
    assert first.found == sizes.known_series
    seconds = [cpu_seconds(again) for _ in range(sizes.rounds)]
    assert again().decoded == 0
    return figure([sizes.known_series * 20 / s for s in seconds])


def through_ray(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Wall seconds a scan: of a bare loop in one process, and between N and 2N scans with one and with two workers."""
    scans = sizes.ray_scans
    for count in (scans, 2 * scans):
        write_pairs(folder / str(count), count, body(4, sizes.shape_zyx))
    rounds = [
        (bare_loop(folder, scans), slope(folder, scans, workers=1), slope(folder, scans, workers=2))
        for _ in range(sizes.ray_rounds)
    ]
    return {
        "seconds_a_scan": {
            label: figure(seconds, 3)
            for label, seconds in zip(("bare loop", "1 worker", "2 workers"), zip(*rounds, strict=True), strict=True)
        },
        "one_worker_over_bare_loop": figure([one / bare for bare, one, _ in rounds], 2),
        "two_workers_against_one": figure([one / two for _, one, two in rounds], 2),
    }


def bare_loop(folder: Path, scans: int) -> float:
    sources = list(list_sources(folder / str(scans)))
    started = time.monotonic()
    for source in sources:
        convert(source, folder / "bare")
    seconds = (time.monotonic() - started) / scans
    shutil.rmtree(folder / "bare")
    return seconds


def slope(folder: Path, scans: int, workers: int) -> float:
    seconds = []
    for count in (scans, 2 * scans):
        lake = create_lake(str(folder / "lake"), key_fingerprint=key_fingerprint(KEY))
        started = time.monotonic()
        summary = ingest([folder / str(count)], lake, KEY, IngestConfig(), workers=workers, quiet=True)
        seconds.append(time.monotonic() - started)
        assert summary.ingested == count
        shutil.rmtree(folder / "lake")
    return (seconds[1] - seconds[0]) / scans


def write_pairs(folder: Path, count: int, volume: Volume) -> None:
    """Scans at places of their own, as NIfTI pairs whose compressed voxels are one file under many names."""
    folder.mkdir()
    voxels = folder / "0.img"
    voxels.write_bytes(isal_zlib.compress(volume.voxels.tobytes(), 1, wbits=31))
    for number in range(count):
        header = nib.Nifti1Pair(np.empty(volume.shape_zyx[::-1], np.int8), None).header
        header.set_data_dtype(np.int16)
        shift = geometry.affine_from((0.8, 0.8, 1.5), (number, 0, 0))
        header.set_sform(geometry.ras_to_lps(shift), code=1)
        with (folder / f"{number}.hdr").open("wb") as file:
            header.write_to(file)
        if number:
            (folder / f"{number}.img").hardlink_to(voxels)


def measure(sizes: Sizes, *, ray: bool) -> dict[str, Any]:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    zarr.config.set({"threading.max_workers": 1})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = {
            "what": f"conversion of one scan of {sizes.shape_zyx} int16 voxels; readers: million voxels per CPU second",
            "machine": machine(),
            **conversions(folder, sizes),
            "peak_memory_in_volumes": peaks(folder, sizes),
            "compressed_slices_per_cpu_second": syntaxes(folder, sizes),
            "known_files_per_cpu_second": already_there(folder, sizes),
        }
        if ray:
            result["through_ray"] = through_ray(folder, sizes)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="seconds; prints and writes nothing")
    parser.add_argument("--ray", action="store_true", help="also through Ray, with one and with two workers")
    parser.add_argument("--peak", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(*arguments.peak)
        return
    text = json.dumps(measure(TINY if arguments.tiny else FULL, ray=arguments.ray), indent=2)
    print(text)
    if not arguments.tiny:
        (RESULTS / "ingest.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
