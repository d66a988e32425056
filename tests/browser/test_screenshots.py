"""The script that makes the pictures of the docs still finds its way about the page."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from playwright.sync_api import Browser

from bark_core import GenerationRequest
from tests.browser.test_voices import keep
from tests.browser.test_voices import voices as voices
from tests.served import Served

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def screenshots() -> ModuleType:
    """scripts/screenshots.py, which is no package."""
    spec = importlib.util.spec_from_file_location(
        "screenshots", ROOT / "scripts" / "screenshots.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_tab_can_be_pictured(
    screenshots: ModuleType, browser: Browser, voices: Served, tmp_path: Path
) -> None:
    keep(voices, "ada")
    voices.studio.desk.submit(GenerationRequest("Good evening.", seed=1)).finished.wait()
    page = screenshots.opened(browser, voices.address, "light", screenshots.WIDE)
    for name, show in screenshots.TABS.items():
        show(page)
        screenshots.shoot(page, tmp_path, name)
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    page.close()
