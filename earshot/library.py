"""Library: one object that opens a memory, a bundle and a ledger, and does the jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from earshot.copying import COPY, lost_ledger, require_whole
from earshot.keep import keep_at
from earshot.limits import MOST_RESULTS, MOST_TEXTS, WAIT_S
from earshot.models import DEFAULT_BUNDLE, bundle_key, check_encoders, load_encoders, shipped_captions
from earshot.places import LEDGER, MEMORY, expanded, no_library
from earshot.spaces import PREVIOUS, SPACE
from engine.bundle import Calibration
from engine.encoders import Encoders, encode_sound, query_vectors
from engine.errors import BundleError, EarshotError, LibraryError, MemoryStoreError, QueryError, SpaceMismatchError
from engine.keyword_search import By, find_by_words, fused
from engine.memory.base import Memory
from engine.search import calibration_for, find_moments, parse_filter
from engine.silence import SILENCE, means_silence
from engine.types import Device, Filter, FloatArray, Moment, Remembered
from indexer.ledger import FileRow, Ledger
from indexer.tidy import remove_orphans

if TYPE_CHECKING:
    from earshot.caption_export import SoundCaptions
    from earshot.reindexing import ReindexReport
    from earshot.remembering import RememberReport
    from engine.memory.captions import Said
    from indexer.captions import Captioner
    from indexer.report import IndexReport, Progress

#: How long a search waits before it asks again, where the library is just being switched to another space.
_SWITCH_S = 0.05
_LOST = "some sounds can't be found until `earshot index` hears them again"


@dataclass(frozen=True, slots=True)
class Status:
    """What a library holds. ``failed`` counts files that could not be heard, ``lost`` those to be heard again, because
    the memory has lost their vectors; of a server those of this machine. ``captions`` are those remembered, but those
    that earshot ``generated`` itself.

    Of a server, ``files`` counts different sounds, and ``audio_s`` is estimated where these are very many. ``remark``
    says why the counts are not those of the memory, if so.
    """

    files: int
    windows: int
    failed: int
    lost: int
    audio_s: float
    captions: int
    generated: int
    space_id: str
    memory: str
    previous: str = ""
    filling: str = ""
    remark: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The public JSON form."""
        return asdict(self) | {"audio_s": round(self.audio_s, 3)}


