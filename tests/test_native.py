"""Laws of the compiled step: built once, never needed, the same numbers as torch's operations."""

from __future__ import annotations

import dataclasses
import logging
import platform
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bark_core import native, processor, products
from bark_core.config import GPTConfig
from bark_core.cpu_step import CompiledStep, LinearWeights, StepWeights
from bark_core.errors import InvalidSetting
from bark_core.int8_linear import make_int8
from bark_core.transformer import CausalGPT, CompiledDecoder, PlainDecoder

needs_compiler = pytest.mark.skipif(
    native.library() is None, reason="there is no C++ compiler here"
)
Change = Callable[[LinearWeights], LinearWeights]
# "": for all that this processor can; others only where it can at least that
LEVELS = ["", "avx2", "baseline"]
if platform.machine() not in ("x86_64", "AMD64") or "avx2" not in processor.abilities():
    LEVELS = [""]
# neither the widths nor the heads are multiples of a vector's length
ODD = GPTConfig(
    n_layer=2, n_head=3, n_embd=75, input_vocab_size=50, output_vocab_size=41, block_size=40
)


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Have the library built for another processor."""
    monkeypatch.setenv(processor.VARIABLE, request.param)
    native.library.cache_clear()
    yield request.param
    native.library.cache_clear()


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Have the library be of one short source, for what is no matter of its content.

    Compiling the true ones takes ten seconds a time; all levels of them are built above.
    """
    source = tmp_path / "brief.cpp"
    seen = '__attribute__((visibility("default")))'
    source.write_text(f'extern "C" {seen} void bark_share_threads(void*, void*) {{}}\n')
    monkeypatch.setattr(native, "SOURCES", (source,))
    return source


