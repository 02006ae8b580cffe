"""How this room says no: an exception that carries a Refusal up to read_source, and never further.

A sentence or its evidence never holds a path, a name or the text of a library's message, since both go into the lake.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from semgen_platform.volume import REASONS, Refusal

LOUD_LOGGERS = ("pydicom", "nibabel.global", "openjpeg")
"""Their messages, and those of loggers below them, quote header values, which may identify a patient, or just chat."""


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
    with warnings.catch_warnings(), ExitStack() as loggers:
        warnings.simplefilter("ignore")
        for name in LOUD_LOGGERS:
            loggers.enter_context(_silenced(logging.getLogger(name)))
        yield


@contextmanager
def _silenced(logger: logging.Logger) -> Iterator[None]:
    before = logger.disabled, logger.propagate
    nowhere = logging.NullHandler()  # else records of loggers below it would reach the handler of last resort
    logger.addHandler(nowhere)
    logger.disabled, logger.propagate = True, False
    try:
        yield
    finally:
        logger.disabled, logger.propagate = before
        logger.removeHandler(nowhere)
