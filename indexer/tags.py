"""What a sound file says about itself: embedded tags, broadcast chunks, and its own name.

Sources: ID3, Vorbis comments, MP4 and ASF through mutagen; RIFF, RF64, W64 and AIFF chunks by a bounded walk (``bext``:
EBU Tech 3285; iXML 3.x; ``LIST INFO``; ``ds64``: EBU Tech 3306); file names of the Universal Category System 8.x.
"""

from __future__ import annotations

import io
import re
import struct
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from xml.etree import ElementTree

import mutagen
from mutagen.id3 import ID3

from engine.formats import AUDIO_SUFFIXES

MAX_TEXT_CHARS = 2_000
"""No text longer than this is kept: a tag is a label, and labels go into every payload."""

_MAX_CHUNKS = 1_000
_WANTED_BYTES = {b"bext": 256, b"iXML": 1 << 18, b"LIST": 1 << 16, b"id3 ": 1 << 22, b"ID3 ": 1 << 22, b"ds64": 1 << 12}
_WANTED_BYTES |= dict.fromkeys((b"NAME", b"AUTH", b"ANNO", b"(c) "), 1 << 14)
_WANTED_BYTES |= {b"list": _WANTED_BYTES[b"LIST"]}
_W64_TAIL = bytes.fromhex("2e91cf11a5d628db04c10000")

_KEYS: Mapping[str, tuple[str, ...]] = {
    "title": ("TIT2", "title", "\xa9nam"),
    "artist": ("TPE1", "artist", "\xa9ART", "Author"),
    "comment": ("COMM", "TXXX:comment", "comment", "\xa9cmt"),
    "description": ("TXXX:description", "description", "desc", "Description"),
}
_INFO = {b"INAM": "title", b"IART": "artist", b"ICMT": "comment", b"ISBJ": "description"}
_AIFF = {b"NAME": "title", b"AUTH": "artist", b"ANNO": "comment"}
_IXML = {"fxname": "title", "note": "description", "category": "category", "catid": "cat_id"}

_UCS_CODES = (
    "AIR=AIR AERO=AIRCRAFT ALRM=ALARMS AMB=AMBIENCE ANML=ANIMALS BEEP=BEEPS BELL=BELLS BIRD=BIRDS BOAT=BOATS "
    "BLLT=BULLETS TOON=CARTOON CERM=CERAMICS CHAIN=CHAINS CHEM=CHEMICALS CLOCK=CLOCKS CLOTH=CLOTH "
    "COM=COMMUNICATIONS CMPT=COMPUTERS CREA=CREATURES CRWD=CROWDS DSGN=DESIGNED DESTR=DESTRUCTION DIRT=DIRT_&_SAND "
    "DOOR=DOORS DRWR=DRAWERS ELEC=ELECTRICITY EQUIP=EQUIPMENT EXPL=EXPLOSIONS FART=FARTS FGHT=FIGHT FIRE=FIRE "
    "FRWK=FIREWORKS FOLY=FOLEY FOOD=FOOD_&_DRINK FEET=FOOTSTEPS GAME=GAMES GEO=GEOTHERMAL GLAS=GLASS GORE=GORE "
    "GUN=GUNS HORN=HORNS HMN=HUMAN ICE=ICE LASR=LASERS LETHR=LEATHER LIQ=LIQUID_&_MUD MACH=MACHINES MAG=MAGIC "
    "MECH=MECHANICAL METL=METAL MOTR=MOTORS MOVE=MOVEMENT MUSC=MUSICAL NATD=NATURAL_DISASTER OBJ=OBJECTS "
    "PAPR=PAPER PLAS=PLASTIC RAIN=RAIN ROBT=ROBOTS ROCK=ROCKS ROPE=ROPE RUBR=RUBBER SCI=SCIFI SNOW=SNOW "
    "SPRT=SPORTS SWSH=SWOOSHES WHSH=SWOOSHES TOOL=TOOLS TOY=TOYS TRN=TRAINS UI=USER_INTERFACE VEGE=VEGETATION "
    "VEH=VEHICLES VOX=VOICES WATR=WATER WEAP=WEAPONS WTHR=WEATHER HAIL=WEATHER STORM=WEATHER THUN=WEATHER "
    "WHST=WHISTLES WIND=WIND WNDW=WINDOWS WING=WINGS WOOD=WOOD"
)
_UCS = dict(entry.split("=") for entry in _UCS_CODES.split())
_CAT_ID = re.compile(rf"({'|'.join(sorted(_UCS, key=len, reverse=True))})([A-Z][a-z]{{1,6}})")
_WHOLE_CAT_IDS = frozenset(["BEEP", "RAIN", "WIND", "SWSH", "WHSH", "HAIL", "STORM", "THUN", "WTHR"])

