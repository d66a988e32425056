"""Laws of where a sound comes from: signing, marking, finding it out again, what survives what."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bark_core import Audio, Provenance, examine, hashes_of, read_audio, read_tags, write_audio
from bark_core.audio import encode_audio
from bark_core.credentials import (
    SIGNED,
    SigningKey,
    load_signing_key,
    make_signing_key,
    read_credentials,
)
from bark_core.errors import InvalidCheckpoint, InvalidSetting, MissingFiles, StorageError
from bark_core.watermark import DETECTOR, FILES, GENERATOR, Watermark, weights_here
from tests.made import made

c2pa = pytest.importorskip("c2pa")
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"text": "Good evening.", "seed": 7, "duration_s": 0.2}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return make_signing_key(tmp_path_factory.mktemp("host") / "signing", name="A host")


def written(folder: Path, suffix: str, key: SigningKey | None) -> Path:
    path = folder / f"sound{suffix}"
    write_audio(path, made(seconds=1.0).audio, SETTINGS, stamp=Provenance(key))
    return path


# --- the key


@posix
def test_the_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "signing"
    made_key = make_signing_key(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert load_signing_key(folder) == made_key
    assert "PRIVATE" not in repr(made_key)
    (folder / "key.pem").chmod(0o640)
    with pytest.raises(StorageError, match="others can read"):
        load_signing_key(folder)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    before = make_signing_key(tmp_path / "signing")
    with pytest.raises(StorageError, match="already"):
        make_signing_key(tmp_path / "signing")
    assert load_signing_key(tmp_path / "signing") == before


def test_a_damaged_or_missing_key_is_told(tmp_path: Path) -> None:
    make_signing_key(tmp_path / "signing")
    (tmp_path / "signing" / "certificate.pem").write_text("nothing")
    with pytest.raises(StorageError, match="damaged"):
        load_signing_key(tmp_path / "signing")
    with pytest.raises(StorageError, match="can't read"):
        load_signing_key(tmp_path / "nowhere")
    with pytest.raises(InvalidSetting, match="name"):
        make_signing_key(tmp_path / "other", name="")


# --- signing


@pytest.mark.parametrize("suffix", sorted(SIGNED))
def test_a_signed_file_says_that_it_was_generated(
    tmp_path: Path, key: SigningKey, suffix: str
) -> None:
    path = written(tmp_path, suffix, key)
    credentials = read_credentials(path.read_bytes(), key)
    assert credentials is not None
    assert credentials.intact and credentials.own and credentials.generated
    assert credentials.signer == "A host"
    assert credentials.problems == ()
    assert credentials.settings == SETTINGS
    # and its tags and its sound are what they were
    assert read_tags(path) == SETTINGS
    plain = written(tmp_path / "..", suffix, None)
    assert np.array_equal(read_audio(path).samples, read_audio(plain).samples)


@pytest.mark.parametrize("suffix", sorted(SIGNED))
def test_a_change_breaks_the_credentials(tmp_path: Path, key: SigningKey, suffix: str) -> None:
    data = bytearray(written(tmp_path, suffix, key).read_bytes())
    data[len(data) // 2] ^= 1  # in the sound
    credentials = read_credentials(bytes(data), key)
    assert credentials is not None and not credentials.intact and not credentials.own
    assert "assertion.dataHash.mismatch" in credentials.problems


def test_another_hosts_credentials_hold_but_are_not_own(tmp_path: Path, key: SigningKey) -> None:
    impostor = make_signing_key(tmp_path / "other", name="A host")  # the same name
    data = written(tmp_path, ".flac", impostor).read_bytes()
    credentials = read_credentials(data, key)
    assert credentials is not None and credentials.intact and not credentials.own
    assert read_credentials(data) is not None


@pytest.mark.parametrize("suffix", [".ogg", ".opus"])
def test_formats_that_cannot_be_signed_stay_as_they_are(key: SigningKey, suffix: str) -> None:
    audio = made().audio
    signed = encode_audio(audio, suffix, SETTINGS, stamp=Provenance(key))
    assert read_credentials(signed) is None
    assert len(signed) == len(encode_audio(audio, suffix, SETTINGS))


@pytest.mark.parametrize(
    "data", [b"", b"RIFF", b"ID3\x04\0\0\0\0\0\0", b"fLaC", b"\xff\xfb", b"x" * 99]
)
def test_what_is_no_sound_has_no_credentials(data: bytes) -> None:
    found = read_credentials(data)
    assert found is None or not found.intact


@given(position=st.integers(0, 10**6), flip=st.integers(1, 255), cut=st.booleans())
def test_damaged_files_are_read_without_a_surprise(
    position: int, flip: int, cut: bool, key: SigningKey
) -> None:
    data = bytearray(encode_audio(made().audio, ".flac", SETTINGS, stamp=Provenance(key)))
    data[position % len(data)] ^= flip
    found = read_credentials(bytes(data[: position % len(data)] if cut else data), key)
    assert found is None or not found.intact or not cut


def test_without_the_package_it_is_said(monkeypatch: pytest.MonkeyPatch, key: SigningKey) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(InvalidSetting, match=r"c2pa-python.*requirements-provenance"):
        encode_audio(made().audio, ".flac", stamp=Provenance(key))


# --- the mark


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AudioSeal's networks with random weights, in files as the published ones are laid out."""
    pytest.importorskip("audioseal")
    import torch
    from audioseal import builder, loader
    from omegaconf import OmegaConf

    folder = tmp_path_factory.mktemp("audioseal")
    kinds: list[tuple[str, Any, Callable[..., Any]]] = [
        (GENERATOR, builder.AudioSealWMConfig, builder.create_generator),
        (DETECTOR, builder.AudioSealDetectorConfig, builder.create_detector),
    ]
    for card, config_type, create in kinds:
        stated: Any = OmegaConf.to_container(loader.load_local_model_config(card))
        stated.pop("checkpoint")
        network = create(loader.AudioSeal.parse_config(stated, config_type=config_type, nbits=16))
        state = {k.replace(".inner_conv.", "."): v for k, v in network.state_dict().items()}
        torch.save(
            {"xp.cfg": OmegaConf.create({"a": [1, "x"]}), "model": state}, folder / FILES[card]
        )
    return folder


