"""The desk of scripts: keeps everybody's projects, makes their segments, mixes them.

    DATA/scripts/ID/about.json        whose it is and what it is called
    DATA/scripts/ID/draft.json        what was typed, in its segments or not yet
    DATA/scripts/ID/project.json, takes/    see bark_core.ProjectFolder
    DATA/scripts/ID/mix/KEY.flac      the whole, in the state of that key
    DATA/scripts/ID/run.json          the segments that a run has yet to make

A run survives its pages, and the process too: after a restart it goes on with what was left.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bark_core import (
    BarkError,
    Cue,
    GenerationError,
    GenerationRequest,
    InvalidRequest,
    LoadedModel,
    Mix,
    ModelError,
    Planner,
    Project,
    ProjectFolder,
    ProjectOptions,
    Script,
    Settings,
    StorageError,
    VoiceLibrary,
    script_to_text,
    write_audio,
    write_bytes_atomically,
)
from webui.history import History, is_id, new_id, peaks_of
from webui.models import ModelShelf
from webui.scheduler import QueuedJob, Scheduler
from webui.script_run import RunState, RunView, ScriptRun, Workshop

_log = logging.getLogger(__name__)

LOADING_S = 600.0  # a first start downloads
MAX_RUNS = 4  # of one person at a time
MAX_SCRIPTS = 1000  # of one person
MAX_DRAFT_CHARACTERS = 1_000_000
OPENING_CHARACTERS = 60
RUN = "run.json"


@dataclass(frozen=True, slots=True)
class About:
    """What the list of scripts says of one."""

    owner: str
    created_at: float
    title: str = ""
    opening: str = ""  # its first words, for one without a title
    entry_id: str = ""  # of its newest mix in the history


@dataclass(frozen=True, slots=True)
class ScriptEntry:
    """A script in the list."""

    id: str
    title: str
    opening: str
    changed_at: float


@dataclass(frozen=True, slots=True)
class Mixed:
    """The whole of a script, mixed and on the disk."""

    key: str
    path: Path
    duration_s: float
    peaks: tuple[int, ...]
    cues: tuple[Cue, ...]


@dataclass(frozen=True, slots=True)
class _Draft:
    """What was typed."""

    text: str = ""
    of: str = ""  # the words of the project that was made from it; "": none was yet


@dataclass(slots=True)
class _Kept:
    """A script as the desk keeps it."""

    about: About
    folder: ProjectFolder | None = None  # opened when it is first looked at
    draft: _Draft | None = None  # read when it is first looked at
    run: ScriptRun | None = None
    failures: dict[str, BarkError] = field(default_factory=dict)
    mixed: Mixed | None = None
    mixing: threading.Lock = field(default_factory=threading.Lock)
    lock: threading.RLock = field(default_factory=threading.RLock)


class ScriptDesk:
    """All scripts of all owners. All methods may be called from any thread."""

    def __init__(
        self,
        folder: Path,
        *,
        models: ModelShelf,
        voices_of: Callable[[str], VoiceLibrary],
        history: History,
        scheduler: Scheduler,
    ) -> None:
        self.folder = folder
        self._scheduler = scheduler
        self.admit: Callable[[str], None] = lambda owner: None  # raises where there is no room
        self._models, self._voices_of, self._history = models, voices_of, history
        self._lock = threading.RLock()
        self._kept: dict[str, _Kept] = {}
        self._current: dict[tuple[str, str], str] = {}  # owner, browser -> script
        self._closing = False
        for path in folder.glob("*/about.json"):
            about = _read_about(path)
            if about is not None and is_id(path.parent.name):
                self._kept[path.parent.name] = _Kept(about)

    def resume(self) -> None:
        """Go on with the runs that the last end of the studio cut off."""
        for script_id, kept in list(self._kept.items()):
            segment_ids = _read_run(self.folder / script_id / RUN)
            if not segment_ids:
                continue
            try:
                project = self.open(script_id, kept.about.owner).project
                there = {segment.id for segment in project.segments} | {Project.BACKGROUND}
                self.make(script_id, kept.about.owner, [s for s in segment_ids if s in there])
            except BarkError as error:
                _log.warning("script %s isn't gone on with: %s", script_id, type(error).__name__)
                self._set_left(script_id, ())

    def suspend(self) -> None:
        """The studio ends: no run begins a further segment; the next start goes on with them."""
        with self._lock:
            self._closing = True
            runs = [kept.run for kept in self._kept.values() if kept.run is not None]
        for run in runs:
            run.suspend()

    def close(self) -> None:
        """Stop all runs; what is finished is kept when this returns."""
        self.suspend()
        runs = [kept.run for kept in self._kept.values() if kept.run is not None]
        for run in runs:
            run.stop()
        for run in runs:
            run.finished.wait(timeout=10.0)

    # --- which scripts there are

    def entries(self, owner: str) -> list[ScriptEntry]:
        """An owner's scripts, the one that was changed last first."""
        with self._lock:
            abouts = [(key, kept.about) for key, kept in self._kept.items()]
        found = [
            ScriptEntry(key, about.title, about.opening, self._changed_at(key, about))
            for key, about in abouts
            if about.owner == owner
        ]
        return sorted(found, key=lambda entry: -entry.changed_at)

    def create(
        self,
        owner: str,
        *,
        model: str = "",
        title: str = "",
        browser: str = "",
        settings: Settings | None = None,
    ) -> str:
        """Begin a new script; returns its id.

        Raises:
            StorageError: it can't be written. InvalidRequest: there are too many.
        """
        with self._lock:
            if sum(kept.about.owner == owner for kept in self._kept.values()) >= MAX_SCRIPTS:
                raise InvalidRequest(
                    f"you have {MAX_SCRIPTS} scripts, which is the most there can be; "
                    "delete some first"
                )
            script_id = new_id()
            status = self._models.status(model)
            options = ProjectOptions(settings=settings or Settings())
            project = Project(
                model=status.name, layout_name=status.layout_name, title=title, options=options
            )
            kept = _Kept(About(owner, time.time(), title=project.title))
            kept.folder = ProjectFolder.create(self.folder / script_id, project)
            self._kept[script_id] = kept
            self._write_about(script_id, kept)
            self._current[owner, browser] = script_id
        return script_id

    def open(self, script_id: str, owner: str, *, browser: str = "") -> ProjectFolder:
        """A script to work with; the browser's pages begin with it from now on.

        Raises:
            InvalidRequest: there is none of that owner.
            InvalidText, StorageError: it is damaged or can't be read.
        """
        kept = self._mine(script_id, owner)
        with kept.lock:
            if kept.folder is None:
                kept.folder = ProjectFolder.open(self.folder / script_id)
        if browser:
            self._current[owner, browser] = script_id
        return kept.folder

    def current(self, owner: str, browser: str) -> str:
        """The script that a browser worked on last, or the owner's newest; "" if there is none."""
        current = self._current.get((owner, browser), "")
        if self.has(current, owner):
            return current
        entries = self.entries(owner)
        return entries[0].id if entries else ""

    def folders_of(self, owner: str) -> list[Path]:
        """Where somebody's scripts lie."""
        return [
            self.folder / script_id
            for script_id, kept in list(self._kept.items())
            if kept.about.owner == owner
        ]

    def has(self, script_id: str, owner: str) -> bool:
        kept = self._kept.get(script_id)
        return kept is not None and kept.about.owner == owner

    def about(self, script_id: str, owner: str) -> About:
        return self._mine(script_id, owner).about

    def rename(self, script_id: str, owner: str, title: str) -> None:
        folder = self.open(script_id, owner)
        named = folder.edit(lambda project: replace(project, title=title[:200]))
        self._note(script_id, title=named.title)

    def delete(self, script_id: str, owner: str) -> None:
        """Stop its run, and remove it with all its sound for good."""
        kept = self._mine(script_id, owner)
        if kept.run is not None:
            kept.run.stop()
            kept.run.finished.wait(timeout=10.0)
        with self._lock:
            self._kept.pop(script_id, None)
        path = self.folder / script_id
        with contextlib.suppress(OSError):
            (path / "about.json").unlink(missing_ok=True)  # so that a kill doesn't bring it back
        shutil.rmtree(path, ignore_errors=True)

    # --- its words

    def text(self, script_id: str, owner: str) -> tuple[str, bool]:
        """The script as text, and whether there is more in it than its segments say.

        As it was typed, as long as the segments weren't changed otherwise since.
        """
        folder, kept = self.open(script_id, owner), self._mine(script_id, owner)
        with kept.lock:
            if kept.draft is None:
                kept.draft = _read_draft(self.folder / script_id / "draft.json")
            draft = kept.draft
        if draft.text and not draft.of:
            return draft.text, True
        if draft.of and draft.of == _said(folder.project):
            return draft.text, False
        has_words = bool(folder.project.segments)
        return (script_to_text(folder.project.script) if has_words else ""), False

    def set_draft(
        self, script_id: str, owner: str, text: str, *, of: Project | None = None
    ) -> None:
        """Keep what is being typed, or (with `of`) what a project was made from.

        Raises:
            InvalidRequest: it is too long. StorageError: it can't be kept.
        """
        kept = self._mine(script_id, owner)
        if len(text) > MAX_DRAFT_CHARACTERS:
            raise InvalidRequest(
                f"the text has {len(text):,} characters; at most {MAX_DRAFT_CHARACTERS:,} are "
                "kept: split it into several scripts"
            )
        draft = _Draft(text, "" if of is None else _said(of))
        with kept.lock:
            if draft != kept.draft:
                # as ASCII: half a character of an emoji must not keep the rest from being kept
                data = json.dumps(asdict(draft)).encode("ascii")
                write_bytes_atomically(self.folder / script_id / "draft.json", data)
                kept.draft = draft

    def set_script(
        self, script_id: str, owner: str, script: Script, model: str, *, source: str | None = None
    ) -> Project:
        """Let a script say something else; what is still there keeps its takes.

        Args:
            source: the text that it was read from, where that is plain text.

        Raises:
            InvalidText: a line can't be planned. ModelError, GenerationError: no model to plan for.
        """
        planner = self.planner(model, owner)
        folder = self.open(script_id, owner)
        bundled = [
            entry.name
            for entry in self._voices_of(owner).entries(planner.layout_name)
            if entry.source == "bundled" and entry.available
        ]
        changed = folder.edit(
            lambda project: _cast(project.with_script(script, planner), project, bundled)
        )
        opening = changed.segments[0].line.text[:OPENING_CHARACTERS] if changed.segments else ""
        self._note(script_id, opening=opening, title=changed.title)
        self.set_draft(script_id, owner, source or "", of=changed if source else None)
        return changed

    def planner(self, model: str, owner: str) -> Planner:
        """The planner of a model and somebody's voices; waits while it is being loaded.

        Raises:
            ModelError, GenerationError: it can't be loaded.
        """
        known = self._loaded(model)
        entries = self._voices_of(owner).entries(known.front.config.layout.name)
        languages = {entry.name: entry.language for entry in entries}
        name = self._models.status(model).name
        return replace(Planner.of(known, languages.get), model=name)

    # --- its sound

    def make(self, script_id: str, owner: str, segment_ids: Iterable[str] | None = None) -> None:
        """Let segments get sound: these, or all that need it. Returns at once.

        Raises:
            GenerationError: the studio is closing, or too many runs go on.
            InvalidRequest: there is nothing to make. StorageError: there is no room for it.
        """
        self.admit(owner)
        folder = self.open(script_id, owner)
        wanted = tuple(folder.project.to_make if segment_ids is None else segment_ids)
        if not wanted:
            raise InvalidRequest("every segment has its sound; press New take for another one")
        kept = self._mine(script_id, owner)
        with self._lock:
            if self._closing:
                raise GenerationError("the studio is closing and takes no more jobs")
            if kept.run is not None:
                kept.failures |= kept.run.failures
                kept.run.failures.clear()
            for segment_id in wanted:
                kept.failures.pop(segment_id, None)
            if kept.run is not None and kept.run.add(wanted):
                return
            self._check_runs(owner)
            model = folder.project.model
            kept.run = ScriptRun(
                folder,
                wanted,
                workshop=lambda: self._workshop(model, owner),
                when_over=lambda run: self._over(script_id, run),
                when_left=lambda left: self._set_left(script_id, left),
            )
            kept.run.start()

    def stop(self, script_id: str, owner: str) -> bool:
        """Ask its run to end; False: none goes on."""
        run = self._mine(script_id, owner).run
        if run is None or run.state.over:
            return False
        run.stop()
        return True

    def run(self, script_id: str, owner: str) -> RunView | None:
        """How its run stands, or how the last one ended."""
        run = self._mine(script_id, owner).run
        return None if run is None else run.view()

    def failures(self, script_id: str, owner: str) -> Mapping[str, BarkError]:
        """What went wrong with segments since the studio was opened, by segment."""
        kept = self._mine(script_id, owner)
        of_run = kept.run.failures if kept.run is not None else {}
        return {**kept.failures, **of_run}

    def dismiss(self, script_id: str, owner: str) -> None:
        """Forget how the last run ended: it was read."""
        kept = self._mine(script_id, owner)
        if kept.run is not None and kept.run.state.over:
            kept.failures |= kept.run.failures
            kept.run = None

    def mixed(self, script_id: str, owner: str) -> Mixed | None:
        """The whole as it is on the disk; None where it isn't that of the present state."""
        kept = self._mine(script_id, owner)
        current = kept.folder.project.mix_key if kept.folder is not None else ""
        return kept.mixed if kept.mixed is not None and kept.mixed.key == current else None

    def mix(self, script_id: str, owner: str) -> Mixed:
        """Mix what has sound; takes some seconds for a long script.

        Raises:
            InvalidAudio: nothing has sound. StorageError: it can't be written.
        """
        kept, folder = self._mine(script_id, owner), self.open(script_id, owner)
        with kept.mixing:
            found = self.mixed(script_id, owner)
            return found or self._mix(script_id, kept, folder, folder.project)[0]

    def whole(self, script_id: str, owner: str) -> tuple[ProjectFolder, Mix]:
        """The mix itself, with its stems; made anew."""
        folder = self.open(script_id, owner)
        return folder, folder.mix()

    # --- the parts of it

    def _mix(
        self, script_id: str, kept: _Kept, folder: ProjectFolder, project: Project
    ) -> tuple[Mixed, Mix, dict[str, Any]]:
        """Mix, and keep it as a file; with what its tags tell."""
        made = folder.mix()
        path = self.folder / script_id / "mix" / f"{project.mix_key}.flac"
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(f"can't make {path.parent}: {error}; check the disk") from error
        details = {**folder.mix_metadata(made), "script": {"id": script_id}}
        write_audio(path, made.audio, details, stamp=self._history.stamp)
        for other in path.parent.iterdir():
            if other != path:
                with contextlib.suppress(OSError):
                    other.unlink()
        kept.mixed = Mixed(
            project.mix_key, path, made.audio.duration_s, peaks_of(made.audio), made.cues
        )
        return kept.mixed, made, details

    def _over(self, script_id: str, run: ScriptRun) -> None:
        """A run has ended: where the script is complete now, its whole goes into the history."""
        if not self._closing:
            self._set_left(script_id, ())
        kept = self._kept.get(script_id)
        project = run.folder.project
        if kept is None or run.state is not RunState.DONE or not run.made or project.to_make:
            return
        if any(segment.take is None for segment in project.segments):
            return
        try:
            with kept.mixing:
                _, made, details = self._mix(script_id, kept, run.folder, project)
            self._keep(script_id, kept, made, details)
        except BarkError as error:
            _log.warning("the script %s isn't in the history: %s", script_id, error)

    def _set_left(self, script_id: str, segment_ids: Sequence[str]) -> None:
        """Note on the disk what a run has yet to make."""
        path = self.folder / script_id / RUN
        try:
            if segment_ids:
                write_bytes_atomically(path, json.dumps(list(segment_ids)).encode())
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s wouldn't go on after a restart: %s", script_id, error)

    def _keep(self, script_id: str, kept: _Kept, made: Mix, details: Mapping[str, Any]) -> None:
        """Put the whole into the history, in the place of the one before, unless that is dear."""
        owner = kept.about.owner
        entry = self._history.add_sound(made.audio, details, owner=owner)
        old = self._history.get(kept.about.entry_id, owner=owner) if kept.about.entry_id else None
        if old is not None and not old.favourite and not old.tags:
            self._history.delete(old.id, owner=owner)
        self._note(script_id, entry_id=entry.id)

    def _workshop(self, model: str, owner: str) -> Workshop:
        """What a run works with; its model is loaded if need be."""
        known, name = self._loaded(model), self._models.status(model).name

        def submit(request: GenerationRequest) -> QueuedJob:
            texts = [segment.text for segment in known.front.plan(request)]
            return self._scheduler.submit(
                request, model=name, owner=owner, texts=texts, durable=False
            )

        return Workshop(
            submit=submit,
            place=self._scheduler.place,
            layout=known.front.config.layout,
            pace=self._models.pace(model),
            voice=self._voices_of(owner).__getitem__,
        )

    def _loaded(self, model: str) -> LoadedModel:
        """A loaded model, or one that was loaded and can be again."""
        known = self._models.known(model)
        if known is not None:
            return known
        status = self._models.status(model)
        if not status.coming:
            self._models.load(model)
        if not self._models.settled(model).wait(timeout=LOADING_S):
            raise ModelError(
                f"the model {status.name} isn't loaded after {LOADING_S:.0f} s; wait until "
                "it is ready and try again"
            )
        known = self._models.known(model)
        if known is None:
            error = self._models.status(model).error
            raise error or ModelError(f"the model {model} couldn't be loaded; look in System")
        return known

    def _check_runs(self, owner: str) -> None:
        runs = [kept.run for kept in self._kept.values() if kept.about.owner == owner]
        if sum(run is not None and not run.state.over for run in runs) >= MAX_RUNS:
            raise GenerationError(
                f"{MAX_RUNS} of your scripts are being made already; wait until one is done"
            )

    def _mine(self, script_id: str, owner: str) -> _Kept:
        kept = self._kept.get(script_id)
        if kept is None or kept.about.owner != owner:
            raise InvalidRequest("that script was deleted meanwhile; choose another one")
        return kept

    def _changed_at(self, script_id: str, about: About) -> float:
        try:
            return (self.folder / script_id / "project.json").stat().st_mtime
        except OSError:
            return about.created_at

    def _note(self, script_id: str, **facts: str) -> None:
        kept = self._kept[script_id]
        changed = replace(kept.about, **facts)  # type: ignore[arg-type]
        if changed != kept.about:
            kept.about = changed
            self._write_about(script_id, kept)

    def _write_about(self, script_id: str, kept: _Kept) -> None:
        text = json.dumps(asdict(kept.about), ensure_ascii=False, indent=1)
        write_bytes_atomically(self.folder / script_id / "about.json", text.encode())


def _read_about(path: Path) -> About | None:
    try:
        return About(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        _log.warning("%s can't be read; the script beside it isn't shown", path)
        return None


def _read_run(path: Path) -> list[str]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [str(segment_id) for segment_id in told] if isinstance(told, list) else []


def _read_draft(path: Path) -> _Draft:
    try:
        return _Draft(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _Draft()


def _cast(project: Project, before: Project, bundled: Sequence[str]) -> Project:
    """Give new speakers without a voice one that came with the model, each another one."""
    free = [name for name in bundled if name not in project.voices.values()]
    for speaker in project.speakers:
        is_new = speaker not in before.voices and project.voices[speaker] is None
        if is_new and free:
            project = project.with_speaker_voice(speaker, free.pop(0))
    return project


def _said(project: Project) -> str:
    """What of a project its text says, as a hash."""
    return hashlib.sha256(script_to_text(project.script).encode()).hexdigest()[:32]
