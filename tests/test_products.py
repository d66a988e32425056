"""Laws of products of many positions: torch's numbers, each position's own, exact whole numbers."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bark_core import native, processor, products
from bark_core.int8_linear import Int8Linear
from tests.test_native import LEVELS

# widths and heights are no multiples of a tile, a block of words is full, or it isn't
SHAPES = [(1, 1), (17, 75), (16, 256), (48, 257), (130, 519), (5, 1030), (64, 3072)]  # out, in
POSITIONS = [1, 5, 6, 7, 40]
needs_products = pytest.mark.skipif(
    "avx2" not in LEVELS or native.library() is None,
    reason="products of our own are for AVX2 and AVX-512, and need a compiler",
)


LEVELS_WITH = ["avx2", ""] if "avx512f" in processor.abilities() else ["avx2"]
of_int8 = pytest.mark.parametrize("library", ["avx2"], indirect=True)
of_both = pytest.mark.parametrize(
    ("library", "int8"),
    [("avx2", True), *((level, False) for level in LEVELS_WITH)],
    indirect=["library"],
)


@pytest.fixture(scope="module", params=LEVELS_WITH)
def library(request: pytest.FixtureRequest) -> Iterator[ctypes.CDLL]:
    """For AVX2 alone, with int8, and for this processor, as if Intel hadn't made it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(processor.VARIABLE, request.param)
        patch.setattr(processor, "vendor", lambda: "AuthenticAMD")
        native.library.cache_clear()
        found = products.library()
        assert found is not None
        yield found
    native.library.cache_clear()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def narrow(weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = weight.abs().amax(1).clamp(min=1e-12) / 127
    return (weight / scale[:, None]).round().char(), scale


@needs_products
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_positions", POSITIONS)
@pytest.mark.parametrize("with_bias", [False, True])
def test_float32_is_torchs_but_for_rounding(
    library: ctypes.CDLL, shape: tuple[int, int], n_positions: int, with_bias: bool
) -> None:
    x, weight = normal(n_positions, shape[1]), normal(*shape, seed=1)
    bias = normal(shape[0], seed=2) if with_bias else None
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    got = products.multiply(library, x, weight, bias)
    rounding = torch.finfo(torch.float32).eps * shape[1] ** 0.5 * float(expected.abs().max())
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=rounding)


@needs_products
@of_int8
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_positions", POSITIONS)
@pytest.mark.parametrize("with_bias", [False, True])
def test_int8_rounds_inputs_to_seven_bits(
    library: ctypes.CDLL, shape: tuple[int, int], n_positions: int, with_bias: bool
) -> None:
    """Half a step of each input, of 127 steps between the position's least and its largest."""
    x, (weight, scale) = normal(n_positions, shape[1]), narrow(normal(*shape, seed=1))
    bias = normal(shape[0], seed=2) if with_bias else None
    exact = weight.double() * scale.double()[:, None]
    expected = F.linear(x.double(), exact, None if bias is None else bias.double())
    got = products.multiply(library, x, weight, bias, scale)
    least, largest = x.double().aminmax(dim=1, keepdim=True)
    half_a_step = (largest - least) / 127 / 2
    allowed = half_a_step * exact.abs().sum(1) + 1e-5 * (1 + expected.abs().max())
    error = (got.double() - expected).abs()
    assert bool((error <= allowed).all())
    # errors have both signs, so that sums are far nearer than they have to be
    assert float(error.mean()) <= float(allowed.mean()) / 2 + 1e-12


@needs_products
@of_int8
@pytest.mark.parametrize("least", [0.0, -64.0, 5.0])
def test_int8_sums_are_whole_numbers(library: ctypes.CDLL, least: float) -> None:
    """Inputs that are whole steps come out exactly, also where a sum is as large as can be."""
    n_in = 4096
    x = torch.full((7, n_in), least + 127)
    x[:, -1] = least
    x[1, ::2] = least
    x[2] = least + torch.arange(n_in) % 128
    weight = torch.full((20, n_in), 127, dtype=torch.int8)
    weight[3] = -127
    weight[4, 1::2] = -127
    got = products.multiply(library, x, weight, None, torch.ones(20))
    expected = x.double() @ weight.double().T
    # real numbers round a sum of whole steps, from which that of the least is taken
    rounding = torch.finfo(torch.float32).eps * n_in * 127 * 127
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=2 * rounding)


