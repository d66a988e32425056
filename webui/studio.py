"""What all tabs share: the store, the desk, the voices, and what they say of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from bark_core import (
    Backend,
    Cluster,
    ProcessBackend,
    Provenance,
    SigningKey,
    Voice,
    VoiceLibrary,
    can_sign,
    default_cache,
    load_signing_key,
    open_cluster,
    own_signing_key,
    voice_fetcher,
)
from webui.access import Access
from webui.accounts import Accounts
from webui.audience import Audience
from webui.audit import AuditLog, file_hash
from webui.belongings import Belongings
from webui.callers import Callers
from webui.favourites import FavouriteVoices
from webui.head import choice_label
from webui.history import Entry, History
from webui.jobs import Desk, Ticket
from webui.languages import _
from webui.logs import log_note
from webui.made_here import MadeHere
from webui.metrics import Metrics
from webui.mirror import Mirror
from webui.models import ModelShelf
from webui.opened import OpenedFiles
from webui.queue_store import QueueStore
from webui.scripts import ScriptDesk
from webui.settings import StudioSettings, check_reach, signing_folder
from webui.upkeep import Room, Upkeep
from webui.voices_of import VoicesOf

if TYPE_CHECKING:
    from bark_core import Watermark

TAKE = "take:"  # and an id: the voice that a take was said with, or that it rolled


@dataclass(frozen=True, slots=True)
class Studio:
    """One running studio."""

    settings: StudioSettings
    history: History
    models: ModelShelf
    desk: Desk
    metrics: Metrics
    voices_of: VoicesOf
    favourites: FavouriteVoices
    scripts: ScriptDesk
    access: Access
    made_here: MadeHere
    audit: AuditLog
    room: Room
    upkeep: Upkeep
    opened: OpenedFiles = field(default_factory=OpenedFiles)
    audience: Audience = field(default_factory=Audience)
    belongings: Belongings = field(default_factory=Belongings)
    callers: Callers = field(default_factory=Callers)
    mirror: Mirror | None = None

    def close(self, *, drain_s: float = 0.0) -> None:
        """End: what was made is kept, what waits runs after the next start.

        Args:
            drain_s: what the jobs that run get to end by themselves.
        """
        self.scripts.suspend()
        self.desk.scheduler.drain(drain_s)
        self.upkeep.close()
        self.scripts.close()
        self.desk.close()
        self.audience.close()
        self.history.close()
        self.access.accounts.close()
        if self.mirror is not None:
            self.mirror.close()

    def entry(self, entry_id: str, owner: str) -> Entry | None:
        """What was made here, or read out of a file that somebody opened."""
        kept = self.history.get(entry_id, owner=owner)
        return kept or self.opened.get(entry_id, owner=owner)

    def model_choices(self) -> list[tuple[str, str]]:
        """(label, name) of all models: those that aren't here can't be chosen, but are offered."""
        return [(choice_label(self.models.status(name)), name) for name in self.models.names()]

    def first_model(self) -> str:
        """The model that a page begins with."""
        return self.models.default

    @property
    def voices(self) -> VoiceLibrary:
        """Those of the one person of a studio where nobody signs in."""
        return self.voices_of("")

    def voice(self, name: str, owner: str) -> Voice | None:
        """A voice by the name that a page gives; "" rolls a new one.

        Raises:
            VoiceError, DownloadError: there is none, or it can't be had.
        """
        return self.voices_of(owner)[name] if name else None

    def voice_label(self, name: str | None) -> str:
        """How a page calls a voice; None is one that was rolled."""
        if name is None:
            return _("a new voice")
        if name.startswith(TAKE):
            return _("the voice of an earlier take")
        return name[:1].upper() + name[1:]


def open_studio(settings: StudioSettings) -> Studio:
    """Open the store and begin to load the model in the background.

    Raises:
        InvalidSetting: strangers would be let in, or there is no such device.
        StorageError: the data folder can't be used.
    """
    settings = replace(settings, devices=_devices(settings))
    folder = settings.data_folder
    mirror = Mirror(folder, settings.mirror) if settings.mirror is not None else None
    if mirror is not None:
        mirror.restore()
    accounts = Accounts.open(folder)
    check_reach(settings, has_accounts=accounts.any())
    key = host_key(settings)
    watermark = _watermark(settings)
    stamp = Provenance(key if settings.sign else None, watermark)
    history = History.open(folder, stamp=stamp)
    hosting = settings.hosting
    models = ModelShelf(settings, backend=_backend(settings))
    library = functools.partial(
        VoiceLibrary.default,
        fetch=voice_fetcher(settings.cache, endpoint=settings.endpoint),
        cached=voice_fetcher(settings.cache, local_files_only=True),
        layouts=models.layouts,
    )
    voices_of = VoicesOf(folder, library)
    desk = Desk(models, history=history, store=QueueStore.open(folder), hosting=hosting)
    audit = AuditLog.open(folder)
    _note_kept(history, audit)  # first: jobs of the last start go on at once
    desk.start()
    scripts = ScriptDesk(
        folder / "scripts",
        models=models,
        voices_of=voices_of,
        history=history,
        scheduler=desk.scheduler,
    )
    scripts.resume()
    belongings = Belongings()
    access = Access(accounts, password=settings.password, wide=settings.wide)
    favourites = FavouriteVoices(folder)
    made_here = MadeHere(history, own=key, watermark=watermark)
    metrics = Metrics(desk.scheduler, models, folder)
    desk.scheduler.listen(log_note)
    if mirror is not None:
        mirror.start()
    room = Room(
        settings.limits, history, accounts, voices_of=voices_of, scripts_of=scripts.folders_of
    )
    studio = Studio(
        settings,
        history,
        models,
        desk,
        metrics,
        voices_of,
        favourites,
        scripts,
        access,
        made_here,
        audit,
        room,
        Upkeep(settings.limits, history, belongings),
        belongings=belongings,
        mirror=mirror,
    )
    _keep_watch(studio)
    return studio


def _note_kept(history: History, audit: AuditLog) -> None:
    """From now on what is made is noted."""

    def kept(entry: Entry) -> None:
        audit.note(
            "made",
            entry.owner,
            job=entry.id,
            kind=entry.kind,
            text=audit.hash_of(entry.text),
            sound=file_hash(history.sound_path(entry.id)),
            duration_s=round(entry.duration_s, 3),
        )

    history.on_kept = kept


def _keep_watch(studio: Studio) -> None:
    """From now on what is asked for needs room, and is noted."""
    audit = studio.audit

    def asked(ticket: Ticket) -> None:
        request = ticket.request
        audit.note(
            "asked",
            ticket.owner,
            job=ticket.id,
            model=ticket.model,
            text=audit.hash_of(request.text),
            voice=None if request.voice is None else request.voice.sha256,
        )

    studio.desk.admit, studio.desk.on_asked = studio.room.check, asked
    studio.scripts.admit = studio.room.check
    studio.upkeep.start()


def _devices(settings: StudioSettings) -> tuple[str, ...]:
    """Those of several by their names; a single one is found by whoever loads models.

    Raises:
        InvalidSetting: as `named_devices`.
    """
    if len(settings.devices) == 1 and settings.devices != ("all",):
        return settings.devices
    from bark_core import named_devices  # it asks torch

    return named_devices(settings.devices)


def _watermark(settings: StudioSettings) -> Watermark | None:
    """AudioSeal's, where the host wants it.

    Raises:
        InvalidSetting, MissingFiles, InvalidCheckpoint: as `Watermark.load`.
    """
    if not settings.watermark:
        return None
    from bark_core import Watermark  # it computes in this process, so torch has to be here

    return Watermark.load(watermark_folder(settings))


def _backend(settings: StudioSettings) -> Backend | None:
    """Where models run; None: in this process.

    Raises:
        InvalidSetting, GenerationError: as `open_cluster`.
    """
    hosting = settings.hosting
    if hosting.ray is not None:
        replicas, gpus_each = hosting.replicas, hosting.gpus_each
        return open_cluster(Cluster(address=hosting.ray, replicas=replicas, gpus_each=gpus_each))
    if len(settings.devices) > 1:
        from bark_core import DevicePool  # it asks torch

        return DevicePool(settings.devices)
    return ProcessBackend() if hosting.worker else None


def host_key(settings: StudioSettings) -> SigningKey | None:
    """The host's key; made where files are to be signed and there is none yet.

    Raises:
        InvalidSetting: the packages are missing.
        StorageError: it is damaged, others can read it, or it can't be written.
    """
    folder = signing_folder(settings.data_folder)
    if settings.sign:
        return own_signing_key(folder)
    return load_signing_key(folder) if (folder / "key.pem").exists() and can_sign() else None


def watermark_folder(settings: StudioSettings) -> Path:
    """Where AudioSeal's weights are looked for first."""
    return (settings.cache or default_cache()) / "audioseal"


def owner_of(request: gr.Request) -> str:
    """Who looks at a page; "" where nobody signs in."""
    return request.username or ""
