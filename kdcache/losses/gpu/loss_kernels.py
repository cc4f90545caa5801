"""Losses of rows on logits, value and gradient in one launch: one program a row, two sweeps over its classes.

Sweep 1 finds the largest logit, the sums of exponentials at the student's temperature and at 1, and the sum that the
tail needs; all factors follow as scalars. Sweep 2 writes

    A exp((z - m) / tau_s) + B exp(z - n) + C + D z

over the logits or beside them, and the kept classes and the label are corrected after a barrier. No atomics, no waiting
for the device, 64-bit offsets. What a loss means is said in `losses.divergence`, `losses.sparse` and docs/losses.md.

Exponents are differences that are then scaled, `(z - m) * a`, never `z * a - m * a`: no compiler can fuse them in one
place and not in another.

R rows  V classes  K kept  N atoms
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _log_add(first, second):
    """log(exp(first) + exp(second)); the first is finite."""
    top = tl.maximum(first, second)
    return top + tl.log(tl.exp(first - top) + tl.exp(second - top))


@triton.jit
def _teacher(LOGPROBS, ATOMS, kept, num_tail, inv_tau, K, KB: tl.constexpr, N: tl.constexpr, NB: tl.constexpr):
    """Log of a row's normaliser at the teacher's temperature, and log of its tail's mass (-inf without a tail)."""
    top = -float("inf")
    total = 0.0
    for start in range(0, K, KB):
        place = start + tl.arange(0, KB)
        value = tl.load(LOGPROBS + place, mask=place < kept, other=-float("inf")).to(tl.float32) * inv_tau
        new = tl.maximum(top, tl.max(value, 0))
        total = total * tl.exp(top - new) + tl.sum(tl.exp(value - new), 0)
        top = new
    log_kept = top + tl.log(total)
    log_tail = log_kept - float("inf")
    if N > 0:
        atom = tl.arange(0, NB)
        position = tl.load(ATOMS + 2 * atom, mask=atom < N, other=0.0).to(tl.float32)
        weight = tl.load(ATOMS + 2 * atom + 1, mask=atom < N, other=-float("inf")).to(tl.float32)
        weight = tl.where(num_tail > 0, weight, 0.0)
        heaviest = tl.max(weight, 0)
        weight -= heaviest + tl.log(tl.sum(tl.exp(weight - heaviest), 0))
        weight += tl.log(tl.maximum(num_tail, 1).to(tl.float32)) + position * inv_tau
        heaviest = tl.max(weight, 0)
        mass = heaviest + tl.log(tl.sum(tl.exp(weight - heaviest), 0))
        log_tail = tl.where(num_tail > 0, mass, log_tail)
    norm = _log_add(log_kept, log_tail)
    return norm, log_tail - norm


@triton.jit
def _tail_alone(x, IDS, kept, num_classes, K, a, centre, SQUARES: tl.constexpr, KB: tl.constexpr, CB: tl.constexpr):
    """The tail's largest logit and its sum of exponentials about it, or its sum of squares about a centre.

    Looks each class up among the kept ones: for rows where the tail is so small a part that a difference of sums would
    cancel.
    """
    top = -float("inf")
    total = 0.0
    for start in range(0, num_classes, CB):
        i = start + tl.arange(0, CB)
        outside = i < num_classes
        for begin in range(0, K, KB):
            place = begin + tl.arange(0, KB)
            ids = tl.load(IDS + place, mask=place < kept, other=-1)
            near = ((ids >= start) & (ids < start + CB)).to(tl.int32)
            if tl.max(near, 0) > 0:
                hit = tl.max((i[:, None] == ids[None, :]).to(tl.int32), 1)
                outside = outside & (hit == 0)
        z = tl.load(x + i, mask=outside, other=-float("inf")).to(tl.float32)
        if SQUARES:
            away = tl.where(outside, (z - centre) * a, 0.0)
            total += tl.sum(away * away, 0)
        else:
            new = tl.maximum(top, tl.max(z, 0))
            shift = tl.where(new == -float("inf"), 0.0, new)
            total = total * tl.exp((top - shift) * a) + tl.sum(tl.exp((z - shift) * a), 0)
            top = new
    return top, total