def test_a_marked_sound_is_as_long_and_goes_through_the_detector(weights: Path) -> None:
    assert weights_here(weights)
    watermark = Watermark.load(weights)
    audio = made(seconds=1.0).audio
    marked = watermark.embed(audio)
    assert len(marked) == len(audio) and marked.sample_rate_hz == audio.sample_rate_hz
    assert np.any(marked.samples != audio.samples)
    assert np.array_equal(watermark.embed(audio).samples, marked.samples)
    # weights that nobody trained find nothing on purpose; what comes back must still make sense
    assert 0.0 <= watermark.detect(marked).probability <= 1.0
    silence = Audio(np.zeros(24_000, np.float32))
    assert watermark.embed(silence) is silence
    assert not watermark.detect(Audio(np.zeros(24, np.float32))).found


def test_weights_that_are_not_here_are_asked_for(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("audioseal")
    monkeypatch.setenv("AUDIOSEAL_CACHE_DIR", str(tmp_path / "cache"))
    assert not weights_here(tmp_path)
    with pytest.raises(MissingFiles, match=r"generator_base\.pth.*put them into"):
        Watermark.load(tmp_path)


def test_without_audioseal_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InvalidSetting, match="requirements-provenance"):
        Watermark.load(tmp_path)


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_weights_that_run_a_program_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("audioseal")
    import torch

    torch.save({"model": Payload(tmp_path / "executed")}, tmp_path / FILES[GENERATOR])
    with pytest.raises(InvalidCheckpoint):
        Watermark.load(tmp_path)
    assert not (tmp_path / "executed").exists()


# --- what survives what


@pytest.fixture(scope="module")
def told() -> dict[str, list[set[str]]]:
    """The table of docs/provenance.md: what is done -> formats in which each thing survives."""
    text = (ROOT / "docs" / "provenance.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    return {
        row[0]: [set() if cell == "–" else set(cell.split(", ")) for cell in row[1:]]
        for row in rows
        if row[0] in DONE
    }


def ffmpeg(source: Path, suffix: str, *options: str) -> Path:
    target = source.with_name(f"done{suffix}")
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(source), *options, str(target)]
    subprocess.run(command, check=True)
    return target


DONE: dict[str, Callable[[Path], Path]] = {
    "copied, renamed": lambda f: Path(shutil.copy(f, f.with_name(f"copy{f.suffix}"))),
    "written anew by ffmpeg, the stream as it is": lambda f: ffmpeg(f, f.suffix, "-c", "copy"),
    "tags stripped, the stream as it is": lambda f: ffmpeg(
        f, f.suffix, "-map_metadata", "-1", "-c", "copy", "-fflags", "+bitexact"
    ),
    "made into WAV": lambda f: ffmpeg(f, ".wav"),
    "made into FLAC": lambda f: ffmpeg(f, ".flac"),
    "made into MP3": lambda f: ffmpeg(f, ".mp3"),
    "made into Opus": lambda f: ffmpeg(f, ".opus"),
    "cut": lambda f: ffmpeg(f, f.suffix, "-ss", "0.2", "-t", "0.5"),
    "made quieter": lambda f: ffmpeg(f, f.suffix, "-filter:a", "volume=0.8"),
}


@pytest.fixture
def originals(tmp_path: Path, key: SigningKey) -> dict[str, Path]:
    names = {"WAV": ".wav", "FLAC": ".flac", "MP3": ".mp3", "Opus": ".opus"}
    return {name: written(tmp_path, suffix, key) for name, suffix in names.items()}


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize("done", DONE)
def test_what_survives_is_what_the_docs_say(
    done: str, originals: dict[str, Path], told: dict[str, list[set[str]]], key: SigningKey
) -> None:
    survived: list[set[str]] = [set(), set(), set(), set()]
    for name, path in originals.items():
        before, found = hashes_of(path), examine(DONE[done](path), own=key)
        credentials = found.credentials
        for there, holds in zip(
            survived,
            (
                found.hashes.file == before.file,
                found.hashes.sound == before.sound,
                bool(found.tags),
                credentials is not None and credentials.intact,
            ),
            strict=True,
        ):
            if holds:
                there.add(name)
    assert told[done] == survived
