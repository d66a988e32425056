"""Models on other machines: a Ray Serve application for each, a replica for each GPU.

    page and scheduler                        any machine of the cluster
    RayServeBackend.submit  --request-->      Replica.run: an engine in its own process
                            <--events---      streamed, only what is new of a result (wire.py)

A replica owns its device and loads its model by itself, from its own machine's cache. When it
dies, its jobs end with WorkerLost at once, Ray starts another one, and whoever submitted them
submits them again: they go to a replica that lives. Stopping a job closes its stream, and the
generator on the replica tells the engine. Nothing listens on a port but Ray's own.

The only module that imports ray (requirements-cluster.txt).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from bark_core import wire
from bark_core.backend import (
    LoadedModel,
    ModelSpec,
    Running,
    Told,
    WorkerState,
    WorkerStatus,
)
from bark_core.cluster import Cluster
from bark_core.device import describe_devices
from bark_core.errors import (
    BarkError,
    GenerationError,
    InvalidSetting,
    OutOfMemory,
    WorkerLost,
)
from bark_core.events import Event, Failed, Stopped
from bark_core.hub import ProgressCallback
from bark_core.in_process import InProcessBackend
from bark_core.machine import describe_cpu, process_memory_bytes
from bark_core.placement import DeviceInfo
from bark_core.request import GenerationRequest
from bark_core.runs import OVER, Run, Runs, Watched, not_loaded
from bark_core.tokens import Audio, FineCodes

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read by ray when it starts

try:
    import ray
    from ray import serve
except ImportError as error:
    raise InvalidSetting(
        "running models on a cluster needs the package ray; run: pip install -r "
        "requirements-cluster.txt, or leave --ray away"
    ) from error

_log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5  # at how many replicas there are
STARTS = 3  # Ray gives itself 30 s to start, which a busy machine may take
PREFIX = "bark-studio-"  # of the applications' names


# --- on the machine of a GPU


@dataclass(frozen=True, slots=True)
class About:
    """A replica, at one moment."""

    pid: int  # on its machine
    n_running: int  # jobs
    memory_bytes: int | None
    devices: tuple[DeviceInfo, ...]


class Replica:
    """One loaded model behind an engine. Made by Ray, in a process of its own."""

    def __init__(self, spec: ModelSpec) -> None:
        self._backend = InProcessBackend()
        self._name = spec.name
        # told when it is asked for: Ray would try a constructor that fails again and again
        self._found: LoadedModel | BarkError
        try:
            self._found = self._backend.load(spec)
        except BarkError as error:
            self._found = error

    def known(self) -> LoadedModel | BarkError:
        """What was loaded, or why it wasn't."""
        return self._found

    def about(self) -> About:
        """How it does now."""
        n_running = self._backend.workers()[0].n_running
        return About(os.getpid(), n_running, process_memory_bytes(), describe_devices())

    async def run(self, request: GenerationRequest) -> AsyncIterator[wire.Told]:
        """A job's events as they come; closing the stream ends the job at its next step."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[wire.Told] = asyncio.Queue()
        packer = wire.Packer()

        def told(event: Event) -> None:  # on the job's own thread
            packed = packer.pack(0, event)
            with contextlib.suppress(RuntimeError):  # the replica ends
                loop.call_soon_threadsafe(events.put_nowait, packed)

        running = self._backend.submit(self._name, request, told)
        try:
            while True:
                packed = await events.get()
                yield packed
                if isinstance(packed.event, OVER):
                    return
        finally:
            running.cancel()

    async def decode(self, fine: FineCodes) -> Audio:
        return await asyncio.to_thread(self._backend.decode, self._name, fine)


# --- on the page's machine


class RayServeBackend(Watched):
    """A `Backend` whose models run as Ray Serve applications.

    Args:
        cluster: where. An address other than "local" joins what runs there, and leaves it
            running at the end, without the models.

    Raises:
        GenerationError: there is no cluster at that address.
    """

    def __init__(self, cluster: Cluster | None = None) -> None:
        super().__init__()
        self._cluster = cluster or Cluster()
        self._lock = threading.RLock()
        self._loaded: dict[str, LoadedModel] = {}
        self._handles: dict[str, Any] = {}
        self._n_alive: dict[str, int] = {}
        self._n_lost = 0
        self._problem = ""
        self._runs = Runs()
        self._devices: tuple[DeviceInfo, ...] = ()
        self._closed = threading.Event()
        self._started = _join(self._cluster)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="ray-events", daemon=True).start()
        threading.Thread(target=self._look, name="ray-look", daemon=True).start()

    # --- models

    def load(self, spec: ModelSpec, *, progress: ProgressCallback | None = None) -> LoadedModel:
        """As `Backend.load`. What replicas download can't be followed: they do it by themselves."""
        self.unload(spec.name)
        deployment = serve.deployment(
            name="replica",
            num_replicas=self._cluster.replicas,
            # the scheduler hands over no more; a few for questions that take no time
            max_ongoing_requests=64,
            graceful_shutdown_timeout_s=5.0,
            health_check_period_s=5.0,
            ray_actor_options={"num_gpus": self._gpus_each(), "num_cpus": self._cluster.cpus_each},
        )(Replica)
        self._check_room(spec.name)
        app = deployment.bind(spec)
        try:
            handle = serve.run(app, name=_app_name(spec.name), route_prefix=None)
            found: LoadedModel | BarkError = handle.known.remote().result()
        except Exception as error:
            serve.delete(_app_name(spec.name))
            raise WorkerLost(
                f"no replica of {spec.name} could be started ({_brief(error)}); look at the "
                "cluster with 'ray status'"
            ) from error
        if isinstance(found, BarkError):
            serve.delete(_app_name(spec.name))
            raise found
        with self._lock:
            self._loaded[spec.name], self._handles[spec.name] = found, handle
            self._n_alive[spec.name] = self._cluster.replicas
        self._devices = handle.about.remote().result().devices
        self._changed()
        return found

    def download(self, spec: ModelSpec, *, progress: ProgressCallback | None = None) -> None:
        """Have a model's files on every machine of the cluster."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        here = [NodeAffinitySchedulingStrategy(node_id=node, soft=False) for node in nodes]
        got = [_download.options(scheduling_strategy=where).remote(spec) for where in here]
        for problem in ray.get(got):
            if problem is not None:
                raise problem

    def unload(self, name: str) -> None:
        with self._lock:
            self._loaded.pop(name, None)
            handle = self._handles.pop(name, None)
            self._n_alive.pop(name, None)
        if handle is not None:
            serve.delete(_app_name(name))
            self._changed()

    def loaded(self, name: str) -> LoadedModel | None:
        with self._lock:
            return self._loaded.get(name)

    def capacity(self, name: str) -> int:
        with self._lock:
            known = self._loaded.get(name)
            n_alive = self._n_alive.get(name, 0)
        return 0 if known is None else self._runs.capacity(known.max_batch * n_alive)

    def idle(self, name: str) -> bool:
        # Ray chooses the replica: a job is alone on one when it is alone on all
        return self.capacity(name) > 0 and not self._runs

    def failure(self, name: str) -> BarkError | None:
        return None  # Ray goes on bringing replicas back

    # --- jobs

    def submit(
        self, name: str, request: GenerationRequest, told: Told, *, alone: bool = False
    ) -> Running:
        run = self._runs.add(name, request, told, alone=alone)
        with self._lock:
            handle = self._handles.get(name)
        if handle is None:
            run.tell(Failed(not_loaded(name)))
        else:
            task = asyncio.run_coroutine_threadsafe(_follow(run, handle), self._loop)
            run.begin(task.cancel)  # closes the stream: the replica's generator stops the engine
        return run

    def decode(self, name: str, fine: FineCodes) -> Audio:
        with self._lock:
            handle = self._handles.get(name)
        if handle is None:
            raise not_loaded(name)
        try:
            audio: Audio = handle.decode.remote(fine).result()
        except ray.exceptions.RayError as error:
            raise WorkerLost(f"a replica ended: {_brief(error)}; try again") from error
        return audio

    # --- looking

    def ask(self, name: str) -> About:
        """How one of a model's replicas does; Ray chooses which.

        Raises:
            GenerationError: the model isn't loaded.
        """
        with self._lock:
            handle = self._handles.get(name)
        if handle is None:
            raise not_loaded(name)
        about: About = handle.about.remote().result()
        return about

    def devices(self) -> tuple[DeviceInfo, ...]:
        return self._devices or (describe_cpu(),)

    def workers(self) -> tuple[WorkerStatus, ...]:
        with self._lock:
            alive, n_running, names = dict(self._n_alive), len(self._runs), tuple(self._loaded)
        if not alive:
            return (WorkerStatus(WorkerState.NONE, "ray", (), 0, None, None, self._n_lost, 0.0),)
        whole = all(n >= self._cluster.replicas for n in alive.values())
        state = WorkerState.READY if whole else WorkerState.RESTARTING
        label = f"ray, {min(alive.values())} of {self._cluster.replicas} replicas"
        return (
            WorkerStatus(
                state, label, names, n_running, None, None, self._n_lost, 0.0, self._problem
            ),
        )

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Stop all jobs, take the models off the cluster; end it where it was started here."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._runs.end(timeout_s)
        for name in list(self._handles):
            self.unload(name)
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._started:
            serve.shutdown()
            ray.shutdown()

    # --- the parts of it

    def _check_room(self, name: str) -> None:
        """Ray would wait for room without an end. Raises OutOfMemory."""
        gpus = self._gpus_each() * self._cluster.replicas
        free = ray.available_resources().get("GPU", 0.0)
        if gpus > free:
            raise OutOfMemory(
                f"{self._cluster.replicas} replicas of {name} take {gpus:g} GPUs, and {free:g} of "
                "the cluster are free; unload another model, or have fewer replicas or less of a "
                "GPU for each"
            )

    def _gpus_each(self) -> float:
        if self._cluster.gpus_each is not None:
            return self._cluster.gpus_each
        return 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0

    def _look(self) -> None:
        """Count the replicas that live, for as long as this backend does."""
        while not self._closed.wait(LOOK_EVERY_S):
            try:
                self._count(serve.status().applications)
            except Exception as error:  # the cluster may be away for a moment
                _log.warning("the cluster doesn't answer: %s", _brief(error))

    def _count(self, applications: Any) -> None:
        changed = False
        with self._lock:
            for name in self._handles:
                app = applications.get(_app_name(name))
                deployment = app.deployments.get("replica") if app is not None else None
                alive = deployment.replica_states.get("RUNNING", 0) if deployment else 0
                before = self._n_alive.get(name, 0)
                if alive < before:
                    self._n_lost += before - alive
                    self._problem = "a replica ended; Ray starts another one"
                changed |= alive != before
                self._n_alive[name] = alive
        if changed:
            self._changed()


async def _follow(run: Run, handle: Any) -> None:
    """Hand a job's events on, on the loop of this backend."""
    stream = handle.options(stream=True).run.remote(run.request)
    try:
        if run.cancelled:
            raise asyncio.CancelledError
        async for packed in stream:
            run.hear(packed)
        run.lose("a replica ended: its stream ended before it did; try again")
    except asyncio.CancelledError:
        run.tell(Stopped(run.partial))
    except Exception as error:
        run.lose(f"a replica ended: {_brief(error)}; try again")
    finally:
        stream.cancel()


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
def _download(spec: ModelSpec) -> BarkError | None:
    """On one machine; an error comes back as it is."""
    try:
        InProcessBackend().download(spec)
    except BarkError as error:
        return error
    return None


