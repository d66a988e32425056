"""The codec: equal to encodec's own, lengths, errors, no traces of the import."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bark_core.codec import Codec
from bark_core.config import BARK_LAYOUT, CodecConfig, TokenLayout
from bark_core.errors import (
    GenerationError,
    InvalidCheckpoint,
    InvalidSetting,
    InvalidTokens,
    LayoutMismatch,
)
from bark_core.tokens import Audio, FineCodes

LAYOUT = dataclasses.replace(
    BARK_LAYOUT, name="tiny", n_codebooks=3, codebook_size=16, frame_rate_hz=24_000 / 24
)
CONFIG = CodecConfig(ratios=(4, 3, 2), n_filters=4, dimension=8, lstm=1, n_q=4, bins=16)


def make_codec(config: CodecConfig = CONFIG, layout: TokenLayout = LAYOUT, seed: int = 0) -> Codec:
    torch.manual_seed(seed)
    codec = Codec(config, layout).eval()
    codec.quantizer.codebooks.normal_()
    return codec


def random_codes(n_frames: int, layout: TokenLayout = LAYOUT, seed: int = 0) -> FineCodes:
    shape = (layout.n_codebooks, n_frames)
    values = np.random.default_rng(seed).integers(0, layout.codebook_size, shape)
    return FineCodes(values.astype(np.int16), layout)


@settings(max_examples=20, deadline=None)
@given(n_frames=st.integers(1, 40))
def test_decode_makes_samples_per_frame(n_frames: int) -> None:
    audio = make_codec().decode(random_codes(n_frames))
    assert len(audio) == n_frames * LAYOUT.samples_per_frame
    assert audio.samples.dtype == np.float32
    assert audio.sample_rate_hz == LAYOUT.sample_rate_hz


@settings(max_examples=20, deadline=None)
@given(n_samples=st.integers(1, 1000))
def test_encode_makes_a_frame_per_started_hop(n_samples: int) -> None:
    sound = np.random.default_rng(0).normal(size=n_samples).astype(np.float32)
    codes = make_codec().encode(Audio(sound, LAYOUT.sample_rate_hz))
    assert codes.n_frames == -(-n_samples // LAYOUT.samples_per_frame)


def test_loud_sound_is_not_clipped() -> None:
    codec = make_codec()
    with torch.no_grad():
        for parameter in codec.layers[-1].parameters():
            parameter.mul_(1000)
    assert np.abs(codec.decode(random_codes(8)).samples).max() > 1


def test_decode_computes_in_float32_under_autocast() -> None:
    codec, codes = make_codec(), random_codes(9)
    plain = codec.decode(codes).samples
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(codec.decode(codes).samples, plain)


def test_batch_equals_single() -> None:
    codec = make_codec()
    several = [random_codes(7, seed=seed) for seed in range(3)]
    batch = torch.from_numpy(np.stack([codes.values for codes in several]))
    for row, codes in zip(codec.decode_batch(batch), several, strict=True):
        np.testing.assert_allclose(row.numpy(), codec.decode(codes).samples, atol=1e-6)


def test_damaged_weights_that_make_nan_are_an_error() -> None:
    codec = make_codec()
    codec.quantizer.codebooks.fill_(float("nan"))
    with pytest.raises(GenerationError, match="NaN"):
        codec.decode(random_codes(4))


def test_codes_of_another_layout_are_refused() -> None:
    other = dataclasses.replace(LAYOUT, name="other")
    with pytest.raises(LayoutMismatch, match="other"):
        make_codec().decode(random_codes(4, other))


@pytest.mark.parametrize(
    "audio", [Audio(np.zeros(0, np.float32)), Audio(np.zeros(100, np.float32), 16_000)]
)
def test_encode_refuses_no_sound_and_other_rates(audio: Audio) -> None:
    with pytest.raises(InvalidTokens):
        make_codec().encode(audio)


def test_codec_without_encoder_decodes_but_refuses_to_encode() -> None:
    codec = make_codec(dataclasses.replace(CONFIG, encoder=False))
    assert not any(name.startswith("encoder.") for name in codec.state_dict())
    codec.decode(random_codes(4))
    with pytest.raises(InvalidSetting):
        codec.encode(Audio(np.ones(100, np.float32)))


@pytest.mark.parametrize(
    "change", [{"ratios": (4, 3)}, {"n_q": 2}, {"bins": 32}, {"pad_mode": "banana"}]
)
def test_configuration_has_to_fit_the_layout(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidCheckpoint):
        Codec(dataclasses.replace(CONFIG, **change), LAYOUT)


def test_stays_on_the_cpu_where_mps_is_asked_for() -> None:
    assert make_codec().to("mps").device.type == "cpu"
    assert make_codec().to("meta").device.type == "meta"


def test_published_shape_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        codec = Codec(CodecConfig(), BARK_LAYOUT)
    n_folded = sum(parameter.numel() for parameter in codec.parameters())
    assert n_folded == 14_846_817
    assert codec.quantizer.codebooks.shape == (8, 1024, 128)


def test_building_imports_no_torchaudio_and_warns_of_nothing() -> None:
    code = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "from bark_core.codec import Codec\n"
        "assert 'encodec' not in ' '.join(sys.modules)\n"
        "from bark_core.config import BARK_LAYOUT, CodecConfig\n"
        "Codec(CodecConfig(), BARK_LAYOUT)\n"
        "assert 'torchaudio' not in sys.modules and 'encodec' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def encodec_pair() -> tuple[Any, Codec]:
    """encodec's own model, weight norm and all, and ours with its weights folded in."""
    placeholder = type(sys)("torchaudio")
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setitem(sys.modules, "torchaudio", placeholder)
        from encodec.model import EncodecModel
        from encodec.modules.seanet import SEANetDecoder, SEANetEncoder
        from encodec.quantization.vq import ResidualVectorQuantizer

        torch.manual_seed(3)
        shape: dict[str, Any] = {
            "dimension": 8,
            "n_filters": 4,
            "ratios": [4, 3, 2],
            "lstm": 1,
            "causal": True,
        }
        quantizer = ResidualVectorQuantizer(dimension=8, n_q=4, bins=16)
        theirs: Any = EncodecModel(
            SEANetEncoder(**shape), SEANetDecoder(**shape), quantizer, [6.0], 24_000, 1
        ).eval()
    for layer in theirs.quantizer.vq.layers:
        layer._codebook.embed.normal_()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("weight_g"):
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    return theirs, folded(theirs)


