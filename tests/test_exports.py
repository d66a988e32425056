"""What leaves the history, and what comes back: formats, zips, tables, files that are opened."""

from __future__ import annotations

import csv
import io
import json
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bark_core import Audio, InvalidAudio, InvalidRequest, read_audio, read_tags, write_audio
from tests.made import made
from tests.page_model import save_page_model
from tests.served import Served, serving
from webui import exports as exports_module
from webui import routes_history
from webui.exports import MEDIA_TYPES, Encoder, Exports, settings_table, zipped
from webui.history import Entry, History, new_id
from webui.opened import MAX_OPENED, OpenedFiles, opened_entry
from webui.settings import StudioSettings


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History.open(tmp_path / "data")
    yield history
    history.close()


# --- formats


@pytest.mark.parametrize("suffix", sorted(MEDIA_TYPES))
def test_every_format_sounds_the_same_and_keeps_the_settings(history: History, suffix: str) -> None:
    generation = made("Good evening.", voice_name="rosa", seconds=1.0)
    kept = history.add(generation)
    path = Encoder(history).path(kept.id, suffix)
    assert path.suffix == f".{suffix}"
    assert read_audio(path).duration_s == pytest.approx(generation.audio.duration_s, abs=0.1)
    assert read_tags(path) == kept.to_tags()


def test_another_format_is_encoded_once(history: History) -> None:
    kept = history.add(made())
    encoder = Encoder(history)
    path = encoder.path(kept.id, "mp3")
    path.write_bytes(b"encoded before")
    assert encoder.path(kept.id, "mp3").read_bytes() == b"encoded before"


def test_what_is_encoded_stays_within_its_bound(history: History) -> None:
    ids = [history.add(made(f"take {n}", seconds=1.0)).id for n in range(4)]
    one = Encoder(history).path(ids[0], "wav").stat().st_size
    # tags differ by some bytes
    encoder = Encoder(history, max_bytes=2 * one + 1_000)
    for entry_id in ids:
        assert encoder.path(entry_id, "wav").is_file()
    left = sorted(path.stem for path in history.encoded.iterdir())
    assert left == sorted(ids[2:])
    # the one that is asked for is there even if nothing may stay
    assert Encoder(history, max_bytes=0).path(ids[0], "wav").is_file()


def test_other_formats_go_with_the_entry(history: History) -> None:
    kept = history.add(made())
    Encoder(history).path(kept.id, "opus")
    history.delete(kept.id)
    assert list(history.encoded.iterdir()) == []


def test_an_unknown_format_is_refused(history: History) -> None:
    kept = history.add(made())
    with pytest.raises(InvalidAudio, match="flac, wav, mp3, opus"):
        Encoder(history).path(kept.id, "exe")


# --- zips and tables


def unzipped(pieces: Iterator[bytes]) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(io.BytesIO(b"".join(pieces)))
    assert archive.testzip() is None
    return archive


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_zip_holds_the_sounds_and_their_settings(history: History) -> None:
    ids = [history.add(made(f"Take {n}: ändere", seed=n)).id for n in range(3)]
    history.tag(ids[:1], add=["x", "y"])
    archive = unzipped(zipped(history, Encoder(history), ids, owner=""))
    names = archive.namelist()
    assert names == [
        "settings.csv",
        "1-take-0-ändere.flac",
        "2-take-1-ändere.flac",
        "3-take-2-ändere.flac",
    ]
    for entry_id, name in zip(ids, names[1:], strict=True):
        assert archive.read(name) == history.sound_path(entry_id).read_bytes()
    rows = table(archive.read("settings.csv").decode("utf-8-sig"))
    assert [row["file"] for row in rows] == names[1:]
    assert [row["seed"] for row in rows] == ["0", "1", "2"]
    assert [row["tags"] for row in rows] == ["x, y", "", ""]
    assert rows[0]["semantic.temperature"] == "0.7"
    assert rows[0]["model"] == "tiny" and rows[0]["precision"] == "float32"


