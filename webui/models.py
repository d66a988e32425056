"""The shelf of models: which there are, what of them is here, which are loaded.

Everything that takes time (downloading, converting, loading, unloading) goes on behind the
pages, on a thread for each model; a page looks at it through `ModelStatus`. What comes of it is
told to whoever subscribed.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from bark_core import (
    Audio,
    Backend,
    BarkError,
    Cancelled,
    Candidate,
    CascadeConfig,
    DeviceInfo,
    DownloadProgress,
    FineCodes,
    Fit,
    FrontEnd,
    GenerationError,
    InvalidSetting,
    LoadedModel,
    MissingFiles,
    ModelInfo,
    ModelSpec,
    OutOfMemory,
    ProgressCallback,
    Recommendation,
    Stored,
    TokenLayout,
    UnknownModel,
    Verdict,
    default_cache,
    disk_needed,
    known_models,
    model_config,
    models_in_cache,
    preflight,
    recommend,
    remove_model,
    stored,
)
from webui.pace import Pace
from webui.preferences import OFFLOAD, Choice, Preferences, read_preferences, write_preferences
from webui.settings import StudioSettings

_log = logging.getLogger(__name__)

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # "owner/name"
WAKING_S = 120.0  # most that somebody waits for a model that was asleep
SPEED_OVER_S = 8.0  # how far back the speed of a download looks


class ModelState(StrEnum):
    """Where a model is in its life."""

    ABSENT = "absent"  # nothing of it is here
    PARTIAL = "partial"  # a part of its download is here; it can be resumed
    DOWNLOADING = "downloading"
    CHECKING = "checking"
    CONVERTING = "converting"
    HERE = "here"  # on the disk, not in memory
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"
    REMOVING = "removing"
    FAILED = "failed"  # what was tried last didn't work

    @property
    def busy(self) -> bool:
        return self in _BUSY


_BUSY = {
    ModelState.DOWNLOADING,
    ModelState.CHECKING,
    ModelState.CONVERTING,
    ModelState.LOADING,
    ModelState.UNLOADING,
    ModelState.REMOVING,
}
_STEPS = {
    "download": ModelState.DOWNLOADING,
    "check": ModelState.CHECKING,
    "convert": ModelState.CONVERTING,
}


@dataclass(frozen=True, slots=True)
class Transfer:
    """How far a download, its check or the conversion has come."""

    done_bytes: int
    total_bytes: int
    bytes_per_s: float | None  # None: too early to tell
    left_s: float | None  # an estimate


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model as a page shows it, at one moment."""

    name: str
    title: str
    description: str
    source: str  # hub repository, "bundled" or a folder's name
    state: ModelState
    installed: bool  # loading it needs no network
    default: bool  # pages begin with it
    default_next: bool  # and will after the next start
    demonstration: bool
    removable: bool  # it was downloaded, and can be again
    added: bool  # a person put it on the shelf
    layout_name: str  # "" until it is known
    stored: Stored
    transfer: Transfer | None
    choice: Choice
    devices: tuple[str, ...]  # of the loaded one, "cpu", "cuda:0", ...: one for each worker
    precision: str | None
    offloaded: bool
    n_unfinished: int  # jobs that wait or run
    restarting: bool  # its worker died and is being brought back
    asleep: bool  # unloaded because nobody used it
    error: BarkError | None

    @property
    def loaded(self) -> bool:
        return bool(self.devices)

    @property
    def coming(self) -> bool:
        """It will be loaded without anybody's doing."""
        return self.state is ModelState.LOADING


class Jobs(Protocol):
    """What the shelf needs of the queue."""

    def n_unfinished(self, model: str) -> int: ...

    def stop_model(self, model: str) -> None: ...


class _NoJobs:
    def n_unfinished(self, model: str) -> int:
        return 0

    def stop_model(self, model: str) -> None:
        pass


