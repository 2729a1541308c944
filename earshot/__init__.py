"""earshot: a search engine for sound.

>>> from earshot import Library
>>> with Library("my-library") as library:
...     library.index(["sounds"])
...     library.search("rain on a tin roof")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earshot.library import Library as Library
    from earshot.library import Status as Status

__all__ = ["Library", "Status", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # `earshot --help` must not wait for onnxruntime and qdrant.
    if name in ("Library", "Status"):
        from earshot import library

        return getattr(library, name)
    raise AttributeError(f"module 'earshot' has no attribute {name!r}")
