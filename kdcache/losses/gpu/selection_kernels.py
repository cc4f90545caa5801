"""Triton kernels of the selection, in the order in which `kdcache.losses.gpu.selection` launches them.

All but `gauss` are one program a row, and none needs another's rows. Sums are float64 and added in a fixed order, so
a result does not depend on how programs are scheduled. Two passes over the logits, `scan` and `collect`; only a row
whose candidates do not fit their places takes more, in `overflow`.

R rows  V classes  T tiles of a row  C places for candidates  K kept
"""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-0x80000000)
LARGEST = tl.constexpr(0x7FFFFFFF)
NO_LABEL = tl.constexpr(-100)
ROUNDS = tl.constexpr(6755399441055744.0)
"""1.5 * 2^52: added to a float64 it leaves the nearest integer in the low bits."""


@triton.jit
def order(x):
    """int32 that compares as the float32 does; -0 counts as 0."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ LARGEST, bits)


@triton.jit
def value(order):
    """The float32 of an `order`."""
    return tl.where(order < 0, order ^ LARGEST, order).to(tl.float32, bitcast=True)


@triton.jit
def key(order, column):
    """int64 that compares by value and then by class, the lowest class highest; no two of a row are equal."""
    return (order.to(tl.int64) << 32) | (column ^ LARGEST).to(tl.int64)


@triton.jit
def power_of_two(t):
    """2^t for float64 t <= 0, within 2e-9 of itself: a polynomial of degree 6 between integers.

    A third of the instructions of the library's exponential, which would be most of what `collect` does. Below -1000,
    2^-1000.
    """
    t = tl.maximum(t, -1000.0)
    rounded = t + ROUNDS
    f = t - (rounded - ROUNDS)
    p = f * 0.0001534581160792181 + 0.001339993121629082
    p = p * f + 0.009618488958593126
    p = p * f + 0.055503287769745634
    p = p * f + 0.2402264689062028
    p = p * f + 0.693147205737262
    p = p * f + 1.0000000005541687
    exponent = (rounded.to(tl.int64, bitcast=True) + 1023) << 52
    return p * exponent.to(tl.float64, bitcast=True)


@triton.jit
def own_classes(CLASSES, r, width):
    """V of the row as int32; columns from there on are padding."""
    return tl.maximum(tl.minimum(tl.load(CLASSES + r), width), 0).to(tl.int32)


@triton.jit
def keep_tiles(x, MAXIMA, start, num_tiles, TILE: tl.constexpr, BLOCK: tl.constexpr):
    """Store the largest logit of every TILE columns."""
    COUNT: tl.constexpr = BLOCK // TILE
    tile = start // TILE + tl.arange(0, COUNT)
    tl.store(MAXIMA + tile, tl.max(tl.reshape(x, (COUNT, TILE)), 1), mask=tile < num_tiles)


@triton.jit(do_not_specialize=["width", "num_tiles"])
def scan(
    X, CLASSES, LABELS, LSE, GOLD, BAD, MAXIMA, stride, width, num_tiles,
    TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp, gold log-probability and code of each row; if TILE > 0 also the largest logit of every TILE columns.

    Whole blocks are loaded without a mask: a mask that depends on V would break wide loads up.
    """
    r = tl.program_id(0).to(tl.int64)
    row = X + r * stride
    own = own_classes(CLASSES, r, width)
    lane = tl.arange(0, BLOCK)
    largest = -float("inf")
    total = 0.0
    least = tl.full([BLOCK], float("inf"), tl.float32)
    whole = own // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        x = tl.load(row + start + lane).to(tl.float32)
        least = tl.minimum(least, x)
        if TILE > 0:
            keep_tiles(x, MAXIMA + r * num_tiles, start, num_tiles, TILE, BLOCK)
        above = tl.maximum(largest, tl.max(x, 0))
        total = total * tl.exp(largest - above) + tl.sum(tl.exp(x - above), 0)
        largest = above
    inside = whole + lane < own
    x = tl.load(row + whole + lane, mask=inside, other=-float("inf")).to(tl.float32)
    least = tl.minimum(least, tl.where(inside, x, float("inf")))
    if TILE > 0:
        keep_tiles(x, MAXIMA + r * num_tiles, whole, num_tiles, TILE, BLOCK)
    above = tl.maximum(largest, tl.max(x, 0))
    total = total * tl.exp(largest - above) + tl.sum(tl.exp(x - above), 0)
    lse = above + tl.log(total)
    # inf and NaN among the logits make lse inf or NaN
    finite = (tl.abs(lse) < float("inf")) & (tl.min(least, 0) > -float("inf"))
    label = tl.load(LABELS + r)
    known = (label >= 0) & (label < own)
    gold = tl.load(row + tl.where(known, label, 0), mask=known, other=0.0).to(tl.float32)
    code = tl.where(known | (label == NO_LABEL), tl.where(finite, 0, 1), 2)
    tl.store(LSE + r, lse)
    tl.store(GOLD + r, tl.where(known, gold - lse, float("nan")))
    tl.store(BAD + r, code.to(tl.uint8))


