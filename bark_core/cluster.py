"""Which machines models run on, for those that don't import ray: see ray_serve.py."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from bark_core.backend import Backend
from bark_core.errors import InvalidSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where replicas run, and how many of each model.

    Raises:
        InvalidSetting: a number is out of its range.
    """

    address: str = "local"  # "local" starts Ray on this machine; "auto" joins one; or HOST:PORT
    replicas: int = 1
    gpus_each: float | None = None  # of one replica; None: one where the cluster has any
    cpus_each: float = 0.1  # a model's threads take what there is; this only makes room

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= 1000:
            raise InvalidSetting(f"replicas must be within 1..1000, got {self.replicas}")
        if self.gpus_each is not None and not 0 <= self.gpus_each <= 64:
            raise InvalidSetting(f"gpus_each must be within 0..64, got {self.gpus_each}")


def open_cluster(cluster: Cluster) -> Backend:
    """A backend whose models run as Ray Serve applications.

    Raises:
        InvalidSetting: the package ray isn't installed.
        GenerationError: there is no cluster at that address.
    """
    # by name: only who wants a cluster needs ray
    module = importlib.import_module("bark_core.ray_serve")
    backend: Backend = module.RayServeBackend(cluster)
    return backend
