"""Laws of previews: a voice is heard as its own codes sound, and every refusal is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bark_core import Voice, load, read_audio
from bark_core.tokens import CoarseCodes, FineCodes, SemanticTokens
from tests.page_model import LAYOUT, save_page_model
from tests.served import Served, serving
from webui.previews import preview_path, preview_url
from webui.settings import StudioSettings


def page_voice(n_semantic: int = 60, seed: int = 3) -> Voice:
    """A voice of the page's test model; its sound is noise."""
    draw = np.random.default_rng(seed)
    n_frames = round(n_semantic * LAYOUT.frames_per_semantic)
    fine = draw.integers(0, LAYOUT.codebook_size, (LAYOUT.n_codebooks, n_frames))
    return Voice(
        SemanticTokens(draw.integers(0, LAYOUT.semantic_vocab, n_semantic), LAYOUT),
        CoarseCodes(fine[: LAYOUT.n_coarse_codebooks], LAYOUT),
        FineCodes(fine, LAYOUT),
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("previews")
    model = save_page_model(folder / "page")
    with serving(StudioSettings(model=str(model), data=folder / "data")) as served:
        served.studio.voices.save(page_voice(), "Änne 好")
        yield served


def test_a_preview_is_the_codec_of_the_codes(served: Served) -> None:
    path = preview_path(served.studio, "Änne 好", "", "")
    cascade = load(served.studio.settings.model)
    expected = cascade.decode(page_voice().fine).samples
    heard = read_audio(path)
    assert heard.duration_s == pytest.approx(page_voice().duration_s)
    assert np.allclose(heard.samples, expected / max(1.0, np.abs(expected).max()), atol=1e-3)


def test_a_preview_is_made_once_and_again_where_it_is_damaged(served: Served) -> None:
    path = preview_path(served.studio, "Änne 好", "", "")
    made_at = path.stat().st_mtime_ns
    assert preview_path(served.studio, "Änne 好", "", "").stat().st_mtime_ns == made_at
    path.write_bytes(b"no sound")
    assert read_audio(preview_path(served.studio, "Änne 好", "", "")).duration_s > 0


def test_the_page_hears_it_and_gets_its_file(served: Served) -> None:
    status, body, headers = served.get(preview_url("Änne 好"))
    assert (status, body[:4], headers["content-type"]) == (200, b"fLaC", "audio/flac")
    status, body, headers = served.get("studio/voice/%C3%84nne%20%E5%A5%BD.npz")
    assert status == 200
    assert body == served.studio.voices["Änne 好"].to_bytes()
    assert "attachment" in headers["content-disposition"]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("nobody", 404, "nobody"),
        ("../../history.sqlite3", 404, ""),
        ("rosa", 409, "pup"),  # of another layout, whose model isn't loaded
    ],
)
def test_a_refusal_says_what_why_and_what_to_do(
    served: Served, name: str, code: int, words: str
) -> None:
    status, body, _ = served.get(preview_url(name))
    assert status == code
    if words:
        told = json.loads(body)
        assert set(told) == {"what", "why", "do"}
        assert words in told["why"] + told["do"]


def test_a_stranger_hears_nothing(tmp_path: Path) -> None:
    model = save_page_model(tmp_path / "page")
    settings = StudioSettings(model=str(model), data=tmp_path / "data", password="long enough")
    with serving(settings) as served:
        served.studio.voices.save(page_voice(), "mine")
        assert served.get(preview_url("mine"))[0] == 401
        assert served.get("studio/voice/mine.npz")[0] == 401
