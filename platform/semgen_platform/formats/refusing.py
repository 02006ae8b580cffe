"""How this room says no: an exception that carries a Refusal up to read_source, and never further.

A sentence or its evidence never holds a path, a name or the text of a library's message, since both go into the lake.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from semgen_platform.volume import REASONS, Refusal

LOUD_LOGGERS = ("pydicom", "nibabel.global")
"""Their messages quote header values, which may identify a patient."""


class Refused(Exception):
    """Ends the reading of one source."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.sentence)
        self.refusal = refusal


def refusal(reason: str, sentence: str, **evidence: Any) -> Refusal:
    return Refusal((reason,), sentence, evidence)


def refused(reason: str, sentence: str, **evidence: Any) -> Refused:
    return Refused(refusal(reason, sentence, **evidence))


def combined(refusals: Sequence[Refusal]) -> Refusal:
    """All reasons with the evidence of each, and the sentence of the primary one."""
    primary = min(refusals, key=lambda r: REASONS.index(r.reasons[0]))
    evidence = {key: value for r in refusals for key, value in r.evidence.items()} | dict(primary.evidence)
    return Refusal(tuple(reason for r in refusals for reason in r.reasons), primary.sentence, evidence)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep warnings and log lines of the decoding libraries off stderr; what matters becomes a Refusal or a flag."""
    loggers = [logging.getLogger(name) for name in LOUD_LOGGERS]
    before = [logger.disabled for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.disabled = True
        try:
            yield
        finally:
            for logger, disabled in zip(loggers, before, strict=True):
                logger.disabled = disabled
