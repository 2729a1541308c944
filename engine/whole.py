"""Whether a sound file is all there: what its header promises against what is on disk.

A wav, aiff, w64 or au that was cut short was cut in copying, and is refused. Of a lossy stream or a video the first
part is often all there is; it is heard, with a remark.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

import soundfile

from engine.errors import AudioError

#: A header may promise this much (bytes, or frames in RF64) too much; some writers count their own header in.
SLACK = 4096
#: Sizes with which a recorder or a pipe says that it did not know: the largest, of 32 bits and of 64.
UNKNOWN = ((0x7FFF0000, 0xFFFFFFFF), (1 << 62, 1 << 64))
#: A track may end this much (share of its length, and seconds) before its container says: encoders round and pad.
LATE, LATE_S = 0.02, 1.0

_PROMISES = (
    re.compile(r"^\s*(?:data|SSND|riff|Data Size)\s*: (?P<promised>\d+) \(should be (?P<there>\d+)\)", re.MULTILINE),
    re.compile(r"^ *Frames *: (?P<promised>\d+)$.*^\*\*\* Calculated frame count (?P<there>\d+) does", re.M | re.S),
)
#: libsndfile's words for a voc.
_UNFINISHED = "Seems to be a truncated file"
#: The longest that a page of an Ogg stream can be, and the flag of the last one.
_OGG_PAGE_BYTES, _OGG_LAST = 65_307, 4
#: Containers, by FFmpeg's names, that say how long their tracks are; the length of others is FFmpeg's guess.
_TELL_LENGTH = {"mov", "matroska", "wv", "tta"}
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
#: What is said of a file of which only the first part could be heard.
REMARK = str(AudioError("only the first part", "a whole file", "copy it again, if there is a whole one"))
_HEAD = 1 << 16
_MAX_CHUNKS = 1000


def check_whole(file: soundfile.SoundFile) -> None:
    """Raise ``AudioError`` for a wav, rf64, w64, aiff or au that ends before its header says so."""
    for promise in _PROMISES:
        if match := promise.search(file.extra_info):
            promised, there = int(match["promised"]), int(match["there"])
            if there + SLACK < promised and not any(low <= promised <= high for low, high in UNKNOWN):
                raise AudioError(f"the first {100 * there // promised} % of a file", "a whole file", "copy it again")


def is_unfinished(file: soundfile.SoundFile, path: Path) -> bool:
    """Whether an ogg lacks its last page, or an mp3 bytes that its first frame (Xing or Info) counts."""
    if file.format in ("MP3", "MPEG"):
        with path.open("rb") as stream:
            return _mp3_bytes(stream) > stream.seek(0, os.SEEK_END) + SLACK
    if file.format == "OGG":
        with path.open("rb") as stream:
            return not _ends_with_last_page(stream)
    return _UNFINISHED in file.extra_info


def lacks_bytes(path: Path) -> bool:
    """Whether an avi, asf (wma, wmv) or caf is shorter than its header says."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            size = int(struct.unpack_from("<I", head, 4)[0])
            promised = 8 + size if size < UNKNOWN[0][0] else 0
        elif head[:4] == b"caff":
            promised = _caf_bytes(stream)
        else:
            at = head.find(_ASF_FILE_PROPERTIES) + 40
            promised = int(struct.unpack_from("<Q", head, at)[0]) if 40 <= at <= len(head) - 8 else 0
        there = stream.seek(0, os.SEEK_END)
    return there + SLACK < promised


def promised_s(container: Any, stream: Any) -> float:
    """Where the sound track of an FFmpeg container should end, in seconds; 0 where the container doesn't say."""
    if container.format.name.split(",")[0] not in _TELL_LENGTH:
        return 0.0
    if stream.duration is not None:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    alone = len(container.streams) == 1  # or else it is the length of the longest track
    return container.duration / 1e6 if alone and container.duration else 0.0


def ends_early(end_s: float, promised: float) -> bool:
    """Whether the last frame ended well before the promised end, in seconds."""
    return end_s < (1 - LATE) * promised - LATE_S


def _ends_with_last_page(stream: BinaryIO) -> bool:
    """Whether the last page of an Ogg stream is there to its end and says that it is the last (RFC 3533, section 6)."""
    there = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, there - 2 * _OGG_PAGE_BYTES))  # tags may have been put behind it
    tail = stream.read()
    at = tail.rfind(b"OggS\0")
    if at < 0 or len(tail) < at + 27:
        return False
    segments = tail[at + 27 : at + 27 + tail[at + 26]]
    is_whole = len(segments) == tail[at + 26] and at + 27 + len(segments) + sum(segments) <= len(tail)
    return is_whole and bool(tail[at + 5] & _OGG_LAST)


def _mp3_bytes(stream: BinaryIO) -> int:
    """Where the sound of an mp3 ends by its Xing or Info header; 0 without one that says."""
    head = stream.read(10)
    start = 0
    if head[:3] == b"ID3":  # ID3v2.4, section 3.1: a size in four bytes of seven bits
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=False))
    stream.seek(start)
    frame = stream.read(256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0:
        return 0
    flags, *sizes = struct.unpack_from(">III", frame.ljust(300, b"\0"), at + 4)
    return start + int(sizes[flags & 1]) if flags & 2 else 0  # the count of frames comes first, if it is there


def _caf_bytes(stream: BinaryIO) -> int:
    """Where the data chunk of a caf ends (Core Audio Format 1.0, "Data Chunk"); 0 where its size is unknown."""
    at, there = 8, stream.seek(0, os.SEEK_END)
    for _ in range(_MAX_CHUNKS):
        if at > there - 12:
            break
        stream.seek(at)
        raw = stream.read(12)
        name, size = struct.unpack(">4sq", raw)
        if size < 0:
            break
        at += 12 + size
        if name == b"data":
            return int(at)
    return 0