@dataclass(slots=True)
class _Model:
    """What the shelf keeps of one model. Guarded by the shelf's lock."""

    name: str
    source: str  # what load() takes
    info: ModelInfo | None
    stored: Stored
    config: CascadeConfig | None
    choice: Choice = field(default_factory=Choice)
    state: ModelState = ModelState.ABSENT
    transfer: Transfer | None = None
    error: BarkError | None = None
    loaded: LoadedModel | None = None
    known: LoadedModel | None = None  # as it was loaded last: it plans texts still
    asleep: bool = False  # unloaded because nobody used it; whoever needs it wakes it
    pace: Pace | None = None
    stopping: bool = False
    to_load: bool = False  # what goes on ends with it loaded
    used_at: float = 0.0
    settled: threading.Event = field(default_factory=threading.Event)  # loaded, or failed to be


def _in_process() -> Backend:
    from bark_core import InProcessBackend  # only then torch has to be here

    return InProcessBackend()


class ModelShelf:
    """All models that this studio knows.

    Args:
        settings: names the default model, device and precision, the cache, the hub.
        backend: loads them and runs their jobs; one in this process by default.
        devices: asks the machine; another one in tests.
    """

    def __init__(
        self,
        settings: StudioSettings,
        *,
        backend: Backend | None = None,
        devices: Callable[[], tuple[DeviceInfo, ...]] | None = None,
    ) -> None:
        self._settings = settings
        self.backend = backend or _in_process()
        self._devices = devices or self.backend.devices
        self._jobs: Jobs = _NoJobs()
        self._preferences = read_preferences(settings.data_folder)
        self._lock = threading.RLock()
        self._models: dict[str, _Model] = {}
        self._subscribers: list[Callable[[str], None]] = []
        self._closing = False
        self.version = 0  # changes with everything that a list of models would show
        for info in known_models():
            self._put(info.name, info.name, info)
        for name, source in models_in_cache(settings.cache).items():
            if name not in self._models:
                self._put(name, source, None)
        self.default = self._first()
        self.backend.watch(self._look_for_lost)

    # --- what there is

    def names(self) -> list[str]:
        """All models, the default one first."""
        with self._lock:
            return sorted(self._models, key=lambda name: name != self.default)

    def usable(self) -> list[str]:
        """Those that a request can be made with: loaded, or on the disk."""
        return [name for name in self.names() if self._usable(self.status(name))]

    def status(self, name: str = "") -> ModelStatus:
        """Raises UnknownModel: there is no such model."""
        with self._lock:
            model = self._model(name)
            placement = model.loaded.placement if model.loaded else None
            return ModelStatus(
                name=model.name,
                title=model.info.title if model.info else model.name,
                description=model.info.description if model.info else "",
                source=model.info.source if model.info else _shown_source(model.source),
                state=model.state,
                installed=model.stored.installed,
                default=model.name == self.default,
                default_next=model.name == (self._preferences.model or self.default),
                demonstration=self._demonstration(model),
                removable=model.stored.disk_bytes > 0,
                added=model.info is None,
                layout_name=model.config.layout.name if model.config else "",
                stored=model.stored,
                transfer=model.transfer,
                choice=model.choice,
                devices=_devices_of(model.loaded),
                precision=placement.precision if placement else None,
                offloaded=placement.offload if placement else False,
                n_unfinished=self._jobs.n_unfinished(model.name),
                restarting=model.loaded is not None and not self.backend.capacity(model.name),
                asleep=model.asleep,
                error=model.error,
            )

    def loaded(self, name: str = "") -> LoadedModel | None:
        """A loaded model; None while it isn't loaded."""
        with self._lock:
            return self._model(name).loaded

    def known(self, name: str = "") -> LoadedModel | None:
        """A model that is or was loaded: texts can be planned with it; None if it never was."""
        with self._lock:
            return self._model(name).known

    def usable_now(self, name: str) -> LoadedModel | None:
        """A model that is loaded, or asleep and woken by whoever uses it."""
        with self._lock:
            model = self._model(name)
            return model.known if model.asleep else model.loaded

    def front(self, name: str = "") -> FrontEnd | None:
        """What plans a model's texts and counts their tokens; None until it was loaded once."""
        known = self.known(name)
        return None if known is None else known.front

    def decode(self, name: str, fine: FineCodes) -> Audio:
        """Fine codes to sound, with the codec of a loaded model; wakes one that is asleep.

        Raises:
            GenerationError: it isn't loaded, or its worker died.
        """
        with self._lock:
            model = self._model(name)
            asleep = model.asleep and model.loaded is None
            model.used_at = time.monotonic()
        if asleep:
            self.load(model.name)
            model.settled.wait(WAKING_S)
        return self.backend.decode(model.name, fine)

    def attend(self, jobs: Jobs) -> None:
        """Let the shelf know the queue: what has jobs isn't unloaded."""
        self._jobs = jobs

    def touch(self, name: str) -> None:
        """A model was used: where memory is short, it is among the last to go."""
        with self._lock:
            self._model(name).used_at = time.monotonic()

    def pace(self, name: str = "") -> Pace | None:
        """How fast a model is, as far as it was seen; None until it was loaded once."""
        with self._lock:
            return self._model(name).pace

    def config(self, name: str = "") -> CascadeConfig | None:
        """A model's configuration, known before it is loaded; None if it was never here."""
        with self._lock:
            return self._model(name).config

    def layout_name(self, name: str = "") -> str:
        """Which voices a model takes; "" if that isn't known yet."""
        config = self.config(name)
        return config.layout.name if config else ""

    def layouts(self) -> list[TokenLayout]:
        """Those of all models that are known, so that their voices can be read."""
        with self._lock:
            return [model.config.layout for model in self._models.values() if model.config]

    def settled(self, name: str = "") -> threading.Event:
        """Set once a model was loaded, or couldn't be."""
        with self._lock:
            return self._model(name).settled

    def subscribe(self, told: Callable[[str], None]) -> None:
        """Have a function called with the name of each model that was loaded, or failed to be."""
        self._subscribers.append(told)

    def fit(self, name: str = "", choice: Choice | None = None) -> Fit | None:
        """Whether and how a model would run here, if loaded as chosen; None: nothing is known.

        Of several devices that are to have it, the one is told of that it fits worst. What the
        model itself takes now, if it is loaded, counts as free.

        Raises:
            InvalidSetting: the choice makes no sense on this machine.
        """
        with self._lock:
            model = self._model(name)
            candidate, choice = self._candidate(model), choice or model.choice
            freed = self._memory_of(model)
        if candidate is None:
            return None
        infos = self._with_more(freed)
        fits = [
            preflight(
                candidate,
                infos,
                device=device,
                precision=self._precision(choice),
                offload=OFFLOAD[choice.offload],
                disk_free_bytes=self.disk_free_bytes(),
            )
            for device in dict.fromkeys(self._settings.devices)
        ]
        # of several devices the one that it fits worst
        return max(fits, key=lambda fit: (not fit.verdict.good, fit.offload))

    def recommendation(self) -> Recommendation | None:
        """Which model to use here; what is loaded now could make room."""
        with self._lock:
            found = [self._candidate(model) for model in self._models.values()]
            candidates = [candidate for candidate in found if candidate is not None]
            freed: dict[str, int] = {}
            for model in self._models.values():
                for device, n_bytes in self._memory_of(model).items():
                    freed[device] = freed.get(device, 0) + n_bytes
        if not candidates:
            return None
        infos = self._with_more(freed)
        chosen = [info for info in infos if info.device in self._settings.devices]
        return recommend(
            candidates,
            infos,
            device=_smallest(chosen) if len(chosen) > 1 else self._settings.devices[0],
            disk_free_bytes=self.disk_free_bytes(),
        )

    def devices(self) -> tuple[DeviceInfo, ...]:
        """What this machine has, and what of it is free now."""
        return self._devices()

    @property
    def cache_folder(self) -> Path:
        """Where models are kept."""
        return self._settings.cache or default_cache()

    def disk_free_bytes(self) -> int | None:
        """On the disk of the cache."""
        folder = self.cache_folder
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            return None

    # --- what can be done

    def begin_with(self, name: str) -> None:
        """Have pages begin with a model from the next start on.

        Raises:
            MissingFiles: it isn't on the disk.
            StorageError: that can't be kept.
        """
        with self._lock:
            model = self._model(name)
            if not model.stored.installed:
                raise _not_here(model.name)
            self._keep(replace(self._preferences, model=model.name))

    def add(self, source: str) -> str:
        """Put a hub repository on the shelf; returns the name it goes by.

        Raises:
            InvalidSetting: that isn't the name of one.
        """
        source = source.strip().removeprefix("https://huggingface.co/").strip("/")
        if not REPOSITORY.fullmatch(source):
            raise InvalidSetting(
                f"a model of the hub is written owner/name, got {source[:80]!r}; copy it from the "
                "top of the model's page at huggingface.co"
            )
        with self._lock:
            name = self._name_of(source)
            self.version += 1
            return name

    def forget(self, name: str) -> None:
        """Take a model that was added off the shelf.

        Raises:
            InvalidSetting: it wasn't added, or something of it is here.
        """
        with self._lock:
            model = self._model(name)
            at_rest = not model.state.busy and model.loaded is None
            if model.info is not None or not at_rest or model.stored.disk_bytes:
                raise InvalidSetting(f"the model {model.name} is in use; remove its files first")
            if model.name != self.default:
                del self._models[model.name]
                self.version += 1

    def start(self) -> None:
        """Begin to load the default model, downloading it if need be."""
        self._begin(self._model(""), self._download_and_load, ModelState.LOADING)

    def load(
        self, name: str = "", choice: Choice | None = None, *, despite_memory: bool = False
    ) -> None:
        """Begin to load a model that is on the disk; returns at once.

        Harmless when it is loaded, or about to be. With another choice than it is loaded with, it
        is loaded anew. Where memory is short, models that do nothing are unloaded for it.

        Args:
            choice: None takes what was chosen last.
            despite_memory: even if there seems to be too little.
        Raises:
            InvalidSetting: the choice makes no sense on this machine.
            MissingFiles: it isn't on the disk.
            GenerationError: it is at work, or being removed.
            StorageError: the choice can't be kept.
        """
        if choice is not None:
            self.fit(name, choice)  # nothing is unloaded, and nothing kept, for what can't be
        with self._lock:
            model = self._model(name)
            if not model.stored.installed and not model.to_load:
                raise _not_here(model.name)
            changed = choice is not None and choice != model.choice
            if (model.loaded or model.to_load) and not changed:
                return
            if model.loaded:
                self._refuse_if_at_work(model, "be loaded anew")
            if choice is not None and changed:
                choices = {**self._preferences.choices, model.name: choice}
                self._keep(replace(self._preferences, choices=choices))
                model.choice = choice
            work = self._load_anew if despite_memory else self._load_if_it_fits
            self._begin(model, work, ModelState.LOADING)

    def unload(self, name: str = "", *, force: bool = False) -> None:
        """Begin to give a model's memory back; returns at once.

        Args:
            force: stop its jobs; what they made so far is kept.
        Raises:
            GenerationError: jobs wait for it or run.
        """
        with self._lock:
            model = self._model(name)
            if model.loaded is None:
                return
            if not force:
                self._refuse_if_at_work(model, "be unloaded")
            self._begin(model, self._stop_and_unload, ModelState.UNLOADING)

    def unload_idle(self, idle_s: float) -> None:
        """Unload what nobody used for so long; 0: never. Whoever needs it wakes it."""
        if not idle_s:
            return
        before = time.monotonic() - idle_s
        with self._lock:
            for model in self._models.values():
                at_rest = model.loaded and not model.state.busy
                if at_rest and model.used_at < before and not self._has_jobs(model):
                    _log.info("model unloaded, for nobody used it", extra={"model": model.name})
                    self._begin(model, self._fall_asleep, ModelState.UNLOADING)

    def download(self, name: str) -> None:
        """Begin or resume a download; returns at once. Harmless when it is here, or on its way."""
        with self._lock:
            model = self._model(name)
            if model.stored.installed or model.state.busy:
                return
            self._begin(model, self._download, ModelState.DOWNLOADING)

    def cancel(self, name: str) -> None:
        """Stop a download, a conversion or loading; what came so far is kept."""
        with self._lock:
            self._model(name).stopping = True

    def remove(self, name: str) -> None:
        """Begin to delete a model's files; returns at once.

        Raises:
            InvalidSetting: it is loaded, or wasn't downloaded.
        """
        with self._lock:
            model = self._model(name)
            if model.loaded is not None:
                raise InvalidSetting(f"the model {model.name} is loaded; unload it first")
            if not model.stored.disk_bytes:
                raise InvalidSetting(f"nothing of the model {model.name} was downloaded")
            self._begin(model, self._remove, ModelState.REMOVING)

    def close(self) -> None:
        """Stop all jobs, downloads and loading."""
        with self._lock:
            self._closing = True
        self.backend.close()

    # --- behind the shelf

    def _put(self, name: str, source: str, info: ModelInfo | None) -> _Model:
        cache = self._settings.cache
        try:
            here, config = stored(source, cache), model_config(source, cache)
            error = None
        except BarkError as problem:  # a damaged one is shown with what is wrong
            here, config, error = Stored(False, 0, 0, 0), None, problem
        choice = self._preferences.choices.get(name, Choice())
        model = _Model(name, source, info, here, config, choice=choice, error=error)
        self._models[name] = model
        model.state = self._resting_state(model)
        return model

    def _first(self) -> str:
        """The model that pages begin with: asked for, or chosen before and still here, or pup."""
        if self._settings.model:
            return self._name_of(self._settings.model)
        chosen = self._models.get(self._preferences.model)
        if chosen is not None and chosen.stored.installed:
            return chosen.name
        return self._name_of("pup")

    def _keep(self, preferences: Preferences) -> None:
        write_preferences(self._settings.data_folder, preferences)
        self._preferences = preferences
        self.version += 1

    def _candidate(self, model: _Model) -> Candidate | None:
        if model.config is None:
            return None
        here = model.stored
        disk = 0 if here.installed else disk_needed(here.total_bytes, here.done_bytes)
        return Candidate(model.name, model.config, disk)

    def _with_more(self, freed: Mapping[str, int]) -> list[DeviceInfo]:
        """The devices with what unloading something would free, for one of their workers."""
        return [
            info
            if info.free_bytes is None
            else replace(
                info,
                free_bytes=(info.free_bytes + freed.get(info.device, 0))
                // max(1, self._settings.devices.count(info.device)),
            )
            for info in self._devices()
        ]

    @staticmethod
    def _memory_of(model: _Model) -> dict[str, int]:
        """What unloading a model would free, by device."""
        freed: dict[str, int] = {}
        for one in model.loaded.everywhere if model.loaded else ():
            device = one.placement.device
            freed[device] = freed.get(device, 0) + one.weight_bytes
        return freed

    def _name_of(self, source: str) -> str:
        """The name of a model on the shelf; puts it there if it is a new one."""
        for model in self._models.values():
            published = model.info.source if model.info else None
            if source in (model.name, model.source, published):
                return model.name
        name = source if _is_repository(source) else Path(source).expanduser().resolve().name
        taken, number = name, 2
        while name in self._models:
            name, number = f"{taken}-{number}", number + 1
        self._put(name, source, None)
        return name

    def _model(self, name: str) -> _Model:
        model = self._models.get(name or self.default)
        if model is None:
            raise UnknownModel(
                f"there is no model {name!r} here; choose one of {', '.join(self.names())}"
            )
        return model

    @staticmethod
    def _usable(status: ModelStatus) -> bool:
        return status.loaded or status.installed or status.coming

    @staticmethod
    def _demonstration(model: _Model) -> bool:
        if model.config is not None:
            return model.config.demonstration
        return model.info is not None and model.info.demonstration

    @staticmethod
    def _resting_state(model: _Model) -> ModelState:
        if model.loaded is not None:
            return ModelState.LOADED
        if model.error is not None:
            return ModelState.FAILED
        if model.stored.installed:
            return ModelState.HERE
        return ModelState.PARTIAL if model.stored.done_bytes else ModelState.ABSENT

    def _has_jobs(self, model: _Model) -> bool:
        return self._jobs.n_unfinished(model.name) > 0

    def _refuse_if_at_work(self, model: _Model, do: str) -> None:
        n_jobs = self._jobs.n_unfinished(model.name)
        if n_jobs:
            jobs = "a job runs" if n_jobs == 1 else f"{n_jobs} jobs run or wait"
            raise GenerationError(
                f"the model {model.name} can't {do} while {jobs} on it; wait until they are done, "
                "or stop them"
            )

    def _begin(self, model: _Model, work: Callable[[_Model], None], state: ModelState) -> None:
        """Do something on a thread of its own; one thing at a time with each model."""
        with self._lock:
            if model.state.busy:
                raise GenerationError(
                    f"the model {model.name} is busy ({model.state}); wait a moment"
                )
            if self._closing:
                raise GenerationError("the studio is closing")
            model.state, model.error, model.stopping = state, None, False
            model.to_load = state is ModelState.LOADING
            if model.to_load:
                model.settled.clear()
            self.version += 1
        threading.Thread(
            target=self._work, args=(model, work), name=f"model-{model.name}", daemon=True
        ).start()

    def _work(self, model: _Model, work: Callable[[_Model], None]) -> None:
        error: BarkError | None = None
        try:
            work(model)
        except Cancelled:
            pass
        except BarkError as problem:
            error = problem
        except Exception as problem:
            _log.exception("the model %s failed", model.name)
            error = GenerationError(
                f"the model couldn't be made ready ({type(problem).__name__}); "
                "the log has the details"
            )
        here, config, damage = self._look(model)
        with self._lock:
            was_to_load, model.to_load = model.to_load, False
            # what came whole may still be no model that can be used
            model.error, model.transfer = error or damage, None
            model.stored, model.config = here, config
            model.state = self._resting_state(model)
            self.version += 1
        if was_to_load or error is not None:
            for told in self._subscribers:
                told(model.name)
            model.settled.set()

    def _look(self, model: _Model) -> tuple[Stored, CascadeConfig | None, BarkError | None]:
        cache = self._settings.cache
        here = Stored(False, 0, 0, 0)
        try:
            here = stored(model.source, cache)
            return here, model_config(model.source, cache), None
        except BarkError as error:
            return here, model.config, error

    def _spec(self, model: _Model) -> ModelSpec:
        return ModelSpec(
            name=model.name,
            source=model.source,
            device=self._settings.devices[0],  # a pool of several gives each worker its own
            precision=self._precision(model.choice),
            offload=OFFLOAD[model.choice.offload],
            cache_dir=self._settings.cache,
            endpoint=self._settings.endpoint,
            max_batch=self._settings.hosting.max_batch,
        )

    def _download(self, model: _Model) -> None:
        self.backend.download(self._spec(model), progress=self._follow(model))

    def _download_and_load(self, model: _Model) -> None:
        loaded = self.backend.load(self._spec(model), progress=self._follow(model))
        with self._lock:
            unwanted = self._closing or model.stopping
        if unwanted:
            self.backend.unload(model.name)
            raise Cancelled("the model isn't wanted any more")
        with self._lock:
            config = loaded.front.config
            if model.pace is None or not model.asleep:
                model.pace = Pace(config.layout.semantic_rate_hz)
            model.loaded = model.known = loaded
            model.config, model.asleep, model.used_at = config, False, time.monotonic()

    def _look_for_lost(self) -> None:
        """The workers changed: a model whose worker couldn't be brought back isn't loaded."""
        lost = []
        with self._lock:
            self.version += 1
            for model in self._models.values():
                error = self.backend.failure(model.name) if model.loaded else None
                if error is not None:
                    model.loaded, model.error = None, error
                    model.state = self._resting_state(model)
                    lost.append(model.name)
                elif model.loaded is not None:  # perhaps with other figures than before
                    model.loaded = self.backend.loaded(model.name) or model.loaded
        for name in lost:
            for told in self._subscribers:
                told(name)

    def _load_anew(self, model: _Model) -> None:
        self._unload(model)
        self._download_and_load(model)

    def _load_if_it_fits(self, model: _Model) -> None:
        self._unload(model)
        fit = self.fit(model.name)
        while fit is not None and fit.verdict is Verdict.TOO_LITTLE_MEMORY:
            idle = self._longest_idle(except_for=model)
            if idle is None:
                raise OutOfMemory(
                    f"the model {model.name} has {fit.in_words()}; close other programs, choose "
                    "another precision or a smaller model, or load it all the same in System"
                )
            self._unload(idle)
            self._rest(idle)
            fit = self.fit(model.name)
        self._download_and_load(model)

    def _longest_idle(self, *, except_for: _Model) -> _Model | None:
        """The loaded model that was not used for the longest time and has nothing to do."""
        with self._lock:
            idle = [
                model
                for model in self._models.values()
                if model is not except_for and model.loaded and not self._has_jobs(model)
                if not model.state.busy
            ]
        return min(idle, key=lambda model: model.used_at, default=None)

    def _rest(self, model: _Model) -> None:
        with self._lock:
            model.state = self._resting_state(model)
            self.version += 1

    def _stop_and_unload(self, model: _Model) -> None:
        self._jobs.stop_model(model.name)
        self._unload(model)

    def _unload(self, model: _Model) -> None:
        with self._lock:
            loaded, model.loaded, model.asleep = model.loaded, None, False
        if loaded is not None:
            self.backend.unload(model.name)

    def _fall_asleep(self, model: _Model) -> None:
        self._unload(model)
        with self._lock:
            model.asleep = True

    def _remove(self, model: _Model) -> None:
        remove_model(model.source, self._settings.cache)

    def _precision(self, choice: Choice) -> str:
        return self._settings.precision if choice.precision == "auto" else choice.precision

    def _follow(self, model: _Model) -> ProgressCallback:
        """A callback that keeps a model's transfer up to date, and lets a stop through."""
        past: deque[tuple[float, int]] = deque()

        def follow(progress: DownloadProgress) -> None:
            if self._closing or model.stopping:
                raise Cancelled("stopped; what came so far is kept")
            state = _STEPS[progress.step]
            with self._lock:
                if model.state is not state:
                    past.clear()
                    self.version += 1
                model.state = state
                past.append((time.monotonic(), progress.done_bytes))
                while past[0][0] < past[-1][0] - SPEED_OVER_S:
                    past.popleft()
                model.transfer = _transfer(progress, past)

        return follow


def _transfer(progress: DownloadProgress, past: deque[tuple[float, int]]) -> Transfer:
    took_s = past[-1][0] - past[0][0]
    speed = (past[-1][1] - past[0][1]) / took_s if took_s > 0.5 else None
    left = progress.total_bytes - progress.done_bytes
    return Transfer(
        done_bytes=progress.done_bytes,
        total_bytes=progress.total_bytes,
        bytes_per_s=speed,
        left_s=left / speed if speed else None,
    )


def _not_here(name: str) -> MissingFiles:
    return MissingFiles(f"the model {name} isn't on this computer yet; download it in System")


def _devices_of(loaded: LoadedModel | None) -> tuple[str, ...]:
    every = loaded.everywhere if loaded is not None else ()
    return tuple(one.placement.device for one in every)


def _smallest(infos: Sequence[DeviceInfo]) -> str:
    """The device with the least free memory."""
    return min(infos, key=lambda info: info.free_bytes or 0).device


def _is_repository(source: str) -> bool:
    return bool(REPOSITORY.fullmatch(source)) and not Path(source).expanduser().exists()


def _shown_source(source: str) -> str:
    return source if _is_repository(source) else Path(source).name
