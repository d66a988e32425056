"""The library: voices by name, and everything that can be done to one's own.

USER/NAME.npz               one's own
USER/.deleted/NAME.npz      deleted ones, for a week
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import os
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import platformdirs

from bark_core.config import BARK_LAYOUT, CascadeConfig, TokenLayout
from bark_core.errors import (
    BarkError,
    InvalidCheckpoint,
    InvalidVoice,
    LayoutMismatch,
    StorageError,
    UnknownVoice,
)
from bark_core.files import storage_error, write_bytes_atomically
from bark_core.voice_catalogue import VoiceEntry, read_catalogue
from bark_core.voice_names import free_name, valid_name
from bark_core.voices import KEYS, Voice, load_voice, load_voice_npy, read_notes

KEEP_DELETED_S = 7 * 24 * 3600.0
MAX_KIND_CHARACTERS = 40


class VoiceLibrary:
    """Voices by name: those that come with the project, Suno's published ones, your own.

    `library["rosa"]` loads one; `in`, `len` and iteration are over the names. Nothing is read
    or fetched before it is asked for. Thread-safe: files are the only state that counts.
    """

    def __init__(
        self,
        *,
        presets_dir: Path,
        user_dir: Path,
        layouts: Callable[[], Mapping[str, TokenLayout]],
        fetch: Callable[[str], Path] | None = None,
        cached: Callable[[str], Path] | None = None,
    ) -> None:
        """Prefer `default`.

        Args:
            presets_dir: holds voices.toml and voices/*.npz.
            user_dir: holds one's own .npz files; made when the first is saved.
            layouts: gives the known layouts by name.
            fetch: gives a local path for a file of the hub repository of the published model,
                such as "speaker_embeddings/v2/en_speaker_6_fine_prompt.npy".
            cached: the same without ever using the network.

        Raises:
            StorageError: voices.toml is missing or damaged.
        """
        self._presets_dir, self._user_dir = presets_dir, user_dir
        self._layouts, self._fetch, self._cached = layouts, fetch, cached
        catalogue = read_catalogue(presets_dir / "voices.toml", fetched=fetch is not None)
        self.languages: Mapping[str, str] = catalogue.languages
        """Languages' own names by their ISO 639-1 codes."""
        self.licence: str = catalogue.licence
        """Of the published voices, for people."""
        self._english = catalogue.english
        self._bundled, self._published = catalogue.bundled, catalogue.published
        self._changing = threading.RLock()
        self._seen: dict[Path, tuple[tuple[int, int], VoiceEntry]] = {}

    @classmethod
    def default(
        cls,
        user_dir: str | Path | None = None,
        *,
        fetch: Callable[[str], Path] | None = None,
        cached: Callable[[str], Path] | None = None,
        layouts: Callable[[], Iterable[TokenLayout]] = tuple,
    ) -> Self:
        """The library of this installation.

        Args:
            user_dir: one's own voices; None: the folder for user data of the operating system.
            fetch, cached: as in `__init__`; without `fetch` published voices are listed, not
                available.
            layouts: gives those of models that don't come with the project, so that their
                voices load.
        """
        root = Path(__file__).resolve().parent.parent
        if user_dir is None:
            user_dir = platformdirs.user_data_path("bark-studio", appauthor=False) / "voices"
        return cls(
            presets_dir=root / "presets",
            user_dir=Path(user_dir),
            layouts=lambda: (
                {layout.name: layout for layout in layouts()} | _known_layouts(root / "models")
            ),
            fetch=fetch,
            cached=cached,
        )

    # --- reading

    def __getitem__(self, name: str) -> Voice:
        """Load a voice.

        Raises:
            UnknownVoice: no voice has that name; the message has the closest ones.
            InvalidVoice, StorageError: its file is damaged or can't be read.
            LayoutMismatch: it was made for a model that isn't here.
            DownloadError, MissingFiles: it has to be fetched, and can't be.
        """
        return self._load(self.entry(name), self._fetch)

    def here(self, name: str) -> Voice | None:
        """Load a voice if that needs no network; None: it has to be fetched first.

        Raises:
            UnknownVoice, InvalidVoice, StorageError, LayoutMismatch: as `library[name]`.
        """
        entry = self.entry(name)
        if entry.source != "published":
            return self[name]
        if self._cached is None:
            return None
        try:
            return self._load(entry, self._cached)
        except (UnknownVoice, InvalidVoice, LayoutMismatch):
            raise
        except BarkError:
            return None

    def read(self, source: str | Path | bytes, *, name: str | None = None) -> Voice:
        """Read a voice file of any layout that is known here; it isn't kept.

        Raises:
            UnknownVoice, InvalidVoice, LayoutMismatch, StorageError: as `load_voice`.
        """
        layout = self._layout(read_notes(source).layout, "this voice")
        return load_voice(source, layout=layout, name=name)

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def names(self, layout_name: str | None = None) -> list[str]:
        """Names of all voices, or of those for models of one layout."""
        if layout_name is not None:
            return [entry.name for entry in self.entries(layout_name)]
        return [*self._bundled, *self._own_files(), *self._published]  # no file is opened

    def entry(self, name: str) -> VoiceEntry:
        """What is known of one voice without loading it. Raises UnknownVoice."""
        bundled = self._bundled.get(name)
        if bundled is not None:
            return replace(bundled, available=self._preset(name).is_file())
        published = self._published.get(name)
        if published is not None:
            return published
        path = self._own_files().get(name)
        if path is not None:
            return self._own_entry(name, path)
        raise UnknownVoice(self._unknown(str(name)))

    def entries(self, layout_name: str | None = None) -> list[VoiceEntry]:
        """All voices, or those for models of one layout: bundled, your own, published."""
        bundled = (self.entry(name) for name in self._bundled)
        own = (self._own_entry(name, path) for name, path in self._own_files().items())
        every = itertools.chain(bundled, own, self._published.values())
        return [entry for entry in every if layout_name in (None, entry.layout)]

    def search(
        self,
        words: str = "",
        *,
        language: str | None = None,
        kind: str | None = None,
        source: str | None = None,
        layout: str | None = None,
    ) -> list[VoiceEntry]:
        """Voices in which each word occurs: in name, description, language, kind or source.

        Args:
            language: only those of an ISO 639-1 code. kind, source, layout: only those of it.
        """
        wanted = words.casefold().split()
        return [
            entry
            for entry in self.entries(layout)
            if language in (None, entry.language)
            and kind in (None, entry.kind)
            and source in (None, entry.source)
            and all(word in self._text(entry) for word in wanted)
        ]

    def free_name(self, wanted: str) -> str:
        """A name for a new voice, as close to the wanted one as can be."""
        return free_name(wanted, {name.casefold() for name in self.names()})

    # --- changing one's own

    def save(self, voice: Voice, name: str, *, replace_own: bool = False) -> VoiceEntry:
        """Keep a voice of your own under a name.

        Args:
            name: 1..64 letters, digits, spaces, "-", "_" and "."; a name that every operating
                system can store.
            replace_own: overwrite your own voice of exactly that name.

        Raises:
            InvalidVoice: the name isn't allowed, or is taken.
            StorageError: it can't be written.
        """
        name = valid_name(name)
        with self._changing:
            own = self._own_files()
            if not (replace_own and name in own):
                self._check_free(name, own)
            return self._write(voice, name, own.get(name, self._user_dir / f"{name}.npz"))

    def rename(self, name: str, new_name: str) -> VoiceEntry:
        """Give a voice of your own another name.

        Raises:
            UnknownVoice: there is none of that name.
            InvalidVoice: it isn't your own, or the new name isn't allowed or is taken.
            LayoutMismatch: it was made for a model that isn't here, so it can't be rewritten.
            StorageError: it can't be written.
        """
        new_name = valid_name(new_name)
        with self._changing:
            old = self._own_path(name, "renamed")
            if new_name == name:
                return self.entry(name)
            own = self._own_files()
            self._check_free(new_name, own, but=name)
            new = self._user_dir / f"{new_name}.npz"
            voice = self[name]
            if new_name.casefold() == name.casefold():
                # where capitals don't count both are one file
                self._write(voice, new_name, old)
                _move(old, new)
                return self._own_entry(new_name, new)
            entry = self._write(voice, new_name, new)
            _remove(old)
            return entry

    def describe(
        self,
        name: str,
        *,
        description: str | None = None,
        language: str | None = None,
        kind: str | None = None,
    ) -> VoiceEntry:
        """Write down what is known of a voice of your own; None leaves as it is, "" clears.

        Args:
            language: an ISO 639-1 code. kind: in a word, up to 40 characters.

        Raises:
            UnknownVoice, LayoutMismatch, StorageError: as `rename`.
            InvalidVoice: it isn't your own, or a note can't be one.
        """
        _check_notes(language, kind)
        notes = {"description": description, "language": language, "kind": kind}
        given = {key: value or None for key, value in notes.items() if value is not None}
        with self._changing:
            path = self._own_path(name, "described")
            return self._write(replace(self[name], **given), name, path)  # type: ignore[arg-type]

    def trim(
        self, name: str, from_s: float, to_s: float, *, save_as: str, replace_own: bool = False
    ) -> VoiceEntry:
        """Keep a part of any voice as one of your own.

        Args:
            from_s, to_s: moments of the voice, seconds; as `Voice.cut`.
            save_as: a new name; or, with `replace_own`, that of your own voice to overwrite.

        Raises:
            InvalidSetting: the moments aren't within the voice, or too little is left.
            UnknownVoice, LayoutMismatch, DownloadError, MissingFiles: as `library[name]`.
            InvalidVoice, StorageError: as `save`.
        """
        return self.save(self[name].cut(from_s, to_s), save_as, replace_own=replace_own)

    def delete(self, name: str) -> None:
        """Remove a voice of your own; for a week `restore` brings the last of a name back.

        Raises:
            UnknownVoice: there is none of that name.
            InvalidVoice: it isn't your own.
            StorageError: it can't be removed.
        """
        with self._changing:
            path = self._own_path(name, "deleted")
            self._forget_deleted()
            _move(path, self._deleted_dir / f"{name}.npz")

    def restore(self, name: str) -> VoiceEntry:
        """Bring a deleted voice of your own back.

        Raises:
            UnknownVoice: none of that name was deleted within the last week.
            InvalidVoice: its name is taken by now.
            StorageError: it can't be written.
        """
        with self._changing:
            deleted = self._deleted_dir / f"{name}.npz"
            if unicodedata.normalize("NFC", name) not in self.deleted():
                raise UnknownVoice(
                    f"no voice {name[:100]!r} was deleted within the last week; look for its "
                    "file elsewhere"
                )
            self._check_free(name, self._own_files())
            _move(deleted, self._user_dir / deleted.name)
            return self.entry(name)

    def deleted(self) -> list[str]:
        """Names that `restore` takes."""
        return sorted(_voice_files(self._deleted_dir))

    # --- the parts of it

    def _load(self, entry: VoiceEntry, fetch: Callable[[str], Path] | None) -> Voice:
        name = entry.name
        layout = self._layout(entry.layout or BARK_LAYOUT.name, f"the voice {name!r}")
        if entry.source == "published":
            voice = self._load_published(entry, layout, fetch)
        else:
            path = self._own_files().get(name) if entry.source == "yours" else self._preset(name)
            if path is None:  # deleted in this moment
                raise UnknownVoice(self._unknown(name))
            voice = load_voice(path, layout=layout, name=name)
        return replace(
            voice,
            description=entry.description or voice.description,
            language=entry.language or voice.language,
            kind=entry.kind or voice.kind,
        )

    def _load_published(
        self, entry: VoiceEntry, layout: TokenLayout, fetch: Callable[[str], Path] | None
    ) -> Voice:
        if fetch is None:
            raise UnknownVoice(
                f"the published voice {entry.name!r} isn't on this machine, and downloads are "
                "off; load a published model first, or choose a bundled voice"
            )
        try:
            paths = [fetch(f"speaker_embeddings/{entry.name}_{key}.npy") for key in KEYS]
        except BarkError:
            raise
        except OSError as error:
            raise StorageError(f"can't fetch the voice {entry.name!r}: {error}") from error
        voice = load_voice_npy(*paths, layout=layout, name=entry.name)
        return replace(voice, source="Suno's published voices")

    def _layout(self, layout_name: str, what: str) -> TokenLayout:
        layout = self._layouts().get(layout_name)
        if layout is None:
            raise LayoutMismatch(
                f"{what} needs a model of the layout {layout_name[:64]!r}, which isn't here; "
                "install that model, or choose another voice"
            )
        return layout

    def _write(self, voice: Voice, name: str, path: Path) -> VoiceEntry:
        data = replace(voice, name=name).to_bytes()
        write_bytes_atomically(path, data, make_folder=True)
        return self._own_entry(name, path)

    def _check_free(self, name: str, own: Mapping[str, Path], *, but: str | None = None) -> None:
        folded = name.casefold()
        taken = next((n for n in self.names() if n != but and n.casefold() == folded), None)
        if taken is not None:
            raise InvalidVoice(
                f"the name {name!r} is taken by {taken!r}; choose another"
                + (", or delete that one first" if taken in own else "")
            )

    def _own_path(self, name: str, done: str) -> Path:
        if self.entry(name).source != "yours":
            raise InvalidVoice(f"{name!r} comes with the project; only your own can be {done}")
        return self._own_files()[name]

    def _text(self, entry: VoiceEntry) -> str:
        """What a search looks through."""
        code = entry.language or ""
        names = code, self.languages.get(code), self._english.get(code)
        parts = entry.name, entry.description, entry.kind, entry.source, *names
        return "\n".join(part for part in parts if part).casefold()

    def _unknown(self, name: str) -> str:
        by_folded = {known.casefold(): known for known in self.names()}
        close = difflib.get_close_matches(name[:100].casefold(), by_folded, n=3, cutoff=0.5)
        closest = ", ".join(repr(by_folded[folded]) for folded in close)
        what_next = f"closest: {closest}" if closest else "list them with 'voices'"
        return f"no voice {name[:100]!r}; {what_next}"

    def _preset(self, name: str) -> Path:
        return self._presets_dir / "voices" / f"{name}.npz"

    @property
    def _deleted_dir(self) -> Path:
        return self._user_dir / ".deleted"

    def _own_files(self) -> dict[str, Path]:
        """Files of the user's folder by the name of the voice; of clashing ones the first."""
        files = _voice_files(self._user_dir)
        return {
            name: path
            for name, path in files.items()
            if name not in self._bundled and name not in self._published
        }

    def _own_entry(self, name: str, path: Path) -> VoiceEntry:
        """Look at a file of the user's; again only when it has changed."""
        try:
            status = path.stat()
            stamp = status.st_mtime_ns, status.st_size
        except OSError:
            return _look_at(name, path)
        seen = self._seen.get(path)
        if seen is None or seen[0] != stamp or seen[1].name != name:
            seen = self._seen[path] = (stamp, _look_at(name, path))
        return seen[1]

    def _forget_deleted(self) -> None:
        too_old = time.time() - KEEP_DELETED_S
        for path in _voice_files(self._deleted_dir).values():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < too_old:
                    path.unlink()


def _look_at(name: str, path: Path) -> VoiceEntry:
    """What a file says of itself, without its arrays."""
    try:
        found = read_notes(path)
    except BarkError as error:
        return VoiceEntry(name, None, f"damaged: {error}", "", "yours", available=False)
    return VoiceEntry(
        name,
        found.notes.get("language"),
        found.notes.get("description"),
        found.layout,
        "yours",
        available=found.whole,
        kind=found.notes.get("kind"),
    )


def _voice_files(folder: Path) -> dict[str, Path]:
    """The .npz files of a folder by their names; none where it isn't there."""
    try:
        paths = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise storage_error("read", folder, error) from error
    files: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() == ".npz" and not path.name.startswith("."):
            files.setdefault(unicodedata.normalize("NFC", path.stem), path)
    return files


def _check_notes(language: str | None, kind: str | None) -> None:
    if language and not re.fullmatch(r"[a-z]{2,3}", language):
        raise InvalidVoice(
            f"a language is an ISO 639-1 code such as 'en', got {language[:40]!r}; "
            "give two small letters"
        )
    if kind and len(kind) > MAX_KIND_CHARACTERS:
        raise InvalidVoice(
            f"a voice's kind has at most {MAX_KIND_CHARACTERS} characters, got {len(kind)}; "
            "say more in its description"
        )


def _move(path: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
        # when it was moved, so that it is kept for a week from then on
        os.utime(target)
    except OSError as error:
        raise storage_error("move", path, error) from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error("delete", path, error) from error


def _known_layouts(models_dir: Path) -> dict[str, TokenLayout]:
    """Bark's layout, and those of the models that come with the project."""
    layouts = {BARK_LAYOUT.name: BARK_LAYOUT}
    for path in sorted(models_dir.glob("*/config.json")):
        try:
            config = CascadeConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, InvalidCheckpoint):
            continue  # loading that model will say what is wrong with it
        layouts.setdefault(config.layout.name, config.layout)
    return layouts