_RATE_OR_DEPTH = re.compile(r"\d+\s?(?:k?hz|k|bits?|bpm|db)(?![a-z])", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")

_Texts: TypeAlias = Iterator[tuple[str, str]]
_Chunks: TypeAlias = Iterator[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Tags:
    """What is known of a sound without hearing it; each text is one line of at most ``MAX_TEXT_CHARS``.

    ``category`` and ``cat_id`` are of the Universal Category System (``"AMBIENCE"``, ``"AMBForst"``);
    ``words`` are the words of the file's name, lower case, without counters and extension.
    """

    title: str | None = None
    artist: str | None = None
    comment: str | None = None
    description: str | None = None
    category: str | None = None
    cat_id: str | None = None
    words: str = ""


def read_tags(path: str | Path) -> Tags:
    """Read whatever a file says about itself.

    Never raises for a bad file: what could be read before the damage is returned, and the name always speaks.
    """
    path = Path(path)
    category, cat_id, words = read_name(path.name)
    texts: dict[str, str] = {}
    if category and cat_id:
        texts |= {"category": category, "cat_id": cat_id}
    try:
        with path.open("rb") as file:
            for name, text in _texts(file):
                if cleaned := _clean(text):
                    texts.setdefault(name, cleaned)
    except Exception:  # noqa: BLE001 - parsers of hostile bytes fail in every way; a tag is never worth a run
        pass
    return Tags(words=words, **texts)


def read_name(name: str) -> tuple[str | None, str | None, str]:
    """UCS category, CatID and the words of a file name.

    A UCS name is ``CatID[-UserCategory]_FXName_CreatorID_SourceID[_UserData].ext``: only its FXName and UserData
    give words. Of any other name all words are taken.
    """
    stem, dot, suffix = name.rpartition(".")
    if not dot or f".{suffix.lower()}" not in AUDIO_SUFFIXES:
        stem = name
    fields = stem.split("_")
    head = fields[0].partition("-")[0]
    match = _CAT_ID.fullmatch(head)
    if len(fields) < 2 or not (match or head in _WHOLE_CAT_IDS):
        return None, None, _words(stem)
    said = [fields[1], *fields[4:]] if len(fields) >= 4 else fields[1:]
    return _UCS[match.group(1) if match else head].replace("_", " "), head, _words(" ".join(said))


def names_say(paths: Sequence[Path]) -> tuple[str | None, str]:
    """Category and words of one sound by the names of all its copies; the words of each name once, joined by "; ".

    Where no name says a category, the first copy's embedded one counts; it stands in a chunk, so no parser of
    other people's is needed for it.
    """
    said = [read_name(path.name) for path in paths]
    category = next((category for category, _, _ in said if category), None) or _embedded_category(paths[0])
    return category, "; ".join(dict.fromkeys(words for _, _, words in said if words))[:MAX_TEXT_CHARS].rstrip("; ")


def _embedded_category(path: Path) -> str | None:
    with suppress(OSError), path.open("rb") as file:
        for name, body in _chunks(file):
            said = dict(_ixml(body)) if name == b"iXML" else {}
            if category := _clean(said.get("category", "")):
                return category
    return None


def _words(text: str) -> str:
    """``"thunder-StormFar_02"`` -> ``"thunder storm far"``."""
    text = _RATE_OR_DEPTH.sub(" ", unicodedata.normalize("NFC", text))
    text = "".join(char if unicodedata.category(char)[0] in "LM" else " " for char in text)
    spaced: list[str] = []
    for index, char in enumerate(text):
        before, after = text[index - 1 : index], text[index + 1 : index + 2]
        if char.isupper() and (before.islower() or (before.isupper() and after.islower())):
            spaced.append(" ")
        spaced.append(char)
    # A lone Latin letter marks a channel or a version ("_L", "b"); a lone Chinese character is a word.
    kept = (word for word in "".join(spaced).lower().split() if len(word) > 1 or not word.isascii())
    return _clean(" ".join(kept))


def _clean(text: str) -> str:
    return " ".join(_CONTROL.sub(" ", text[: 4 * MAX_TEXT_CHARS]).split())[:MAX_TEXT_CHARS].rstrip()


def _decode(raw: bytes) -> str:
    raw = raw.partition(b"\0")[0]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")  # what Windows editors have always written there


def _texts(file: BinaryIO) -> _Texts:
    """Every text of a file as (field of ``Tags``, text); where a field comes twice, the first counts."""
    chunked = False
    for name, body in _chunks(file):
        chunked = True
        if name == b"bext":  # its first 256 bytes are the Description
            yield "description", _decode(body)
        elif name == b"iXML":
            yield from _ixml(body)
        elif name in (b"LIST", b"list") and body[:4] == b"INFO":
            yield from ((_INFO[sub], _decode(text)) for sub, text in _subchunks(body[4:]) if sub in _INFO)
        elif name in _AIFF:
            yield _AIFF[name], _decode(body)
        elif name in (b"id3 ", b"ID3 "):
            with suppress(mutagen.MutagenError):  # the chunks after a broken one may be sound
                yield from _mutagen(ID3(io.BytesIO(body)))  # type: ignore[no-untyped-call]
    if not chunked:
        file.seek(0)
        yield from _mutagen(getattr(mutagen.File(file), "tags", None))


def _chunks(file: BinaryIO) -> _Chunks:
    """The chunks of a RIFF, RF64, BW64, W64 or AIFF file: (id, the wanted part of the body, else nothing).

    Never reads more than ``_WANTED_BYTES`` of a chunk, whatever size it claims.
    """
    head = file.read(40)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        header, at, counted, align = struct.Struct("<4sI"), 12, 0, 2
    elif head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        header, at, counted, align = struct.Struct(">4sI"), 12, 0, 2
    elif head[:16] == b"riff" + _W64_TAIL and head[24:28] == b"wave":
        header, at, counted, align = struct.Struct("<4s12xQ"), 40, 24, 8
    else:
        return
    data_bytes = None
    for _ in range(_MAX_CHUNKS):
        file.seek(at)
        raw = file.read(header.size)
        if len(raw) < header.size:
            return
        name, size = header.unpack(raw)
        size = max(0, size - counted)
        if name == b"data" and size == 0xFFFFFFFF and data_bytes is not None:
            size = data_bytes
        body = file.read(min(size, _WANTED_BYTES.get(name, 0)))
        if name == b"ds64" and len(body) >= 16:
            data_bytes = struct.unpack_from("<Q", body, 8)[0]
        yield name, body
        at += header.size + size + -size % align


def _subchunks(body: bytes) -> _Chunks:
    at = 0
    while at + 8 <= len(body):
        name, size = struct.unpack_from("<4sI", body, at)
        yield name, body[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _ixml(body: bytes) -> _Texts:
    if b"<!" in body:  # iXML needs neither entities nor a document type: those only serve to blow up a parser
        return
    try:
        root = ElementTree.fromstring(body.rstrip(b"\0").strip())
    except ElementTree.ParseError:
        return
    for element in root.iter():
        field = _IXML.get(str(element.tag).lower())
        if field and element.text:
            yield field, element.text


def _mutagen(tags: Any) -> _Texts:
    """The fields of a mutagen tag object of any kind."""
    if tags is None:
        return
    for field, keys in _KEYS.items():
        for key in keys:
            for value in _values(tags, key):
                yield field, value


def _values(tags: Any, key: str) -> Iterator[str]:
    if key == "COMM" and isinstance(tags, ID3):
        frames = tags.getall("COMM")  # type: ignore[no-untyped-call]
        comments = sorted(frames, key=lambda frame: frame.desc)  # the plain comment has no description
        yield from (str(frame) for frame in comments if not frame.desc.startswith("iTun"))
        return
    try:
        value = tags[key]
    except (KeyError, ValueError):  # Vorbis comments refuse a key that isn't ASCII
        return
    yield "; ".join(map(str, value)) if isinstance(value, list) else str(value).replace("\0", "; ")