@triton.jit
def _sweep(x, num_classes, a, centre, MODE: tl.constexpr, HARD: tl.constexpr, BLOCK: tl.constexpr):
    """Largest logit; sums of exponentials at the student's temperature and at 1 about it; the sum for the tail.

    That sum is of the logits (MODE uniform), or of squares about a centre (MODE mse).
    """
    top = -float("inf")
    tempered = 0.0
    plain = 0.0
    rest = 0.0
    for start in range(0, num_classes, BLOCK):
        i = start + tl.arange(0, BLOCK)
        own = i < num_classes
        z = tl.load(x + i, mask=own, other=-float("inf")).to(tl.float32)
        new = tl.maximum(top, tl.max(z, 0))
        shift = tl.where(new == -float("inf"), 0.0, new)
        if (MODE == "uniform") | (MODE == "bucket"):
            tempered = tempered * tl.exp((top - shift) * a) + tl.sum(tl.exp((z - shift) * a), 0)
        if HARD:
            plain = plain * tl.exp(top - shift) + tl.sum(tl.exp(z - shift), 0)
        if MODE == "uniform":
            rest += tl.sum(tl.where(own, z, 0.0), 0)
        if MODE == "mse":
            away = tl.where(own, (z - centre) * a, 0.0)
            rest += tl.sum(away * away, 0)
        top = new
    return top, tempered, plain, rest


