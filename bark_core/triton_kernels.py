"""Triton kernels of one decode step on a CUDA device.

A step of one layer is five launches: norm and QKV; attention; projection and residual; norm,
widening and GELU; narrowing and residual. Each launch loads its weights before it waits for the
launch that it depends on (`gdc_wait`), so that memory stays busy between launches; and it lets
the next one begin only behind that wait, so that whatever is two launches back is complete.

Importing this module needs triton; nothing else in it needs a device. Under TRITON_INTERPRET=1
the kernels run on the CPU.

Axes: B rows of a step, N outputs, K inputs, H heads, D channels a head, T positions.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

# what happens to the input of a product ...
PLAIN: tl.constexpr = tl.constexpr(0)
NORM: tl.constexpr = tl.constexpr(1)  # layer normalisation
COMBINE: tl.constexpr = tl.constexpr(2)  # parts of an attention put together
# ... and to its output
STORE: tl.constexpr = tl.constexpr(0)
GELU: tl.constexpr = tl.constexpr(1)
ADD: tl.constexpr = tl.constexpr(2)  # to what is there
# when the next launch may begin: when this one is over, when it has begun its work, at once
ALONE: tl.constexpr = tl.constexpr(0)
LATE: tl.constexpr = tl.constexpr(1)
EARLY: tl.constexpr = tl.constexpr(2)


@triton.jit
def _begin(PDL: tl.constexpr):
    """Early: the next launch may load its weights as soon as there is room for it."""
    if PDL == EARLY:
        gdc_launch_dependents()


@triton.jit
def _order(PDL: tl.constexpr):
    """Wait for the launch before, and with it for all before that one."""
    if PDL != ALONE:
        gdc_wait()
    if PDL == LATE:
        gdc_launch_dependents()


@triton.jit
def _real(x):
    """float32 of any precision. Of int8 by its bits: devices convert whole numbers slowly."""
    if x.dtype == tl.int8:
        bits = (x.to(tl.uint8, bitcast=True) ^ 0x80).to(tl.uint32) | 0x4B000000
        y = bits.to(tl.float32, bitcast=True) - 8388736.0
    else:
        y = x.to(tl.float32)
    return y


@triton.jit
def embed(
    token_ptr,
    length_ptr,
    slot_ptr,
    table_ptr,
    positions_ptr,
    x_ptr,
    width,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """x[b] = table[token of b's slot] + positions[length of b's slot]. Grid (B,)."""
    _begin(PDL)
    row = tl.program_id(0)
    k = tl.arange(0, BLOCK)
    mask = k < width
    _order(PDL)
    slot = tl.load(slot_ptr + row)
    token = tl.load(token_ptr + slot).to(tl.int64)
    place = tl.load(length_ptr + slot).to(tl.int64)
    x = tl.load(table_ptr + token * width + k, mask=mask, other=0.0).to(tl.float32)
    x += tl.load(positions_ptr + place * width + k, mask=mask, other=0.0).to(tl.float32)
    tl.store(x_ptr + row * width + k, x, mask=mask)


@triton.jit
def _combined(part_ptr, weight_ptr, row, k, mask, width, SPLITS: tl.constexpr):
    """What the parts of an attention come to: [K]. Parts [B, S, K]; weights [B, S, 2, K]."""
    top = tl.full(k.shape, float("-inf"), tl.float32)
    total = tl.zeros(k.shape, tl.float32)
    out = tl.zeros(k.shape, tl.float32)
    for s in tl.static_range(SPLITS):
        part = row * SPLITS + s
        weight = tl.load(weight_ptr + part * 2 * width + k, mask=mask, other=float("-inf"))
        amount = tl.load(weight_ptr + (part * 2 + 1) * width + k, mask=mask, other=0.0)
        value = tl.load(part_ptr + part * width + k, mask=mask, other=0.0)
        higher = tl.maximum(top, weight)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        mine, rest = tl.exp(weight - base), tl.exp(top - base)
        total = total * rest + amount * mine
        out = out * rest + value * mine
        top = higher
    return out / tl.maximum(total, 1e-30)


@triton.jit
def product(
    x_ptr,
    w_ptr,
    scale_ptr,
    bias_ptr,
    gain_ptr,
    shift_ptr,
    sums_ptr,
    out_ptr,
    weight_ptr,
    slot_ptr,
    offset_ptr,
    n_outputs,
    n_inputs,
    eps,
    ROWS: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
    ONE_PASS: tl.constexpr,
    SPLITS: tl.constexpr,
    SCALED: tl.constexpr,
    BIAS: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    PDL: tl.constexpr,
):
    """Outputs BN at a time of ROWS rows, the weights read once. Grid (N / BN, B / ROWS).

    w [N, K]; x [B, K] float32 (COMBINE: parts, see `_combined`); out [B, N] float32.
    scale [N]: of weights in 8 bits. OFFSET: row b begins at w's row offset[its slot] (ROWS = 1).
    NORM in two passes takes gain and shift [K]; ONE_PASS finds mean and spread beside the product:
    norm(x) @ w = spread * ((x * gain) @ w - mean * sums), sums [N] = w @ gain, and what the norm
    adds must be inside the bias: w @ shift.
    """
    _begin(PDL)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    first = tl.program_id(1) * ROWS
    in_n, in_k = n < n_outputs, k < n_inputs
    both = in_n[:, None] & in_k[None, :]
    if OFFSET:
        _order(PDL)  # where the weights are is written by a launch before
        offset = tl.load(offset_ptr + tl.load(slot_ptr + first)).to(tl.int64)
        w_ptr += offset * n_inputs
        scale_ptr += offset
        bias_ptr += offset
        sums_ptr += offset
    w = tl.load(w_ptr + n[:, None].to(tl.int64) * n_inputs + k[None, :], mask=both, other=0.0)
    if SCALED:
        scale = tl.load(scale_ptr + n, mask=in_n, other=0.0)
    if BIAS:
        bias = tl.load(bias_ptr + n, mask=in_n, other=0.0).to(tl.float32)
    if BEFORE == NORM:
        gain = tl.load(gain_ptr + k, mask=in_k, other=0.0).to(tl.float32)
        if ONE_PASS:
            sums = tl.load(sums_ptr + n, mask=in_n, other=0.0)
        elif SHIFT:
            shift = tl.load(shift_ptr + k, mask=in_k, other=0.0).to(tl.float32)
    if not OFFSET:
        _order(PDL)
    for i in tl.static_range(ROWS):
        row = first + i
        if BEFORE == COMBINE:
            x = _combined(x_ptr, weight_ptr, row, k, in_k, n_inputs, SPLITS)
        else:
            x = tl.load(x_ptr + row * n_inputs + k, mask=in_k, other=0.0)
        if BEFORE == NORM and ONE_PASS:
            mean = tl.sum(x, axis=0) / n_inputs
            spread = tl.sum(x * x, axis=0) / n_inputs - mean * mean
            spread = tl.rsqrt(tl.maximum(spread, 0.0) + eps)
            x *= gain
        elif BEFORE == NORM:
            x = tl.where(in_k, x - tl.sum(x, axis=0) / n_inputs, 0.0)
            x = x * tl.rsqrt(tl.sum(x * x, axis=0) / n_inputs + eps) * gain
            if SHIFT:
                x += shift
        y = tl.sum(_real(w) * x[None, :], axis=1)
        if SCALED:
            y *= scale
        if BEFORE == NORM and ONE_PASS:
            y = spread * (y - mean * sums)
        if BIAS:
            y += bias
        if AFTER == GELU:
            y = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
        at = out_ptr + row * n_outputs + n
        if AFTER == ADD:
            y += tl.load(at, mask=in_n, other=0.0)
        tl.store(at, y, mask=in_n)


@triton.jit
def attend(
    qkv_ptr,
    keys_ptr,
    values_ptr,
    key_scales_ptr,
    value_scales_ptr,
    slot_ptr,
    length_ptr,
    state_ptr,
    out_ptr,
    weight_ptr,
    width,
    n_heads,
    capacity,
    scale,
    HEAD: tl.constexpr,
    BD: tl.constexpr,
    BT: tl.constexpr,
    TILES: tl.constexpr,
    SPLITS: tl.constexpr,
    QUANTISED: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """One query a row and head over its live positions; writes the new key and value.

    Grid (H, SPLITS, B): split s sees TILES tiles of BT positions from s * TILES * BT on.
    qkv [B, 3 * width] float32; keys, values [slot, H, capacity, HEAD]; scales [slot, H, capacity].
    SPLITS == 1: out [B, width] in out's precision; else parts for `_combined`.
    """
    _begin(PDL)
    head, split, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    d = tl.arange(0, BD)
    in_d = d < HEAD
    start = split * TILES * BT
    t = start + tl.arange(0, BT)
    # a guess, which is right unless the step before is still running: what was there before this
    # step is loaded before the wait
    slot = tl.load(slot_ptr + row).to(tl.int64)
    guess = tl.load(length_ptr + slot)
    guess = tl.where(tl.load(state_ptr + slot) == 0, guess, 0)
    line = (slot * n_heads + head) * capacity
    at = (line + t)[:, None] * HEAD + d[None, :]
    if TILES == 1:
        old = (t < guess)[:, None] & in_d[None, :]
        k_old = tl.load(keys_ptr + at, mask=old, other=0)
        v_old = tl.load(values_ptr + at, mask=old, other=0)
        if QUANTISED:
            k_scale = tl.load(key_scales_ptr + line + t, mask=t < guess, other=0.0)
            v_scale = tl.load(value_scales_ptr + line + t, mask=t < guess, other=0.0)
    _order(PDL)
    live_row = tl.load(state_ptr + slot, volatile=True) == 0
    place = tl.where(live_row, tl.load(length_ptr + slot, volatile=True), 0)
    if TILES == 1:
        if place != guess:
            old = (t < place)[:, None] & in_d[None, :]
            k_old = tl.load(keys_ptr + at, mask=old, other=0)
            v_old = tl.load(values_ptr + at, mask=old, other=0)
            if QUANTISED:
                k_scale = tl.load(key_scales_ptr + line + t, mask=t < place, other=0.0)
                v_scale = tl.load(value_scales_ptr + line + t, mask=t < place, other=0.0)
    source = qkv_ptr + row * 3 * width + head * HEAD + d
    q = tl.load(source, mask=in_d, other=0.0).to(tl.float32) * scale
    k_new = tl.load(source + width, mask=in_d, other=0.0).to(tl.float32)
    v_new = tl.load(source + 2 * width, mask=in_d, other=0.0).to(tl.float32)
    holds_new = live_row & (start <= place) & (place < start + TILES * BT)
    new = line + place
    if QUANTISED:
        k_unit = tl.maximum(tl.max(tl.abs(k_new), axis=0), 1e-20) / 127.0
        v_unit = tl.maximum(tl.max(tl.abs(v_new), axis=0), 1e-20) / 127.0
        k_new = tl.floor(k_new / k_unit + 0.5)
        v_new = tl.floor(v_new / v_unit + 0.5)
        tl.store(key_scales_ptr + new, k_unit, mask=holds_new)
        tl.store(value_scales_ptr + new, v_unit, mask=holds_new)
    k_stored = k_new.to(keys_ptr.dtype.element_ty)
    v_stored = v_new.to(values_ptr.dtype.element_ty)
    tl.store(keys_ptr + new * HEAD + d, k_stored, mask=in_d & holds_new)
    tl.store(values_ptr + new * HEAD + d, v_stored, mask=in_d & holds_new)
    k_new = k_stored.to(tl.float32)
    v_new = v_stored.to(tl.float32)
    if QUANTISED:
        k_new *= k_unit
        v_new *= v_unit
    # the new position counts as the first of its split: no other launch reads what was just written
    score_new = tl.sum(q * k_new, axis=0)
    top = tl.where(holds_new, score_new, float("-inf"))
    total = tl.where(holds_new, 1.0, 0.0)
    out = tl.where(holds_new, v_new, 0.0)
    if TILES == 1:
        score = tl.sum(_real(k_old) * q[None, :], axis=1)
        if QUANTISED:
            score *= k_scale
        score = tl.where(t < place, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, axis=0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        share = tl.exp(score - base)
        rest = tl.exp(top - base)
        total = total * rest + tl.sum(share, axis=0)
        if QUANTISED:
            share *= v_scale
        out = out * rest + tl.sum(_real(v_old) * share[:, None], axis=0)
        top = higher
    else:
        stop = tl.minimum(start + TILES * BT, place)
        for t0 in tl.range(start, stop, BT, num_stages=STAGES):
            tt = t0 + tl.arange(0, BT)
            live = (tt < stop)[:, None] & in_d[None, :]
            here = (line + tt)[:, None] * HEAD + d[None, :]
            k_tile = _real(tl.load(keys_ptr + here, mask=live, other=0))
            v_tile = _real(tl.load(values_ptr + here, mask=live, other=0))
            score = tl.sum(k_tile * q[None, :], axis=1)
            if QUANTISED:
                score *= tl.load(key_scales_ptr + line + tt, mask=tt < stop, other=0.0)
            score = tl.where(tt < stop, score, float("-inf"))
            higher = tl.maximum(top, tl.max(score, axis=0))
            share = tl.exp(score - higher)
            rest = tl.exp(top - higher)
            total = total * rest + tl.sum(share, axis=0)
            if QUANTISED:
                share *= tl.load(value_scales_ptr + line + tt, mask=tt < stop, other=0.0)
            out = out * rest + tl.sum(v_tile * share[:, None], axis=0)
            top = higher
    if SPLITS == 1:
        result = (out / tl.maximum(total, 1e-30)).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + row * width + head * HEAD + d, result, mask=in_d)
    else:
        part = row * SPLITS + split
        here = head * HEAD + d
        tl.store(out_ptr + part * width + here, out, mask=in_d)
        same = tl.zeros((BD,), tl.float32)
        tl.store(weight_ptr + part * 2 * width + here, same + top, mask=in_d)
        tl.store(weight_ptr + (part * 2 + 1) * width + here, same + total, mask=in_d)


@triton.jit
def combine(part_ptr, weight_ptr, out_ptr, width, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """The parts of an attention put together, [B, width] in out's precision. Grid (B, ...)."""
    row = tl.program_id(0)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = k < width
    y = _combined(part_ptr, weight_ptr, row, k, mask, width, SPLITS)
    tl.store(out_ptr + row * width + k, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def add_and_norm(
    x_ptr,
    delta_ptr,
    gain_ptr,
    shift_ptr,
    half_ptr,
    width,
    eps,
    BLOCK: tl.constexpr,
    DELTA: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """x += delta; half = norm(x). x [B, C] float32, the others in half precision. Grid (B,)."""
    row = tl.program_id(0)
    k = tl.arange(0, BLOCK)
    mask = k < width
    x = tl.load(x_ptr + row * width + k, mask=mask, other=0.0)
    if DELTA:
        x += tl.load(delta_ptr + row * width + k, mask=mask, other=0.0).to(tl.float32)
        tl.store(x_ptr + row * width + k, x, mask=mask)
    y = tl.where(mask, x - tl.sum(x, axis=0) / width, 0.0)
    y = y * tl.rsqrt(tl.sum(y * y, axis=0) / width + eps)
    y *= tl.load(gain_ptr + k, mask=mask, other=0.0).to(tl.float32)
    if SHIFT:
        y += tl.load(shift_ptr + k, mask=mask, other=0.0).to(tl.float32)
    tl.store(half_ptr + row * width + k, y.to(half_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _value_of(rank):
    """The float32 whose place in the order of all floats is `rank` (int32; inverse of `_rank`)."""
    bits = tl.where(rank < 0, rank ^ 0x7FFFFFFF, rank)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _cutoff(logits, mass, wanted, BY_COUNT: tl.constexpr):
    """The value below which logits are dropped, by bisection over all float32 values.

    BY_COUNT: the wanted-th largest logit. Else: the smallest logit such that the mass of what is
    larger is at most `wanted`. 32 rounds, exact.
    """
    low = tl.full((), -2139095041, tl.int32)  # -inf
    high = tl.full((), 2139095040, tl.int32)  # +inf
    for _ in range(32):
        middle = (low & high) + ((low ^ high) >> 1)  # rounded down, without overflow
        value = _value_of(middle)
        if BY_COUNT:
            # is the wanted-th largest above `middle`?
            above = tl.sum(tl.where(logits > value, 1.0, 0.0), axis=0) >= wanted
        else:
            above = tl.sum(tl.where(logits > value, mass, 0.0), axis=0) > wanted
        low = tl.where(above, middle + 1, low)
        high = tl.where(above, high, middle)
    return _value_of(high)


@triton.jit
def sample(
    logits_ptr,
    slot_ptr,
    token_ptr,
    length_ptr,
    state_ptr,
    made_ptr,
    offset_ptr,
    starts_ptr,
    counts_ptr,
    turns_ptr,
    limit_ptr,
    end_ptr,
    min_end_ptr,
    temperature_ptr,
    top_p_ptr,
    top_k_ptr,
    draws_ptr,
    out_ptr,
    n_logits,
    n_draws,
    n_slots,
    first_id,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
    ADVANCE: tl.constexpr,
    PDL: tl.constexpr,
):
    """Draw one token a row, note it, and decide whether the row goes on. Grid (B,).

    logits [B, n_logits] float32: of ids first_id + ... (WHOLE), or of the row's own range only.
    By slot: starts, counts [turn, slot] of the ranges, of which turns[slot] follow each other;
    draws and out [slot, n_draws]; state as `static_step.SlotState` says; offset: where the next
    range starts. ADVANCE: the row's cache has got one position more.
    """
    _begin(PDL)
    row = tl.program_id(0)
    v = tl.arange(0, BLOCK)
    _order(PDL)
    slot = tl.load(slot_ptr + row)
    if tl.load(state_ptr + slot) == 0:
        made = tl.load(made_ptr + slot)
        turn = made % tl.load(turns_ptr + slot)
        offset = tl.load(starts_ptr + turn * n_slots + slot)
        n_live = tl.load(counts_ptr + turn * n_slots + slot)
        temperature = tl.load(temperature_ptr + slot)
        top_p = tl.load(top_p_ptr + slot)
        top_k = tl.load(top_k_ptr + slot)
        at = logits_ptr + row * n_logits + v
        if WHOLE:
            at += offset - first_id
        logits = tl.load(at, mask=v < n_live, other=float("-inf"))
        best = tl.max(logits, axis=0)
        mass = tl.exp(logits - best)
        total = tl.sum(mass, axis=0)
        sound = (total > 0.0) & (total < float("inf"))  # false if any logit is NaN or infinite
        if top_p >= 0.0:
            cutoff = _cutoff(logits, mass / total, top_p, False)
            logits = tl.where(logits >= cutoff, logits, float("-inf"))
        if top_k > 0:
            cutoff = _cutoff(logits, logits, top_k.to(tl.float32), True)
            logits = tl.where(logits >= cutoff, logits, float("-inf"))
        greedy = temperature == 0.0
        soft = tl.exp((logits - best) / tl.where(greedy, 1.0, temperature))
        likeliest = tl.min(tl.where(logits == best, v, BLOCK), axis=0)
        shares = tl.where(greedy, tl.where(v == likeliest, 1.0, 0.0), soft).to(tl.float64)
        reached = tl.cumsum(shares, axis=0)
        whole = tl.max(reached, axis=0)
        aim = tl.load(draws_ptr + slot * n_draws + made).to(tl.float64) * whole
        index = tl.sum(tl.where(reached <= aim, 1, 0), axis=0)
        # rounding may leave the whole at the aim: then the token whose share completes it
        last = tl.min(tl.where(reached >= whole, v, BLOCK), axis=0)
        index = tl.minimum(index, last)
        token = offset + index
        end = tl.load(end_ptr + slot)
        of_end = tl.sum(tl.where(v == n_live - 1, shares, 0.0), axis=0) / whole
        unlikely = of_end.to(tl.float32) < tl.load(min_end_ptr + slot)
        over = (end >= 0) & ((token == end) | (unlikely == 0))
        appended = sound & (over == 0)
        n_made = made + appended.to(tl.int32)
        full = n_made >= tl.load(limit_ptr + slot)
        state = tl.where(over, 2, tl.where(full, 1, 0))
        state = tl.where(sound, state, 3)
        tl.store(out_ptr + slot * n_draws + made, token, mask=appended)
        tl.store(token_ptr + slot, token, mask=appended)
        tl.store(made_ptr + slot, n_made)
        tl.store(state_ptr + slot, state)
        turn = n_made % tl.load(turns_ptr + slot)
        tl.store(offset_ptr + slot, tl.load(starts_ptr + turn * n_slots + slot))
        if ADVANCE:
            tl.store(length_ptr + slot, tl.load(length_ptr + slot) + 1)
