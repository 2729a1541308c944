"""Language enhancement: which captions of a clip an epoch trains on, and translations where the manifest has none.

After "Bridging Language Gaps in Audio-Text Retrieval" (Yan et al.), section 2: captions are translated once, and each
epoch draws anew which languages come along. (``trainer.language`` is the shipped starter's own text lesson.)
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.examples import DEFAULT_LANGUAGE, Caption, DataError, Example, language_code

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: The seed's seven, beside English.
SEVEN = ("fra", "deu", "spa", "nld", "cat", "jpn", "zho")
#: Texts in one call of a translation model.
BATCH = 32


def drawn(
    example: Example, languages: Sequence[str], ratio: float, every: bool, chance: np.random.Generator
) -> list[Caption]:
    """The captions that this clip is trained with, this time.

    English is always in, each of ``languages`` with the chance ``ratio``: with seven at 0.4 that is 3.8 captions on
    average (section 4.5). Of several in one language one is taken, or with ``every`` all. A clip without English gives
    what it has, in one language by chance.
    """
    of: dict[str, list[Caption]] = {}
    for caption in example.captions:
        of.setdefault(caption.lang, []).append(caption)
    first = DEFAULT_LANGUAGE if DEFAULT_LANGUAGE in of else list(of)[int(chance.integers(len(of)))]
    wanted = [first, *(lang for lang in languages if lang in of and lang != first and chance.random() < ratio)]
    return [
        caption
        for lang in wanted
        for caption in (of[lang] if every else [of[lang][int(chance.integers(len(of[lang])))]])
    ]


def chance_of(seed: int, epoch: int, example: Example) -> np.random.Generator:
    """What decides about an example in an epoch, whichever batch or process it falls to."""
    return np.random.default_rng([seed, epoch, zlib.crc32(example.id.encode())])


def chosen_languages(wanted: Sequence[str], examples: Sequence[Example]) -> tuple[str, ...]:
    """The codes of ``wanted``: ``all`` stands for every other language that the captions have.

    Raises ``DataError`` for a code that is none.
    """
    if list(wanted) == ["all"]:
        held = {caption.lang for example in examples for caption in example.captions}
        return tuple(sorted(held - {DEFAULT_LANGUAGE}))
    codes = []
    for raw in wanted:
        code = language_code(raw)
        if code is None:
            raise DataError(f"the language {raw!r}", "an ISO 639 code such as fra or fr, or all", "check --languages")
        codes.append(code)
    return tuple(code for code in dict.fromkeys(codes) if code != DEFAULT_LANGUAGE)


def tag_of(tokenizer: Tokenizer, language: str) -> str:
    """The token by which a tower is told the language, with a space behind; empty where it has none.

    The seed puts ``eng``, ``fra`` … before a text; SONAR, NLLB and M2M have pieces of their own for that.
    """
    for form in (f"[{language}]", f"<{language}>", f"__{language}__", _nllb(language)):
        if form and tokenizer.token_to_id(form) is not None:
            return f"{form} "
    return ""


#: A translation model: texts, source language, target language -> as many texts.
Translate = Callable[[Sequence[str], str, str], list[str]]


class Translations:
    """Translations kept in a file, a JSON object a line: what a model translated once is not asked of it again."""

    def __init__(
        self,
        path: Path,
        translate: Translate,
        model: str,
        on_progress: Callable[[str, int, int], None] = lambda *_: None,
    ) -> None:
        """``model`` is what ``translate`` is called: what another has said isn't taken for its."""
        self._path, self._translate, self._model, self._on_progress = path, translate, model, on_progress
        self._known: dict[tuple[str, str], str] = {}
        if path.is_file():
            for line in path.read_bytes().splitlines():
                if (row := _row(line)) and row["model"] == model:
                    self._known[row["text"], row["lang"]] = row["translation"]

    def add(self, examples: Sequence[Example], languages: Sequence[str], seed: int) -> list[Example]:
        """The examples with a translation of one English caption, taken by chance, in each language they lack."""
        wanted: dict[str, dict[str, str]] = {language: {} for language in languages}
        for example in examples:
            english = [caption.text for caption in example.captions if caption.lang == DEFAULT_LANGUAGE]
            chance = chance_of(seed, 0, example)
            for language in languages:
                if english and all(caption.lang != language for caption in example.captions):
                    text = english[int(chance.integers(len(english)))]
                    wanted[language][example.id] = text
        for language, texts in wanted.items():
            self._fill([*dict.fromkeys(texts.values())], language)
        return [self._with(example, wanted) for example in examples]

    def _with(self, example: Example, wanted: Mapping[str, Mapping[str, str]]) -> Example:
        more = [
            Caption(self._known[texts[example.id], language], language)
            for language, texts in wanted.items()
            if example.id in texts
        ]
        return replace(example, captions=(*example.captions, *(caption for caption in more if caption.text.strip())))

    def _fill(self, texts: Sequence[str], language: str) -> None:
        missing = [text for text in texts if (text, language) not in self._known]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write("\n" if self._path.stat().st_size else "")  # behind what a kill may have cut
            for start in range(0, len(missing), BATCH):
                batch = missing[start : start + BATCH]
                found = self._translate(batch, DEFAULT_LANGUAGE, language)
                for text, translation in zip(batch, found, strict=True):
                    self._known[text, language] = translation
                    row = {"text": text, "lang": language, "translation": translation, "model": self._model}
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                stream.flush()
                self._on_progress(f"translating into {language}", start + len(batch), len(missing))