@triton.jit(do_not_specialize=["width", "num_tiles", "k"])
def threshold(MAXIMA, CLASSES, THRESHOLD, COUNT, width, num_tiles, k, TILE: tl.constexpr, PADDED: tl.constexpr):
    """The k-th largest of a row's tile maxima, which at least k logits reach; -inf where there are fewer than k tiles.

    Found bit by bit: the largest number that at least k of them are not below.
    """
    r = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, PADDED)
    inside = tile * TILE < own_classes(CLASSES, r, width)
    x = tl.load(MAXIMA + r * num_tiles + tile, mask=inside, other=0.0)
    orders = tl.where(inside, order(x), LOWEST)
    found = tl.where(tl.sum((orders >= 0).to(tl.int32), 0) >= k, 0, LOWEST)
    for i in range(31):
        raised = found + (1 << (30 - i))
        found = tl.where(tl.sum((orders >= raised).to(tl.int32), 0) >= k, raised, found)
    tl.store(THRESHOLD + r, tl.where(found == LOWEST, -float("inf"), value(found)))
    tl.store(COUNT + r, 0)


@triton.jit
def add(z, y, s1, s2, s3, s4, s5, s6, s7, s8, s9, t1, t2):
    """Sums with another y .. y^9, z and z^2."""
    y2 = y * y
    y3 = y2 * y
    y4 = y2 * y2
    y5 = y2 * y3
    return (
        s1 + y, s2 + y2, s3 + y3, s4 + y4, s5 + y5, s6 + y3 * y3, s7 + y3 * y4, s8 + y4 * y4, s9 + y4 * y5,
        t1 + z, t2 + z * z,
    )  # fmt: skip


@triton.jit
def store_sums(SUMS, ties, s1, s2, s3, s4, s5, s6, s7, s8, s9, t1, t2):
    """Store the sums; ties more have y = 1 and z = 0."""
    tl.store(SUMS + 0, tl.sum(s1, 0) + ties)
    tl.store(SUMS + 1, tl.sum(s2, 0) + ties)
    tl.store(SUMS + 2, tl.sum(s3, 0) + ties)
    tl.store(SUMS + 3, tl.sum(s4, 0) + ties)
    tl.store(SUMS + 4, tl.sum(s5, 0) + ties)
    tl.store(SUMS + 5, tl.sum(s6, 0) + ties)
    tl.store(SUMS + 6, tl.sum(s7, 0) + ties)
    tl.store(SUMS + 7, tl.sum(s8, 0) + ties)
    tl.store(SUMS + 8, tl.sum(s9, 0) + ties)
    tl.store(SUMS + 9, tl.sum(t1, 0))
    tl.store(SUMS + 10, tl.sum(t2, 0))


@triton.jit
def below(x, limit, inside, H_LOG2E: tl.constexpr):
    """z = x - limit and y = exp(h z) in float64 of what lies below the limit; 0 and 0 of all else."""
    lower = inside & (x < limit)
    z = tl.where(lower, x.to(tl.float64) - limit.to(tl.float64), 0.0)
    return z, tl.where(lower, power_of_two(z * H_LOG2E), 0.0)


@triton.jit
def take(x, column, inside, limit, COUNT, KEYS, C: tl.constexpr):
    """Put what is not below the limit into places; their order is by chance, and `rank` sorts them."""
    chosen = inside & (x >= limit)
    place = tl.atomic_add(COUNT + tl.zeros_like(column), 1, mask=chosen, sem="relaxed")
    tl.store(KEYS + place, key(order(x), column), mask=chosen & (place < C))


