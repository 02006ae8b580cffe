"""Work on many scans spread over Ray actors, as discovery's `Spread`; frames are read by the actors and kept there.

A scan always goes to the same actor, so that its frame is read and masked once for all stages. Only functions, ids and
small results travel.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from semgen_platform.discovery.body_frame import FRAME_SPACING_MM, BodyConfig, Frame, body_frame
from semgen_platform.errors import Incomplete, SemgenError
from semgen_platform.ids import digest_of
from semgen_platform.lake.crops import CropReader
from semgen_platform.lake.selection import Scan
from semgen_platform.progress import Progress

CHUNK = 4  # scans a call: a second or two of work
FRAME_BYTES = 2**29  # of frames that one process keeps: about 60 scans
MOST_RESTARTS = 2  # of an actor that died, before the command ends incomplete

T = TypeVar("T")

_kept_frames: OrderedDict[tuple[str, str], Frame] = OrderedDict()
"""Frames of this process, the most recently used last. Actors keep them between the stages of a discovery."""


class LakeFrames:
    """The 4 mm frame of a scan id, read from the lake by the process that asks; a `ReadFrame` of discovery."""

    def __init__(self, root: Path, scans: Sequence[Scan], config: BodyConfig) -> None:
        self._reader, self._config = CropReader(root, scans), config
        self._padding_hu = {scan.scan_id: scan.padding_hu for scan in scans}
        self._made_by = digest_of([str(root), config.model_dump(mode="json")])

    def __call__(self, scan_id: str) -> Frame:
        key = (self._made_by, scan_id)
        frame = _kept_frames.pop(key, None) or self._read(scan_id)
        _kept_frames[key] = frame
        while len(_kept_frames) > 1 and sum(map(_bytes_of, _kept_frames.values())) > FRAME_BYTES:
            _kept_frames.popitem(last=False)
        return frame

    def _read(self, scan_id: str) -> Frame:
        level = self._reader.level(scan_id, FRAME_SPACING_MM)
        return body_frame(level.voxels_ZYX, level.zyx_to_lps_mm, self._padding_hu[scan_id], self._config)


def _bytes_of(frame: Frame) -> int:
    return frame.hu_ZYX.nbytes + frame.valid_ZYX.nbytes + frame.body_ZYX.nbytes


class _Actor:
    """Applies a stage's function to chunks; the function is fetched once a stage."""

    def __init__(self) -> None:
        self._stage, self._work = -1, None

    def run(self, stage: int, work: list[Any], scan_ids: list[str]) -> Any:
        import ray

        if stage != self._stage:
            self._stage, self._work = stage, ray.get(work[0])
        assert self._work is not None
        return self._work(scan_ids)


class RaySpread:
    """A `Spread` over `workers` actors of one CPU each; made by `ray_spread`."""

    def __init__(self, ray: Any, workers: int, scan_ids: Sequence[str], label: str, *, quiet: bool) -> None:
        self._ray, self._label, self._quiet, self._stage = ray, label, quiet, 0
        actor = ray.remote(_Actor).options(num_cpus=1, max_restarts=MOST_RESTARTS, max_task_retries=MOST_RESTARTS)
        self.actors = [actor.remote() for _ in range(workers)]
        self._owner = {scan_id: n % workers for n, scan_id in enumerate(sorted(scan_ids))}

    def __call__(self, label: str, work: Callable[[list[str]], T], scan_ids: Sequence[str]) -> list[T]:
        """Results of all chunks, in an order that depends on the ids and the number of actors alone."""
        self._stage += 1
        shared = [self._ray.put(work)]  # in a list, so that a call does not wait for it or copy it
        chunks = list(self._chunks(scan_ids))
        calls = [self.actors[owner].run.remote(self._stage, shared, chunk) for owner, chunk in chunks]
        place, results, waiting = {call: n for n, call in enumerate(calls)}, dict[int, T](), calls
        with Progress(f"{self._label}: {label}", len(scan_ids), quiet=self._quiet) as progress, our_errors(self._ray):
            while waiting:
                done, waiting = self._ray.wait(waiting)
                for call in done:
                    results[place[call]] = self._ray.get(call)
                    progress.advance(len(chunks[place[call]][1]))
        return [results[n] for n in range(len(calls))]

    def _chunks(self, scan_ids: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        for start in range(0, len(scan_ids), CHUNK * len(self.actors)):
            block = scan_ids[start : start + CHUNK * len(self.actors)]
            for owner in range(len(self.actors)):
                if mine := [scan_id for scan_id in block if self._owner[scan_id] == owner]:
                    yield owner, mine


@contextmanager
def ray_spread(ray: Any, workers: int, scan_ids: Sequence[str], label: str, *, quiet: bool) -> Iterator[RaySpread]:
    """A spread whose actors end with the block."""
    spread = RaySpread(ray, workers, scan_ids, label, quiet=quiet)
    try:
        yield spread
    finally:
        for actor in spread.actors:
            ray.kill(actor)


@contextmanager
def our_errors(ray: Any) -> Iterator[None]:
    """An error of ours that was raised in a worker comes out as itself; workers that died too often as Incomplete."""
    try:
        yield
    except ray.exceptions.RayError as error:
        if (ours := _cause(error)) is not None:
            raise ours from error
        if isinstance(error, ray.exceptions.RayActorError):
            raise Incomplete("a worker process died too often; run the same command again") from error
        raise


def _cause(error: BaseException | None) -> SemgenError | None:
    while error is not None:
        if isinstance(error, SemgenError) and type(error).__module__ == SemgenError.__module__:
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None