def test_a_zip_in_another_format(history: History) -> None:
    kept = history.add(made("Hello"))
    archive = unzipped(zipped(history, Encoder(history), [kept.id], owner="", suffix="mp3"))
    assert archive.namelist() == ["settings.csv", "1-hello.mp3"]


def test_a_zip_is_made_piece_by_piece(history: History) -> None:
    ids = [history.add(made(f"take {n}", seconds=2.0)).id for n in range(5)]
    pieces = [len(piece) for piece in zipped(history, Encoder(history), ids, owner="")]
    assert max(pieces) < sum(pieces) / 2


def test_a_zip_names_what_was_deleted_meanwhile(history: History) -> None:
    ids = [history.add(made(f"take {n}")).id for n in range(2)]
    pieces = zipped(history, Encoder(history), ids, owner="")
    first = next(pieces)
    history.delete(ids[1])
    archive = unzipped(iter([first, *pieces]))
    assert archive.namelist() == ["settings.csv", "1-take-0.flac", "missing.txt"]
    assert archive.read("missing.txt") == b"2-take-1.flac"


def test_a_zip_holds_only_one_s_own(history: History) -> None:
    mine, other = history.add(made("mine"), owner="ann"), history.add(made("b"), owner="bob")
    export = Exports(history).prepare([mine.id, other.id, new_id()], owner="ann")
    assert export.ids == (mine.id,)
    archive = unzipped(zipped(history, Encoder(history), [mine.id, other.id], owner="ann"))
    assert archive.namelist() == ["settings.csv", "1-mine.flac"]


