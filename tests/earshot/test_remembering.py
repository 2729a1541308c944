"""Captions remembered and forgotten, from Python and from files good and bad."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from earshot import Library
from earshot.captioning import OfLibrary, captioner_of
from earshot.copying import copy_library
from earshot.models import load_encoders, shipped_captions
from earshot.remembering import MOST_LINE, RememberReport, checked_language, read_captions
from earshot.repair import repair
from engine.captioner import NEAREST, Captioner
from engine.errors import BundleError, LibraryBusyError, QueryError, SpaceMismatchError
from engine.fakes import FakeEncoders
from engine.memory.captions import GENERATED, CaptionMemory, Said, ShippedCaptions, of
from engine.memory.exact import ExactMemory
from engine.projection import project, project_nearest
from engine.types import FloatArray
from tests.sounds import tone, write_sound


@pytest.fixture
def library(tmp_path: Path):
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        yield library


def read(path: Path, text: str | bytes, lang: str | None = None) -> tuple[list[Said], RememberReport]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    report = RememberReport()
    return list(read_captions(path, lang, None, report)), report


def texts_of(library: Library) -> list[str]:
    return sorted(library.text_memory()[1])


def test_what_is_remembered_is_recalled_nearest_first_with_its_vector(library: Library):
    report = library.remember(["band500 rain", "band63 wind", "band500"], lang="eng", source="mine")
    assert (report.remembered, report.known, report.failed) == (3, 0, 0)
    vector = library.encode_text(["band500"])[0]
    found = library.recalled(vector, 2)
    assert [(one.text, one.language, one.source) for one in found] == [
        ("band500", "eng", "mine"),
        ("band500 rain", "eng", "mine"),
    ]
    assert found[0].score == pytest.approx(1.0)
    for one in found:
        np.testing.assert_allclose(one.vector, library.encode_text([one.text])[0], atol=1e-6)
        assert one.score == pytest.approx(float(one.vector @ vector), abs=1e-6)


def test_text_memory_gives_vectors_in_the_order_of_their_texts(library: Library):
    library.remember(["a dog", "a cat", "the sea"])
    vectors, texts = library.text_memory()
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, library.encode_text(texts), atol=1e-6)
    assert sorted(texts) == ["a cat", "a dog", "the sea"]
    assert len(library.text_memory(limit=2)[1]) == 2


def test_of_more_than_can_be_read_a_point_of_the_nearest_with_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the store itself, the bundle's own captions beside: against all, and the bound worked out again."""
    encoders = load_encoders("starter", "cpu")
    sounds = encoders.text.encode_text(["a dog barks far away", "rain and wind", "a bell"])
    with Library(tmp_path / "library", encoders=encoders, create=True) as library:
        library.remember((f"a dog barks {n} times in the rain" for n in range(300)), lang="eng", source="mine")
        vectors, said = library.said_memory(1 << 20)
        monkeypatch.setattr("engine.captioner.MOST_EXACT", len(said) - 1)
        captioner = captioner_of(encoders, OfLibrary(library))
        assert isinstance(captioner, Captioner)
        points, evidence, bounds = captioner._points(sounds)
        captions = captioner.caption(sounds)
    exact = project(sounds, vectors, captioner.tau)
    assert {one.source for each in evidence for one in each} == {"mine", "bundle"}
    for number, cosines in enumerate(sounds @ vectors.T):
        near = np.argsort(-cosines)[:NEAREST]
        again = project_nearest(cosines[near], vectors[near], len(said), captioner.tau)
        np.testing.assert_allclose(points[number], again.point, atol=1e-4)
        assert 0 < bounds[number] == pytest.approx(again.error, rel=1e-3)
        assert float(np.linalg.norm(points[number] - exact.points[number])) < min(bounds[number], 0.1) + 5e-6  # float32
        told = [row for row in near if said[row].language == "eng"][:5]  # as the caption
        assert [one.text for one in evidence[number]] == [said[row].text for row in told]
        np.testing.assert_allclose([one.score for one in evidence[number]], cosines[told], atol=1e-4)
        assert (captions[number].evidence, captions[number].bound) == (evidence[number], bounds[number])


def test_an_empty_memory_has_no_texts(library: Library):
    vectors, texts = library.text_memory()
    assert (vectors.shape, texts) == ((0, 32), [])
    assert library.recalled(np.eye(32, dtype=np.float32)[0], 5) == []
    assert (library.remembers(), library.forget(), library.status().captions) == (0, 0, 0)


