"""Fixtures for all tests: tiny random models, made on the fly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch

from bark_core.config import CascadeConfig
from tests import tiny

if TYPE_CHECKING:
    from bark_core.cascade import Cascade

# Gradio looks for a free port from here on: processes of one run don't race for the same one
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
os.environ.setdefault("GRADIO_SERVER_PORT", str(7860 + 100 * WORKER))

# tiny models gain nothing from threads, and lose much when the cores are shared: twenty times
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of workers

# no deadline: the first example pays for what is loaded lazily, and a busy machine is no bug
hypothesis.settings.register_profile("law", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.load_profile("law")


@pytest.fixture
def tiny_config() -> CascadeConfig:
    """The configuration of the tiny model."""
    return tiny.tiny_config()


@pytest.fixture(scope="session")
def tiny_cascade() -> Cascade:
    """A whole tiny random model, shared: don't change it."""
    return tiny.tiny_cascade()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in our own layout on the disk, shared: don't change it."""
    return tiny.save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
