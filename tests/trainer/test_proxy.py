"""The kinds that designs are chosen by: whole, in eight languages, and matched as a listener would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.data import Row
from trainer.parallel import LANGUAGES
from trainer.proxy import kinds_of, read_kinds


def row(text: str) -> Row:
    return Row(Path("x.ogg"), "train", "set", "", text, "CC0", "author", 1.0)


def test_kinds_are_distinct_in_every_language():
    kinds = read_kinds()
    assert len(kinds) >= 50
    for language in LANGUAGES:
        assert len({kind.names[language] for kind in kinds}) == len(kinds), language


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("dogbarks", "a dog barking"),
        ("rooster crows outside", "rooster"),
        ("windows smash", None),
        ("rain thunder", None),
        ("steel pipe", None),
        ("page turn", "paper"),
    ],
)
def test_a_clip_is_of_the_one_kind_that_its_text_names(text: str, kind: str | None):
    kinds = read_kinds()
    [found] = kinds_of([row(text)], kinds)
    assert (kinds[found].names["eng"] if found >= 0 else None) == kind


def test_of_none_and_of_several_are_told_apart():
    np.testing.assert_array_equal(kinds_of([row("steel pipe"), row("rain thunder")], read_kinds()), [-1, -2])


def test_a_file_that_is_not_whole_is_refused(tmp_path: Path):
    (tmp_path / "kinds.tsv").write_text("\t".join(("pattern", *LANGUAGES)) + "\nrain\train\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"kinds\.tsv, line 2"):
        read_kinds(tmp_path / "kinds.tsv")
