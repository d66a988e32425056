"""The benchmarks run, and their arithmetic is right; what they measure is no business of tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from bark_core import Engine
from bark_core.rows import PlainRows
from benchmarks import profile
from benchmarks.distance import SETTINGS, STAGES, compared, voice_of
from benchmarks.machine import Limits, Sample, summed_up, timed
from benchmarks.performance import Stages, table, whole

if TYPE_CHECKING:
    from bark_core.cascade import Cascade


def test_disturbed_samples_are_dropped() -> None:
    found = summed_up([Sample(1.1, 2.0), Sample(1.0, 1.9), Sample(3.0, 2.0)])
    assert (found.best, found.cpu, found.kept, found.dropped) == (1.0, 1.9, 2, 1)
    assert found.median == pytest.approx(1.05)
    assert found.per(10).best == pytest.approx(0.1)


def test_work_is_done_once_more_than_it_is_measured() -> None:
    calls: list[int] = []
    assert timed(lambda: calls.append(0), 3).kept >= 1
    assert len(calls) == 4


def test_every_stage_is_measured(tiny_cascade: Cascade) -> None:
    stages = Stages(tiny_cascade, Limits(1e9, 1e9), batch=2).measure()
    assert set(stages) == {
        *("semantic prompt", "semantic step", "coarse prompt", "coarse step"),
        *("fine codebook", "codec second"),
    }
    assert all(found["ms"] > 0 for found in stages.values())
    assert all(found["floor_ms"] > 0 for name, found in stages.items() if name != "codec second")
    row = {"model": "tiny", "precision": "float32", "device": "cpu", "batch": 2}
    assert table([row | {"stages": stages}]).count("| tiny") == len(stages)


def test_all_time_is_somebody_s_and_nothing_stays_wrapped(tiny_cascade: Cascade) -> None:
    before = PlainRows.prefill, Engine._round
    found = profile.measure(tiny_cascade, 2, 0.3)
    assert (PlainRows.prefill, Engine._round) == before
    parts = {(part["stage"], part["kind"]): part for part in found["parts"]}
    stages = {stage: {kind for of, kind in parts if of == stage} for stage, _ in parts}
    assert stages["semantic"] == stages["coarse"] == {"prompt", "steps", "head", "sampling", "host"}
    assert stages["fine"] == {"pass", "sampling", "host"}
    assert stages["codec"] == {"sound", "host"}
    assert all(part["seconds"] >= 0 for part in found["parts"])
    assert parts["codec", "sound"]["calls"] >= 2
    text = profile.table([{"model": "tiny", "precision": "float32", **found}])
    assert text.count("\n| ") == len(parts) + 1


def test_time_inside_of_a_part_counts_once() -> None:
    # begin host, steps, head, head; end head, head, steps, host
    times = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 127.0])
    clock = profile.Clock(torch.device("cpu"), lambda: next(times))
    with clock.part("host", "coarse"), clock.part("steps"), clock.part("head"), clock.part("head"):
        pass
    spent = {key: (spent.seconds, spent.calls) for key, spent in clock.spent.items()}
    assert spent == {
        ("coarse", "host"): (1 + 64, 1),
        ("coarse", "steps"): (2 + 32, 1),
        ("coarse", "head"): (4 + 8 + 16, 2),
    }


def test_operations_have_names_and_times(tiny_cascade: Cascade) -> None:
    found = profile.operations(tiny_cascade, 0.3)
    # torch's products, or our own
    assert any("mm" in one["name"] or one["name"] == "bark::multiply" for one in found)
    assert found[0]["seconds"] >= found[-1]["seconds"] >= 0


def test_the_whole_is_measured(tiny_cascade: Cascade) -> None:
    found = whole(tiny_cascade, 2, 0.3, None)
    assert found["sound_s"] > 0.3
    assert found["tokens_s"] > 0
    assert found["first_sound_s"] > 0


def test_a_model_is_at_no_distance_from_itself(tiny_cascade: Cascade) -> None:
    voice, made = voice_of(tiny_cascade, 0.3)
    for logits_of in STAGES.values():
        logits = torch.cat(list(logits_of(tiny_cascade, made, voice)))
        found = compared(logits, logits)
        assert (found["divergence_bits"], found["same_likeliest"]) == (0, 1)
        assert found["draws"] > 1


def test_what_a_setting_changes_is_compared_draw_by_draw(tiny_cascade: Cascade) -> None:
    voice, made = voice_of(tiny_cascade, 0.6)
    for pair in SETTINGS.values():
        ordinary, quick = (torch.cat(list(of(tiny_cascade, made, voice))) for of in pair)
        assert ordinary.shape == quick.shape
        assert compared(ordinary, quick)["divergence_bits"] > 0