def model_of(config: GPTConfig) -> CausalGPT:
    torch.manual_seed(0)
    model = CausalGPT(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def compiled(weights: StepWeights) -> CompiledStep:
    library = native.library()
    assert library is not None
    return CompiledStep(library, weights)


def logits_of(decoder: CompiledDecoder | PlainDecoder, model: CausalGPT) -> Tensor:
    """A prompt, then some steps: all their logits, [steps, V]."""
    ids = torch.arange(20) * 7 % model.config.input_vocab_size
    cache = model.new_cache(1, 20)
    model.prefill(model.embed(ids[None, :9]), cache)
    hidden = [decoder.step(ids[n : n + 1], [cache]) for n in range(9, 20)]
    return decoder.logits(torch.cat(hidden), 1, model.config.output_vocab_size)


@needs_compiler
@pytest.mark.parametrize("bias", [False, True])
def test_compiled_steps_are_those_of_torch(bias: bool, level: str) -> None:
    model = model_of(dataclasses.replace(ODD, bias=bias))
    weights = model.step_weights()
    got = logits_of(CompiledDecoder(compiled(weights)), model)
    torch.testing.assert_close(got, logits_of(PlainDecoder(weights), model), rtol=1e-5, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("int8", [False, True])
def test_a_row_s_numbers_are_its_own(int8: bool, level: str) -> None:
    model = model_of(ODD)
    if int8:
        make_int8(model)
    decoder = CompiledDecoder(compiled(model.step_weights()))
    alone, beside = [], []
    for token in range(5):
        alone.append(decoder.step(torch.tensor([token]), [model.new_cache(1, 4)]))
    for n_rows in range(1, 6):
        caches = [model.new_cache(1, 4) for _ in range(n_rows)]
        beside.append(decoder.step(torch.arange(n_rows), caches))
    for made in beside:
        assert torch.equal(made, torch.cat(alone[: len(made)]))


@needs_compiler
def test_the_number_of_threads_changes_no_bit(level: str) -> None:
    model = model_of(ODD)
    decoder = CompiledDecoder(compiled(model.step_weights()))
    threads = torch.get_num_threads()
    made = []
    try:
        for n_threads in (1, 2, 5):
            torch.set_num_threads(n_threads)
            made.append(logits_of(decoder, model))
    finally:
        torch.set_num_threads(threads)
    # the prompt is torch's, whose sums may depend on the threads
    torch.testing.assert_close(made[0], made[1], rtol=1e-5, atol=1e-5)
    ids, cache = torch.tensor([3]), model.new_cache(1, 20)
    steps = []
    try:
        for n_threads in (1, 2, 5):
            torch.set_num_threads(n_threads)
            cache.n_positions = 0
            steps.append(torch.cat([decoder.step(ids, [cache]) for _ in range(6)]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(steps[0], steps[1])
    assert torch.equal(steps[0], steps[2])


@needs_compiler
def test_threads_may_step_at_the_same_time(level: str) -> None:
    model = model_of(ODD)

    def steps() -> Tensor:
        """Without a prompt: that is torch's, whose sums may depend on the thread."""
        decoder = CompiledDecoder(compiled(model.step_weights()))
        with torch.inference_mode():
            ids, cache = torch.tensor([3]), model.new_cache(1, 20)
            return torch.cat([decoder.step(ids, [cache]) for _ in range(12)])

    expected = steps()
    made: list[Tensor] = []
    threads = [threading.Thread(target=lambda: made.append(steps())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert all(torch.equal(hidden, expected) for hidden in made)


@needs_compiler
def test_int8_weights_are_widened_exactly(level: str) -> None:
    """As if the weights had been rounded, and then computed with in float32.

    Where inputs are rounded to int16, numbers are as near as that leaves them.
    """
    model = model_of(ODD)

    def changed(weights: StepWeights, change: Change) -> StepWeights:
        layers = tuple(
            dataclasses.replace(
                layer,
                attention=change(layer.attention),
                projection=change(layer.projection),
                widening=change(layer.widening),
                narrowing=change(layer.narrowing),
            )
            for layer in weights.layers
        )
        return dataclasses.replace(weights, head=change(weights.head), layers=layers)

    def narrow(linear: LinearWeights) -> LinearWeights:
        scale = linear.weight.abs().amax(1) / 127
        return LinearWeights((linear.weight / scale[:, None]).round().char(), None, scale)

    def widen(linear: LinearWeights) -> LinearWeights:
        assert linear.scale is not None
        return LinearWeights(linear.weight.float() * linear.scale[:, None])

    weights = changed(model.step_weights(), narrow)
    got = logits_of(CompiledDecoder(compiled(weights)), model)
    expected = logits_of(PlainDecoder(changed(weights, widen)), model)
    near = 1e-4 if products.library(int8=True) is None else 1e-3
    torch.testing.assert_close(got, expected, rtol=near, atol=near)


@needs_compiler
@pytest.mark.parametrize("kind", [CompiledDecoder, PlainDecoder])
def test_a_past_in_float16_is_widened_exactly(kind: type, level: str) -> None:
    """As if keys and values had been rounded, and then computed with in float32."""
    model = model_of(ODD)
    weights = model.step_weights()
    decoder = kind(compiled(weights)) if kind is CompiledDecoder else kind(weights)
    cache = model.new_cache(1, 20)
    model.prefill(model.embed(torch.arange(9)[None]), cache)
    narrow = model.new_cache(1, 20)
    narrow.both = cache.both.half()
    narrow.keys, narrow.values = narrow.both.unbind(1)
    narrow.n_positions = 9
    for token in (3, 4):
        cache.both.copy_(narrow.both)
        expected = decoder.step(torch.tensor([token]), [cache])
        got = decoder.step(torch.tensor([token]), [narrow])
        # the newest key is rounded in one and not yet in the other
        torch.testing.assert_close(got, expected, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(narrow.both.float(), cache.both, rtol=2e-3, atol=2e-3)


@needs_compiler
def test_another_processor_s_library_is_another_file(
    level: str, brief: Path, tmp_path: Path
) -> None:
    native.load(tmp_path / "built")
    assert len(list((tmp_path / "built").iterdir())) == 1
    if level:
        macros = native._flags(native._compiler())[1].decode()
        assert "__AVX512F__" not in macros
        assert ("__AVX2__" in macros) == (level == "avx2")
        assert not {name for name in processor.abilities() if name.startswith("avx512")}
        assert ("avx2" in processor.abilities()) == (level == "avx2")


def test_a_processor_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(processor.VARIABLE, "z80")
    native.library.cache_clear()
    with pytest.raises(InvalidSetting, match="must be one of avx2, baseline, got 'z80'"):
        native.library()
    native.library.cache_clear()


@needs_compiler
def test_built_once(brief: Path, tmp_path: Path) -> None:
    folder = tmp_path / "built"
    native.load(folder)
    (built,) = folder.iterdir()
    before = built.stat().st_mtime_ns
    native.load(folder)
    assert list(folder.iterdir()) == [built]
    assert built.stat().st_mtime_ns == before


def test_without_a_compiler_torch_decodes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(native, "default_folder", lambda: tmp_path)
    native.library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger="bark_core.native"):
            assert isinstance(model_of(ODD).decoder(), PlainDecoder)
            assert isinstance(model_of(ODD).decoder(), PlainDecoder)
        assert caplog.text.count("decoding with torch alone") == 1
        assert "no-such-compiler" in caplog.text
    finally:
        native.library.cache_clear()


def test_a_compiler_that_fails_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\ncase $* in *-dM*) exit 0;; esac\necho oops >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(native.BuildFailed, match="oops"):
        native.load(tmp_path / "built")
    assert not list((tmp_path / "built").iterdir())


def test_a_folder_that_cannot_be_written_is_no_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(native, "default_folder", lambda: tmp_path / "file")
    native.library.cache_clear()
    try:
        assert native.library() is None
    finally:
        native.library.cache_clear()
