"""Voices: history prompts that the stages continue, and so speak like.

A voice is the tokens of something already said, in one `.npz` file:

    semantic_prompt [S]      coarse_prompt [2, T]      fine_prompt [8, T]

    S at 49.9 Hz, T at 75 Hz in Bark, both from the same moment on

It belongs to a token layout. A file saved here says which in `layout`, and more of itself as
JSON in `metadata`; a file without `layout` is a published Bark voice.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import itertools
import json
import stat
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
import platformdirs
from numpy.typing import NDArray

from bark_core.config import BARK_LAYOUT, CascadeConfig, TokenLayout
from bark_core.errors import (
    BarkError,
    InvalidCheckpoint,
    InvalidTokens,
    InvalidVoice,
    LayoutMismatch,
    StorageError,
    UnknownVoice,
)
from bark_core.files import storage_error, write_bytes_atomically
from bark_core.npz import MAX_ARRAY_BYTES, MAX_FILE_BYTES, NpzReader, npz_bytes, parse_integers
from bark_core.tokens import CoarseCodes, FineCodes, SemanticTokens

KEYS = ("semantic_prompt", "coarse_prompt", "fine_prompt")
MAX_MISFIT_FRAMES = 8  # a tenth of a second in Bark: cloned voices are trimmed by as much
MAX_NAME_CHARACTERS = 64
MAX_NAME_BYTES = 200  # file systems allow 255, suffixes included
MAX_NOTE_CHARACTERS = 2_000  # of a name, a description, ...
_METADATA = ("name", "description", "language", "source", "kind")
_DEVICE_NAMES = {"con", "prn", "aux", "nul"} | {
    f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"
}

Source = Literal["bundled", "yours", "published"]


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """A history prompt. All three parts have one layout; coarse and fine have as many frames.

    Attributes:
        name: as in the library; empty for one that isn't in it.
        description: who is heard, for people.
        language: an ISO 639-1 code.
        source: where it comes from, for people.
        kind: how it came to be: "announcer", "v1", "v2", "generated", "cloned", ...

    Raises:
        LayoutMismatch: the parts are of different layouts.
        InvalidVoice: coarse and fine differ in length.
    """

    semantic: SemanticTokens
    coarse: CoarseCodes
    fine: FineCodes
    name: str = ""
    description: str | None = None
    language: str | None = None
    source: str | None = None
    kind: str | None = None

    def __post_init__(self) -> None:
        names = {part.layout.name for part in (self.semantic, self.coarse, self.fine)}
        if len(names) > 1:
            raise LayoutMismatch(
                f"the parts of a voice must share one layout, got {', '.join(sorted(names))}"
            )
        if self.coarse.n_frames != self.fine.n_frames:
            raise InvalidVoice(
                "coarse and fine codes must have as many frames, "
                f"got {self.coarse.n_frames} and {self.fine.n_frames}"
            )

    @property
    def layout(self) -> TokenLayout:
        """The layout of the models that can use it."""
        return self.semantic.layout

    @property
    def duration_s(self) -> float:
        """How long the sound is that it was taken from."""
        return self.fine.duration_s

    @property
    def sha256(self) -> str:
        """Hash of the layout's name and the arrays, the same whatever file they came from."""
        digest = hashlib.sha256(self.layout.name.encode())
        for values in self._values:
            digest.update(repr(values.shape).encode())
            digest.update(values.astype("<i2").tobytes())
        return digest.hexdigest()

    @property
    def _values(self) -> tuple[NDArray[Any], ...]:
        return self.semantic.values, self.coarse.values, self.fine.values

    def to_bytes(self) -> bytes:
        """The `.npz` file, as `save` writes it. The same voice gives the same bytes.

        Raises:
            InvalidVoice: the name or another note is longer than 2,000 characters.
        """
        metadata = {key: _printable(value) for key in _METADATA if (value := getattr(self, key))}
        arrays: dict[str, NDArray[Any]] = dict(zip(KEYS, self._values, strict=True))
        arrays["layout"] = np.array(self.layout.name)
        arrays["metadata"] = np.array(json.dumps(metadata, ensure_ascii=False))
        return npz_bytes(arrays)

    def save(self, path: str | Path) -> None:
        """Write the voice to a `.npz` file, whole or not at all.

        Raises:
            StorageError: full disk, no permission, no such folder.
        """
        write_bytes_atomically(Path(path), self.to_bytes())


