"""Laws of the mel front end, the codebooks and the data sets, on synthetic sound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bark_core.codec import Codec
from bark_core.vocoder import Vocoder
from training import codec, data, decoder, spectra
from training.corpus import Corpus
from training.features import HOP, N_MELS, log_mel, mel_filters


def _sound(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(n) / 24_000
    sweep = torch.sin(2 * torch.pi * (200 + 300 * time) * time)
    return 0.3 * sweep + 0.05 * torch.randn(n, generator=generator)


@pytest.fixture(scope="module")
def codebooks() -> Iterator[codec.Codebooks]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small matrices: threads cost more than they bring
    generator = torch.Generator().manual_seed(1)
    mels = torch.randn(2500, N_MELS, generator=generator).cumsum(1) / 4
    books, report = codec.fit_codebooks(mels)
    assert report["entries_used"] == [codec.CODEBOOK_SIZE] * codec.N_CODEBOOKS
    left = report["left_after_stage"]
    assert left == sorted(left, reverse=True) and left[-1] < 0.5
    yield books
    torch.set_num_threads(threads)


def test_a_frame_does_not_see_what_comes_after_it() -> None:
    sound = _sound(20 * HOP)
    changed = sound.clone()
    changed[10 * HOP :] = 0.0
    before, after = log_mel(sound), log_mel(changed)
    assert torch.equal(before[:10], after[:10])
    assert not torch.equal(before[10], after[10])


def test_frames_are_whole_hops() -> None:
    assert log_mel(_sound(5 * HOP + 479)).shape == (5, N_MELS)


def test_no_mel_filter_is_empty() -> None:
    for n_fft in (256, 512, 1024, 2048):
        filters = mel_filters(n_fft, min(80, n_fft // 8), 0.0, 8_000.0)
        assert bool((filters.sum(1) > 0).all())


def test_k_means_finds_separate_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(6, 3, generator=generator) * 50
    points = centres.repeat(40, 1) + torch.randn(240, 3, generator=generator) * 0.1
    entries = codec.k_means(points, 6, seed=3)
    assert float((points - entries[codec.nearest(points, entries)]).abs().max()) < 1.0


def test_every_codebook_brings_the_latents_nearer(codebooks: codec.Codebooks) -> None:
    mels = torch.randn(64, N_MELS, generator=torch.Generator().manual_seed(2)).cumsum(1) / 4
    latents = (mels - codebooks.mean) @ codebooks.components.T
    codes = codebooks.encode(latents)
    assert codes.shape == (4, 64)
    errors = [float((latents - codebooks.decode(codes[:k])).square().sum()) for k in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)


def test_what_is_above_is_left_to_the_last_codebook(codebooks: codec.Codebooks) -> None:
    *coarse, last = codebooks.spectra
    below, above = slice(0, codec.BANDS_BELOW), slice(codec.BANDS_BELOW, N_MELS)
    for entries in coarse:
        apart = entries[:, above] - entries[:, above].mean(1, keepdim=True)
        loud = codebooks.components[codec.DIMENSIONS_BELOW, above]
        loud = loud - loud.mean()
        # nothing but how loud it is
        left = apart - (apart @ loud / loud.square().sum())[:, None] * loud
        assert float(left.abs().max()) < 1e-4
    assert float(coarse[1][:, above].abs().max()) < 1e-4
    assert float(last[:, above].square().mean()) > 2 * float(last[:, below].square().mean())


def test_components_are_orthonormal(codebooks: codec.Codebooks) -> None:
    products = codebooks.components @ codebooks.components.T
    assert torch.allclose(products, torch.eye(codec.DIMENSION), atol=1e-4)


def _cepstra_read(model: Codec, latents: torch.Tensor) -> torch.Tensor:
    """Behind the silence before the first frame."""
    assert isinstance(model.decoder, Vocoder)
    read = model.decoder.controls(latents.T[None])
    return read.cepstrum[:, decoder.WARM_FRAMES * model.decoder.config.steps :]


def test_a_decoder_reads_other_codebooks_as_it_read_its_own(codebooks: codec.Codebooks) -> None:
    generator = torch.Generator().manual_seed(3)
    turn, _ = torch.linalg.qr(torch.randn(codec.DIMENSION, codec.DIMENSION, generator=generator))
    moved = 0.1 * torch.randn(N_MELS, generator=generator)
    moved = moved @ codebooks.components.T @ codebooks.components
    other = codec.Codebooks(
        codebooks.mean + moved, turn @ codebooks.components, codebooks.entries @ turn.T
    )
    model, again = codec.build(codebooks).eval(), codec.build(other).eval()
    again.load_state_dict(codec.reading(model.state_dict(), other))
    ours, theirs = (
        _cepstra_read(made, books.latents(_sound(30 * HOP)))
        for made, books in ((model, codebooks), (again, other))
    )
    assert torch.allclose(ours, theirs, atol=1e-3)
    assert torch.equal(codec.codebooks_of(again.state_dict()).entries, other.entries)
    weights = model.state_dict()
    assert codec.reading(weights, codebooks) is weights  # its own: nothing changes


def test_codebooks_survive_the_disk(codebooks: codec.Codebooks, tmp_path: Path) -> None:
    codec.save_codebooks(tmp_path, codebooks)
    loaded = codec.load_codebooks(tmp_path)
    assert torch.equal(loaded.entries, codebooks.entries)
    assert torch.equal(loaded.components, codebooks.components)


def test_sentences_are_encoded_each_by_itself(codebooks: codec.Codebooks) -> None:
    pcm = (_sound(12 * HOP) * 32767).to(torch.int16).numpy()
    offsets = np.array([0, 5 * HOP, 12 * HOP])
    codes = codec.encode_all(codebooks, pcm, offsets)
    alone = codec.encode_all(codebooks, pcm[5 * HOP :], np.array([0, 7 * HOP]))
    assert codes.dtype == np.uint16 and codes.shape == (4, 12)
    assert np.array_equal(codes[:, 5:], alone)


def test_model_decodes_what_the_codebooks_decode(codebooks: codec.Codebooks) -> None:
    model = codec.build(codebooks).eval()
    codes = torch.randint(0, 512, (4, 9), generator=torch.Generator().manual_seed(0))
    latents = codebooks.decode(codes)
    assert torch.allclose(model.quantizer.decode(codes[None])[0].T, latents, atol=1e-5)
    assert torch.allclose(codec.synthesise(model, latents), model.decode_batch(codes[None])[0])
    assert torch.equal(codec.codebooks_of(model.state_dict()).entries, codebooks.entries)


def test_loss_is_least_for_the_sound_itself() -> None:
    wanted = torch.stack([_sound(8000), _sound(8000, 1)])
    same = spectra.spectral_loss(wanted, wanted)
    other = spectra.spectral_loss(wanted.flip(0) * 0.5, wanted)
    assert float(same["mel"]) == float(same["cepstra"]) == 0.0
    assert float(other["total"]) > float(same["total"])


def test_cepstra_tell_formants_and_not_noise() -> None:
    def hiss(seed: int, formant_hz: float) -> torch.Tensor:
        noise = torch.randn(1, 48_000, generator=torch.Generator().manual_seed(seed))
        frequencies = torch.fft.rfftfreq(48_000, 1 / 24_000)
        shape = 1 / (1 + ((frequencies - formant_hz) / 300).square())
        sound: torch.Tensor = torch.fft.irfft(torch.fft.rfft(noise) * shape) * 0.3
        return sound

    def apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (spectra.cepstra(one) - spectra.cepstra(other)).mean(2)[:, 1:]

    one = hiss(1, 1_200)
    assert spectra.cepstra(one).shape == (1, spectra.N_CEPSTRA, 1 + 48_000 // spectra.ENVELOPE_HOP)
    assert apart(one, hiss(2, 1_200)).abs().max() < 0.2
    assert apart(one, hiss(2, 1_500)).abs().max() > 0.8
    # loudness is in the first one alone
    louder = spectra.cepstra(one * 2) - spectra.cepstra(one)
    assert louder[:, 0].mean() == pytest.approx(math.log(4) * math.sqrt(spectra.N_BANDS), abs=0.05)
    assert louder[:, 1:].abs().max() < 0.05


def test_rate_warms_up_and_falls_to_its_end() -> None:
    rates = [decoder.rate_at(step, step / 1000) for step in range(1001)]
    assert max(rates) == pytest.approx(decoder.RATE, rel=0.05)
    assert rates[0] < decoder.RATE / 50
    assert rates[-1] == pytest.approx(decoder.FINAL_RATE)
    assert max(decoder.rate_at(step, step / 1000, 1e-4) for step in range(1001)) < 1.01e-4


def _shard(folder: Path, number: int, lengths: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    frames = sum(n * 3 // 2 for n in lengths)
    np.savez(
        folder / f"{number:07d}.npz",
        texts=np.array([f"Prompt {number} {i}." for i in range(len(lengths))]),
        voices=np.arange(len(lengths)).astype(np.uint8) % 2,
        semantic=np.arange(sum(lengths)).astype(np.int16),
        lengths=np.array(lengths),
        audio=(np.arange(frames * HOP) % 20_000).astype(np.int16),
    )


def test_rendered_set_is_read_back(tmp_path: Path, codebooks: codec.Codebooks) -> None:
    _shard(tmp_path / "sound", 0, [3, 4])
    _shard(tmp_path / "sound", 1, [5])
    codec.save_codebooks(tmp_path, codebooks)
    data.add_codes(tmp_path)
    loaded = data.load(tmp_path, "sound")
    # the first shard is held out, so it comes last
    assert loaded.texts == ("Prompt 1 0.", "Prompt 0 0.", "Prompt 0 1.")
    assert loaded.n_training == 1
    assert loaded.semantic_of(0).tolist() == [0, 1, 2, 3, 4]
    assert [loaded.codes_of(i).shape for i in range(3)] == [(4, 7), (4, 4), (4, 6)]
    assert len(loaded.audio_of(0)) == 7 * HOP


def test_crops_are_the_sound_of_their_codes(tmp_path: Path, codebooks: codec.Codebooks) -> None:
    n_tokens = decoder.CROP_FRAMES
    _shard(tmp_path / "sound", 0, [n_tokens] * 3)
    codec.save_codebooks(tmp_path, codebooks)
    data.add_codes(tmp_path)
    loaded = data.load(tmp_path, "sound")
    crops = decoder.Crops(Corpus.of(loaded), codebooks)
    batch = crops.crops(torch.full((4,), 4), torch.Generator().manual_seed(0), at_start=True)
    codes = loaded.codes_of(0)[:, : decoder.CROP_FRAMES].astype(np.int64)
    wanted = codebooks.decode(torch.from_numpy(codes))
    assert any(torch.allclose(latents, wanted.T, atol=1e-5) for latents in batch.latents)
    late = batch.sound[:, : decoder.DELAY]
    assert late.abs().max() == 0.0
    rows = [loaded.audio_of(i)[:100] for i in range(3)]
    heard = batch.sound[0, decoder.DELAY : decoder.DELAY + 100].numpy()
    assert any(np.allclose(heard, row, atol=1e-6) for row in rows)


def test_missing_set_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m training data"):
        data.load(tmp_path, "pairs")