class Library:
    """A folder with a ledger and a memory: what you have indexed, ready to be searched.

    >>> with Library("my-library") as library:
    ...     report = library.index(["sounds"])
    ...     for moment in library.search("rain on a tin roof", k=5):
    ...         print(moment.path, moment.start_s, moment.end_s, moment.relevance)

    Any number of processes and threads may search at once, also while one indexes: see ``earshot.sharing``. One that is
    open, yet does not index, is in nobody's way.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        bundle: str | Path | None = None,
        device: Device = "auto",
        create: bool = True,
        encoders: Encoders | None = None,
    ) -> None:
        """Open a library, or create it.

        Args:
            folder: Where it is kept, see ``earshot.keep.keep_at``; default: the user's own library.
            bundle: The model, by name or folder; default: the one the library was made with, else the starter.
                ``index`` remembers it, so that a bundle that has moved need be named only once.
            device: ``auto`` may fall back to the CPU and says so in ``notes``; ``cuda`` raises where it can't.
            create: If False, a folder without a library raises ``LibraryError``.
            encoders: Towers to use instead of a bundle's (tests use ``engine.fakes``).

        Raises ``LibraryError``, ``BundleError``, and ``SpaceMismatchError`` if the library was made in another space
        than that of ``bundle``; a bundle that is not named here is opened, and may raise, when it is first needed.
        """
        self._keep = keep_at(folder)
        self._device: Device = device
        self._bundle = bundle
        self._is_pinned = bundle is not None or encoders is not None  # to its space, wherever the library goes
        self._closed = False
        self._remarks: list[str] = []
        self._silence: dict[str, FloatArray] = {}  # what the word means, by space
        known = self._keep.exists()
        if not known and (self.folder / MEMORY).exists():
            raise lost_ledger(self.folder)
        if not known and not create:
            raise no_library(self._keep.name)
        if encoders is None and (bundle is not None or not known):
            encoders = load_encoders(bundle or DEFAULT_BUNDLE, device)
        self._loaded: Encoders | None = encoders
        if not known:
            _ = self._encoders.audio  # a broken model or a missing device must not leave a library behind
        self._ledger = self._open_ledger(create)
        try:
            require_whole(self._ledger, self._keep.name)
            if known and self._ledger.setting("space_id") is None and (space := self._keep.known_space()):
                self._ledger.settle("space_id", space[0])  # a server that others filled
            if self._loaded is not None or self._ledger.setting("space_id") is None:
                self._settle_space()
        except BaseException:
            self._ledger.close()
            raise

    def _open_ledger(self, create: bool) -> Ledger:
        """Of a server that is only to be searched, one in memory where none can be kept here."""
        path = self.folder / LEDGER
        try:
            self._keep.make()
            return Ledger(path)
        except LibraryError:
            if create or path.exists():
                raise
            return Ledger(Path(":memory:"))

    @property
    def folder(self) -> Path:
        """Where its ledger lies; of a library in a folder, all of it."""
        return self._keep.folder

    @property
    def encoders(self) -> Encoders:
        """The towers that this library hears with. Raises ``BundleError``."""
        return self._encoders

    @property
    def _encoders(self) -> Encoders:
        """The towers. The library's own bundle is opened when first needed: ``status`` works without it."""
        if self._loaded is None:
            self._require_open()
            name = self._ledger.setting("bundle") or DEFAULT_BUNDLE
            try:
                self._loaded = load_encoders(name, self._device)
            except BundleError as error:
                if not error.found.startswith("no bundle"):
                    raise
                raise BundleError(
                    f"{error.found}, with which {self._keep.name} was made",
                    error.expected,
                    "if it has moved, say where it is with --bundle",
                ) from error
            self._settle_space()
        return self._loaded

    @property
    def _has_moved_on(self) -> bool:
        """Whether the library answers in another space by now than that of the towers."""
        return self._loaded is not None and self._ledger.setting(SPACE) != self._loaded.space.space_id

    def _settle_space(self) -> None:
        """Keep to the space the library was made in; a new library takes that of its bundle."""
        ours = self._encoders.space.space_id
        known = self._ledger.setting("space_id") or self._choose_space(ours)
        if known != ours and self._keep.spaces.follow(self._ledger):
            known = self._ledger.setting("space_id")
        if known != ours:
            self._loaded = None
            raise SpaceMismatchError(
                f"a library made in space {known} ({self._keep.name})",
                f"{ours}, the space of the chosen bundle",
                "use the bundle it was made with, or index into another --library",
            )

    def _choose_space(self, ours: str) -> str:
        """Ours, unless somebody else chose at the same moment and was first."""
        with self._ledger.transaction():
            known = str(self._ledger.settle("space_id", ours))
            if known == ours:
                self._ledger.settle("bundle", bundle_key(self._bundle or DEFAULT_BUNDLE))
        return known

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know, such as a fall-back to the CPU."""
        return self._encoders.notes

    @property
    def remarks(self) -> Sequence[str]:
        """What is wrong with the memory though it answers, as far as was seen when this process opened it."""
        return tuple(self._remarks)

    @property
    def space_id(self) -> str:
        """The space of this library's vectors."""
        self._require_open()
        return str(self._ledger.setting("space_id"))

    def index(
        self,
        paths: Sequence[str | Path],
        *,
        jobs: int | None = None,
        retry_failed: bool = False,
        prune: bool = False,
        prune_anyway: bool = False,
        caption: bool | Captioner = False,
        caption_again: bool = False,
        caption_lang: str | None = None,
        wait_s: float = WAIT_S,
        on_wait: Callable[[str], None] = lambda _: None,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> IndexReport:
        """Hear every new or changed sound under ``paths``; known ones are skipped.

        Args:
            paths: Files and folders; with ``caption``, none means all sounds that are known.
            jobs: Decoding processes; default: one for each core.
            retry_failed: Try files again that could not be heard before.
            prune: Forget files under ``paths`` that are no longer there. Where they may only seem gone, as those of a
                disk that is away do, none is forgotten, and the report's ``refused`` says why.
            prune_anyway: Forget them all the same, those of missing paths too.
            caption: Put what is below ``paths`` into words, too, as far as it is not yet; by the bundle's captioner, or
                by one of your own. What was heard before is not heard again for it.
            caption_again: Also what another captioner has put into words, or this one upon other captions than are
                remembered now; that is then replaced.
            caption_lang: In which language; default: the captioner's own.
            wait_s: How long to wait where another process is indexing into this library.
            on_wait: Called once before waiting, with who that is.
            on_progress: Called a few times a second at most, in this thread.

        Raises ``LibraryError`` if a path is missing, ``LibraryBusyError`` if another process has not ended after
        ``wait_s``.
        """
        from earshot.remembering import CAPTION_LANGUAGE, captioning, forget_superseded, say_again
        from indexer.pipeline import IndexOptions, index

        self._require_open()
        roots = [expanded(path) for path in paths]
        _ = self._encoders.audio  # a broken model or a missing device is said before any work is done
        asked = caption or caption_again
        if asked:
            self._retell(wait_s, on_wait)  # where a switch of spaces was stopped before its captions were said
        captions = captioning(self, self._keep, asked, caption_lang) if asked else None
        options = IndexOptions(jobs, retry_failed, prune or prune_anyway, prune_anyway, captions)
        with self._keep.writing(self._encoders.space, self._tidy, wait_s, on_wait) as memory:
            if self._bundle is not None:
                self._ledger.set_setting("bundle", bundle_key(self._bundle))
            if self._ledger.setting(COPY):
                self._ledger.set_setting(COPY, None)  # from here on it is a library of its own
            if captions:
                self._ledger.set_setting(CAPTION_LANGUAGE, caption_lang)
            if caption_again and captions:
                say_again(self._ledger, roots, captions.by)
            report = index(roots, self._encoders, memory, self._ledger, options, on_progress)
            if captions and not report.interrupted:
                forget_superseded(self._keep, self._encoders.space, self._ledger, memory)
        self._remarks.clear()  # the report says it
        return report

    def reindex(
        self,
        bundle: str | Path | None = None,
        paths: Sequence[str | Path] = (),
        *,
        encoders: Encoders | None = None,
        jobs: int | None = None,
        retry_failed: bool = False,
        even_if_gone: bool = False,
        caption: bool = False,
        caption_lang: str | None = None,
        wait_s: float = WAIT_S,
        on_wait: Callable[[str], None] = lambda _: None,
        on_progress: Callable[[Progress], None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> ReindexReport:
        """Hear every known sound anew with another bundle, and what is new under ``paths``; then answer with that one.

        Until it has heard all, every process searches, and may index, in the space of before; that one stays for
        ``rollback`` until the next time. Stopped or killed, the same call goes on. Files that are gone can't be heard:
        the report's ``gone`` names them, and only the space of before has their sound.

        Args:
            bundle: The model, by name or folder.
            paths: Files and folders in which there may be new sounds.
            encoders: Towers to use instead of a bundle's.
            jobs: Decoding processes; default: one for each core.
            retry_failed: Try files again that an earlier, stopped call could not hear.
            even_if_gone: Switch though so many files are gone that they may only seem so, as those of a disk that is
                away; otherwise ``index.refused`` of the report says why not.
            caption: Put all of it into words, too. Otherwise the sounds that had captions get new ones, where the
                bundle can, once it answers.
            caption_lang: In which language; default: that of before, or the captioner's own.
            wait_s: How long to wait where another process is writing.
            on_wait: Called once before waiting, with who that is.
            on_progress: Called a few times a second at most, in this thread.
            say: Called before the work begins, with how much room it takes.

        Raises ``LibraryError`` where nothing was heard yet, or a path is missing; ``MemoryStoreError`` where the disk
        has not that much room; ``LibraryBusyError``; ``BundleError``.
        """
        from earshot.captioning import require_captioner
        from earshot.reindexing import Reindexing, Waiting
        from indexer.pipeline import IndexOptions

        self._require_open()
        towers = encoders or load_encoders(bundle or DEFAULT_BUNDLE, self._device)
        _ = towers.audio  # a broken model or a missing device is said before any work is done
        if caption and not self.remembers():
            require_captioner(towers, caption_lang)
        key = bundle_key(bundle or DEFAULT_BUNDLE) if encoders is None else None
        work = Reindexing(self._keep, self._ledger, self._tidy, Waiting(wait_s, on_wait, say))
        options = IndexOptions(jobs, retry_failed, prune_anyway=even_if_gone)
        report = work.run(towers, key, [expanded(path) for path in paths], options, on_progress)
        if report.switched:
            self._loaded, self._bundle = towers, bundle
            self._retell(wait_s, on_wait)
            work.caption(self, report, caption, caption_lang, on_progress)
        return report

    def _retell(self, wait_s: float, on_wait: Callable[[str], None]) -> None:
        """Say the captions that are remembered in the space that answers now, where they are those of another."""
        from earshot.remembering import RememberReport, remember

        towers = self._encoders
        self._keep.retell(
            towers.space,
            lambda old, new: remember(old.all(), new, towers.text, RememberReport()),
            wait_s,
            on_wait,
        )

    def rollback(
        self,
        *,
        encoders: Encoders | None = None,
        wait_s: float = WAIT_S,
        on_wait: Callable[[str], None] = lambda _: None,
    ) -> str:
        """Answer in the space of before the last ``reindex`` again; returns its name. Again, it goes forth.

        The library knows then what it knew then: the next ``index`` hears what has come since. ``encoders`` are towers
        to use instead of a bundle's. Raises ``LibraryError`` where there is no such space, ``BundleError`` where its
        bundle can't be opened any more, or is another by now: nothing has changed then.
        """
        from earshot.reindexing import Reindexing, Waiting, reopened

        self._require_open()
        says = self.remembers() > 0
        towers: list[Encoders] = []

        def opens(space_id: str, bundle: str | None) -> None:
            def load() -> Encoders:
                return encoders or load_encoders(bundle or DEFAULT_BUNDLE, self._device)

            towers.append(reopened(space_id, load, also_text=says))  # captions are said again

        space_id = Reindexing(self._keep, self._ledger, self._tidy, Waiting(wait_s, on_wait)).roll_back(opens)
        self._loaded, self._bundle, self._is_pinned = towers[0], None, encoders is not None
        if says:
            self._retell(wait_s, on_wait)
        return space_id

    def forget_previous(self) -> list[str]:
        """Remove the spaces beside the one that answers, that of before and unfinished ones; returns their names."""
        from earshot.reindexing import forget_others

        self._require_open()
        return forget_others(self._keep, self._ledger)

    def search(
        self,
        words: str | None = None,
        *,
        audio: str | Path | None = None,
        k: int = 10,
        filters: Sequence[str] = (),
        min_relevance: float | None = None,
        by: By = "both",
    ) -> list[Moment]:
        """The sounds that match words, or that sound like a file, or both; best first, each with its moment.

        Args:
            words: What it sounds like.
            audio: A sound file to compare with; with words, what those change or add ("but with rain").
            k: At most so many sounds, 10,000 at most.
            filters: Conditions that all must hold, e.g. ``["duration<5", "path~ambience"]``.
            min_relevance: Leave out what is less relevant, 0..1; default: the bundle's own cutoff, which what is found
                by its words may stay below.
            by: ``meaning``, what it sounds like; ``keywords``, the words of its tags and captions, any of them, best
                first; ``both``: those that sound like it, and those that say every word of the query.

        Where there is nothing to hear, words find nothing unless they mean silence. An empty list means that nothing
        sounds like that. Raises ``QueryError``, ``AudioError``.
        """
        self._require_open()
        if not 1 <= k <= MOST_RESULTS:
            raise QueryError(f"k = {k}", f"a number of results from 1 to {MOST_RESULTS}")
        if words is None and audio is None:
            raise QueryError("no query", "words, a sound, or both")
        if by == "keywords" and (words is None or audio is not None):
            raise QueryError("a sound to be found by keywords", "words alone", "ask by meaning")
        where, deadline = parse_filter(filters), time.monotonic() + WAIT_S
        while True:
            try:
                return self._find(words, audio, k, where, min_relevance, by)
            except SpaceMismatchError:
                follows = self._keep.spaces.follow(self._ledger) or not self._is_pinned
                if not follows or time.monotonic() > deadline:
                    raise
            time.sleep(_SWITCH_S)  # whoever heard it anew is just letting go of it
            self._require_open()

    def _find(
        self, words: str | None, audio: str | Path | None, k: int, where: Filter, min_relevance: float | None, by: By
    ) -> list[Moment]:
        """What `search` finds in the space that answers now. Raises ``SpaceMismatchError`` if it is switched here."""
        vectors, calibration = self._question(words, audio)
        floor = calibration.cutoff if min_relevance is None else min_relevance
        audible = words is not None and not self._asks_for_silence(vectors[0] if audio is None else words)
        with self._keep.reading(self._encoders.space, self._tidy) as memory:
            meant = find_moments(memory, vectors, k, calibration, where, audible) if by != "keywords" else []
            said: list[Moment] = []
            if by != "meaning" and words is not None and audio is None:
                said = find_by_words(memory, words, vectors[0], k, calibration, where, all_words=by == "both")
            if not meant:
                self._compare(memory)  # "nothing" must not be said for a memory that was lost
        said = [moment for moment in said if moment.relevance >= (min_relevance or 0.0)]
        return fused([moment for moment in meant if moment.relevance >= floor], said, k)

    def _question(self, words: str | None, audio: str | Path | None) -> tuple[FloatArray, Calibration]:
        """What is searched with, unit ``[m, dim]``, and the curve that its cosines are read by."""
        curves = self._encoders.calibration
        if audio is None:
            return self.encode_text([words or ""]), calibration_for(words, curves)
        heard = self._encode_file(Path(audio))
        if words is None:
            return heard, calibration_for(None, curves)
        composer = self._encoders.composer
        # A composed text lies where texts do; a sum's cosines are as high as a sound's.
        return composer.compose(words, heard), calibration_for(words if composer.learnt else None, curves)

    def _asks_for_silence(self, words: str | FloatArray) -> bool:
        """Whether words, or their vector ``[dim]``, mean that there is nothing to hear."""
        space_id = self._encoders.space.space_id
        if space_id not in self._silence:
            self._silence[space_id] = self.encode_text([SILENCE])[0]
        vector = self.encode_text([words])[0] if isinstance(words, str) else words
        return means_silence(vector, self._silence[space_id])

    def calibrated(self, words: str | None, audio: str | Path | None = None) -> bool:
        """Whether the relevance of what such a question finds was fitted to sounds whose names are known."""
        self._require_open()
        alone = words is None or (audio is not None and not self.composes)
        return calibration_for(None if alone else words, self._encoders.calibration).fitted

    @property
    def composes(self) -> bool:
        """Whether words and a sound are made one question by what the bundle has learnt; or else they are added."""
        self._require_open()
        return self._encoders.composer.learnt

    def remember(
        self,
        texts: Iterable[str | Said],
        *,
        lang: str | None = None,
        source: str | None = None,
        report: RememberReport | None = None,
        wait_s: float = WAIT_S,
        on_wait: Callable[[str], None] = lambda _: None,
        on_progress: Callable[[RememberReport], None] = lambda _: None,
    ) -> RememberReport:
        """Remember captions: any number, read as a stream; what is remembered already stays as it is.

        Args:
            texts: Captions; files of them are read by ``earshot.remembering.read_captions``.
            lang: The ISO 639-3 code of the language of plain texts, such as ``fra``.
            source: Where plain texts are from, any name but ``generated``.
            report: To be counted in, where reading has counted already.
            wait_s: How long to wait where another process is remembering into this library.
            on_wait: Called once before waiting, with who that is.
            on_progress: Called every thousand captions, in this thread.

        Raises ``QueryError`` for a language or a source without meaning, ``LibraryBusyError``, ``MemoryStoreError``.
        """
        from earshot.remembering import RememberReport, checked_language, checked_source, remember, taken

        self._require_open()
        report = RememberReport() if report is None else report
        captions = taken(texts, checked_language(lang), checked_source(source), report)
        self._retell(wait_s, on_wait)
        with self._keep.remembering(self._encoders.space, wait_s, on_wait) as memory:
            remember(captions, memory, self._encoders.text, report, on_progress)
            memory.memory.optimise()
        return report

    def forget(
        self,
        *,
        lang: str | None = None,
        source: str | None = None,
        wait_s: float = WAIT_S,
        on_wait: Callable[[str], None] = lambda _: None,
    ) -> int:
        """Forget the captions of a language, of a source, of both, or all; returns how many. Sounds stay.

        Generated ones stay with their sounds, and ``index`` with ``caption_again`` remembers them again. Raises
        ``QueryError`` for a language without meaning.
        """
        from earshot.remembering import checked_language
        from engine.memory.captions import GENERATED, of

        checked_language(lang)
        if not self.remembers(lang=lang, source=source):
            return 0
        with self._keep.remembering(self._encoders.space, wait_s, on_wait) as memory:
            if source in (None, GENERATED):
                self._ledger.forget_captioners()
            return memory.forget(of(source, lang))

    def remembers(self, *, lang: str | None = None, source: str | None = None) -> int:
        """How many captions are remembered, of a language or a source or all. Needs no bundle."""
        from engine.memory.captions import of

        self._require_open()
        with self._keep.recalling() as memory:
            return memory.count(of(source, lang)) if memory else 0

    def recalled(self, vector: FloatArray, k: int) -> list[Remembered]:
        """The k captions nearest to a vector ``[dim]`` by cosine, best first.

        Of those remembered and those that come with the bundle; none that earshot generated. Raises
        ``SpaceMismatchError`` where those remembered are of another space.
        """
        from earshot.remembering import with_shipped

        self._require_open()
        shipped = shipped_captions(self._encoders)
        with self._keep.recalling(self._encoders.space) as memory:
            near = memory.nearest(vector, k) if memory else []
        return with_shipped(near, shipped.nearest(vector, k), k) if shipped else near

    def recallable(self) -> int:
        """Among how many captions ``recalled`` looks; what is both remembered and the bundle's counts twice."""
        from engine.memory.captions import HUMAN

        self._require_open()
        shipped = shipped_captions(self._encoders)
        with self._keep.recalling(self._encoders.space) as memory:
            return (memory.count(HUMAN) if memory else 0) + (len(shipped) if shipped else 0)

    def text_memory(self, limit: int = MOST_TEXTS) -> tuple[FloatArray, list[str]]:
        """What sounds are projected upon: vectors float32 ``[n, dim]`` and their n texts, ``limit`` at most.

        As ``recalled``, those remembered first; where there are more, a sample that is always the same.
        """
        vectors, captions = self.said_memory(limit)
        return vectors, [said.text for said in captions]

    def said_memory(self, limit: int = MOST_TEXTS) -> tuple[FloatArray, list[Said]]:
        """As ``text_memory``, with the languages and sources of the texts."""
        self._require_open()
        space = self._encoders.space
        captions: list[Said] = []
        vectors = np.empty((0, space.dim), np.float32)
        with self._keep.recalling(space) as memory:
            if memory:
                vectors, captions = memory.said(limit)
        if shipped := shipped_captions(self._encoders):
            known = {(one.text, one.language) for one in captions}
            more, texts = shipped.said(limit)
            news = [n for n, one in enumerate(texts) if (one.text, one.language) not in known][: limit - len(captions)]
            vectors = np.concatenate([vectors.reshape(-1, space.dim), more[news]])
            captions = [*captions, *(texts[n] for n in news)]
        return vectors.reshape(-1, space.dim), captions

    def captions(self) -> Iterator[SoundCaptions]:
        """What `index` with ``caption`` has said of the sounds, one sound at a time. Needs no graphs."""
        from earshot.caption_export import captioned_sounds

        self._require_open()
        with self._keep.reading(self._encoders.space, self._tidy) as memory:
            yield from captioned_sounds(memory)

    def encode_text(self, texts: Sequence[str]) -> FloatArray:
        """n texts -> L2-normalised float32 ``[n, dim]``. Raises ``QueryError`` if one is empty."""
        self._require_open()
        return self._encoders.text.encode_text(texts)

    def encode_audio(self, samples: FloatArray, sample_rate_hz: int) -> FloatArray:
        """Mono samples ``[n]`` -> L2-normalised float32 ``[dim]``: the mean over its windows.

        Raises ``ValueError`` if ``samples`` is not a one-dimensional array, ``AudioError`` if it is empty.
        """
        from engine.audio import resample

        self._require_open()
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1:
            raise ValueError(f"found samples of shape {samples.shape}, expected [n], mono")
        space = self._encoders.space
        return encode_sound(self._encoders.audio, resample([samples], sample_rate_hz, space.sample_rate_hz), space)

    def _encode_file(self, path: Path) -> FloatArray:
        from engine.audio import naming, open_clip

        space = self._encoders.space
        with naming(path):
            clip = open_clip(expanded(path), space.sample_rate_hz)
            return query_vectors(self._encoders.audio, clip.blocks, space)

    def status(self) -> Status:
        """Counts, of sounds from the ledger alone: works while another process is indexing, and without the bundle.

        Of a server, what all its indexers hold; where it does not answer, what this machine's ledger knows.
        """
        self._require_open()
        ours, remark = self._ledger.totals(), ""
        try:
            totals = self._keep.totals() or ours
        except MemoryStoreError as error:
            totals, remark = ours, f"only what this machine knows of it: {error}"
        captions = generated = 0
        try:
            if not remark:
                generated = self.remembers(source="generated")
                captions = self.remembers() - generated
        except EarshotError as error:
            remark = f"captions that can't be counted: {error}"
        return Status(
            *(totals.files, totals.windows, ours.failed, ours.lost, totals.audio_s),
            *(captions, generated, self.space_id, self._keep.memory),
            *self._other_spaces(),
            remark=remark,
        )

    def _other_spaces(self) -> tuple[str, str]:
        """The space of before, and one that is being filled: their names, or nothing."""
        try:
            others = list(self._keep.spaces.others())
        except MemoryStoreError:  # a server that is away: the remark says so
            return "", ""
        before = str(self._ledger.setting(PREVIOUS) or "")
        filling = next((name for name in others if name not in (before, self.space_id)), "")
        return before if before in others else "", filling

    def failed(self) -> list[FileRow]:
        """The files that could not be heard, each with its reason."""
        self._require_open()
        return list(self._ledger.files(failed=True))

    def damaged(self) -> list[tuple[Path, str]]:
        """The files that were heard though something is wrong with them, such as a missing end; and what."""
        self._require_open()
        return list(self._ledger.damaged())

    def check(self) -> dict[str, str]:
        """Use every part once: which device, bundle and memory answered. Raises what is wrong with them.

        Of the memory, the first 10,000 windows are read as well; `earshot repair` reads all.
        """
        from indexer.repair import sample

        self._require_open()
        checked = check_encoders(self._encoders)
        with self._keep.reading(self._encoders.space, self._tidy) as memory:
            count = self._compare(memory)
            sample(memory, self._encoders.space.space_id)
            known = "while it may be written to" if memory.shared else "as many as the ledger has"
        return checked | {"memory": f"{count} windows, {known}"}

    def _compare(self, memory: Memory) -> int:
        """How many windows the memory holds.

        Raises ``LibraryError`` if the ledger knows of another number, unless somebody may just be writing to it.
        """
        count, expected = memory.count(), self._ledger.totals().windows
        if count != expected and not memory.shared:
            raise LibraryError(f"{count} windows in the memory", f"{expected}", "run `earshot index` again")
        return count

    def _tidy(self, memory: Memory) -> None:
        """Remove what a killed run left half heard."""
        if self._ledger.is_blank and memory.count():  # or all that is remembered would be left-overs
            if (self.folder / MEMORY).exists():
                raise lost_ledger(self.folder)
            self._recall(memory)
        remove_orphans(memory, self._ledger)
        count, expected = memory.count(), self._ledger.totals().windows
        self._remarks = [] if count >= expected else [f"{count} windows in the memory, not {expected}: {_LOST}"]

    def _recall(self, memory: Memory) -> None:
        """Make our ledger of a server anew from what the server knows to be ours."""
        from indexer.repair import rebuild

        rebuild(memory, self._ledger, self.space_id)

    def _require_open(self) -> None:
        if self._closed:
            raise LibraryError(f"the library {self._keep.name} closed", "an open one", "open it again with Library(…)")
        if not self._is_pinned and self._has_moved_on:
            self._loaded = None  # somebody heard it anew: its own bundle is opened when needed

    def close(self) -> None:
        """Let go of the library; after that only ``folder`` is of use. Twice is fine."""
        self._closed = True
        self._keep.close()
        self._ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
