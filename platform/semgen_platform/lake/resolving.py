"""From a pseudonym of the lake back to a path, for the operator who has the files and the key.

Nothing is looked up: the sources below a folder are listed again and named again under the key, so who lacks either
learns nothing. What is found must not be written into a lake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from semgen_platform.formats import files
from semgen_platform.formats.sniff import list_sources
from semgen_platform.formats.source import Source
from semgen_platform.lake.lake import Lake
from semgen_platform.privacy import Pseudonyms


def paths_of(lake: Lake, rows: Iterable[Mapping[str, Any]], folder: str | Path, key: bytes) -> dict[str, str]:
    """Source id to path, for those rows (source_id, collection) whose source lies below the folder.

    folder : the SOURCE that was ingested (a folder, glob, s3:// prefix or manifest), since a file is named by its path
    below that.  A series has the folder that its files share.  Raises WrongKey, InputError (no such folder).
    """
    lake.check_key(key)
    wanted = {row["source_id"]: row["collection"] for row in rows}
    collections, pseudonyms = sorted(set(wanted.values())), Pseudonyms(key)
    found = {}
    for source in list_sources(folder):
        for collection in collections:
            source_id = pseudonyms.source(collection, source.name_parts)
            if source_id in wanted:
                found[source_id] = _path(source)
    return found


def _path(source: Source) -> str:
    return files.common(str(place) for place in source.files)