@triton.jit(do_not_specialize=["stride", "width"])
def collect(
    X, CLASSES, THRESHOLD, COUNT, KEYS, SUMS, stride, width,
    H_LOG2E: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Candidates for the top-k, which reach the threshold, into places; power sums and moments of all others about it.

    The compiler is not told that rows are aligned: wide loads would have another layout than the atomic additions, and
    four barriers a step to change between both. What takes the time is float64, not the loads.
    """
    r = tl.program_id(0).to(tl.int64)
    row = X + r * stride
    own = own_classes(CLASSES, r, width)
    limit = tl.load(THRESHOLD + r)
    lane = tl.arange(0, BLOCK)
    s1 = tl.zeros([BLOCK], tl.float64)
    s2 = s1
    s3 = s1
    s4 = s1
    s5 = s1
    s6 = s1
    s7 = s1
    s8 = s1
    s9 = s1
    t1 = s1
    t2 = s1
    whole = own // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        x = tl.load(row + start + lane).to(tl.float32)
        everywhere = lane >= 0
        take(x, start + lane, everywhere, limit, COUNT + r, KEYS + r * C, C)
        z, y = below(x, limit, everywhere, H_LOG2E)
        s1, s2, s3, s4, s5, s6, s7, s8, s9, t1, t2 = add(z, y, s1, s2, s3, s4, s5, s6, s7, s8, s9, t1, t2)
    inside = whole + lane < own
    x = tl.load(row + whole + lane, mask=inside, other=0.0).to(tl.float32)
    take(x, whole + lane, inside, limit, COUNT + r, KEYS + r * C, C)
    z, y = below(x, limit, inside, H_LOG2E)
    s1, s2, s3, s4, s5, s6, s7, s8, s9, t1, t2 = add(z, y, s1, s2, s3, s4, s5, s6, s7, s8, s9, t1, t2)
    store_sums(SUMS + r * 11, 0.0, s1, s2, s3, s4, s5, s6, s7, s8, s9, t1, t2)


@triton.jit
def load_orders(row, column, own):
    """`order` of a block of a row, and which of its columns are classes."""
    inside = column < own
    x = tl.load(row + column, mask=inside, other=0.0).to(tl.float32)
    return order(x), inside


@triton.jit
def count_from(row, own, lowest, BLOCK: tl.constexpr):
    """How many of a row's logits have this order or a higher one."""
    lane = tl.arange(0, BLOCK)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, own, BLOCK):
        orders, inside = load_orders(row, start + lane, own)
        count += (inside & (orders >= lowest)).to(tl.int32)
    return tl.sum(count, 0)


@triton.jit(do_not_specialize=["stride", "width", "k"])
def overflow(
    X, CLASSES, THRESHOLD, COUNT, KEYS, SUMS, stride, width, k,
    H_LOG2E: tl.constexpr, C: tl.constexpr, COUNT_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Do what `collect` does anew where more reach the threshold than have places; other rows end at once.

    The threshold becomes the k-th largest logit, found bit by bit in 32 sweeps, and the k places go to what lies above
    it and to the first of those that equal it. Slow, and rare: a flat row, or one with many equal logits.
    """
    r = tl.program_id(0).to(tl.int64)
    if tl.load(COUNT + r) > C:
        row = X + r * stride
        own = own_classes(CLASSES, r, width)
        wanted = tl.minimum(own, k)
        found = tl.where(count_from(row, own, 0, COUNT_BLOCK) >= wanted, 0, LOWEST)
        for i in range(31):
            raised = found + (1 << (30 - i))
            found = tl.where(count_from(row, own, raised, COUNT_BLOCK) >= wanted, raised, found)
        limit = value(found)
        num_equal = wanted - count_from(row, own, found + 1, COUNT_BLOCK)  # of those that equal it
        lane = tl.arange(0, BLOCK)
        s1 = tl.zeros([BLOCK], tl.float64)
        s2 = s1
        s3 = s1
        s4 = s1
        s5 = s1
        s6 = s1
        s7 = s1
        s8 = s1
        s9 = s1
        t1 = s1
        t2 = s1
        taken = own * 0
        seen = own * 0
        for start in range(0, own, BLOCK):
            orders, inside = load_orders(row, start + lane, own)
            equal = (inside & (orders == found)).to(tl.int32)
            early = (equal > 0) & (seen + tl.cumsum(equal, 0) <= num_equal)
            chosen = (inside & (orders > found)) | early
            one = chosen.to(tl.int32)
            place = taken + tl.cumsum(one, 0) - 1
            tl.store(KEYS + r * C + place, key(orders, start + lane), mask=chosen)
            taken += tl.sum(one, 0)
            seen += tl.sum(equal, 0)
            z, y = below(value(orders), limit, inside, H_LOG2E)
            s1, s2, s3, s4, s5, s6, s7, s8, s9, t1, t2 = add(z, y, s1, s2, s3, s4, s5, s6, s7, s8, s9, t1, t2)
        ties = (seen - num_equal).to(tl.float64)
        store_sums(SUMS + r * 11, ties, s1, s2, s3, s4, s5, s6, s7, s8, s9, t1, t2)
        tl.store(THRESHOLD + r, limit)
        tl.store(COUNT + r, taken)


@triton.jit
def rank(KEYS, COUNT, SORTED, C: tl.constexpr):
    """Sort a row's candidates, descending: each goes to the place of the number of those above it."""
    r = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, C)
    count = tl.load(COUNT + r)
    keys = tl.load(KEYS + r * C + place, mask=place < count, other=0)
    above = tl.zeros([C], tl.int32)
    for other in range(0, count):
        above += (tl.load(KEYS + r * C + other) > keys).to(tl.int32)
    tl.store(SORTED + r * C + above, keys, mask=place < count)