def load_voice(
    source: str | Path | bytes | BinaryIO, *, layout: TokenLayout, name: str | None = None
) -> Voice:
    """Read a voice for a model of `layout` from an untrusted `.npz`.

    Coarse and fine codes, or codes and semantic tokens, that don't cover the same time are
    trimmed at their end if they are up to MAX_MISFIT_FRAMES apart.

    Args:
        source: a path, the bytes of a file, or a binary file.
        name: given to the voice; None takes the file's own.

    Raises:
        UnknownVoice: there is no such file.
        InvalidVoice: it isn't a voice, or is damaged or unsafe.
        LayoutMismatch: it was made for models of another layout.
        StorageError: the file can't be read.
    """
    data, label = _bytes_of(source, MAX_FILE_BYTES)
    with _naming(label):
        reader = NpzReader(data)
        _check_layout(_layout_name(reader), layout)
        missing = [key for key in KEYS if key not in reader]
        if missing:
            raise InvalidVoice(
                f"a voice has the arrays {', '.join(KEYS)}; {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing, it has "
                f"{', '.join(reader.keys)[:200] or 'none'}"
            )
        semantic, coarse, fine = (reader.integers(key) for key in KEYS)
        voice = _with_notes(_fitted(semantic, coarse, fine, layout), _metadata(reader))
        return replace(voice, name=(voice.name or _stem(source)) if name is None else name)


def load_voice_npy(
    semantic_path: str | Path,
    coarse_path: str | Path,
    fine_path: str | Path,
    *,
    layout: TokenLayout,
    name: str = "",
) -> Voice:
    """Read a published voice from three `.npy` files, as the transformers layout has them.

    Raises:
        UnknownVoice, InvalidVoice, LayoutMismatch, StorageError: as `load_voice`.
    """
    arrays = []
    for path in (semantic_path, coarse_path, fine_path):
        data, label = _bytes_of(path, MAX_ARRAY_BYTES)
        with _naming(label):
            arrays.append(parse_integers(data))
    semantic, coarse, fine = arrays
    with _naming(name or str(semantic_path)):
        _check_layout(BARK_LAYOUT.name, layout)
        return replace(_fitted(semantic, coarse, fine, layout), name=name)


@contextlib.contextmanager
def _naming(label: str) -> Iterator[None]:
    """Put the file's name in front of what is wrong with it."""
    try:
        yield
    except (InvalidVoice, LayoutMismatch) as error:
        raise type(error)(f"{label}: {error}") from error


def _bytes_of(source: str | Path | bytes | BinaryIO, most: int) -> tuple[bytes, str]:
    """Content and a name for messages, reading at most `most` + 1 bytes."""
    if isinstance(source, bytes):
        return source, "this voice file"
    if not isinstance(source, (str, Path)):
        label = str(getattr(source, "name", "this voice file"))
        try:
            data = source.read(most + 1)
        except (OSError, ValueError) as error:
            raise StorageError(f"can't read {label}: {error}; give it again") from error
        if not isinstance(data, bytes):
            raise InvalidVoice(f"{label} must be opened in binary mode; open it with 'rb'")
        return data, label
    path = Path(source)
    try:
        # before it is opened: opening a pipe waits for its other end
        if stat.S_ISREG(path.stat().st_mode):
            with path.open("rb") as file:
                return file.read(most + 1), str(path)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise UnknownVoice(f"there is no voice file {str(path)!r}; check the path") from error
    except OSError as error:
        raise storage_error("read", path, error) from error
    raise InvalidVoice(f"{path} isn't a file; give the path of an .npz file")


def _stem(source: object) -> str:
    return Path(source).stem if isinstance(source, (str, Path)) else ""


def _layout_name(reader: NpzReader) -> str:
    return reader.string("layout") if "layout" in reader else BARK_LAYOUT.name


def _check_layout(found: str, layout: TokenLayout) -> None:
    if found != layout.name:
        needed = "'small' or 'large'" if found == BARK_LAYOUT.name else f"{found[:64]!r}"
        raise LayoutMismatch(
            f"it needs a model of the layout {found[:64]!r}, and this one's is {layout.name!r}; "
            f"load {needed}, or choose a voice of the layout {layout.name!r}"
        )


