"""Figures of a running studio, as Prometheus reads them. No words, no names of users."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    ProcessCollector,
    exposition,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bark_core import DeviceInfo, WorkerState, WorkerStatus
from webui.scheduler import Happening, Note

if TYPE_CHECKING:
    from pathlib import Path

    from webui.models import ModelShelf
    from webui.scheduler import Scheduler

CONTENT_TYPE = exposition.CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


class Metrics:
    """The figures of one studio; several can be in one process."""

    def __init__(self, scheduler: Scheduler, models: ModelShelf, folder: Path) -> None:
        self._registry = CollectorRegistry()
        self._jobs = Counter(
            "bark_jobs", "Jobs by what happened to them.", ["event"], registry=self._registry
        )
        for what in Happening:
            self._jobs.labels(what.value)  # so that a rate can be computed from the first one on
        self._errors = Counter(
            "bark_job_errors",
            "Failed jobs by the kind of error.",
            ["kind"],
            registry=self._registry,
        )
        self._audio = Counter("bark_audio_seconds", "Sound that was made.", registry=self._registry)
        self._waited = Histogram(
            "bark_job_wait_seconds",
            "From being asked for until a job began.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._ran = Histogram(
            "bark_job_run_seconds",
            "From a job's last beginning to its end.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_Now(scheduler, models, folder))
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        scheduler.listen(self.note)

    def note(self, note: Note) -> None:
        """Count something that happened to a job."""
        self._jobs.labels(note.what.value).inc()
        match note.what:
            case Happening.STARTED:
                self._waited.observe(note.waited_s)
            case Happening.FINISHED | Happening.FAILED | Happening.STOPPED:
                if note.ran_s:
                    self._ran.observe(note.ran_s)
                self._audio.inc(note.audio_s)
        if note.error:
            self._errors.labels(note.error).inc()

    def text(self) -> bytes:
        """All figures, in Prometheus' text format."""
        return exposition.generate_latest(self._registry)


class _Now(Collector):
    """What is read when somebody asks."""

    def __init__(self, scheduler: Scheduler, models: ModelShelf, folder: Path) -> None:
        self._scheduler, self._models, self._folder = scheduler, models, folder

    def collect(self) -> Iterator[Metric]:
        waiting, running = self._scheduler.counts()
        yield _gauge("bark_jobs_waiting", "Jobs that wait.", waiting)
        yield _gauge("bark_jobs_running", "Jobs that run.", running)
        yield _gauge("bark_draining", "1: the studio ends.", float(self._scheduler.draining))
        workers = self._models.backend.workers()
        states = GaugeMetricFamily("bark_workers", "Workers by state.", labels=["state"])
        for state in WorkerState:
            states.add_metric([state.value], sum(worker.state is state for worker in workers))
        yield states
        yield from _of_each(workers)
        if any(worker.state is WorkerState.READY for worker in workers):
            yield from _of_devices(self._models.devices())  # asks nobody but those who run
        names = self._models.names()
        loaded = sum(self._models.loaded(name) is not None for name in names)
        yield _gauge("bark_models_loaded", "Models in memory.", loaded)
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError:
            return
        yield _gauge("bark_data_free_bytes", "Free on the disk of the data folder.", free)


def _of_each(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    """Figures of single workers, which are told apart by their number and their device."""
    names = ["worker", "device"]
    restarts = CounterMetricFamily("bark_worker_restarts", "Times brought back.", labels=names)
    gauges = {
        name: GaugeMetricFamily(f"bark_worker_{name}", says, labels=names)
        for name, says in (
            ("ready", "1: it runs what it is given."),
            ("jobs", "Jobs that run on it."),
            ("memory_bytes", "Main memory that it takes."),
            ("device_bytes", "Memory of its device that it takes."),
            ("silence_seconds", "Since its last sign of life."),
        )
    }
    for number, worker in enumerate(workers):
        labels = [str(number), worker.device]
        restarts.add_metric(labels, worker.n_restarts)
        gauges["ready"].add_metric(labels, worker.state is WorkerState.READY)
        gauges["jobs"].add_metric(labels, worker.n_running)
        gauges["silence_seconds"].add_metric(labels, worker.heard_s)
        for name, n_bytes in (
            ("memory_bytes", worker.memory_bytes),
            ("device_bytes", worker.device_bytes),
        ):
            if n_bytes is not None:
                gauges[name].add_metric(labels, n_bytes)
    yield restarts
    yield from gauges.values()


def _of_devices(devices: Sequence[DeviceInfo]) -> Iterator[Metric]:
    free = GaugeMetricFamily("bark_device_free_bytes", "Free memory.", labels=["device"])
    total = GaugeMetricFamily("bark_device_total_bytes", "Its memory.", labels=["device"])
    for info in devices:
        for family, n_bytes in ((free, info.free_bytes), (total, info.total_bytes)):
            if n_bytes is not None:
                family.add_metric([info.device], n_bytes)
    yield free
    yield total


def _gauge(name: str, says: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, says, value=value)
