"""Every error that a user can cause, with the exit code of the command line.

    SemgenError                      1
        ConfigError (ValueError)     2   an argument or a configuration key is wrong
        InputError                   3   an input, port or machine cannot be used
            GeometryError (ValueError)   an affine that is no map into patient space
            LakeError                    a lake that cannot be used
                NotALake, NewerFormat, WrongKey, KeyMissing, NotFound
            StorageError                 a disk is full, or an object store refuses access
                Unreachable              a server does not answer
            Busy                         a live process holds what is asked for
        Incomplete                   4   ended incomplete; run the same command again
        Damage                       5   stored data differ from their digests
        Preempted                   75   SIGTERM with the state saved
        Interrupted                130   Ctrl-C with the state saved

A scan that cannot be used is no error but a `Refusal` (volume.py). `assert` is for what our own code guarantees.
"""

from __future__ import annotations


class SemgenError(Exception):
    """One sentence: what is wrong, where, what to do. The command line prints it and ends with `exit_code`."""

    exit_code = 1


class ConfigError(SemgenError, ValueError):
    """An argument or configuration value is wrong."""

    exit_code = 2


class InputError(SemgenError):
    """An input, a lake, a port or a machine cannot be used."""

    exit_code = 3


class GeometryError(InputError, ValueError):
    """An affine or a grid is no map into patient space."""


class LakeError(InputError):
    """A lake cannot be used as it stands."""


class NotALake(LakeError):
    """No lake lies at this address."""


class NewerFormat(LakeError):
    """The lake was written by a later format than this version reads."""


class WrongKey(LakeError):
    """The pseudonym key is not the one that the lake was made with."""


class KeyMissing(LakeError):
    """No usable pseudonym key was given."""


class NotFound(LakeError, LookupError):
    """A scan, artefact or version is not in the lake."""


class StorageError(InputError):
    """A disk or an object store cannot be read or written: full, broken, or access refused."""


class Unreachable(StorageError):
    """A server does not answer."""


class Busy(InputError):
    """A live process holds the lease that is asked for."""


class Incomplete(SemgenError):
    """The work ended incomplete; the same command goes on."""

    exit_code = 4


class Damage(SemgenError):
    """Stored data differ from their digest."""

    exit_code = 5


class Preempted(SemgenError):
    """SIGTERM arrived and the state is saved; the same command goes on."""

    exit_code = 75


class Interrupted(SemgenError):
    """Ctrl-C arrived and the state is saved; the same command goes on."""

    exit_code = 130