@triton.jit
def _write(
    x, g, before, num_classes, num_columns, a, m, n, A, B, C, D, MODE: tl.constexpr, HARD: tl.constexpr,
    ADD: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Sweep 2; columns beyond the row's classes get 0."""
    for start in range(0, num_columns, BLOCK):
        i = start + tl.arange(0, BLOCK)
        own = i < num_classes
        z = tl.load(x + i, mask=own, other=0.0).to(tl.float32)
        value = tl.zeros([BLOCK], tl.float32) + C
        if MODE == "mse":
            value += z * D  # nowhere else, for 0 times an infinite logit is no number
        if (MODE == "uniform") | (MODE == "bucket"):
            value += tl.exp((z - m) * a) * A
        if HARD:
            value += tl.exp(z - n) * B
        if ADD:
            value += tl.load(before + i, mask=own, other=0.0).to(tl.float32)
        tl.store(g + i, tl.where(own, value, 0.0).to(g.dtype.element_ty), mask=i < num_columns)


@triton.jit
def _without_part(g, before, num_columns, ADD: tl.constexpr, BLOCK: tl.constexpr):
    """A row without any part gets nothing, whatever its logits are; what is there before stays."""
    for start in range(0, num_columns, BLOCK):
        i = start + tl.arange(0, BLOCK)
        value = tl.zeros([BLOCK], g.dtype.element_ty)
        if ADD:
            value = tl.load(before + i, mask=i < num_columns, other=0.0)
        tl.store(g + i, value, mask=i < num_columns)


@triton.jit
def sparse_rows(
    X, G, BEFORE, KEPT_LOGITS, LOSSES, LABELS, HARD_R, SOFT_R, CLASSES, IDS, LOGPROBS, KEPT, ATOMS, LSE, MOMENTS,
    INV_TAU_T, INV_TAU_S, stride_x, stride_g, stride_before, num_rows, width, num_columns, K,
    MODE: tl.constexpr, HARD: tl.constexpr, RAGGED: tl.constexpr, GRADIENT: tl.constexpr, ADD: tl.constexpr,
    KB: tl.constexpr, N: tl.constexpr, NB: tl.constexpr, CB: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A student's logits against sparse rows, hard labels, or both.

    MODE is `uniform` or `bucket` (cross-entropy), `mse`, or `none` (hard labels alone). HARD: hard labels have a part.
    RAGGED: rows differ in V; where they do not, `width` is it, whose divisors the compiler knows: wide loads.
    """
    r = tl.program_id(0).to(tl.int64)
    x, g, before = X + r * stride_x, G + r * stride_g, BEFORE + r * stride_before
    hard = 0.0
    if HARD:
        hard = tl.load(HARD_R + r)
    soft = 0.0
    if MODE != "none":
        soft = tl.load(SOFT_R + r)
    if (hard == 0.0) & (soft == 0.0):
        if GRADIENT:
            _without_part(g, before, num_columns, ADD, BLOCK)
        for part in tl.static_range(4):
            tl.store(LOSSES + part * num_rows + r, 0.0)
        return

    num_classes = width
    if RAGGED:
        num_classes = tl.load(CLASSES + r).to(tl.int32)
    label = tl.load(LABELS + r)
    gold = tl.load(x + label).to(tl.float32)
    a = 1.0
    in_set = 0
    kept = 0
    num_tail = 0
    centre = 0.0
    share = 0.0
    norm, log_tail, inv_tau, lse_t = 0.0, 0.0, 1.0, 0.0
    sum_p, sum_pz, sum_z, sum_plogp, squares, away_kept = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if MODE != "none":
        a = tl.load(INV_TAU_S + r)
        inv_tau = tl.load(INV_TAU_T + r)
        kept = tl.load(KEPT + r).to(tl.int32)
        num_tail = num_classes - kept
        if MODE == "mse":
            lse_t = tl.load(LSE + r).to(tl.float32)
            centre = (tl.load(MOMENTS + 2 * r).to(tl.float32) + lse_t) * inv_tau / a
        else:
            norm, log_tail = _teacher(LOGPROBS + r * K, ATOMS + r * 2 * N, kept, num_tail, inv_tau, K, KB, N, NB)
        for start in range(0, K, KB):
            place = start + tl.arange(0, KB)
            there = place < kept
            ids = tl.load(IDS + r * K + place, mask=there, other=0)
            z = tl.load(x + ids, mask=there, other=0.0).to(tl.float32)
            tl.store(KEPT_LOGITS + r * K + place, z, mask=there)
            in_set = tl.maximum(in_set, tl.max((there & (ids == label)).to(tl.int32), 0))
            log_p = tl.load(LOGPROBS + r * K + place, mask=there, other=0.0).to(tl.float32)
            if MODE == "mse":
                away = tl.where(there, z * a - (log_p + lse_t) * inv_tau, 0.0)
                squares += tl.sum(away * away, 0)
                away = tl.where(there, (z - centre) * a, 0.0)
                away_kept += tl.sum(away * away, 0)
            else:
                log_p = log_p * inv_tau - norm
                p = tl.where(there, tl.exp(log_p), 0.0)
                sum_p += tl.sum(p, 0)
                sum_pz += tl.sum(p * z, 0)
                sum_z += tl.sum(z, 0)
                sum_plogp += tl.sum(tl.where(p > 0, p * log_p, 0.0), 0)
    tl.debug_barrier()

    top, tempered, plain, rest = _sweep(x, num_classes, a, centre, MODE, HARD, BLOCK)
    total, hard_loss, soft_loss, floor = 0.0, 0.0, 0.0, 0.0
    m = top
    A, B, C, D, P = 0.0, 0.0, 0.0, 0.0, 0.0
    if HARD:
        B = hard / plain
        hard_loss = top + tl.log(plain) - gold
        total = tl.where(hard == 0.0, 0.0, hard * hard_loss)
    if (MODE == "uniform") | (MODE == "bucket"):
        lse = top * a + tl.log(tempered)
        mass = tl.exp(log_tail)
        P = sum_p + mass
        floor = -sum_plogp - mass * tl.where(mass > 0, log_tail, 0.0)
        soft_loss = sum_p * lse - sum_pz * a
        if MODE == "uniform":
            size = tl.maximum(num_tail, 1).to(tl.float32)
            floor += mass * tl.log(size)
            share = mass / size
            soft_loss -= share * ((rest - sum_z) * a - num_tail.to(tl.float32) * lse)
            A = soft * a * P / tempered
            C = -soft * a * share
        else:
            inside = 0.0
            for start in range(0, K, KB):
                place = start + tl.arange(0, KB)
                z = tl.load(KEPT_LOGITS + r * K + place, mask=place < kept, other=-float("inf"))
                inside += tl.sum(tl.exp((z - top) * a), 0)
            outside = tempered - inside
            if (num_tail > 0) & (outside * 256 < tempered):
                m, outside = _tail_alone(x, IDS + r * K, kept, num_classes, K, a, centre, False, KB, CB)
            if num_tail > 0:
                log_q = m * a + tl.log(outside) - lse
                soft_loss -= mass * log_q
                A = soft * a * (tl.exp(log_q) * P - mass) / outside
    if MODE == "mse":
        outside = rest - away_kept
        if (num_tail > 0) & (outside * 16 < rest):
            _, outside = _tail_alone(x, IDS + r * K, kept, num_classes, K, a, centre, True, KB, CB)
        variance = tl.load(MOMENTS + 2 * r + 1).to(tl.float32) * inv_tau * inv_tau
        if num_tail > 0:
            squares += outside + num_tail.to(tl.float32) * variance
        size = num_classes.to(tl.float32)
        soft_loss = squares / size
        D = soft * 2.0 * a * a / size
        C = -D * centre
    total += tl.where(soft == 0.0, 0.0, soft * soft_loss)
    tl.store(LOSSES + r, total)
    tl.store(LOSSES + num_rows + r, hard_loss)
    tl.store(LOSSES + 2 * num_rows + r, soft_loss)
    tl.store(LOSSES + 3 * num_rows + r, floor)
    if GRADIENT:
        _write(x, g, before, num_classes, num_columns, a, m, top, A, B, C, D, MODE, HARD, ADD, BLOCK)
        tl.debug_barrier()
        if MODE != "none":
            for start in range(0, K, KB):
                place = start + tl.arange(0, KB)
                there = place < kept
                ids = tl.load(IDS + r * K + place, mask=there, other=0)
                z = tl.load(KEPT_LOGITS + r * K + place, mask=there, other=0.0)
                log_p = tl.load(LOGPROBS + r * K + place, mask=there, other=0.0).to(tl.float32)
                if MODE == "mse":
                    value = (z * a - (log_p + lse_t) * inv_tau) * (soft * 2.0 * a / num_classes.to(tl.float32))
                else:
                    q = tl.exp((z - top) * a) / tempered
                    value = (q * P - tl.exp(log_p * inv_tau - norm)) * (soft * a)
                if HARD:
                    value += tl.exp(z - top) * B - tl.where(ids == label, hard, 0.0)
                if ADD:
                    value += tl.load(before + ids, mask=there, other=0.0).to(tl.float32)
                tl.store(g + ids, value.to(g.dtype.element_ty), mask=there)
        if HARD:
            value = tl.exp(gold - top) * B + C - hard
            if MODE == "mse":
                value += gold * D
            if (MODE == "uniform") | (MODE == "bucket"):
                value += tl.exp((gold - m) * a) * A
            if ADD:
                value += tl.load(before + label).to(tl.float32)
            tl.store(g + label, value.to(g.dtype.element_ty), mask=in_set == 0)


@triton.jit
def dense_rows(
    X, T, G, BEFORE, LOSSES, LABELS, HARD_R, SOFT_R, CLASSES, INV_TAU_T, INV_TAU_S, stride_x, stride_t, stride_g,
    stride_before, num_rows, width, num_columns,
    MODE: tl.constexpr, HARD: tl.constexpr, RAGGED: tl.constexpr, GRADIENT: tl.constexpr, ADD: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A student's logits against a teacher's, with hard labels or without; MODE is `ce` or `mse`."""
    r = tl.program_id(0).to(tl.int64)
    x, t, g, before = X + r * stride_x, T + r * stride_t, G + r * stride_g, BEFORE + r * stride_before
    hard = 0.0
    if HARD:
        hard = tl.load(HARD_R + r)
    soft = tl.load(SOFT_R + r)
    if (hard == 0.0) & (soft == 0.0):
        if GRADIENT:
            _without_part(g, before, num_columns, ADD, BLOCK)
        for part in tl.static_range(4):
            tl.store(LOSSES + part * num_rows + r, 0.0)
        return

    num_classes = width
    if RAGGED:
        num_classes = tl.load(CLASSES + r).to(tl.int32)
    label = tl.load(LABELS + r)
    gold = tl.load(x + label).to(tl.float32)
    a, b = tl.load(INV_TAU_S + r), tl.load(INV_TAU_T + r)
    top, tempered, plain = -float("inf"), 0.0, 0.0
    peak, weight, with_z, with_t, squares = -float("inf"), 0.0, 0.0, 0.0, 0.0
    for start in range(0, num_classes, BLOCK):
        i = start + tl.arange(0, BLOCK)
        own = i < num_classes
        z = tl.load(x + i, mask=own, other=-float("inf")).to(tl.float32)
        y = tl.load(t + i, mask=own, other=-float("inf")).to(tl.float32)
        new = tl.maximum(top, tl.max(z, 0))
        shift = tl.where(new == -float("inf"), 0.0, new)
        if HARD:
            plain = plain * tl.exp(top - shift) + tl.sum(tl.exp(z - shift), 0)
        if MODE == "ce":
            tempered = tempered * tl.exp((top - shift) * a) + tl.sum(tl.exp((z - shift) * a), 0)
            high = tl.maximum(peak, tl.max(y, 0))
            lift = tl.where(high == -float("inf"), 0.0, high)
            p = tl.exp((y - lift) * b)
            fade = tl.exp((peak - lift) * b)
            weight = weight * fade + tl.sum(p, 0)
            with_z = with_z * fade + tl.sum(tl.where(p > 0, p * z, 0.0), 0)
            with_t = with_t * fade + tl.sum(tl.where(p > 0, p * y, 0.0), 0)
            peak = high
        else:
            away = tl.where(own, z * a - y * b, 0.0)
            squares += tl.sum(away * away, 0)
        top = new
    size = num_classes.to(tl.float32)
    total, hard_loss, soft_loss, floor = 0.0, 0.0, squares / size, 0.0
    if HARD:
        hard_loss = top + tl.log(plain) - gold
        total = tl.where(hard == 0.0, 0.0, hard * hard_loss)
    if MODE == "ce":
        soft_loss = top * a + tl.log(tempered) - with_z / weight * a
        floor = peak * b + tl.log(weight) - with_t / weight * b
    total += tl.where(soft == 0.0, 0.0, soft * soft_loss)
    tl.store(LOSSES + r, total)
    tl.store(LOSSES + num_rows + r, hard_loss)
    tl.store(LOSSES + 2 * num_rows + r, soft_loss)
    tl.store(LOSSES + 3 * num_rows + r, floor)
    if GRADIENT:
        for start in range(0, num_columns, BLOCK):
            i = start + tl.arange(0, BLOCK)
            own = i < num_classes
            z = tl.load(x + i, mask=own, other=0.0).to(tl.float32)
            y = tl.load(t + i, mask=own, other=0.0).to(tl.float32)
            if MODE == "ce":
                value = (tl.exp((z - top) * a) / tempered - tl.exp((y - peak) * b) / weight) * (soft * a)
            else:
                value = (z * a - y * b) * (soft * 2.0 * a / size)
            if HARD:
                value += (tl.exp(z - top) / plain - tl.where(i == label, 1.0, 0.0)) * hard
            if ADD:
                value += tl.load(before + i, mask=own, other=0.0).to(tl.float32)
            tl.store(g + i, tl.where(own, value, 0.0).to(g.dtype.element_ty), mask=i < num_columns)


@triton.jit
def scale_rows(G, FACTOR, stride_g, stride_factor, num_columns, BLOCK: tl.constexpr):
    """Multiply each row by its factor; a factor of 1 costs nothing, and nobody has to look at it before."""
    r = tl.program_id(0).to(tl.int64)
    factor = tl.load(FACTOR + r * stride_factor)
    if factor == 1.0:
        return
    g = G + r * stride_g
    for start in range(0, num_columns, BLOCK):
        i = start + tl.arange(0, BLOCK)
        value = tl.load(g + i, mask=i < num_columns, other=0.0).to(tl.float32) * factor
        tl.store(g + i, value.to(g.dtype.element_ty), mask=i < num_columns)
