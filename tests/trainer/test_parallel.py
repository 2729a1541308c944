"""The parallel text is as large, as whole and as distinct as the starter needs; and it is taught as it is meant."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from trainer.parallel import (
    FOLDER,
    LANGUAGES,
    PAIRS,
    PRACTICE,
    Concept,
    Lesson,
    composed,
    contracted,
    lesson_table,
    lessons,
    mistyped,
    phrasing_practice,
    practice,
    read_parallel,
    read_words,
)


def rows(*prefixes: str) -> list[Concept]:
    """The concepts of the files whose names begin so."""
    found = []
    for path in sorted(FOLDER.glob("*.tsv")):
        if path.name.startswith(prefixes):
            with path.open(encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
                    found.append(Concept({lang: tuple(row[lang].split(" | ")) for lang in LANGUAGES}))
    return found


def test_at_least_1200_concepts_in_eight_languages_with_two_phrasings():
    concepts = rows("events", "things", "actions")
    assert len({c.english[0].casefold() for c in concepts}) == len(concepts) >= 1200
    for concept in concepts:
        for language, phrasings in concept.phrasings.items():
            assert len({p.casefold() for p in phrasings}) == len(phrasings) >= 2, (language, phrasings)


def test_all_521_events_are_there():
    assert len(rows("events")) == 521


def test_at_least_500_sentences_in_eight_languages():
    sentences = rows("sentences")
    for language in LANGUAGES:
        assert len({s.phrasings[language] for s in sentences}) == len(sentences) >= 500


def test_the_vocabulary_is_distinct_in_every_cell_that_matters():
    words = read_words()
    assert len({word.english[0].casefold() for word in words}) == len(words) >= 350
    for concept in rows("everyday"):
        for language, phrasings in concept.phrasings.items():
            assert len({p.casefold() for p in phrasings}) == len(phrasings) >= 2, (language, phrasings)


def test_other_languages_are_not_english():
    concepts = rows("events", "things", "actions", "sentences", "everyday")
    for language in LANGUAGES[1:]:
        same = sum(c.phrasings[language][0].casefold() == c.english[0].casefold() for c in concepts)
        assert same / len(concepts) < 0.08, f"{same} first phrasings in {language} equal the English ones"


@pytest.mark.parametrize("language", ["jpn", "zho"])
def test_east_asian_cells_are_written_in_their_script(language: str):
    latin = [c for c in rows("things", "sentences") if all(ch.isascii() for ch in c.phrasings[language][0])]
    assert len(latin) < 5


def test_read_parallel_reads_every_line_of_every_file():
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) - 1 for path in FOLDER.glob("*.tsv"))
    assert len(read_parallel()) == lines


@pytest.mark.parametrize("text", ["eng\tfra\nrain\tpluie\n", "\t".join(LANGUAGES) + "\nrain\tpluie\n"])
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, text: str):
    (tmp_path / "bad.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.tsv"):
        read_parallel(tmp_path)


def toy(*english: str) -> Concept:
    return Concept(
        {lang: tuple(f"{lang} {text}" for text in english) if lang != "eng" else english for lang in LANGUAGES}
    )


def test_every_phrasing_is_taught_in_every_language_and_pairs_name_both():
    concepts = [toy("rain", "falling rain"), toy("dog", "a dog barks"), toy("bell", "a bell rings")]
    assert len(concepts) >= PAIRS
    found = lessons(concepts)
    assert found == lessons(concepts)
    counts = Counter(lesson.language for lesson in found)
    assert set(counts.values()) == {3 * (2 + 2 + PAIRS)}
    pairs = [lesson for lesson in found if lesson.language == "fra" and " et " in lesson.text]
    for lesson in pairs:
        first, second = lesson.text.split(" et ")
        assert lesson.english == (f"{first.removeprefix('fra ')} and {second.removeprefix('fra ')}",)


def test_a_name_means_what_the_english_name_does_and_the_rest_what_all_do():
    found = [one for one in lessons([toy("rain", "falling rain"), *map(toy, "abc")]) if one.language == "fra"]
    told = {lesson.text: lesson.english for lesson in found}
    assert told["fra rain"] == ("rain",)
    assert told["fra falling rain"] == ("rain", "falling rain")
    assert [told[text] for text in told if "fra rain" in text and " et " not in text] == [("rain",)] * 3


@pytest.mark.parametrize(
    ("text", "language", "written"),
    [
        ("bruit de aboiement", "fra", "bruit d'aboiement"),
        ("bruit de le vent", "fra", "bruit du vent"),
        ("bruit de les vagues", "fra", "bruit des vagues"),
        ("bruit de hibou", "fra", "bruit de hibou"),
        ("sonido de el mar", "spa", "sonido del mar"),
        ("so de els ànecs", "cat", "so dels ànecs"),
        ("so de ànecs", "cat", "so d'ànecs"),
        ("so de iogurt", "cat", "so de iogurt"),
        ("so de insectes", "cat", "so d'insectes"),
        ("agua y iglesia", "spa", "agua e iglesia"),
        ("agua y hilo", "spa", "agua e hilo"),
        ("agua y hielo", "spa", "agua y hielo"),
        ("geluid van de wind", "nld", "geluid van de wind"),
    ],
)
def test_patterns_contract_with_what_fills_them(text: str, language: str, written: str):
    assert contracted(text, language) == written


def test_phrasings_turn_is_of_phrasings_as_they_stand():
    concepts = [toy("falling rain", "rain"), *map(toy, "abc")]
    found = lessons(concepts) + mistyped(concepts)
    weights = phrasing_practice(found, concepts)
    plain = {(text, lang) for concept in concepts for lang, texts in concept.phrasings.items() for text in texts}
    assert weights.sum() == pytest.approx(1)
    assert {(one.text, one.language) for one, weight in zip(found, weights, strict=True) if weight} == plain


def test_what_is_composed_says_the_same_in_every_language():
    found = composed(rows("everyday"))
    assert found == composed(rows("everyday"))
    told = {lesson.text: lesson for lesson in found}
    for text, language, english in [
        ("couper une corde", "fra", "cutting a rope"),
        ("einen Apfel schälen", "deu", "peeling an apple"),
        ("瓶を落とす音", "jpn", "dropping a bottle"),
        ("咬苹果的声音", "zho", "biting into an apple"),
        ("tocar el violí", "cat", "playing the violin"),
    ]:
        assert (told[text].language, told[text].english) == (language, (english,))
    assert set(Counter(lesson.language for lesson in found).values()) == {len(found) // len(LANGUAGES)}
    assert not [lesson for lesson in found if "{" in lesson.text or not lesson.text.strip()]


def test_a_vocabulary_that_is_not_whole_is_refused(tmp_path: Path):
    (tmp_path / "things.tsv").write_text("\t".join(("tags", *LANGUAGES)) + "\ncut\twood\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"things\.tsv, line 2"):
        composed([], tmp_path)


def test_mistyped_texts_are_near_and_mean_the_same():
    concepts = [toy("falling rain", "rain"), toy("a dog barks", "dog")]
    found = mistyped(concepts)
    assert found == mistyped(concepts)
    for lesson in found:
        assert lesson.english in {concept.english[:1] for concept in concepts}
    typo = next(lesson for lesson in found if lesson.language == "eng" and " " in lesson.text)
    assert typo.text not in {"falling rain", "a dog barks"}


def test_german_is_also_typed_without_its_own_letters():
    phrasings = dict.fromkeys(LANGUAGES, ("x",)) | {"eng": ("door", "a door"), "deu": ("Tür", "große Tür")}
    found = [lesson for lesson in mistyped([Concept(phrasings)]) if lesson.language == "deu"]
    assert Lesson("Tuer", "deu", ("door",)) in found
    assert Lesson("grosse Tuer", "deu", ("door", "a door")) in found


def test_pairs_are_written_as_they_are_said():
    fire, ice = toy("fire"), toy("ice")
    fire.phrasings["spa"], ice.phrasings["spa"] = ("agua",), ("iglesia",)
    pairs = {lesson.text for lesson in lessons([fire, ice, toy("a"), toy("b")]) if lesson.language == "spa"}
    assert "agua e iglesia" in pairs


def test_practice_is_shared_by_languages_whatever_they_hold():
    found = [Lesson("a", "fra", ("x",))] * 3 + [Lesson("b", "jpn", ("x",))]
    weights = practice(found)
    assert weights.sum() == pytest.approx(1)
    assert weights[3] / weights[:3].sum() == pytest.approx(PRACTICE["jpn"])


def test_targets_are_the_unit_mean_of_the_teachers_vectors():
    known = {"a": np.array([1.0, 0, 0]), "b": np.array([0, 1.0, 0])}
    taught = [Lesson("x", "fra", ("a", "b")), Lesson("y", "deu", ("b",))]
    table = lesson_table(taught, lambda texts: np.stack([known[text] for text in texts]))
    assert table.texts == ["x", "y"]
    np.testing.assert_allclose(table.vectors, [[0.5**0.5, 0.5**0.5, 0], [0, 1, 0]], atol=1e-3)
