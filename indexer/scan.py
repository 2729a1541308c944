"""Which files are sounds: a deterministic walk that says what it left out.

Files are yielded one by one; what is kept is one folder's names for each level, the identities of the folders seen
and the roots, so a library of millions of files is walked in bounded memory.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from engine.errors import LibraryError
from engine.formats import AUDIO_SUFFIXES, SIDECAR_SUFFIX

_NAMEABLE_SUFFIX = re.compile(r"\.(?=.*[a-z])[a-z0-9_+-]{1,10}")
_KINDS = {stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
_ERRORS = {
    errno.ENOENT: "broken link or vanished",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ELOOP: "symlink loop",
    errno.ENAMETOOLONG: "path too long",
}

_Identity: TypeAlias = tuple[int, int]
_Place: TypeAlias = tuple[_Identity, str]
#: For roots of which the system doesn't say where they are: no folder is known by this.
_NOWHERE = (-1, -1)


@dataclass(frozen=True, slots=True)
class Found:
    """A file taken for sound; nobody has looked inside yet (it may be empty or broken).

    ``path`` is absolute with symlinks kept; size and mtime are those of the file a symlink leads to.
    """

    path: Path
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or folder that was passed over; ``reason`` is one of a few phrases, to be counted."""

    path: Path
    reason: str


@dataclass(slots=True)
class ScanSummary:
    """What a scan found and left out, in counts only."""

    files: int = 0
    size_bytes: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def sift(self, items: Iterable[Found | LeftOut]) -> Iterator[Found]:
        """Pass the sounds on, counting both them and what was left out."""
        for item in items:
            if isinstance(item, LeftOut):
                self.left_out[item.reason] += 1
            else:
                self.files += 1
                self.size_bytes += item.size_bytes
                yield item

    def lines(self) -> list[str]:
        """What was left out, most frequent reason first, e.g. ``"12 x not audio (.txt)"``."""
        ranked = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
        return [f"{count} x {reason}" for reason, count in ranked]


def scan(roots: Sequence[str | Path]) -> Iterator[Found | LeftOut]:
    """Walk files and folders, in the order given, each folder sorted by name.

    A file named as a root is taken whatever its name; below a folder, hidden files and folders, ``._*``,
    ``__MACOSX`` and files without an audio extension are left out; our own sidecars of captions are passed over in
    silence. Symlinks are followed after everything that is really below the roots, and no real folder is visited
    twice. Roots may overlap: every file is given once.

    A root that we may not reach is left out; one that does not exist raises ``LibraryError`` at the call, before
    anything is walked.
    """
    given: dict[_Place, str] = {}
    for root in roots:
        path = absolute(root)
        try:
            os.stat(path)
            parent = os.stat(os.path.dirname(path))
        except PermissionError:
            given.setdefault((_NOWHERE, path), path)
            continue
        except OSError as error:
            raise LibraryError(
                found=f"{os.fspath(root)!r} ({error.strerror})",
                expected="a file or folder that exists",
                action="check the spelling, or whether its disk is mounted",
            ) from error
        given.setdefault(((parent.st_dev, parent.st_ino), os.path.basename(path)), path)
    return _Walk(given).items()


class _Walk:
    """One scan: the folders it has visited and the links it has put off."""

    def __init__(self, given: Mapping[_Place, str]) -> None:
        self._given = given
        self._visited: set[_Identity] = set()
        self._links: deque[str] = deque()

    def items(self) -> Iterator[Found | LeftOut]:
        for root in self._given.values():
            if os.path.isdir(root):
                yield from self._tree(root, again_is_news=False)
            else:
                yield _file(root)
        # Links come last so that a sound is known by its real path, whatever links lead to it.
        while self._links:
            yield from self._tree(self._links.popleft(), again_is_news=True)

    def _tree(self, top: str, *, again_is_news: bool) -> Iterator[Found | LeftOut]:
        """Depth first, with a stack of our own: a deep tree must not meet Python's recursion limit."""
        stack = [self._folder(top, again_is_news=again_is_news)]
        while stack:
            item = next(stack[-1], None)
            if item is None:
                stack.pop()
            elif isinstance(item, str):
                stack.append(self._folder(item, again_is_news=True))
            else:
                yield item

    def _folder(self, folder: str, *, again_is_news: bool) -> Iterator[Found | LeftOut | str]:
        """One folder's own files; its sub-folders as ``str``, to be entered at that point."""
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in self._visited:
                if again_is_news:
                    yield LeftOut(Path(folder), "folder seen already")
                return
            self._visited.add(identity)
            names, odd = _listing(folder)
        except OSError as error:
            yield _unreadable(folder, error)
            return
        for name in names:
            if (identity, name) in self._given:  # a root of its own: given there, once
                continue
            if name.endswith(SIDECAR_SUFFIX) and _suffix(name[: -len(SIDECAR_SUFFIX)]) in AUDIO_SUFFIXES:
                continue  # our own
            path = os.path.join(folder, name)
            if reason := _unwanted(name):
                yield LeftOut(Path(path), reason)
            elif name not in odd:
                yield _file(path) if _suffix(name) in AUDIO_SUFFIXES else LeftOut(Path(path), _not_audio(name))
            else:
                yield from self._odd(path, name)

    def _odd(self, path: str, name: str) -> Iterator[Found | LeftOut | str]:
        """A folder, a link, or something that is no regular file."""
        try:
            status = os.stat(path)
        except OSError as error:
            yield _unreadable(path, error)
            return
        if stat.S_ISDIR(status.st_mode):
            if os.path.islink(path):
                self._links.append(path)
            else:
                yield path
        elif stat.S_ISREG(status.st_mode) and _suffix(name) not in AUDIO_SUFFIXES:
            yield LeftOut(Path(path), _not_audio(name))
        else:
            yield _file(path)


def listed(path: Path) -> Found | LeftOut:
    """One file by its absolute path, whatever its name."""
    return _file(os.fspath(path))


def absolute(root: str | Path) -> str:
    """A root as its files are known by: without following links, except where ``..`` makes that ambiguous."""
    path = Path(root)
    return os.fspath(path.resolve() if ".." in path.parts else path.absolute())


def _listing(folder: str) -> tuple[list[str], set[str]]:
    """The names in a folder, sorted, and those of them that are not plainly files.

    Names alone, because a million ``DirEntry`` objects weigh several times as much.
    """
    names: list[str] = []
    odd: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            names.append(entry.name)
            if not entry.is_file(follow_symlinks=False):
                odd.add(entry.name)
    names.sort()
    return names, odd


def _file(path: str) -> Found | LeftOut:
    try:
        status = os.stat(path)
    except OSError as error:
        return _unreadable(path, error)
    if not stat.S_ISREG(status.st_mode):
        return LeftOut(Path(path), _KINDS.get(stat.S_IFMT(status.st_mode), "not a regular file"))
    return Found(Path(path), status.st_size, status.st_mtime_ns)


def _unreadable(path: str, error: OSError) -> LeftOut:
    return LeftOut(Path(path), _ERRORS.get(error.errno or 0, error.strerror or "unreadable"))


def _unwanted(name: str) -> str | None:
    if name.startswith("._"):
        return "AppleDouble (._*)"
    if name == "__MACOSX":
        return "__MACOSX"
    return "hidden" if name.startswith(".") else None


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _not_audio(name: str) -> str:
    """The reason with its extension; odd extensions share one, so that the count of reasons stays bounded."""
    suffix = _suffix(name)
    if not suffix:
        return "not audio (no extension)"
    return f"not audio ({suffix})" if _NAMEABLE_SUFFIX.fullmatch(suffix) else "not audio (other)"
