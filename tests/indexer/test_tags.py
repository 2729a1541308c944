from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import av
import mutagen.id3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutagen.mp4 import MP4

from indexer.tags import MAX_TEXT_CHARS, Tags, read_name, read_tags
from tests.sounds import riff, write_sound


def bext(description: bytes) -> tuple[bytes, bytes]:
    return b"bext", description.ljust(256, b"\0") + bytes(346)


def info(**texts: bytes) -> tuple[bytes, bytes]:
    parts = [
        name.encode() + struct.pack("<I", len(text)) + text + b"\0" * (len(text) % 2) for name, text in texts.items()
    ]
    return b"LIST", b"INFO" + b"".join(parts)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_what_libsndfile_writes_is_read(tmp_path: Path, suffix: str) -> None:
    path = write_sound(tmp_path / f"a.{suffix}", title="Thunder, far", artist="Ana", comment="from the porch")
    tags = read_tags(path)
    assert (tags.title, tags.artist) == ("Thunder, far", "Ana")
    if suffix != "mp3":  # libsndfile writes no comment there
        assert tags.comment == "from the porch"


def test_id3_takes_the_plain_comment(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mp3")
    id3 = mutagen.id3.ID3()
    id3.add(mutagen.id3.TIT2(encoding=3, text=["Pluie", "Regen"]))
    id3.add(mutagen.id3.COMM(encoding=3, lang="eng", desc="iTunNORM", text="0000"))
    id3.add(mutagen.id3.COMM(encoding=3, lang="eng", desc="", text="on a tin roof"))
    id3.add(mutagen.id3.TXXX(encoding=3, desc="description", text="heavy"))
    id3.save(path)
    assert read_tags(path) == Tags(title="Pluie; Regen", comment="on a tin roof", description="heavy")


def test_mp4_tags(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    mp4 = MP4(path)
    mp4["\xa9nam"], mp4["\xa9ART"], mp4["\xa9cmt"], mp4["desc"] = "Bell", "Bo", "noon", "a church bell"
    mp4.save()
    tags = read_tags(path)
    assert (tags.title, tags.artist, tags.comment, tags.description) == ("Bell", "Bo", "noon", "a church bell")


def test_vorbis_description_is_not_the_comment(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.ogg")
    file = mutagen.File(path)
    file["DESCRIPTION"] = "surf on shingle"
    file.save()
    assert read_tags(path) == Tags(description="surf on shingle")


def test_broadcast_chunks(tmp_path: Path) -> None:
    note = "<BWFXML><NOTE>windy\nday</NOTE><USER><FXName>Gust</FXName><CATID>WINDGust</CATID></USER></BWFXML>"
    path = tmp_path / "a.wav"
    for kind in (b"RIFF", b"RF64", b"BW64"):
        path.write_bytes(
            riff([bext(b"Wind in pines\0junk"), info(IART=b"Ana\0", ICMT=b"odd"), (b"iXML", note.encode())], kind=kind)
        )
        assert read_tags(path) == Tags(
            title="Gust", artist="Ana", comment="odd", description="Wind in pines", cat_id="WINDGust"
        )


def test_rf64_finds_what_lies_behind_its_long_data(tmp_path: Path) -> None:
    ds64 = struct.pack("<QQQI", 0, 320, 160, 0)
    body = b"WAVEds64" + struct.pack("<I", len(ds64)) + ds64 + b"data\xff\xff\xff\xff" + bytes(320)
    name, content = bext(b"behind")
    (tmp_path / "a.rf64").write_bytes(b"RF64\xff\xff\xff\xff" + body + name + struct.pack("<I", len(content)) + content)
    assert read_tags(tmp_path / "a.rf64").description == "behind"


def test_w64_chunks(tmp_path: Path) -> None:
    tail = bytes.fromhex("f3acd3118cd100c04f8edb8a")
    chunks = b"".join(
        name + tail + struct.pack("<Q", len(content) + 24) + content + bytes(-len(content) % 8)
        for name, content in ((b"junk", b"12345"), bext(b"deep rumble"))
    )
    head = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000") + struct.pack("<Q", 40 + len(chunks)) + b"wave" + tail
    (tmp_path / "a.w64").write_bytes(head + chunks)
    assert read_tags(tmp_path / "a.w64").description == "deep rumble"


def test_id3_in_a_wave_and_a_broken_one(tmp_path: Path) -> None:
    id3 = mutagen.id3.ID3()
    id3.add(mutagen.id3.TIT2(encoding=3, text="Inside"))
    id3.save(tmp_path / "tag")
    tag = (tmp_path / "tag").read_bytes()
    (tmp_path / "a.wav").write_bytes(riff([(b"id3 ", b"ID3\x04\x00\xff\x7f"), (b"id3 ", tag), bext(b"after")]))
    tags = read_tags(tmp_path / "a.wav")
    assert (tags.title, tags.description) == ("Inside", "after")


def test_old_windows_text_and_long_text(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff([bext("Tür \x07 knarrt".encode("cp1252")), info(INAM=b"x" * 50_000)]))
    tags = read_tags(path)
    assert tags.description == "Tür knarrt"
    assert tags.title == "x" * MAX_TEXT_CHARS


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY b "boom">]><a><NOTE>&b;</NOTE></a>'
    (tmp_path / "a.wav").write_bytes(riff([(b"iXML", bomb), bext(b"fine")]))
    assert read_tags(tmp_path / "a.wav").description == "fine"


def test_a_claimed_size_never_allocates(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with path.open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\xffWAVEiXML\xf0\xff\xff\xff")
        file.truncate(1 << 31)  # sparse: two gigabytes of promised iXML
    tracemalloc.start()
    read_tags(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4e6


@settings(max_examples=100, deadline=None)
@given(
    head=st.sampled_from(
        [b"RIFF\0\0\0\0WAVE", b"RF64\0\0\0\0WAVE", b"FORM\0\0\0\0AIFF", b"fLaC", b"OggS", b"ID3\x04\0\0", b""]
    ),
    name=st.sampled_from([b"bext", b"iXML", b"LIST", b"id3 ", b"ds64", b"data", b""]),
    rest=st.binary(max_size=200),
)
def test_no_bytes_make_it_raise(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, name: bytes, rest: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "Some_sound 03.wav"
    path.write_bytes(head + name + rest)
    tags = read_tags(path)
    assert tags.words == "some sound"
    assert all(len(text or "") <= MAX_TEXT_CHARS for text in (tags.title, tags.artist, tags.comment, tags.description))


def test_a_missing_file_still_has_a_name(tmp_path: Path) -> None:
    assert read_tags(tmp_path / "AMBForst_Birds In Morning_XY_01.wav") == Tags(
        category="AMBIENCE", cat_id="AMBForst", words="birds in morning"
    )


@pytest.mark.parametrize(
    ("name", "category", "cat_id", "words"),
    [
        ("AMBForst_Birds In Morning_XY_01.wav", "AMBIENCE", "AMBForst", "birds in morning"),
        ("DOORWood-OLD_Slam Hard_AB_Lib_close mic.wav", "DOORS", "DOORWood", "slam hard close mic"),
        ("RAIN_Heavy On Roof_AB_Lib.flac", "RAIN", "RAIN", "heavy on roof"),
        ("COMTelph_Ring_AB_Lib.wav", "COMMUNICATIONS", "COMTelph", "ring"),
        ("LIQMvmt_slosh.wav", "LIQUID & MUD", "LIQMvmt", "slosh"),
        ("thunder-StormFar_02.wav", None, None, "thunder storm far"),
        ("DOORWOOD_slam.wav", None, None, "doorwood slam"),
        ("AMBForst.wav", None, None, "amb forst"),
        ("Dog bark 48kHz 24bit (2).MP3", None, None, "dog bark"),
        ("kick_L.wav", None, None, "kick"),
        ("雨_01.ogg", None, None, "雨"),
        ("cafe\u0301Noise.wav", None, None, "café noise"),
        ("v2.final mix", None, None, "final mix"),
        ("bad\udce9 name.wav", None, None, "bad name"),
        ("001.wav", None, None, ""),
    ],
)
def test_names(name: str, category: str | None, cat_id: str | None, words: str) -> None:
    assert read_name(name) == (category, cat_id, words)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=100))
def test_any_name_gives_clean_words(name: str) -> None:
    words = read_name(name)[2]
    assert words == " ".join(words.split())
    assert not any(char.isdigit() or char == "_" for char in words if char.isascii())


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    source = write_sound(tmp_path / "a.wav", title="Named")
    target = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    try:
        source.rename(target)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert read_tags(target).title == "Named"