def test_duplicates_are_remembered_once_however_they_are_spelt(library: Library):
    report = library.remember(["a  dog ", "a dog", "cafe\u0301", "caf\u00e9"], lang="eng")
    assert (report.remembered, report.known) == (2, 2)
    again = library.remember(["a dog"], lang="eng", source="elsewhere")
    assert (again.remembered, again.known) == (0, 1)
    assert library.remember(["a dog"], lang="fra").remembered == 1  # the same letters in another language
    assert library.remembers() == library.status().captions == 3


def test_generated_captions_are_never_projected(library: Library):
    """Whatever earshot said itself is in the collection, and in none of what projection asks for."""
    library.remember(["a dog", Said("a dog barks", "eng", GENERATED), Said("a dog", "und", GENERATED)])
    assert library.remembers() == 3
    assert library.remembers(source=GENERATED) == 2
    assert texts_of(library) == ["a dog"]
    vector = library.encode_text(["a dog barks"])[0]
    assert [one.text for one in library.recalled(vector, 10)] == ["a dog"]
    assert library.forget(source=GENERATED) == 2
    assert texts_of(library) == ["a dog"]


def test_only_generated_captions_are_as_good_as_none(library: Library):
    library.remember([Said("a dog barks", "eng", GENERATED)])
    assert library.recalled(library.encode_text(["a dog barks"])[0], 3) == []
    assert library.text_memory()[1] == []


@pytest.mark.parametrize("source", ["generated", "Generated", " GENERATED ", "bundle", "", "  "])
def test_nobody_passes_for_earshot_itself(library: Library, source: str):
    with pytest.raises(QueryError, match="a name for where"):
        library.remember(["a dog"], source=source)


def test_any_three_small_letters_are_a_language_in_options_as_in_files(tmp_path: Path):
    """Codes that nobody assigned, too: local ones are remembered."""
    assert checked_language("xxq") == "xxq"
    found, report = read(tmp_path / "a.csv", "caption,lang\na dog,xxq\nrain,klingon\n")
    assert [one.language for one in found] == ["xxq"]
    with pytest.raises(QueryError) as refused:
        checked_language("klingon")
    assert [reason for _, reason in report.reasons] == [str(refused.value)]
    assert "three small letters" in str(refused.value)


@pytest.mark.parametrize("lang", ["en", "english", "ENG", ""])
def test_a_language_is_its_iso_code(library: Library, lang: str):
    with pytest.raises(QueryError, match="ISO 639-3"):
        library.remember(["a dog"], lang=lang)


def test_forget_by_source_by_language_and_all(library: Library):
    library.remember(["un chien", "la mer"], lang="fra", source="one")
    library.remember(["a dog"], lang="eng", source="one")
    library.remember(["the sea"], lang="eng", source="two")
    assert library.forget(source="ONE", lang="eng") == 1
    assert library.forget(source="nobody") == 0
    assert library.forget(source="two") == 1
    assert texts_of(library) == ["la mer", "un chien"]
    assert library.forget() == 2
    assert library.remembers() == 0


def test_it_stays_with_the_library(library: Library, tmp_path: Path):
    library.remember(["a dog", "the sea"])
    library.close()
    with Library(tmp_path / "library", encoders=FakeEncoders()) as again:
        assert again.remembers() == 2
    with pytest.raises(SpaceMismatchError):
        Library(tmp_path / "library", encoders=FakeEncoders("other"))


def test_a_holder_answers_others_and_makes_room_for_who_remembers(library: Library, tmp_path: Path):
    library.remember(["a dog"])
    with Library(tmp_path / "library", encoders=FakeEncoders()) as second:
        assert texts_of(second) == ["a dog"]  # asked of the first, which holds it
        second.remember(["the sea"])  # the first lets go
        assert texts_of(library) == texts_of(second) == ["a dog", "the sea"]
        assert [one.text for one in library.recalled(library.encode_text(["sea"])[0], 1)] == ["the sea"]


def test_who_remembers_waits_for_who_remembers(library: Library, tmp_path: Path):
    def meanwhile(_: RememberReport) -> None:
        with (
            Library(tmp_path / "library", encoders=FakeEncoders()) as second,
            pytest.raises(LibraryBusyError, match="wait for it"),
        ):
            second.remember(["the sea"], wait_s=0.2)

    library.remember(["a dog"], on_progress=meanwhile)


def test_a_stream_that_breaks_off_keeps_what_it_had_and_goes_on(library: Library):
    def breaking():
        for number in range(3000):
            if number == 2500:
                raise KeyboardInterrupt
            yield f"sound number {number}"

    with pytest.raises(KeyboardInterrupt):
        library.remember(breaking())
    assert library.remembers() == 2048
    report = library.remember(f"sound number {number}" for number in range(3000))
    assert (report.remembered, report.known) == (952, 2048)


