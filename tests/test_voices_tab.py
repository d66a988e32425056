"""Laws of the Voices tab apart from a browser: what is found, what is told, what is escaped."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from bark_core import BarkError, DownloadError, InvalidSetting, InvalidVoice, Voice
from tests.page_model import save_page_model
from tests.people import Person
from tests.programs import page_inputs
from tests.served import Served, serving
from tests.test_previews import page_voice
from webui import voices_view as view
from webui.settings import StudioSettings
from webui.voices_roll import begin_roll, roll_view, rolled
from webui.voices_shelf import Filters, VoicesShelf

WILD = "<img src=x onerror=alert(1)> & \"quotes\" 'too'"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("voices-tab")
    model = save_page_model(folder / "page")
    settings = StudioSettings(
        model=str(model),
        data=folder / "data",
        cache=folder / "cache",
        endpoint="http://127.0.0.1:9",  # nobody is there
    )
    with serving(settings) as served:
        served.studio.voices.save(replace(page_voice(), description=WILD), "Anna")
        yield served


def test_the_list_is_of_the_page_s_model_unless_told(served: Served) -> None:
    shelf = VoicesShelf(served.studio)
    own = shelf.find(Filters(), "", "")
    assert [row.entry.name for row in own] == ["Anna"]
    assert own[0].needed is None
    every = shelf.find(Filters(everything=True), "", "")
    assert len(every) == len(served.studio.voices)
    needed = {row.entry.layout: row.needed for row in every}
    assert needed["bark"] == ("small", "large") and needed["pup-2"] == ("pup",)
    assert {row.entry.kind for row in shelf.find(Filters(kind="v2", everything=True), "", "")} == {
        "v2"
    }


def test_what_a_file_says_is_escaped(served: Served) -> None:
    shelf = VoicesShelf(served.studio)
    rows = shelf.find(Filters(), "", "")
    for html in (
        view.voice_list(rows, "Anna", total=1, model="", filtered=False),
        shelf.details_html("Anna", "", "", decode=True),
        view.done(WILD, undo=WILD),
        view.uploaded([WILD], [(WILD, InvalidVoice(WILD))]),
    ):
        assert "<img" not in html
        assert "&lt;img" in html


def with_extras(voice: Voice) -> bytes:
    """The file of a voice with all that can be hidden in one, and other bytes for the same."""
    secret = b"carried along unseen"
    with zipfile.ZipFile(io.BytesIO(voice.to_bytes())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    notes = {"name": "Carla", "description": "calm", "language": "en", "hidden": secret.decode()}
    for name, array in (
        ("fine_prompt", np.asfortranarray(voice.fine.values.astype(">i8"))),
        ("metadata", np.array(json.dumps(notes))),
        ("unknown", np.frombuffer(secret, np.uint8)),
    ):
        held = io.BytesIO()
        np.save(held, array)
        members[f"{name}.npy"] = held.getvalue()
    members["../outside.txt"] = members["note.txt"] = secret
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, (2020, 2, 2, 2, 2, 2))
            info.comment, info.extra = secret, struct.pack("<HH", 0x7075, len(secret)) + secret
            archive.writestr(info, content)
        archive.comment = secret
    return packed.getvalue()


def test_an_uploaded_voice_is_saved_as_we_write_it_and_nothing_else(served: Served) -> None:
    voice = page_voice(seed=8)
    sent = with_extras(voice)
    assert sent.count(b"carried along unseen") > 6
    person = Person("", served, "")
    path = person.upload("from-elsewhere.npz", sent)
    index, function = next(
        (int(index), fn)
        for index, fn in served.demo.fns.items()
        if any(target[1] == "upload" for target in fn.targets)
        and any(one.elem_id == "voice-files" for one in fn.inputs)
    )
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = page_inputs(served, function, {"voice-files": [file]})
    body = {"data": data, "fn_index": index, "session_hash": "uploading"}
    assert person.post("gradio_api/queue/join", body).status == 200
    told = person.ask("GET", "gradio_api/queue/data?session_hash=uploading").body
    assert b'"success":true' in told
    kept = served.studio.settings.data_folder / "voices" / "Carla.npz"
    wanted = replace(voice, name="Carla", description="calm", language="en")
    assert kept.read_bytes() == wanted.to_bytes()


def test_without_a_network_a_published_voice_says_what_to_do(served: Served) -> None:
    shelf = VoicesShelf(served.studio)
    assert "Fetch and listen" not in shelf.details_html("Anna", "", "")
    with pytest.raises(DownloadError) as caught:
        shelf.fetch("v2/en_speaker_6", "")
    told = view.explain_voice(caught.value)
    assert "fetched" in told.what and "Connect to the internet" in told.do
    assert not shelf.can_decode("v2/en_speaker_6", "", "")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"target": "Anna", "name": ""}, InvalidVoice),
        ({"target": "Anna", "name": "a/b"}, InvalidVoice),
        ({"target": "rosa", "name": "Berta"}, InvalidVoice),
        ({"target": "Anna", "name": "Anna", "language": "klingon"}, InvalidVoice),
        ({"target": "nobody", "name": "x"}, BarkError),
    ],
)
def test_bad_notes_are_told(served: Served, fields: dict[str, str], kind: type[BarkError]) -> None:
    with pytest.raises(kind):
        VoicesShelf(served.studio).write_down(fields, "")
    assert served.studio.voices["Anna"].sha256 == page_voice().sha256


@pytest.mark.parametrize("moment", ["", "one", "nan", "-1", "1e9", "inf"])
def test_bad_moments_are_told(served: Served, moment: str) -> None:
    fields = {"target": "Anna", "name": "part", "from": "0", "to": moment}
    with pytest.raises(InvalidSetting):
        VoicesShelf(served.studio).keep_part(fields, "", replace=False)


@pytest.mark.parametrize("number", [0, 1, 7, 2.5, True, float("nan")])
def test_two_to_six_are_rolled(served: Served, number: float) -> None:
    with pytest.raises(InvalidSetting):
        begin_roll(served.studio, "Hello.", number, model="", owner="", browser="")


def test_nobody_sees_another_one_s_roll(served: Served) -> None:
    group = begin_roll(served.studio, "Hello.", 2, model="", owner="me", browser="b" * 32)
    mine = rolled(served.studio, group, owner="me", browser="b" * 32)
    assert len(mine) == 2 and mine[0].seed < mine[1].seed
    assert rolled(served.studio, group, owner="you", browser="b" * 32) == []
    assert rolled(served.studio, "../x", owner="me", browser="") == []
    for one in mine:
        served.studio.desk.stop(one.id, owner="me")
    assert "Voice 2" in roll_view(mine, {}, {})
