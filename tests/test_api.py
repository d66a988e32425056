"""Laws of the endpoints for programs: what a person does on the page, by name."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import bark_core
from tests.made import made
from tests.page_model import LAYOUT, save_page_model
from tests.served import Served, serving
from webui.settings import StudioSettings

LONG = "The rain has stopped, and the river is high. " * 12


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = save_page_model(tmp_path_factory.mktemp("models") / "page")
    data = tmp_path_factory.mktemp("data")
    with serving(StudioSettings(model=str(model), data=data)) as served:
        yield served


@pytest.fixture(scope="module")
def studio(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    client_module: Any = importlib.import_module("gradio_client")
    folder = str(tmp_path_factory.mktemp("downloads"))
    client = client_module.Client(served.address, verbose=False, download_files=folder)
    yield client
    client.close()


def refusal(studio: Any, api_name: str, **arguments: Any) -> str:
    error: Any = importlib.import_module("gradio_client.exceptions").AppError
    with pytest.raises(error) as refused:
        studio.predict(**arguments, api_name=api_name)
    return str(refused.value)


def test_the_same_seed_gives_the_same_file(studio: Any, served: Served) -> None:
    file, how = studio.predict("Hello there.", seed=5, api_name="/generate")
    assert bark_core.read_audio(file).duration_s == pytest.approx(how["duration_s"], abs=0.01)
    assert (how["text"], how["seed"]) == ("Hello there.", 5)
    assert served.studio.history.get(how["id"]) is not None
    again, _how = studio.predict("Hello there.", seed=5, api_name="/generate")
    assert (bark_core.read_audio(again).samples == bark_core.read_audio(file).samples).all()


def test_a_mood_sets_what_isn_t_given(studio: Any) -> None:
    mood = next(mood for mood in bark_core.moods() if mood.name == "steady")
    _file, how = studio.predict(
        "Hello.", seed=5, mood="steady", words_temperature=0.9, retries=1, api_name="/generate"
    )
    settings = how["settings"]
    assert settings["semantic"]["temperature"] == 0.9
    assert settings["semantic"]["top_k"] == mood.settings.semantic.top_k
    assert settings["coarse"]["temperature"] == mood.settings.coarse.temperature
    assert how["retries"] == 1


def test_what_is_quicker_is_asked_for_and_noted(studio: Any) -> None:
    _file, how = studio.predict(
        "Hello.", seed=5, streaming=True, coarse_history=60, api_name="/generate"
    )
    assert how["streaming"] is True
    assert how["settings"]["coarse"]["max_history"] == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": " "}, "no text"),
        ({"text": "Hi", "streaming": 1}, "streaming must be true or false, got int"),
        ({"text": "Hi", "streaming": True, "retries": 1}, "turn one of them off"),
        ({"text": "Hi", "coarse_history": 100_000}, "within 30..120 .*, got 100000"),
        ({"text": "Hi", "voice": "nobody"}, "no voice 'nobody'"),
        ({"text": "Hi", "voice": "take:" + "0" * 32}, "was deleted"),
        ({"text": "Hi", "words_temperature": 77}, "within 0..5"),
        ({"text": "Hi", "seed": -7}, "seed must be"),
        ({"text": "Hi", "mood": "grim"}, "choose one of"),
        ({"text": "Hi", "retries": 99}, "retries must be"),
        ({"text": "Hi", "model": "nothing"}, "no model 'nothing'"),
        ({"text": None}, "must be a string"),
    ],
)
def test_what_can_t_be_made_is_told(studio: Any, arguments: dict[str, Any], message: str) -> None:
    assert re.search(message, refusal(studio, "/generate", **arguments), re.IGNORECASE)


def test_a_plan_loses_nothing(studio: Any) -> None:
    plan = studio.predict(LONG, api_name="/plan")
    assert plan["window"] == LAYOUT.text_window
    texts = [segment["text"] for segment in plan["segments"]]
    assert " ".join(texts).split() == LONG.split()
    assert all(0 < segment["tokens"] <= plan["window"] for segment in plan["segments"])


def test_models_and_voices_are_listed(studio: Any) -> None:
    models = studio.predict(api_name="/models")
    assert {"pup", "small", "large"} <= {model["name"] for model in models}
    (first,) = [model for model in models if model["default"]]
    assert (first["name"], first["state"]) == ("page", "loaded")
    assert studio.predict(api_name="/voices") == []  # the random model has none
    names = [voice["name"] for voice in studio.predict("pup", api_name="/voices")]
    assert "rosa" in names


def test_the_history_is_listed_and_handed_out(studio: Any, served: Served) -> None:
    kept = served.studio.history.add(made("A needle in the hay."))
    served.studio.history.add(made("A needle of another owner."), owner="ann")
    (found,) = studio.predict("needle", api_name="/history")
    assert (found["id"], found["text"]) == (kept.id, "A needle in the hay.")
    assert studio.predict("needle", offset=1, api_name="/history") == []
    file, told = studio.predict(kept.id, api_name="/history_get")
    assert bark_core.read_audio(file).duration_s == pytest.approx(told["duration_s"], abs=0.01)
    assert told["details"]["seed"] == 7
    assert "no entry" in refusal(studio, "/history_get", entry_id="../../etc/passwd")
    assert "Limit must" in refusal(studio, "/history", words="", limit=0)


def test_a_file_is_told_whether_it_was_made_here(
    studio: Any, served: Served, tmp_path: Path
) -> None:
    handle_file: Any = importlib.import_module("gradio_client").handle_file
    kept = served.studio.history.add(made("Is it from here?", seed=11))
    told = studio.predict(
        handle_file(str(served.studio.history.sound_path(kept.id))), api_name="/origin"
    )
    assert told["file"] == told["sound"] == {"made_at": kept.created_at}
    assert (told["entry"], told["tags"]["entry_here"]) == (kept.id, True)
    assert any("This very file was made here" in line for line in told["lines"])
    other = tmp_path / "other.wav"
    bark_core.write_audio(other, made("From elsewhere.", seed=12).audio)
    told = studio.predict(handle_file(str(other)), api_name="/origin")
    assert told["file"] is told["sound"] is told["entry"] is None
    other.write_bytes(b"no sound at all")
    assert refusal(studio, "/origin", file=handle_file(str(other)))
    for nothing in (None, "/etc/passwd", {"path": None}, 7):
        assert "File must be a file that was uploaded" in refusal(studio, "/origin", file=nothing)


def test_a_job_is_seen_and_stopped(studio: Any, served: Served) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(refusal, studio, "/generate", text=LONG * 4, seed=1)
        deadline = time.monotonic() + 30
        while not (jobs := studio.predict(api_name="/jobs")):
            assert time.monotonic() < deadline
        assert jobs[0]["text"] == LONG * 4
        assert studio.predict(jobs[0]["id"], api_name="/stop") == 1
        assert "stopped" in running.result(60)
    assert studio.predict(api_name="/jobs") == []
    assert studio.predict(api_name="/stop") == 0


def test_a_script_is_said_by_its_speakers(studio: Any, tmp_path: Path) -> None:
    text = "Ann: Hello there.\nBob: Good morning.\n"
    file, told = studio.predict(text, api_name="/script")
    assert bark_core.read_audio(file).duration_s == pytest.approx(told["duration_s"], abs=0.01)
    assert "Good morning." in told["srt"]
    assert (
        "nobody in the script"
        in refusal(studio, "/script", text=text, voices={"Eve": "rosa"}).lower()
    )


def test_a_program_s_session_holds_no_copy_of_the_page(studio: Any, served: Served) -> None:
    """One for each call by plain HTTP: they made the studio grow by 0.7 MB a call."""
    assert studio.predict(api_name="/models")
    sessions = served.demo.app.state_holder.session_data
    assert studio.session_hash in sessions
    copied = max(len(session.config_values) for session in sessions.values())
    assert copied < len(served.demo.blocks) / 4
