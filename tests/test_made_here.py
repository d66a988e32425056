"""Laws of "was this made here?": hashes, tags and credentials each answer for themselves."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from bark_core import (
    Provenance,
    SigningKey,
    encode_audio,
    hashes_of,
    make_signing_key,
    read_audio,
    read_credentials,
    write_audio,
)
from tests.made import made
from webui.__main__ import main
from webui.exports import MEDIA_TYPES, Encoder
from webui.history import History
from webui.made_here import MadeHere
from webui.settings import StudioSettings, signing_folder
from webui.studio import host_key

pytest.importorskip("c2pa")


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return make_signing_key(signing_folder(tmp_path))


@pytest.fixture
def history(tmp_path: Path, key: SigningKey) -> Iterator[History]:
    opened = History.open(tmp_path, stamp=Provenance(key))
    yield opened
    opened.close()


def asked(history: History, path: Path, owner: str = "") -> dict[str, object]:
    key = host_key(StudioSettings(data=history.folder))
    verdict = MadeHere(history, own=key).examine(path, owner=owner)
    assert len(verdict.lines()) == 3  # each for itself: hashes, tags, credentials
    return verdict.to_json()


@pytest.mark.parametrize("suffix", sorted(MEDIA_TYPES))
def test_every_download_is_known_again(history: History, suffix: str, tmp_path: Path) -> None:
    entry = history.add(made("Good evening."))
    path = Encoder(history).path(entry.id, suffix)
    told = asked(history, path)
    assert told["file"] == told["sound"] == {"made_at": entry.created_at} or suffix != "flac"
    assert told["file"] is not None and told["sound"] is not None
    assert told["tags"] == {"generated": True, "entry_here": True}
    assert told["entry"] == entry.id
    credentials = told["credentials"]
    if suffix == "opus":
        assert credentials is None
    else:
        assert isinstance(credentials, dict)
        assert credentials["intact"] and credentials["own"] and credentials["generated"]
    assert told["watermark"] == "unknown"


def test_the_sound_is_known_without_its_tags(history: History, tmp_path: Path) -> None:
    entry = history.add(made("Good evening."))
    bare = tmp_path / "bare.wav"
    write_audio(bare, read_audio(history.sound_path(entry.id)))
    told = asked(history, bare)
    assert told["file"] is None and told["sound"] == {"made_at": entry.created_at}
    assert told["tags"] == {"generated": False, "entry_here": False}
    assert told["credentials"] is None
    assert told["entry"] == entry.id


def test_what_was_deleted_is_still_known(history: History, tmp_path: Path) -> None:
    entry = history.add(made("Good evening."))
    copy = Path(shutil.copy(history.sound_path(entry.id), tmp_path / "copy.flac"))
    history.delete(entry.id)
    told = asked(history, copy)
    assert told["file"] == {"made_at": entry.created_at}
    assert told["entry"] is None


def test_others_hear_that_it_was_made_and_no_more(history: History) -> None:
    entry = history.add(made("A secret."), owner="ann")
    told = asked(history, history.sound_path(entry.id), owner="bob")
    assert told["file"] == {"made_at": entry.created_at}
    assert told["entry"] is None
    assert told["tags"] == {"generated": True, "entry_here": False}
    assert asked(history, history.sound_path(entry.id), owner="ann")["entry"] == entry.id


def test_another_studios_file_is_not_from_here(history: History, tmp_path: Path) -> None:
    other = make_signing_key(tmp_path / "other" / "signing")
    path = tmp_path / "theirs.flac"
    generation = made("Theirs.", seed=99)
    write_audio(path, generation.audio, generation.metadata(), stamp=Provenance(other))
    told = asked(history, path)
    assert told["file"] is told["sound"] is told["entry"] is None
    assert told["tags"] == {"generated": True, "entry_here": False}
    credentials = told["credentials"]
    assert isinstance(credentials, dict) and credentials["intact"] and not credentials["own"]


def test_what_was_made_before_hashes_were_is_found(history: History) -> None:
    entry = history.add(made("Older."))
    path = history.folder / "origins.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM origins")
    assert asked(history, history.sound_path(entry.id))["file"] is not None


def test_a_broken_store_of_hashes_costs_no_sound(history: History) -> None:
    history.origins.close()
    entry = history.add(made("Good evening."))
    assert history.get(entry.id) is not None


def test_signing_changes_nothing_that_is_heard(history: History) -> None:
    entry = history.add(made("Good evening."))
    plain = history.folder / "plain.flac"
    plain.write_bytes(encode_audio(made("Good evening.").audio, ".flac"))
    assert hashes_of(history.sound_path(entry.id)).sound == hashes_of(plain).sound


def test_a_signed_sound_without_row_comes_back(history: History) -> None:
    entry = history.add(made("Good evening."))
    history.sidecar_path(entry.id).unlink()
    with history._write() as connection:
        connection.execute("DELETE FROM entries")
    history.close()
    again = History.open(history.folder)
    found = again.get(entry.id)
    assert found is not None and found.text == "Good evening."
    again.close()


def test_the_command_line_tells_the_same(
    history: History, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    entry = history.add(made("Good evening."))
    path, data = history.sound_path(entry.id), ["--data", str(history.folder)]
    assert main(["origin", str(path), *data]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}:"
    assert "This very file was made here" in lines[1] and "this studio’s own" in lines[3]
    assert main(["origin", "--json", str(path), *data]) == 0
    assert json.loads(capsys.readouterr().out)[0]["entry"] == entry.id
    (tmp_path / "x.wav").write_bytes(b"nothing")
    assert main(["origin", str(tmp_path / "x.wav"), *data]) == 3
    assert main(["origin", str(path), "--data", str(tmp_path / "none")]) == 5
    assert main(["signing-key", "show", *data]) == 0
    assert "BEGIN CERTIFICATE" in capsys.readouterr().out
    assert main(["signing-key", "make", *data]) == 5
    assert main(["signing-key", "make", "--data", str(tmp_path / "new")]) == 0
    assert "SHA-256" in capsys.readouterr().out


def test_one_setting_turns_signing_on(tmp_path: Path) -> None:
    settings = StudioSettings(data=tmp_path, sign=True)
    first = host_key(settings)
    assert first is not None and host_key(settings) == first
    assert host_key(StudioSettings(data=tmp_path)) == first  # to know one's own files by
    assert host_key(StudioSettings(data=tmp_path / "new")) is None
    data = encode_audio(made().audio, ".mp3", stamp=Provenance(first))
    found = read_credentials(data, first)
    assert found is not None and found.own