def folded(theirs: Any) -> Codec:
    state = {name: value.detach() for name, value in theirs.state_dict().items()}
    weights = {name: value for name, value in state.items() if not name.startswith("quantizer")}
    for name in [name for name in weights if name.endswith("weight_g")]:
        g, v = weights.pop(name), weights.pop(f"{name[:-1]}v")
        weights[name.removesuffix("_g")] = torch._weight_norm(v, g, 0)
    tables = [state[f"quantizer.vq.layers.{i}._codebook.embed"] for i in range(3)]
    weights["quantizer.codebooks"] = torch.stack(tables)
    codec = Codec(CONFIG, LAYOUT).eval()
    codec.load_state_dict(weights)
    return codec


def test_decode_equals_encodec(encodec_pair: tuple[Any, Codec]) -> None:
    theirs, ours = encodec_pair
    codes = random_codes(50, seed=5)
    with torch.no_grad():
        tokens = torch.from_numpy(codes.values.astype("int64"))[:, None]
        expected = theirs.decoder(theirs.quantizer.decode(tokens))[0, 0]
    assert np.array_equal(ours.decode(codes).samples, expected.numpy())


def test_encode_equals_encodec(encodec_pair: tuple[Any, Codec]) -> None:
    theirs, ours = encodec_pair
    sound = np.random.default_rng(1).normal(size=2000).astype(np.float32)
    with torch.no_grad():
        expected = theirs.encode(torch.from_numpy(sound)[None, None])[0][0][0]
    assert np.array_equal(ours.encode(Audio(sound)).values, expected.numpy()[:3])


@pytest.mark.parametrize("lstm", [0, 1, 2])
@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("n_residual_layers", [1, 3])
def test_sound_in_pieces_is_the_sound_of_the_whole(
    lstm: int, pad_mode: str, n_residual_layers: int
) -> None:
    config = dataclasses.replace(
        CONFIG, lstm=lstm, pad_mode=pad_mode, n_residual_layers=n_residual_layers
    )
    codec, codes = make_codec(config), random_codes(60)
    whole = codec.decode(codes).samples
    pieces, start = [], 0
    for stop in (8, 9, 11, 30, 31, 60):
        so_far = FineCodes(codes.values[:, :stop], LAYOUT)
        pieces.append(codec.decode_from(so_far, start).samples)
        start = stop
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)


def test_a_codec_that_looks_ahead_makes_no_pieces() -> None:
    codec = make_codec(dataclasses.replace(CONFIG, causal=False, lstm=0))
    with pytest.raises(InvalidSetting, match="streaming"):
        codec.decode_from(random_codes(9), 3)