def _row(line: bytes) -> dict[str, str] | None:
    """A line of the file; None for one that a kill has cut, or that is of an older file and names no model."""
    try:
        row = json.loads(line.decode("utf-8"))
        found = {name: row[name] for name in ("text", "lang", "translation", "model")}
    except (ValueError, KeyError, TypeError):  # UnicodeDecodeError is a ValueError
        return None
    return found if all(isinstance(value, str) for value in found.values()) else None


def hub_translator(name: str) -> Translate:
    """A translation model of the Hub, or a folder: M2M100 and NLLB speak all languages, Marian one pair a model.

    ``{lang}`` in ``name`` stands for the target's two-letter code, as in ``Helsinki-NLP/opus-mt-en-{lang}``. Raises
    ``DataError`` where it can't be read, or doesn't know a language.
    """
    loaded: dict[str, tuple[Any, Any]] = {}

    def translate(texts: Sequence[str], source: str, target: str) -> list[str]:
        import torch

        called = name.format(lang=_short(target)) if "{lang}" in name else name
        if called not in loaded:
            loaded[called] = _load(called)
        reader, model = loaded[called]
        settings = _steer(reader, source, target, called)
        inputs = reader(list(texts), return_tensors="pt", padding=True, truncation=True)
        with torch.inference_mode():
            made = model.generate(**inputs, **settings, max_new_tokens=128)
        return [str(text).strip() for text in reader.batch_decode(made, skip_special_tokens=True)]

    return translate


def _load(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        reader = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        return reader, AutoModelForSeq2SeqLM.from_pretrained(name, trust_remote_code=False).eval()
    except Exception as error:  # the Hub, files and tokenizers share no class
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"no translation model {name} ({told[:200]})",
            "one of the Hub, or its folder",
            "download it, or put translations into the manifest",
        ) from error


def _steer(reader: Any, source: str, target: str, name: str) -> dict[str, Any]:
    """Tell a model of many languages which two are meant: how they are called there is seen from its vocabulary."""
    vocabulary = reader.get_vocab()
    for form in (_nllb, lambda code: f"__{_short(code)}__"):
        if form(source) in vocabulary and form(target) in vocabulary:
            reader.src_lang = form(source) if form is _nllb else _short(source)
            return {"forced_bos_token_id": vocabulary[form(target)]}
    prefix = f">>{target}<<"
    many = [piece for piece in vocabulary if piece.startswith(("__", ">>")) and piece.endswith(("__", "<<"))]
    if many and prefix not in vocabulary:
        raise DataError(f"{name}, which does not know {target}", "a model that does", "leave it out of --languages")
    return {}


def _short(code: str) -> str:
    """The two-letter code, where there is one."""
    import pycountry

    language = pycountry.languages.get(alpha_3=code)
    return str(getattr(language, "alpha_2", code))


#: Scripts of NLLB's and SONAR's codes that aren't Latin.
_SCRIPTS = {"jpn": "Jpan", "zho": "Hans", "kor": "Hang", "rus": "Cyrl", "ara": "Arab", "ell": "Grek", "hin": "Deva"}


def _nllb(code: str) -> str:
    return f"{code}_{_SCRIPTS.get(code, 'Latn')}"