def _metadata(reader: NpzReader) -> dict[str, str]:
    """What the file says of itself. It is decoration: what can't be read is left out."""
    if "metadata" not in reader:
        return {}
    try:
        values = json.loads(reader.string("metadata"))
    except (InvalidVoice, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    texts = {key: value for key in _METADATA if isinstance(value := values.get(key), str)}
    with contextlib.suppress(InvalidVoice):
        return {key: _printable(value) for key, value in texts.items()}
    return {}


def _with_notes(voice: Voice, notes: Mapping[str, str]) -> Voice:
    return replace(
        voice,
        name=notes.get("name", ""),
        description=notes.get("description"),
        language=notes.get("language"),
        source=notes.get("source"),
        kind=notes.get("kind"),
    )


def _printable(text: str) -> str:
    if len(text) > MAX_NOTE_CHARACTERS:
        raise InvalidVoice(
            f"a voice's notes have at most {MAX_NOTE_CHARACTERS:,} characters each, "
            f"got {len(text):,}; shorten {text[:40]!r}"
        )
    visible = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(unicodedata.normalize("NFC", visible).split())


def _fitted(
    semantic: NDArray[Any], coarse: NDArray[Any], fine: NDArray[Any], layout: TokenLayout
) -> Voice:
    """A voice of these arrays, checked, trimmed to the same time where they nearly agree."""
    try:
        tokens = SemanticTokens(semantic, layout)
        coarse_codes, fine_codes = CoarseCodes(coarse, layout), FineCodes(fine, layout)
    except InvalidTokens as error:
        raise InvalidVoice(f"{error}; this isn't a voice of the layout {layout.name!r}") from error
    lengths = coarse_codes.n_frames, fine_codes.n_frames
    if abs(lengths[0] - lengths[1]) > MAX_MISFIT_FRAMES:
        raise InvalidVoice(
            f"coarse and fine codes must have as many frames, got {lengths[0]} and {lengths[1]}; "
            f"up to {MAX_MISFIT_FRAMES} are trimmed"
        )
    n_semantic, n_frames = _common_length(len(tokens), min(lengths), layout)
    return Voice(
        semantic=SemanticTokens(tokens.values[:n_semantic], layout),
        coarse=CoarseCodes(coarse_codes.values[:, :n_frames], layout),
        fine=FineCodes(fine_codes.values[:, :n_frames], layout),
    )


def _common_length(n_semantic: int, n_frames: int, layout: TokenLayout) -> tuple[int, int]:
    """(semantic tokens, frames) to keep, so that both end at the same time."""
    ratio = layout.frames_per_semantic
    if round(n_frames / n_semantic, 1) == round(ratio, 1):
        return n_semantic, n_frames
    expected = n_semantic * ratio
    if abs(n_frames - expected) > MAX_MISFIT_FRAMES:
        raise InvalidVoice(
            f"{n_semantic} semantic tokens go with about {expected:.0f} frames of codes, got "
            f"{n_frames}; up to {MAX_MISFIT_FRAMES} are trimmed. Make the voice again from one "
            "recording"
        )
    if n_frames > expected:
        return n_semantic, max(1, round(expected))
    return max(1, round(n_frames / ratio)), n_frames


@dataclass(frozen=True, slots=True)
class VoiceEntry:
    """What the library knows of a voice without loading it."""

    name: str
    language: str | None  # ISO 639-1
    description: str | None
    layout: str  # name of the layout of the models that can use it; "" where it can't be read
    source: Source
    available: bool  # False: its file is missing or damaged, or nothing can fetch it
    kind: str | None = None  # "announcer", "v1" and "v2" are Suno's


class VoiceLibrary:
    """Voices by name: those that come with the project, Suno's published ones, your own.

    `library["rosa"]` loads one; `in`, `len` and iteration are over the names. Nothing is read
    or fetched before it is asked for. Thread-safe: files are the only state.
    """

    def __init__(
        self,
        *,
        presets_dir: Path,
        user_dir: Path,
        layouts: Callable[[], Mapping[str, TokenLayout]],
        fetch: Callable[[str], Path] | None = None,
    ) -> None:
        """Prefer `default`.

        Args:
            presets_dir: holds voices.toml and voices/*.npz.
            user_dir: holds one's own .npz files; made when the first is saved.
            layouts: gives the known layouts by name.
            fetch: gives a local path for a file of the hub repository of the published model,
                such as "speaker_embeddings/v2/en_speaker_6_fine_prompt.npy".

        Raises:
            StorageError: voices.toml is missing or damaged.
        """
        self._presets_dir, self._user_dir = presets_dir, user_dir
        self._layouts, self._fetch = layouts, fetch
        path = presets_dir / "voices.toml"
        try:
            catalogue = _read_catalogue(path)
            self.languages: Mapping[str, str] = dict(catalogue["languages"])
            """Languages' own names by their ISO 639-1 codes."""
            self._bundled = _bundled_entries(catalogue)
            self._published = _published_entries(catalogue, available=fetch is not None)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise StorageError(
                f"the catalogue of voices {path} is damaged ({error!r}); get it again"
            ) from error

    @classmethod
    def default(
        cls,
        user_dir: str | Path | None = None,
        *,
        fetch: Callable[[str], Path] | None = None,
        layouts: Iterable[TokenLayout] = (),
    ) -> Self:
        """The library of this installation.

        Args:
            user_dir: one's own voices; None: the folder for user data of the operating system.
            fetch: as in `__init__`; without it published voices are listed, not available.
            layouts: of models that don't come with the project, so that their voices load.
        """
        more = {layout.name: layout for layout in layouts}
        root = Path(__file__).resolve().parent.parent
        if user_dir is None:
            user_dir = platformdirs.user_data_path("bark-studio", appauthor=False) / "voices"
        return cls(
            presets_dir=root / "presets",
            user_dir=Path(user_dir),
            layouts=lambda: more | _known_layouts(root / "models"),
            fetch=fetch,
        )

    def __getitem__(self, name: str) -> Voice:
        """Load a voice.

        Raises:
            UnknownVoice: no voice has that name; the message has the closest ones.
            InvalidVoice, StorageError: its file is damaged or can't be read.
            LayoutMismatch: it was made for a model that isn't here.
            DownloadError, MissingFiles: it has to be fetched, and can't be.
        """
        entry = self._entry(name)
        layout = self._layouts().get(entry.layout)
        if layout is None and entry.layout:
            raise LayoutMismatch(
                f"the voice {name!r} needs a model of the layout {entry.layout!r}, which isn't "
                "here; install that model, or choose another voice"
            )
        if entry.source == "published":
            voice = self._load_published(entry, layout or BARK_LAYOUT)
        else:
            path = self._own_files()[name] if entry.source == "yours" else self._preset(name)
            voice = load_voice(path, layout=layout or BARK_LAYOUT, name=name)
        return replace(
            voice,
            description=entry.description or voice.description,
            language=entry.language or voice.language,
            kind=entry.kind or voice.kind,
        )

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

    def entries(self, layout_name: str | None = None) -> list[VoiceEntry]:
        """All voices, or those for models of one layout: bundled, your own, published."""
        bundled = [
            replace(entry, available=self._preset(entry.name).is_file())
            for entry in self._bundled.values()
        ]
        own = (_own_entry(name, path) for name, path in self._own_files().items())
        every = itertools.chain(bundled, own, self._published.values())
        return [entry for entry in every if layout_name in (None, entry.layout)]

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
        own = self._own_files()
        taken = next((n for n in self.names() if n.casefold() == name.casefold()), None)
        if taken is not None and not (replace_own and taken == name and name in own):
            raise InvalidVoice(
                f"the name {name!r} is taken by {taken!r}; choose another"
                + (", or delete that one first" if taken in own else "")
            )
        path = own.get(name, self._user_dir / f"{name}.npz")
        data = replace(voice, name=name).to_bytes()
        write_bytes_atomically(path, data, make_folder=True)
        return _own_entry(name, path)

    def delete(self, name: str) -> None:
        """Remove a voice of your own.

        Raises:
            UnknownVoice: there is none of that name.
            InvalidVoice: it isn't your own.
            StorageError: it can't be removed.
        """
        if self._entry(name).source != "yours":
            raise InvalidVoice(f"{name!r} comes with the project; only your own can be deleted")
        path = self._own_files()[name]
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error("delete", path, error) from error

    def _entry(self, name: str) -> VoiceEntry:
        entry = self._bundled.get(name) or self._published.get(name)
        if entry is not None:
            return entry
        path = self._own_files().get(name)
        if path is not None:
            return _own_entry(name, path)
        raise UnknownVoice(self._unknown(str(name)))

    def _unknown(self, name: str) -> str:
        by_folded = {known.casefold(): known for known in self.names()}
        close = difflib.get_close_matches(name[:100].casefold(), by_folded, n=3, cutoff=0.5)
        closest = ", ".join(repr(by_folded[folded]) for folded in close)
        what_next = f"closest: {closest}" if closest else "list them with 'voices'"
        return f"no voice {name[:100]!r}; {what_next}"

    def _preset(self, name: str) -> Path:
        return self._presets_dir / "voices" / f"{name}.npz"

    def _own_files(self) -> dict[str, Path]:
        """Files of the user's folder by the name of the voice; of clashing ones the first."""
        try:
            paths = sorted(self._user_dir.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise storage_error("read", self._user_dir, error) from error
        files: dict[str, Path] = {}
        for path in paths:
            name = unicodedata.normalize("NFC", path.stem)
            shadowed = name in self._bundled or name in self._published
            if path.suffix.lower() == ".npz" and not name.startswith(".") and not shadowed:
                files.setdefault(name, path)
        return files

    def _load_published(self, entry: VoiceEntry, layout: TokenLayout) -> Voice:
        if self._fetch is None:
            raise UnknownVoice(
                f"the published voice {entry.name!r} isn't on this machine, and downloads are "
                "off; load a published model first, or choose a bundled voice"
            )
        try:
            paths = [self._fetch(f"speaker_embeddings/{entry.name}_{key}.npy") for key in KEYS]
        except BarkError:
            raise
        except OSError as error:
            raise StorageError(f"can't fetch the voice {entry.name!r}: {error}") from error
        voice = load_voice_npy(*paths, layout=layout, name=entry.name)
        return replace(voice, source="Suno's published voices")


def valid_name(name: str) -> str:
    """The name, NFC-normalised, if it can name a voice and its file on every system.

    Raises:
        InvalidVoice: it can't; the message says why.
    """
    if not isinstance(name, str):
        raise InvalidVoice(f"a voice's name must be text, got {type(name).__name__}")
    name = unicodedata.normalize("NFC", name)
    n_bytes = len(name.encode(errors="replace"))
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS or n_bytes > MAX_NAME_BYTES:
        raise InvalidVoice(
            f"a voice's name must have 1..{MAX_NAME_CHARACTERS} characters, got {len(name)}; "
            "choose a shorter one"
        )
    wrong = [c for c in name if not (c.isalnum() or c in " -_." or _is_mark(c))]
    if wrong:
        raise InvalidVoice(
            "a voice's name may have letters, digits, spaces, '-', '_' and '.', "
            f"got {wrong[0]!r}; choose another"
        )
    if name[0] in " ." or name[-1] in " ." or _is_mark(name[0]):
        raise InvalidVoice(
            f"a voice's name must not begin or end with a space or a dot, got {name!r}"
        )
    if name.split(".")[0].strip().casefold() in _DEVICE_NAMES:
        raise InvalidVoice(f"{name!r} is the name of a device on Windows; choose another")
    return name


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Mc")


def _own_entry(name: str, path: Path) -> VoiceEntry:
    """Look at a file of the user's without loading its arrays."""
    try:
        reader = NpzReader(_bytes_of(path, MAX_FILE_BYTES)[0])
        layout, metadata = _layout_name(reader), _metadata(reader)
    except BarkError as error:
        return VoiceEntry(name, None, f"damaged: {error}", "", "yours", available=False)
    return VoiceEntry(
        name,
        metadata.get("language"),
        metadata.get("description"),
        layout,
        "yours",
        available=all(key in reader for key in KEYS),
        kind=metadata.get("kind"),
    )


def _read_catalogue(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StorageError(
            f"the catalogue of voices {path} is missing; get the project's files again"
        ) from error
    except OSError as error:
        raise storage_error("read", path, error) from error


def _bundled_entries(catalogue: Mapping[str, Any]) -> dict[str, VoiceEntry]:
    return {
        name: VoiceEntry(
            name,
            item.get("language"),
            item.get("description"),
            item["layout"],
            "bundled",
            available=False,
            kind=item.get("kind"),
        )
        for name, item in catalogue["bundled"].items()
    }


def _published_entries(catalogue: Mapping[str, Any], *, available: bool) -> dict[str, VoiceEntry]:
    published = catalogue["published"]
    notes = published["descriptions"]
    speakers = [("announcer", "en", "announcer")] + [
        (f"{folder}{language}_speaker_{number}", language, kind)
        for folder, kind in (("v2/", "v2"), ("", "v1"))
        for language in published["languages"]
        for number in range(published["speakers"])
    ]
    return {
        name: VoiceEntry(
            name, language, notes.get(name), published["layout"], "published", available, kind
        )
        for name, language, kind in speakers
    }


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