@triton.jit(do_not_specialize=["width", "k"])
def finish(
    SORTED, COUNT, THRESHOLD, CLASSES, LSE, SUMS, IDS, LOGPROBS, NUM_KEPT, LAST, POWERS, MOMENTS, width, k,
    TOP_P: tl.constexpr, H_LOG2E: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Keep the first of the sorted candidates, and give the others to the tail.

    Power sums must be about the last kept logit l, with y = exp(h (x - l)); `collect` has them about the threshold t:

        sum_{x < t} exp(j h (x - l)) = exp(j h (t - l)) sum_{x < t} exp(j h (x - t))

    l >= t, since k logits reach t; so no factor is above 1. Candidates that are not kept are added about l. Where t is
    -inf all logits are candidates, and the sums of `collect` are 0.
    """
    r = tl.program_id(0).to(tl.int64)
    own = own_classes(CLASSES, r, width)
    lse = tl.load(LSE + r)
    place = tl.arange(0, C)
    used = place < tl.load(COUNT + r)
    keys = tl.load(SORTED + r * C + place, mask=used, other=0)
    ids = (keys & LARGEST).to(tl.int32) ^ LARGEST
    x = tl.where(used, value((keys >> 32).to(tl.int32)), -float("inf"))

    wanted = tl.minimum(own, k)
    if TOP_P < 1.0:
        p = tl.where(place < wanted, tl.exp(x - lse), 0.0).to(tl.float64)
        needed = (place < wanted) & (tl.cumsum(p, 0) - p < TOP_P)
        wanted = tl.minimum(wanted, tl.maximum(tl.sum(needed.to(tl.int32), 0), 1))
    kept = used & (place < wanted)
    tl.store(IDS + r * k + place, tl.where(kept, ids, 0).to(tl.int64), mask=place < k)
    tl.store(LOGPROBS + r * k + place, tl.where(kept, x - lse, -float("inf")), mask=place < k)
    tl.store(NUM_KEPT + r, wanted.to(tl.int64))
    last = tl.sum(tl.where(place == wanted - 1, x, 0.0), 0)
    tl.store(LAST + r, last - lse)

    others = used & (place >= wanted)
    base = last.to(tl.float64)
    limit = tl.load(THRESHOLD + r).to(tl.float64)
    y = tl.where(others, power_of_two(tl.where(others, x.to(tl.float64) - base, 0.0) * H_LOG2E), 0.0)
    ratio = power_of_two((limit - base) * H_LOG2E)
    power = y
    factor = ratio
    tl.store(POWERS + r * 10, (own - wanted).to(tl.float64))
    for j in tl.static_range(1, 10):
        tl.store(POWERS + r * 10 + j, tl.load(SUMS + r * 11 + j - 1) * factor + tl.sum(power, 0))
        power = power * y
        factor = factor * ratio

    limit = tl.where(limit > -float("inf"), limit, base)
    z = tl.where(others, x.to(tl.float64) - limit, 0.0)
    size = tl.maximum(own - wanted, 1).to(tl.float64)
    mean = (tl.load(SUMS + r * 11 + 9) + tl.sum(z, 0)) / size
    square = (tl.load(SUMS + r * 11 + 10) + tl.sum(z * z, 0)) / size
    empty = own <= wanted
    tl.store(MOMENTS + r * 2, tl.where(empty, 0.0, limit - lse.to(tl.float64) + mean).to(tl.float32))
    tl.store(MOMENTS + r * 2 + 1, tl.where(empty, 0.0, tl.maximum(square - mean * mean, 0.0)).to(tl.float32))
