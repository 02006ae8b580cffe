"""Multi-frame CT objects, frame by frame, as if each frame were a single image.

In Enhanced and Legacy Converted Enhanced CT what differs between slices lies in functional groups: sequences of
sequences, one group shared by all frames and one for each. Here they are laid flat under the keywords of a classic CT
image, so that nothing else of this room need know of them. Sources: DICOM PS3.3 C.7.6.16 (Multi-frame Functional
Groups), C.8.15.3 (Enhanced CT macros), C.7.6.16.2.25 (Unassigned Shared Converted Attributes).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from semgen_platform.formats.dicom_header import header_value, number
from semgen_platform.formats.refusing import refused

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
GROUP_TAGS = ["NumberOfFrames", SHARED, PER_FRAME]

CLASSIC_KEYWORDS = {  # of an enhanced object: the keyword that says the same in a classic image
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "XRayTubeCurrentInmA": "XRayTubeCurrent",
    "ExposureInmAs": "Exposure",
}


def frames_of(dataset: Any) -> list[Mapping[str, Any]]:
    """The header of each frame, keyword to value, a frame's own value before a shared one before the object's.

    Raises Refused where there are not as many groups as frames.
    """
    groups = _items(dataset, PER_FRAME)
    frames = int(number(dataset, "NumberOfFrames") or 0)
    if frames < 1 or len(groups) != frames:
        sentence = "the multi-frame object says how many frames it has, and describes another number of them"
        raise refused("corrupt", sentence, frames=frames, described=len(groups))
    common = dict(_values(dataset))
    for group in _items(dataset, SHARED):
        common.update(_flat(group))
    return [{**common, **dict(_flat(group))} for group in groups]


def _flat(group: Any) -> Iterator[tuple[str, Any]]:
    """(keyword, value) of every macro of one functional group; a macro that describes several items is left out."""
    for keyword in group.dir():
        items = _items(group, keyword)
        if len(items) == 1:
            yield from _values(items[0])


def _items(dataset: Any, keyword: str) -> Sequence[Any]:
    """The items of a sequence; none where there is none, or text or numbers stand in its place."""
    from pydicom.sequence import Sequence as Items

    value = header_value(dataset, keyword)
    return value if isinstance(value, Items) else ()


def _values(dataset: Any) -> Iterator[tuple[str, Any]]:
    for keyword in dataset.dir():
        if keyword not in (SHARED, PER_FRAME):
            yield CLASSIC_KEYWORDS.get(keyword, keyword), header_value(dataset, keyword)
