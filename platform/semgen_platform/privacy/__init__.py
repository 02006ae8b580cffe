"""What may leave a source: an allow-list of attributes, shifted dates, and keyed pseudonyms for everything that names
somebody.

    attributes.py   which attributes the lake keeps, and which of their values
    terms.py        the listed words that a text may be made of
    dates.py        dates moved back by a number of days of the patient's own
    keys.py         the secret, and names made with it
    method.py       codes of PS3.15 for what was done
    canaries.py     the search for what must not be there; lake/lint_phi.py says where it looks
    unwrapping.py   spellings and wrappings in which the search looks for them

Reading headers is formats' work.
"""

from semgen_platform.privacy.attributes import ALLOWED_ATTRIBUTES, allowed, words_in
from semgen_platform.privacy.dates import parsed_date, shifted_dates
from semgen_platform.privacy.keys import KEY_BYTES, Pseudonyms, default_key_file, key_fingerprint, load_key
from semgen_platform.privacy.method import method_codes

__all__ = [
    "ALLOWED_ATTRIBUTES",
    "KEY_BYTES",
    "Pseudonyms",
    "allowed",
    "default_key_file",
    "key_fingerprint",
    "load_key",
    "method_codes",
    "parsed_date",
    "shifted_dates",
    "words_in",
]
