"""Laws of sound files: what is written is read back, and says where it comes from."""

from __future__ import annotations

import io
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import mutagen
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from bark_core import audio as audio_module
from bark_core.audio import (
    FORMATS,
    GENERATED_BY,
    encode_audio,
    fade,
    join,
    loudness_lufs,
    normalize_loudness,
    read_audio,
    read_tags,
    resample,
    silence,
    trim_silence,
    write_audio,
)
from bark_core.errors import InvalidAudio, InvalidRequest, InvalidSetting, StorageError
from bark_core.tokens import Audio

METADATA: dict[str, Any] = {
    "text": 'Hé "好" \0 \n♪',
    "seed": 2**62,
    "settings": {"semantic": {"temperature": 0.7, "top_k": None}},
    "segments": ["a", "b"],
}


def speech_like(seconds: float = 1.5, rate: int = 24_000, peak: float = 0.5) -> Audio:
    """Low noise that swells and fades: something that a lossy format keeps."""
    random = np.random.default_rng(7)
    time = np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * (f * time + random.random())) / f for f in (180, 360, 910, 1700))
    samples = np.asarray(tones) * (0.6 + 0.4 * np.sin(2 * np.pi * 2.3 * time))
    return Audio((peak * samples / np.abs(samples).max()).astype(np.float32), rate)


def noise_db(original: Audio, copy: Audio) -> float:
    """Level of what was changed, below the original, in dB."""
    n = min(len(original), len(copy))
    changed = original.samples[:n] - copy.samples[:n]
    return float(20 * np.log10(np.std(changed) / np.std(original.samples[:n])))