def test_what_the_encoder_refuses_is_reported_and_the_rest_goes_on(library: Library):
    report = library.remember(["a dog", "?!", "the sea"])
    assert (report.remembered, report.failed) == (2, 1)
    [(where, reason)] = report.reasons
    assert "?!" in where
    assert "empty text" in reason


def test_plain_text(tmp_path: Path):
    found, report = read(tmp_path / "a.txt", "\ufeffa dog\n\n  the   sea  \r\nun chien", "fra")
    assert [(one.text, one.language, one.source) for one in found] == [
        ("a dog", "fra", "own"),
        ("the sea", "fra", "own"),
        ("un chien", "fra", "own"),
    ]
    assert report.failed == 0


def test_csv_says_language_and_source_where_it_can(tmp_path: Path):
    text = 'Caption,lang,source,other\n"a dog, barking",eng,mine,1\nla mer,,,\n,,,\n"two\nlines",,x,'
    found, report = read(tmp_path / "a.csv", text, "fra")
    assert [(one.text, one.language, one.source) for one in found] == [
        ("a dog, barking", "eng", "mine"),
        ("la mer", "fra", "own"),
        ("two lines", "fra", "x"),
    ]
    assert report.failed == 0


def test_a_stray_quote_costs_its_line_and_no_other(tmp_path: Path):
    rows = [f"sound number {number}" for number in range(3000)]
    rows[97] = '"' + rows[97]
    rows[2990] = '"' + rows[2990]  # and one so near to the end that the file's end closes it
    found, report = read(tmp_path / "a.csv", "caption\n" + "\n".join(rows))
    assert len(found) == 2998
    assert [where.split(", ")[-1] for where, _ in report.reasons] == ["line 99", "line 2992"]


def test_several_captions_a_sound_are_several(tmp_path: Path):
    text = (
        "file_name,caption_1,caption_2,caption_3,lang\na.wav,a dog,,barking,eng\nb.wav,,,,\nc.wav,the sea,waves,,eng\n"
    )
    found, report = read(tmp_path / "clotho.csv", text)
    assert [(one.text, one.language) for one in found] == [
        ("a dog", "eng"),
        ("barking", "eng"),
        ("the sea", "eng"),
        ("waves", "eng"),
    ]
    assert [where.split(", ")[-1] for where, _ in report.reasons] == ["line 3"]  # a sound of which nothing is said


@pytest.mark.parametrize("form", ["json", "jsonl", "wrapped"])
def test_json_of_texts_and_objects(tmp_path: Path, form: str):
    rows = ["a dog", {"text": "la mer", "lang": "fra"}, {"caption": "the sea", "source": "mine"}]
    path = tmp_path / ("a.jsonl" if form == "jsonl" else "a.json")
    text = "\n".join(map(json.dumps, rows)) if form == "jsonl" else json.dumps(rows)
    found, report = read(path, f'{{"captions": {text}}}' if form == "wrapped" else text)
    assert [(one.text, one.language, one.source) for one in found] == [
        ("a dog", "und", "own"),
        ("la mer", "fra", "own"),
        ("the sea", "und", "mine"),
    ]
    assert report.failed == 0


