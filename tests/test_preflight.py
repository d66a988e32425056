"""Laws of the preflight, for machines that aren't here."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from bark_core.config import LARGE, SMALL
from bark_core.errors import InvalidSetting
from bark_core.placement import PRECISIONS, USABLE, DeviceInfo
from bark_core.preflight import (
    Candidate,
    Reason,
    Verdict,
    disk_needed,
    preflight,
    recommend,
)
from bark_core.sizes import memory_needed
from tests.page_model import page_config

GB = 10**9
PUP = Candidate("pup", page_config())
REAL = [Candidate("small", SMALL, 3 * GB), Candidate("large", LARGE, 9 * GB)]
MODELS = [PUP, *REAL]


def cpu(free: float | None, total: float = 16) -> DeviceInfo:
    free_bytes = None if free is None else int(free * GB)
    return DeviceInfo("cpu", "cpu", "a processor", int(total * GB), free_bytes, True)


def cuda(free: float, *, native_bfloat16: bool = False) -> DeviceInfo:
    n_bytes = int(free * GB)
    return DeviceInfo("cuda:0", "cuda", "a GPU", n_bytes, n_bytes, native_bfloat16)


T4 = (cuda(14.6), cpu(11))
H100 = (cuda(79, native_bfloat16=True), cpu(120))
LAPTOP = (cpu(5),)
MAC = (DeviceInfo("mps", "mps", "Apple GPU", 12 * GB, 11 * GB, int8=False), cpu(9))
MACHINES = [T4, H100, LAPTOP, MAC, (cuda(1.8), cpu(5)), (cuda(0.9), cpu(5)), (cpu(1),)]


@pytest.mark.parametrize(
    ("devices", "name", "reason"),
    [
        (T4, "large", Reason.BEST),
        (H100, "large", Reason.BEST),
        (MAC, "large", Reason.BEST),
        (LAPTOP, "small", Reason.MEMORY),
        ((cpu(12),), "small", Reason.NO_GPU),
        ((cpu(None),), "small", Reason.NO_GPU),
        ((cuda(1.8), cpu(5)), "small", Reason.MEMORY),
        ((cuda(0.9), cpu(5)), "small", Reason.MEMORY),
        ((cpu(1),), "pup", Reason.NOTHING_FITS),
    ],
)
def test_what_is_recommended(devices: tuple[DeviceInfo, ...], name: str, reason: Reason) -> None:
    recommended = recommend(MODELS, devices, disk_free_bytes=100 * GB)
    assert (recommended.fit.model, recommended.reason) == (name, reason)


def test_a_full_disk_decides_too() -> None:
    assert recommend(MODELS, T4, disk_free_bytes=5 * GB).fit.model == "small"
    assert recommend(MODELS, T4, disk_free_bytes=5 * GB).reason is Reason.DISK
    assert recommend(MODELS, T4, disk_free_bytes=GB).reason is Reason.NOTHING_FITS
    here = [PUP, *(replace(model, disk_bytes=0) for model in REAL)]
    assert recommend(here, T4, disk_free_bytes=0).fit.model == "large"


def test_one_model_alone_is_recommended_without_a_comparison() -> None:
    assert recommend([PUP], LAPTOP).reason is Reason.ONLY
    assert recommend(REAL[:1], T4).reason is Reason.BEST


@pytest.mark.parametrize(("model", "devices"), list(product(MODELS, MACHINES)))
def test_the_verdict_follows_from_the_figures(
    model: Candidate, devices: tuple[DeviceInfo, ...]
) -> None:
    fit = preflight(model, devices, disk_free_bytes=100 * GB)
    assert fit.device is devices[0]  # what a load would choose, too
    assert fit.available_bytes == int(USABLE * (devices[0].free_bytes or 0))
    assert (fit.needed_bytes <= fit.available_bytes) == fit.verdict.good
    assert fit.offload == (fit.verdict is Verdict.FITS_WITH_OFFLOAD) or not fit.verdict.good
    assert ("needs" in fit.in_words()) and str(fit.verdict) in fit.in_words()


@pytest.mark.parametrize("model", MODELS)
def test_more_memory_never_makes_it_worse(model: Candidate) -> None:
    order = [Verdict.TOO_LITTLE_MEMORY, Verdict.FITS_WITH_OFFLOAD, Verdict.FITS]
    grown = [
        order.index(preflight(model, (cuda(free / 10), cpu(9))).verdict) for free in range(1, 60)
    ]
    assert grown == sorted(grown)
    assert grown[-1] == order.index(Verdict.FITS)


def test_too_little_memory_says_how_much() -> None:
    words = preflight(REAL[1], LAPTOP).in_words()
    assert words == "too little memory: needs 4.6 GB, has 4.5; it would fit in int8"
    tight = preflight(REAL[1], (cpu(1),))
    assert tight.lighter is None
    half = preflight(REAL[1], LAPTOP, precision="int8")
    assert half.verdict is Verdict.FITS
    assert preflight(REAL[1], LAPTOP).lighter == "int8"


def test_offload_that_was_asked_for_is_what_is_measured() -> None:
    on = preflight(REAL[1], T4, offload=True)
    assert on.verdict is Verdict.FITS_WITH_OFFLOAD
    assert on.needed_bytes < preflight(REAL[1], T4, offload=False).needed_bytes
    with pytest.raises(InvalidSetting):
        preflight(REAL[1], LAPTOP, offload=True)
    with pytest.raises(InvalidSetting):
        preflight(REAL[1], LAPTOP, device="cuda")


def test_a_device_can_be_chosen() -> None:
    fit = preflight(REAL[0], T4, device="cpu")
    assert fit.device.kind == "cpu"
    assert fit.precision == "float32"
    assert recommend(MODELS, T4, device="cpu").fit.model == "small"


def test_disk_and_parameters_of_the_published_models() -> None:
    assert disk_needed(10, 4) == 16
    assert disk_needed(10, 10) == 10
    assert 0.38 * GB < REAL[0].n_parameters < 0.43 * GB
    assert 1.0 * GB < REAL[1].n_parameters < 1.2 * GB
    # float32: four bytes a weight, and something for buffers
    needed = memory_needed(SMALL, PRECISIONS["float32"], offload=False)
    assert needed > 4 * REAL[0].n_parameters