@pytest.mark.parametrize("suffix", FORMATS)
def test_written_is_read_back(suffix: str, tmp_path: Path) -> None:
    audio = speech_like()
    write_audio(tmp_path / f"a{suffix}", audio, METADATA)
    again = read_audio(tmp_path / f"a{suffix}")
    assert again.sample_rate_hz == 24_000
    assert abs(len(again) - len(audio)) <= 0.1 * 24_000
    assert noise_db(audio, again) < (-60 if suffix in (".wav", ".flac") else -10)
    assert read_tags(tmp_path / f"a{suffix}") == METADATA
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_file_says_that_it_is_generated(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write_audio(path, speech_like(0.3))
    tags: Any = mutagen.File(path).tags
    said = json.dumps({key: str(tags[key]) for key in tags.keys()})  # noqa: SIM118
    assert GENERATED_BY in said and "Bark Studio" in said
    assert read_tags(path) == {}
    if suffix == ".wav":  # for programs that don't read ID3 in WAV
        with soundfile.SoundFile(path) as file:
            assert file.comment == GENERATED_BY
            assert file.software.startswith("Bark Studio")


def test_suffix_is_read_whatever_its_case(tmp_path: Path) -> None:
    write_audio(tmp_path / "A.FLAC", speech_like(0.1))
    assert read_audio(tmp_path / "A.FLAC").duration_s == pytest.approx(0.1)


def test_lossless_formats_hold_16_bits(tmp_path: Path) -> None:
    audio = speech_like()
    for suffix in (".wav", ".flac"):
        write_audio(tmp_path / f"a{suffix}", audio)
        error = np.abs(read_audio(tmp_path / f"a{suffix}").samples - audio.samples).max()
        assert error <= 1 / 2**15


@pytest.mark.parametrize("peak", [0.3, 1.0, 1.0001, 4.0])
def test_only_a_peak_above_one_is_turned_down(peak: float, tmp_path: Path) -> None:
    audio = speech_like(peak=peak)
    write_audio(tmp_path / "a.wav", audio)
    again = read_audio(tmp_path / "a.wav")
    expected = audio.samples / max(1.0, float(np.abs(audio.samples).max()))
    assert np.abs(again.samples - expected).max() < 1e-4
    assert np.abs(again.samples).max() <= 1


def test_content_decides_what_is_read_not_the_suffix(tmp_path: Path) -> None:
    for name in ("a.mp3", "a.raw", "a"):
        (tmp_path / name).write_bytes(encode_audio(speech_like(0.2), ".wav"))
        assert len(read_audio(tmp_path / name)) == 4800


def test_channels_are_mixed_and_rates_changed(tmp_path: Path) -> None:
    mono = speech_like(rate=48_000)
    stereo = np.stack([mono.samples, np.zeros(len(mono), np.float32)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 48_000, subtype="FLOAT")
    again = read_audio(tmp_path / "a.wav")
    assert again.sample_rate_hz == 24_000 and abs(len(again) - len(mono) // 2) <= 2
    assert np.std(again.samples) == pytest.approx(np.std(mono.samples) / 2, rel=0.02)
    assert read_audio(tmp_path / "a.wav", 16_000).sample_rate_hz == 16_000


def test_long_vorbis_is_written(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.ogg", silence(90))  # in one piece it would crash the encoder
    assert read_audio(tmp_path / "a.ogg").duration_s == pytest.approx(90, abs=0.1)


def test_large_metadata_is_kept(tmp_path: Path) -> None:
    long = {"text": "好 " * 50_000}
    for suffix in FORMATS:
        write_audio(tmp_path / f"a{suffix}", speech_like(0.2), long)
        assert read_tags(tmp_path / f"a{suffix}") == long
        assert read_audio(tmp_path / f"a{suffix}").duration_s == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize("name", ["a", "a.xyz", "a.wav.exe", "a.m4a"])
def test_unknown_format_names_the_known(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidAudio, match=r"\.wav, \.flac, \.mp3, \.ogg, \.opus"):
        write_audio(tmp_path / name, speech_like(0.1))
    assert list(tmp_path.iterdir()) == []


def test_rate_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidAudio, match="22050 samples a second; resample"):
        write_audio(tmp_path / "a.opus", speech_like(0.1, rate=22_050))


def test_no_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidAudio, match="no samples"):
        write_audio(tmp_path / "a.wav", silence(0))


@pytest.mark.parametrize("metadata", [{"a": math.nan}, {"a": object()}, {"a": {1, 2}}])
def test_metadata_must_be_json(metadata: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="plain JSON"):
        write_audio(tmp_path / "a.wav", speech_like(0.1), metadata)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "none" / "a.wav"
    with pytest.raises(StorageError, match="doesn't exist"):
        write_audio(target, speech_like(0.1))
    (tmp_path / "a.wav").write_bytes(b"old")
    with pytest.raises(InvalidSetting):
        write_audio(tmp_path / "a.wav", speech_like(0.1), {"a": math.inf})
    assert (tmp_path / "a.wav").read_bytes() == b"old"


def wav(samples: Any, rate: int = 24_000, subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype, format="WAV")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "isn't a sound file"),
        (b"hello" * 100, "isn't a sound file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "isn't a sound file"),
        (wav(np.zeros(0)), "holds no sound"),
        (wav(np.full(100, np.nan), subtype="FLOAT"), "finite"),
        (wav(np.full(100, np.inf), subtype="DOUBLE"), "finite"),
        (wav(np.zeros((10, 20))), "20 channels"),
        (wav(np.zeros(100), rate=10), "10 samples a second"),
        (wav(np.zeros(24_000 * 3)), "lasts 3 s; at most 2 s"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_what_is_no_sound_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(InvalidAudio, match=message):
        read_audio(tmp_path / "a.wav", max_s=2)


def test_a_path_that_is_no_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(InvalidAudio, match="there is no file"):
            read_audio(path)
        with pytest.raises(InvalidAudio, match="there is no file"):
            read_tags(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(InvalidAudio, match="there is no file"):
        read_audio(tmp_path / "a.wav")


def test_files_have_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_module, "MAX_FILE_BYTES", 1000)
    write_audio(tmp_path / "a.wav", speech_like(0.1))
    with pytest.raises(InvalidAudio, match="more than 1,000 bytes"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8), st.booleans())
def test_mutated_file_is_read_or_refused(
    suffix: str, tmp_path_factory: pytest.TempPathFactory, edits: list[Any], cut: bool
) -> None:
    data = bytearray(encode_audio(speech_like(0.1), suffix, {"a": 1}))
    for place, value in edits:
        data[place % len(data)] = value
    path = tmp_path_factory.mktemp("mutated") / f"a{suffix}"
    path.write_bytes(data[: len(data) // 2] if cut else data)
    for read in (read_audio, read_tags):
        try:
            assert read(path) is not None
        except InvalidRequest:
            continue


def test_tags_of_others_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(np.zeros(100)))
    assert read_tags(tmp_path / "a.wav") == {}
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InvalidAudio, match=r"isn't a WAV"):
        read_tags(tmp_path / "a.txt")


# what is done to sound


def test_join_puts_a_pause_after_each() -> None:
    a, b = speech_like(0.5), speech_like(0.25)
    joined = join([a, b], [0.1, 0.2])
    assert len(joined) == len(a) + 2400 + len(b) + 4800
    assert np.array_equal(joined.samples[: len(a)], a.samples)
    assert not joined.samples[len(a) : len(a) + 2400].any()
    assert np.array_equal(joined.samples[len(a) + 2400 : -4800], b.samples)
    assert np.array_equal(join([a, b], [0.1]).samples, joined.samples[:-4800])
    assert np.array_equal(join([a], []).samples, a.samples)


def test_join_refuses_what_does_not_fit() -> None:
    with pytest.raises(InvalidAudio, match=r"\[16000, 24000\]"):
        join([speech_like(0.1), speech_like(0.1, 16_000)], [0.1])
    with pytest.raises(InvalidAudio, match="no sounds"):
        join([], [])
    with pytest.raises(InvalidSetting, match="2 sounds"):
        join([speech_like(0.1)] * 2, [])
    for pause in (-1.0, math.nan, math.inf):
        with pytest.raises(InvalidSetting, match="silence"):
            join([speech_like(0.1)] * 2, [pause])


def test_silence_is_trimmed_at_both_ends() -> None:
    sound = speech_like(0.5)
    padded = join([silence(0.7), sound, silence(0.3)], [0, 0])
    trimmed = trim_silence(padded, keep_s=0.05)
    assert trimmed.duration_s == pytest.approx(0.6, abs=0.01)
    assert float(np.abs(trimmed.samples).max()) == float(np.abs(sound.samples).max())
    assert trim_silence(trimmed, keep_s=0.05).duration_s == pytest.approx(0.6, abs=0.01)
    nothing = silence(0.2)
    assert trim_silence(nothing) is nothing


@pytest.mark.parametrize("seconds", [0.05, 0.39, 0.4, 2.0])
@pytest.mark.parametrize("peak", [0.001, 0.5, 5.0])
def test_loudness_is_as_asked_where_the_peak_allows(seconds: float, peak: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = normalize_loudness(speech_like(seconds, peak=peak), target_lufs=-23)
    assert loudness_lufs(result) == pytest.approx(-23, abs=0.1)
    loud = normalize_loudness(speech_like(seconds, peak=peak), target_lufs=0, peak_db=-1)
    assert float(np.abs(loud.samples).max()) == pytest.approx(10 ** (-1 / 20), rel=1e-3)


def test_loudness_follows_the_gain() -> None:
    audio = speech_like(peak=1.0)
    for gain in (1e-4, 0.1, 0.5):
        quieter = Audio(audio.samples * np.float32(gain))
        expected = loudness_lufs(audio) + 20 * math.log10(gain)
        assert loudness_lufs(quieter) == pytest.approx(expected, abs=0.01)


def test_loudness_of_the_reference_tone() -> None:
    time = np.arange(48_000 * 5) / 48_000
    tone = Audio(np.sin(2 * np.pi * 997 * time).astype(np.float32), 48_000)
    assert loudness_lufs(tone) == pytest.approx(-3.01, abs=0.05)  # as BS.1770 states


def test_silence_has_no_loudness() -> None:
    nothing = silence(1)
    assert loudness_lufs(nothing) == -math.inf
    assert normalize_loudness(nothing) is nothing
    assert normalize_loudness(silence(0)).duration_s == 0


def test_resampling_keeps_the_sound() -> None:
    audio = speech_like()
    there_and_back = resample(resample(audio, 48_000), 24_000)
    assert len(there_and_back) == len(audio)
    assert noise_db(audio, there_and_back) < -50
    assert np.array_equal(resample(audio, 24_000).samples, audio.samples)
    with pytest.raises(InvalidSetting, match="1000"):
        resample(audio, 0)


def test_fade_begins_and_ends_at_nothing() -> None:
    audio = Audio(np.ones(2400, np.float32))
    faded = fade(audio, in_s=0.01, out_s=0.02).samples
    assert faded[0] == 0 == faded[-1]
    assert (faded[240:-480] == 1).all()
    assert (np.diff(faded[:241]) >= 0).all() and (np.diff(faded[-481:]) <= 0).all()
    assert np.isfinite(fade(audio, in_s=9, out_s=9).samples).all()
    assert np.array_equal(fade(audio).samples, audio.samples)


@pytest.mark.parametrize(
    "call",
    [
        lambda a: silence(-1),
        lambda a: trim_silence(a, threshold_db=1),
        lambda a: trim_silence(a, keep_s=math.nan),
        lambda a: normalize_loudness(a, target_lufs=math.nan),
        lambda a: normalize_loudness(a, peak_db=3),
        lambda a: fade(a, in_s=-1),
        lambda a: fade(a, out_s=math.inf),
    ],
)
def test_settings_out_of_range_are_refused(call: Any) -> None:
    with pytest.raises(InvalidSetting):
        call(speech_like(0.1))
