"""Every error that earshot raises on purpose, in one tree.

EarshotError
├── AudioError            a file that can't be heard
├── BundleError           a model folder that can't be used
│   ├── ManifestError     manifest.json is missing, malformed or of an unknown format
│   └── SelfTestError     the graphs don't reproduce the bundle's golden outputs
├── DeviceError           the asked-for device did not bind
├── QueryError            a query or a filter that can't be understood
├── LibraryError          a library folder that can't be used
│   ├── SpaceMismatchError  it holds the vectors of another space
│   ├── LibraryBusyError  another process holds it
│   └── DamagedLedgerError  its ledger can't be read any more
└── MemoryStoreError      the vector store refused
    └── DamagedMemoryError  it is not as it was written

Each message says what was found, what was expected, and what to do.
"""

from __future__ import annotations


class EarshotError(Exception):
    """Base of all errors raised on purpose.

    ``found`` is what is there, ``expected`` what should be, ``action`` what the user can do about it.
    """

    def __init__(self, found: str, expected: str = "", action: str = "") -> None:
        self.found = found
        self.expected = expected
        self.action = action
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [f"found {self.found}" if self.expected else self.found]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.action:
            parts.append(self.action)
        return "; ".join(parts)

    def __reduce__(self) -> tuple[type[EarshotError], tuple[str, str, str]]:
        return type(self), (self.found, self.expected, self.action)


class AudioError(EarshotError):
    """A file that can't be heard."""


class BundleError(EarshotError):
    """A model folder that can't be used."""


class ManifestError(BundleError):
    """manifest.json is missing, malformed or of an unknown format."""


class SelfTestError(BundleError):
    """The graphs don't reproduce the golden outputs of the bundle."""


class DeviceError(EarshotError):
    """The asked-for device did not bind."""


class QueryError(EarshotError):
    """A query or a filter that can't be understood."""


class LibraryError(EarshotError):
    """A library folder that can't be used."""


class SpaceMismatchError(LibraryError):
    """The library holds the vectors of another space."""


class LibraryBusyError(LibraryError):
    """Another process holds the library."""


class DamagedLedgerError(LibraryError):
    """The ledger of the library is damaged: `earshot repair` may move it aside and rebuild it."""


class MemoryStoreError(EarshotError):
    """The vector store refused an operation."""


class DamagedMemoryError(MemoryStoreError):
    """The vector store is not as it was written: `earshot repair` may move it aside."""