def test_an_export_is_for_who_asked_and_for_a_while(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = history.add(made(), owner="ann")
    exports = Exports(history)
    export = exports.prepare([kept.id], owner="ann")
    assert exports.get(export.token, owner="ann") == export
    assert exports.get(export.token, owner="bob") is None
    assert exports.get(new_id(), owner="ann") is None
    monkeypatch.setattr("webui.exports.time.monotonic", lambda: export.until + 1)
    assert exports.get(export.token, owner="ann") is None


def test_what_can_t_be_exported_is_told(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    exports = Exports(history)
    kept = history.add(made())
    with pytest.raises(InvalidRequest, match="none of these"):
        exports.prepare([new_id()], owner="")
    with pytest.raises(InvalidRequest, match="no format 'exe'"):
        exports.prepare([kept.id], owner="", suffix="exe")
    with pytest.raises(InvalidRequest, match="too many"):
        exports.prepare([new_id() for _number in range(10_001)], owner="")
    monkeypatch.setattr(exports_module, "MAX_EXPORT_BYTES", 1_000)
    with pytest.raises(InvalidRequest, match="GB at most"):
        exports.prepare([kept.id], owner="")


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", '=HYPERLINK("http://x")', "|calc", "\r=1"],
)
def test_no_text_is_a_formula_in_a_spreadsheet(history: History, text: str) -> None:
    kept = history.add(made(f"{text} is said"))
    history.set_tags(kept.id, ["=cmd"])
    entry = history.get(kept.id)
    assert entry is not None
    (row,) = table(settings_table([entry], {}))
    assert row["text"].startswith("'")
    assert row["text"][1:] == f"{text} is said"
    assert row["tags"] == "'=cmd"


def test_words_come_out_of_a_table_as_they_went_in(history: History) -> None:
    text = 'She said "no,\nnever"; 100 % sure ♪ 你好'
    kept = history.add(made(text, seed=2**63 - 1))
    (row,) = table(settings_table([kept], {kept.id: "a.flac"}))
    assert row["text"] == text
    assert row["seed"] == f"'{2**63 - 1}"  # a spreadsheet would round the number
    assert row["complete"] == "yes" and row["favourite"] == "no"


def test_a_table_takes_whatever_the_details_hold(history: History) -> None:
    odd: dict[str, Any] = {"model": 7, "settings": [], "seconds": None, "takes": {}, "voice": "x"}
    entry = history.add_sound(made().audio, {"text": "odd", **odd})
    (row,) = table(settings_table([entry], {}))
    assert row["text"] == "odd" and row["model"] == "?"


# --- files that are opened


def test_an_opened_file_says_what_it_was_made_from(history: History) -> None:
    kept = history.add(made("Good evening.", seed=5, voice_name="rosa"), owner="ann")
    opened = OpenedFiles()
    found = opened.read(Encoder(history).path(kept.id, "mp3"), owner="bob")
    assert found.origin == kept.id
    assert found.entry.id != kept.id
    assert (found.entry.text, found.entry.seed) == ("Good evening.", 5)
    assert found.entry.voice_name == "rosa"
    assert opened.get(found.entry.id, owner="bob") == found.entry
    assert opened.get(found.entry.id, owner="ann") is None


def test_a_file_of_the_command_line_opens(tmp_path: Path) -> None:
    generation = made("From the terminal.")
    generation.save(tmp_path / "a.wav")
    assert OpenedFiles().read(tmp_path / "a.wav", owner="").entry.text == "From the terminal."


def test_a_stranger_s_file_is_told_calmly(tmp_path: Path) -> None:
    path = tmp_path / "song.flac"
    write_audio(path, Audio(np.zeros(2400, dtype=np.float32)))
    with pytest.raises(InvalidAudio, match="holds no settings"):
        OpenedFiles().read(path, owner="")
    path.write_bytes(b"no sound at all")
    with pytest.raises(InvalidAudio, match="sound file") as told:
        OpenedFiles().read(path, owner="")
    assert str(tmp_path) not in str(told.value)


@pytest.mark.parametrize(
    "change",
    [
        {"text": None},
        {"text": ""},
        {"text": 7},
        {"seed": "7"},
        {"seed": True},
        {"seed": -1},
        {"seed": 2**70},
        {"settings": []},
        {"settings": {"semantic": {"temperature": "hot"}}},
        {"settings": {"coarse": {"temperature": 99.0}}},
        {"duration_s": "long"},
        {"duration_s": float("inf")},
        {"created_at": {}},
        {"voice": "rosa"},
        {"voice": {"name": 7}},
    ],
)
def test_settings_that_can_t_be_are_refused(change: dict[str, Any]) -> None:
    tags = json.loads(json.dumps(made().metadata()))
    assert opened_entry(tags, owner="").text
    with pytest.raises(InvalidAudio, match="aren’t whole"):
        opened_entry({**tags, **change}, owner="")


def test_opened_files_don_t_pile_up(tmp_path: Path) -> None:
    made().save(tmp_path / "a.flac")
    opened = OpenedFiles()
    ids = [opened.read(tmp_path / "a.flac", owner="").entry.id for _ in range(MAX_OPENED + 1)]
    assert opened.get(ids[0], owner="") is None
    assert opened.get(ids[-1], owner="") is not None


# --- over HTTP


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("exports")
    model = save_page_model(folder / "page")
    with serving(StudioSettings(model=str(model), data=folder / "data")) as served:
        yield served


@pytest.fixture
def kept(served: Served) -> Entry:
    return served.studio.history.add(made("Good evening.", seconds=0.5))


def post(served: Served, path: str, data: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(served.address + path, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            body = error.read()
            return error.code, json.loads(body) if body.startswith(b"{") else {}


@pytest.mark.parametrize(("suffix", "media_type"), MEDIA_TYPES.items())
def test_a_sound_is_served_in_every_format(
    served: Served, kept: Entry, suffix: str, media_type: str
) -> None:
    status, data, headers = served.get(f"studio/sound/{kept.id}.{suffix}")
    assert status == 200
    assert headers["content-type"] == media_type
    assert headers["x-content-type-options"] == "nosniff"
    assert len(data) > 1_000
    status, part, _headers = served.get(f"studio/sound/{kept.id}.{suffix}", range="bytes=0-9")
    assert (status, part) == (206, data[:10])


@pytest.mark.parametrize("path", ["{other}.flac", "{kept}.exe", "{kept}.flac.flac", "x.mp3"])
def test_what_isn_t_there_is_not_found(served: Served, kept: Entry, path: str) -> None:
    path = path.format(kept=kept.id, other=new_id())
    assert served.get(f"studio/sound/{path}")[0] == 404


def test_what_is_in_the_bin_is_not_served(served: Served, kept: Entry) -> None:
    served.studio.history.trash([kept.id])
    assert served.get(f"studio/sound/{kept.id}.flac")[0] == 404


def test_a_zip_is_asked_for_and_fetched(served: Served, kept: Entry) -> None:
    status, told = post(served, "studio/export", json.dumps({"ids": [kept.id]}).encode())
    assert (status, told["n"]) == (200, 1)
    status, data, headers = served.get(told["url"])
    assert status == 200
    assert headers["content-disposition"].startswith('attachment; filename="bark-studio-')
    archive = unzipped(iter([data]))
    assert archive.namelist() == ["settings.csv", "1-good-evening.flac"]
    assert served.get("studio/export/0.zip")[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"ids": "x"}',
        b'{"ids": ["../x"]}',
        b'{"ids": [7]}',
        b'{"ids": []}',
        b"[" * 100_000,
        b"x" * 2**21,
    ],
)
def test_a_list_that_isn_t_one_is_refused(served: Served, body: bytes) -> None:
    status, told = post(served, "studio/export", body)
    assert status == 422
    assert told["what"] == "There is no zip of these"


def test_a_file_is_opened_and_found_where_it_still_is(served: Served, kept: Entry) -> None:
    data = Encoder(served.studio.history).path(kept.id, "opus").read_bytes()
    status, told = post(served, "studio/open", data)
    assert status == 200 and told.pop("origin")[0].startswith("This very file was made here on")
    assert told == {"id": kept.id, "kind": "speech", "kept": True}
    served.studio.history.delete(kept.id)
    status, told = post(served, "studio/open", data)
    assert (status, told["kept"]) == (200, False)
    entry = served.studio.entry(told["id"], "")
    assert entry is not None and entry.text == "Good evening."


def test_a_file_that_isn_t_ours_gets_a_calm_message(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, told = post(served, "studio/open", b"nothing of the kind")
    assert (status, told["what"]) == (422, "That file can’t be opened here")
    assert told["do"] == "Open a WAV, FLAC, MP3 or Opus file."
    monkeypatch.setattr(routes_history, "MAX_OPENED_BYTES", 2**20)
    status, told = post(served, "studio/open", b"x" * (2**20 + 1))
    assert status == 422 and "more than 1 MB" in told["why"]


def test_a_file_without_tags_opens_by_its_sound(served: Served, tmp_path: Path) -> None:
    bare = tmp_path / "bare.wav"
    alone = served.studio.history.add(made("Nothing else sounds like this.", seed=11))
    write_audio(bare, read_audio(served.studio.history.sound_path(alone.id)))
    status, told = post(served, "studio/open", bare.read_bytes())
    assert (status, told["id"], told["kept"]) == (200, alone.id, True)
    assert told["origin"][0].startswith("This very sound was made here on")
    assert told["origin"][1] == "It has no tags of Bark Studio."


def test_a_strangers_sound_is_told_of_and_not_opened(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "theirs.wav"
    write_audio(path, made("theirs", seed=99).audio)
    status, told = post(served, "studio/open", path.read_bytes())
    assert (status, told["what"]) == (422, "That file can’t be opened here")
    assert told["origin"][0] == "Neither the file nor its sound is known here."
    status, told = post(served, "studio/origin", path.read_bytes())
    assert (status, told["file"], told["sound"], told["entry"]) == (200, None, None, None)
    assert post(served, "studio/origin", b"nothing of the kind")[0] == 422


@pytest.mark.parametrize("path", ["studio/open", "studio/export", "studio/origin"])
def test_another_site_s_page_can_t_post(served: Served, path: str) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert post(served, path, b"{}", **headers)[0] == 403
