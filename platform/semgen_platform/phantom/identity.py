"""Made-up identities: names, numbers, dates and UIDs that a DICOM header would carry, all invented from the seed.

The point of them is to be found and removed again: ingest must not let any of these words into the lake.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date, timedelta

from semgen_platform.ids import canonical_json, uniform_stream

_FAMILY = ("Alderwick", "Brannoch", "Corvedale", "Dunmorrow", "Elstrand", "Farrowgate", "Glenhurst", "Harkenfeld")
_GIVEN = {"female": ("Avelina", "Brisa", "Corisande", "Damaris"), "male": ("Alaric", "Benedikt", "Corwin", "Dorian")}
_HOSPITALS = ("Hospital of the Invented Saints", "Klinikum Nirgendwo", "Centre Fictif de Radiologie")
_MAKERS = (("PHANTOMWORKS", "Tomograph 64"), ("INVENTA MEDICAL", "Spiral One"), ("NOWHERE IMAGING", "Helix 128"))


@dataclass(frozen=True)
class Identity:
    """What the headers of one patient's study say."""

    name: str
    patient_id: str
    birth_date: date
    sex: str
    address: str
    institution: str
    physician: str
    accession: str
    study_date: date
    maker: str
    model: str
    station: str


def made_up(seed: int, number: int, patient_id: str, sex: str) -> Identity:
    """The identity of a phantom patient, a pure function of its arguments."""
    rng = uniform_stream(seed, "identity", number)
    study = date(2012, 1, 1) + timedelta(days=int(rng.integers(0, 4000)))
    maker, model = _MAKERS[int(rng.integers(len(_MAKERS)))]
    given = _GIVEN[sex]
    return Identity(
        name=f"{rng.choice(_FAMILY)}^{rng.choice(given)}",
        patient_id=patient_id,
        birth_date=study - timedelta(days=int(rng.integers(25 * 365, 85 * 365))),
        sex=sex[0].upper(),
        address=f"{rng.integers(1, 99)} Nonesuch Lane, Farawayton",
        institution=str(rng.choice(_HOSPITALS)),
        physician=f"{rng.choice(_FAMILY)}^{rng.choice(_GIVEN['male'])}^^Dr",
        accession=f"ACC{rng.integers(10**7, 10**8)}",
        study_date=study,
        maker=maker,
        model=model,
        station=f"CT{rng.integers(1, 9)}",
    )


def uid(*key: int | str) -> str:
    """A DICOM UID below 2.25 (UUID-derived), a pure function of its key. Source: DICOM PS3.5 B.2."""
    digest = hashlib.sha256(canonical_json(["uid", *key]).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"