BAD = {
    "latin.txt": (b"a dog\ncaf\xe9\nthe sea\n", "line 2", "0xe9", 2),
    "long.txt": (b"a dog\n" + b"x" * 10_000_000 + b"\nthe sea\n", "line 2", "10,000,000 bytes|10,000,001 bytes", 2),
    "longish.txt": (b"a dog\n" + b"x " * 2000 + b"\nthe sea\n", "line 2", "3999 letters", 2),
    "wide.txt": ("a dog\nthe sea\n".encode("utf-16"), "wide.txt", "UTF-16", 0),
    "bare.txt": ("a dog\nthe sea\n".encode("utf-16-le"), "bare.txt", "UTF-16", 0),
    "bare.csv": ("caption\na dog\n".encode("utf-16-be"), "bare.csv", "UTF-16", 0),
    "control.txt": (b"a dog\nthe\x00 sea\nthe\x1b[31m sea\nrain\n", "line 2", "U+0000", 2),
    "escaped.jsonl": (b'"a\\u0007 dog"\n"rain"\n', "line 1", "U+0007", 1),
    "zeros.txt": (b"", "", "", 0),
    "zeros.csv": (b"", "", "", 0),
    "semicolons.csv": (b"caption;lang\na dog;eng\n", "line 1", "by commas", 0),
    "closed.csv": (b'caption,lang\n"a dog,eng\nrain,eng\n"the sea, calm",eng\n', "line 2", "no CSV", 2),
    "columns.csv": (b"name,words\na,b\n", "line 1", "name, words", 0),
    "quote.csv": (b'caption\n"never closed' + b"x" * 200_000, "line 2", "bytes|no CSV", 0),
    "generated.csv": (b"caption,source\na dog,generated\nthe sea,me\n", "line 2", "generated", 1),
    "silent.csv": (b"caption,lang\na dog,eng\n,eng\n", "line 3", "lang without a caption", 1),
    "code.csv": (b"caption,lang\na dog,english\nthe sea,eng\n", "line 2", "english", 1),
    "broken.json": (b'["a dog", ', "broken.json", "no JSON", 0),
    "object.json": (b'{"a": 1}', "object.json", "a list of captions", 0),
    "deep.json": (b"[" * 100_000, "deep.json", "no JSON", 0),
    "rows.json": (b'[1, null, {"text": 5}, {}, "\\ud800", ["a"], "a dog"]', "caption 1", "int '1'", 1),
    "rows.jsonl": (b'"a dog"\n{oops\n"the sea"\n', "line 2", "no JSON", 2),
    "picture.png": (b"\x89PNG", "picture.png", "another kind", 0),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lines_are_named_and_the_rest_goes_on(tmp_path: Path, name: str):
    content, where, why, good = BAD[name]
    found, report = read(tmp_path / name, content)
    assert len(found) == good
    if not where:
        assert report.failed == 0
        return
    assert report.failed == len(report.reasons) >= 1
    place, reason = report.reasons[0]
    assert place.endswith(where)
    assert any(word in reason for word in why.split("|"))
    assert "expected" in reason


def test_no_line_is_held_that_is_longer_than_it_may_be(tmp_path: Path):
    found, report = read(tmp_path / "a.txt", b"a dog\n" + b"x" * (MOST_LINE + 1) + b"\n" + b"the sea " * 10)
    assert [one.text for one in found] == ["a dog", ("the sea " * 10).strip()]
    assert report.failed == 1


def test_texts_that_are_none_are_counted(library: Library):
    report = library.remember(["a dog", "", " \n", "x" * 2000])
    assert (report.remembered, report.failed) == (1, 3)
    assert [where for where, _ in report.reasons] == ["text 2", "text 3", "text 4"]


def shipped(path: Path, vectors: FloatArray, texts: list[str]) -> Path:
    np.savez(path, texts=np.array(texts), languages=np.array(["eng"] * len(texts)), vectors=vectors.astype(np.float16))
    return path


def test_captions_that_come_with_a_bundle(tmp_path: Path):
    texts = ["a dog", "the sea", "rain"]
    vectors = FakeEncoders().encode_text(texts)
    held = ShippedCaptions(shipped(tmp_path / "memory.npz", vectors, texts), 32)
    found = held.nearest(vectors[1], 2)
    assert (found[0].text, found[0].language, found[0].source) == ("the sea", "eng", "bundle")
    assert found[0].score == pytest.approx(1.0, abs=1e-3)
    assert held.texts(2)[1] == texts[:2]
    assert held.texts(9)[0].dtype == np.float32
    for dim in (31, 33):
        with pytest.raises(BundleError, match=r"expected \[n, "):
            ShippedCaptions(tmp_path / "memory.npz", dim)
    vectors[1, 3] = np.nan
    with pytest.raises(BundleError, match="NaN or infinity"):
        ShippedCaptions(shipped(tmp_path / "memory.npz", vectors, texts), 32)
    (tmp_path / "memory.npz").write_bytes(b"nothing")
    with pytest.raises(BundleError, match="texts, languages and vectors"):
        ShippedCaptions(tmp_path / "memory.npz", 32)


def test_a_filter_of_captions_names_what_it_is_asked_to():
    with ExactMemory() as memory:
        memory.ensure_space("s@000000000000", 32)
        captions = CaptionMemory(memory, "s@000000000000")
        said = [Said("a dog", "eng", "one"), Said("la mer", "fra", "one"), Said("the sea", "eng", "two")]
        captions.remember(said, FakeEncoders().encode_text([one.text for one in said]))
        assert captions.count(of("one")) == 2
        assert captions.count(of(None, "eng")) == 2
        assert [one.text for one in captions.all(of("two", "eng"))] == ["the sea"]
        assert captions.news([*said, Said("new"), Said("new")]) == [Said("new")]


def test_a_copy_remembers_the_same(library: Library, tmp_path: Path):
    library.remember(["a dog", "the sea", "rain"], lang="eng", source="mine")
    library.remember([Said("a dog barks", "eng", GENERATED)])
    for kept in (4, 2, 3, 0):
        report = copy_library(tmp_path / "library", tmp_path / "copy")
        assert report.captions == kept
        with Library(tmp_path / "copy", encoders=FakeEncoders()) as copy:
            assert sorted(copy.text_memory()[1]) == sorted(library.text_memory()[1])
            assert copy.remembers(source=GENERATED) == library.remembers(source=GENERATED)
        if kept == 4:
            library.forget(source=GENERATED)
            library.remember(["gone soon"], source="passing")
            library.forget(source="passing")
            library.forget(source="mine")
            library.remember(["a dog", "wind"])
        elif kept == 2:
            library.remember(["thunder"])
        else:
            library.forget()


def test_damaged_captions_are_moved_aside_and_sounds_stay(library: Library, tmp_path: Path):
    library.remember(["a dog"])
    library.close()
    assert repair(tmp_path / "library").was_whole
    (tmp_path / "library" / "memory" / "captions" / "current").write_text("{")
    report = repair(tmp_path / "library")
    assert (report.captions, report.memory) == ("empty", "whole")
    assert report.aside
    assert (Path(report.aside) / "captions").exists()
    with Library(tmp_path / "library", encoders=FakeEncoders()) as again:
        assert again.remembers() == 0
        again.remember(["a dog"])
        assert again.remembers() == 1


def test_own_captions_come_before_those_of_the_bundle_and_beside_them(tmp_path: Path):
    """A handful of one's own adds to what the model knows of sounds; it doesn't take its place."""
    with Library(tmp_path / "library") as library:
        shipped = shipped_captions(library.encoders)
        assert shipped is not None
        [theirs] = shipped.said(1)[1]
        before = library.text_memory()
        assert before[1] == shipped.texts(10**6)[1]
        library.remember(["the gate of the north yard", Said(theirs.text, theirs.language, "mine")], source="mine")
        library.remember([Said("never asked", "eng", GENERATED)])
        vectors, said = library.said_memory()
        assert {one.source for one in said[:2]} == {"mine"}
        assert [one.source for one in said].count("mine") == 2
        assert [one.text for one in said if one.language == theirs.language].count(theirs.text) == 1
        assert len(said) == len(vectors) == len(shipped) + 1
        np.testing.assert_allclose(vectors[:2], library.encode_text([one.text for one in said[:2]]), atol=1e-5)
        assert library.recallable() == OfLibrary(library).count() == len(shipped) + 2
        assert len(library.said_memory(5)[1]) == 5
        near = library.recalled(library.encode_text([theirs.text])[0], 3)
        assert (near[0].text, near[0].source) == (theirs.text, "mine")
        assert "bundle" in {one.source for one in near[1:]}
        assert len({(one.text, one.language) for one in near}) == 3
        library.forget()
        assert library.text_memory()[1] == before[1]


def _elsewhere(folder: Path, encoders: FakeEncoders) -> None:
    """Put captions of another space into a library, as a switch that was killed before they were said anew does."""
    with Library(folder / "other", encoders=encoders) as other:
        other.remember(["a dog", "band500"], lang="eng")
    (folder / "library" / "memory" / "captions").rename(folder / "gone")
    (folder / "other" / "memory" / "captions").rename(folder / "library" / "memory" / "captions")


def test_captions_of_another_space_of_as_many_numbers_are_refused_until_they_are_said_again(tmp_path: Path):
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        library.remember(["the sea"])
    _elsewhere(tmp_path, FakeEncoders("other"))
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        vector = library.encode_text(["a dog"])[0]
        for ask in (
            lambda: library.recalled(vector, 1),
            library.text_memory,
            library.recallable,
            lambda: captioner_of(library.encoders, OfLibrary(library)),
        ):
            with pytest.raises(SpaceMismatchError, match=r"other@0.*fake@0.*earshot remember"):
                ask()
        assert library.remembers() == 2  # which status may tell
        library.remember(["rain"])
        assert texts_of(library) == ["a dog", "band500", "rain"]
        assert library.recalled(vector, 1)[0].score == pytest.approx(1.0)


def test_captions_of_another_space_are_said_again_before_sounds_are_captioned(tmp_path: Path):
    write_sound(tmp_path / "a.wav", tone(2.0, rate_hz=8000, hz=500), rate_hz=8000)
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        library.remember(["the sea"])
    _elsewhere(tmp_path, FakeEncoders("other"))
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        library.index([tmp_path / "a.wav"], caption=True)
        [sound] = library.captions()
        assert sound.captions == ("band500",)
        assert texts_of(library) == ["a dog", "band500"]