def _join(cluster: Cluster) -> bool:
    """Connect to the cluster; True: it was started for this, on this machine."""
    alone = cluster.address == "local"
    tries_left = STARTS if alone else 1
    while True:
        tries_left -= 1
        try:
            ray.init(
                address=cluster.address,
                namespace="bark-studio",
                include_dashboard=False if alone else None,
                log_to_driver=False,
                ignore_reinit_error=True,
                configure_logging=False,
            )
            serve.start(proxy_location="Disabled")
        except Exception as error:  # of any kind: a busy machine's is a bare Exception
            ray.shutdown()
            if not tries_left:
                raise _not_joined(cluster, error) from error
            _log.warning("Ray didn't start (%s); trying again", _brief(error))
        else:
            return alone


def _not_joined(cluster: Cluster, error: Exception) -> GenerationError:
    if cluster.address == "local":
        return GenerationError(
            f"Ray couldn't be started on this machine ({_brief(error)}); try again when it is "
            "less busy, or leave --ray away"
        )
    return GenerationError(
        f"there is no Ray cluster at {cluster.address!r} ({_brief(error)}); start one with "
        "'ray start --head', or leave the address away"
    )


def _app_name(model: str) -> str:
    """Of a model's application: its name may hold what Ray's names may not."""
    return PREFIX + hashlib.sha256(model.encode()).hexdigest()[:16]


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