@needs_products
@of_both
def test_a_positions_numbers_are_its_own(library: ctypes.CDLL, int8: bool) -> None:
    x, weight = normal(40, 300), normal(50, 300, seed=1)
    kinds = narrow(weight) if int8 else (weight, None)

    def made(part: Tensor) -> Tensor:
        return products.multiply(library, part, kinds[0], None, kinds[1])

    whole = made(x)
    for start, stop in [(0, 1), (3, 9), (39, 40), (5, 40)]:
        assert torch.equal(made(x[start:stop]), whole[start:stop])


@needs_products
@of_both
def test_the_number_of_threads_changes_no_bit_of_a_product(
    library: ctypes.CDLL, int8: bool
) -> None:
    x, weight = normal(300, 700), normal(200, 700, seed=1)
    kinds = narrow(weight) if int8 else (weight, None)
    threads, made = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 5):
            torch.set_num_threads(n_threads)
            made.append(products.multiply(library, x, kinds[0], None, kinds[1]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


@needs_products
@pytest.mark.skipif(len(LEVELS_WITH) < 2, reason="this processor has no AVX-512")
def test_wider_vectors_change_no_bit() -> None:
    """The same model says the same on processors with and without AVX-512."""
    x, weight, bias = normal(40, 1_700), normal(100, 1_700, seed=1), normal(100, seed=2)
    made = []
    for level in LEVELS_WITH:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(processor.VARIABLE, level)
            native.library.cache_clear()
            found = native.library()
            assert found is not None
            made.append(products.multiply(found, x, weight, bias))
    native.library.cache_clear()
    assert torch.equal(made[0], made[1])


@needs_products
def test_intels_processors_with_avx512_multiply_with_mkl(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = "avx512f" in processor.abilities()
    monkeypatch.setattr(processor, "vendor", lambda: "GenuineIntel")
    assert (products.library() is None) == wide
    assert (products.library(int8=True) is None) == wide


@needs_products
def test_inputs_may_lie_anywhere(library: ctypes.CDLL) -> None:
    wide, weight = normal(2, 9, 60), normal(31, 30, seed=1)
    for x in (wide[:, :, ::2], wide[:, 2:7, 30:], wide.transpose(0, 1)[..., :30]):
        expected = F.linear(x, weight)
        got = products.multiply(library, x, weight)
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@needs_products
def test_a_gelu_is_torchs(library: ctypes.CDLL) -> None:
    x, weight, bias = normal(13, 64), normal(70, 64, seed=1) / 4, normal(70, seed=2)
    expected = F.gelu(F.linear(x, weight, bias))
    got = products.multiply(library, x, weight, bias, gelu=True)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-6)


@needs_products
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@of_both
def test_what_isnt_finite_stays_so(library: ctypes.CDLL, bad: float, int8: bool) -> None:
    x, weight = normal(8, 40), normal(20, 40, seed=1)
    x[2, 33] = bad
    kinds = narrow(weight) if int8 else (weight, None)
    got = products.multiply(library, x, kinds[0], None, kinds[1])
    assert not bool(got[2].isfinite().any())
    assert bool(got[[0, 1, 3, 7]].isfinite().all())


@needs_products
@of_int8
def test_inputs_that_are_all_the_same_are_exact_in_int8(library: ctypes.CDLL) -> None:
    weight, scale = narrow(normal(20, 40))
    x = torch.tensor([0.0, 0.3, -7.0])[:, None].expand(3, 40)
    got = products.multiply(library, x, weight, None, scale)
    torch.testing.assert_close(got, F.linear(x, weight * scale[:, None]), rtol=1e-5, atol=1e-5)
    assert torch.equal(got[0], torch.zeros(20))


@needs_products
@of_int8
def test_an_int8_layer_keeps_no_second_copy(library: ctypes.CDLL) -> None:
    linear, x = nn.Linear(40, 30), normal(2, 9, 40)
    layer = Int8Linear(linear)
    assert layer.packed is None
    assert (layer(x) - linear(x)).abs().max() < 0.05


@needs_products
@of_int8
def test_without_products_torch_multiplies(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a layer that was made when they were there."""
    linear, x = nn.Linear(40, 30), normal(2, 9, 40)
    before = Int8Linear(linear)
    monkeypatch.setenv(processor.VARIABLE, "baseline")
    native.library.cache_clear()
    try:
        assert products.library() is None
        after = Int8Linear(linear)
        assert torch.equal(before(x), after(x))
        assert (after(x) - linear(x)).abs().max() < 0.1
    finally:
        monkeypatch.undo()
        native.library.cache_clear()


def heads(n: int, *, length: int, seed: int, head_dim: int = 20, n_head: int = 3) -> Tensor:
    """[B, H, n, D], the last of `length` positions, lying as a fused projection leaves them."""
    made = normal(2, length, n_head, 2, head_dim, seed=seed)
    return made[:, length - n :, :, 1].transpose(1, 2)


@needs_products
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("n_query", "n_keys"), [(1, 1), (1, 40), (7, 7), (50, 50), (49, 300), (3, 600), (130, 257)]
)
@pytest.mark.parametrize("head_dim", [16, 20, 64])
def test_attention_is_torchs_but_for_rounding(
    library: ctypes.CDLL, n_query: int, n_keys: int, head_dim: int, causal: bool
) -> None:
    n_query = min(n_query, n_keys)
    q = heads(n_query, length=n_keys, seed=0, head_dim=head_dim) * 3
    k, v = (heads(n_keys, length=n_keys, seed=seed, head_dim=head_dim) for seed in (1, 2))
    n_past = n_keys - n_query
    mask = torch.ones(n_query, n_keys, dtype=torch.bool).tril(n_past) if causal else None
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask)
    got = products.attend(library, q, k, v, n_past if causal else None)
    torch.testing.assert_close(
        got.double(), expected.transpose(1, 2).flatten(2), rtol=1e-4, atol=1e-5
    )


@needs_products
def test_what_a_position_attends_to_is_its_own_affair(library: ctypes.CDLL) -> None:
    """Whatever the queries beside it, and however many threads."""
    q, k, v = (heads(300, length=300, seed=seed) for seed in range(3))
    whole = products.attend(library, q, k, v, 0)
    threads = torch.get_num_threads()
    try:
        for n_threads, start, stop in [(1, 0, 300), (5, 0, 300), (2, 7, 8), (2, 100, 290)]:
            torch.set_num_threads(n_threads)
            part = products.attend(library, q[:, :, start:stop], k[:, :, :stop], v, start)
            assert torch.equal(part, whole[:, start:stop])
    finally:
        torch.set_num_threads(threads)


@needs_products
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_attention_hides_nothing_that_isnt_finite(library: ctypes.CDLL, bad: float) -> None:
    q, k, v = (heads(40, length=40, seed=seed).contiguous() for seed in range(3))
    q[0, 0, 5, 0] = bad
    got = products.attend(library, q, k, v, 0)
    assert not bool(got[0, 5].isfinite().all())
    assert bool(got[0, :5].isfinite().all())


@needs_products
def test_gradients_are_torchs(library: ctypes.CDLL) -> None:
    """Our own have none: training computes with torch."""
    x, weight = normal(3, 4), normal(5, 4).requires_grad_()
    assert products.library_for(x, weight) is None
    with torch.no_grad():
        assert products.library_for(x, weight) is not None
    assert products.library_for(x.double(), weight.detach()) is None


@needs_products
@pytest.mark.skipif(sys.platform != "linux", reason="what limits a program's memory")
@pytest.mark.parametrize("what", ["product", "attention"])
def test_too_little_memory_is_told(library: ctypes.CDLL, what: str) -> None:
    """By an error that can be caught, and the next call that needs less is computed."""
    del library  # the program below has it for the same processor, by the same variable
    program = f"""
import resource, torch
from bark_core import processor, products
processor.vendor = lambda: "AuthenticAMD"
torch.set_num_threads(1)
library = products.library()
x, weight = torch.ones(20_000, 2_000), torch.ones(8, 2_000)
heads = torch.ones(1, 1, 100_000, 400)
small = products.multiply(library, x[:4], weight)
def work():
    if {what!r} == "product":
        products.multiply(library, x, weight)
    else:
        products.attend(library, heads[:, :, :4], heads, heads, None)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
try:
    work()
except MemoryError as error:
    print("told:", error)
assert torch.equal(products.multiply(library, x[:4], weight), small)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2_000:]
    assert run.stdout.startswith("told: not enough memory for a"), run.stdout
