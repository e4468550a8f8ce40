"""The kernels of a training step: all lanes in one launch each.

Activations are [lanes, n, height, width, channels] float32. A layer's weights are packed [lanes, rows, outputs], with a
row for each (kernel row, kernel column, input channel) and, where there is one, a last row of biases.

Sums have a fixed order: no atomic additions, and what is summed in chunks is put together chunk by chunk. Offsets of
lanes are of 64 bits, those within a lane of 32, which `program` makes sure of. What is not finite stays in its lane.

Shared names: N images of a lane; H, W and P, Q height and width of input and output; CI, CO their channels; KH, KW
kernel; S stride; PAD padding; L lanes; BM, BN, BK rows, columns and depth of a tile; B elements of a program.
"""

import triton
import triton.language as tl


@triton.jit
def product(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b; the precision is one of `tl.dot` or bf16."""
    if PRECISION == "bf16":
        acc = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc)
    else:
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def finish_gradient(g, at, good, other, active, ADD: tl.constexpr, MASK: tl.constexpr):
    """A gradient with what other users of the value gave, and without what its rectifier stopped."""
    if ADD:
        g += tl.load(other + at, mask=good, other=0.0)
    if MASK:
        g = tl.where(tl.load(active + at, mask=good, other=0.0) <= 0, 0.0, g)
    return g


@triton.jit
def sgd_update(w, velocity, at, good, g, rate, decay, momentum, MOMENTUM: tl.constexpr):
    """SGD as `optimizers.LaneSGD` has it."""
    old = tl.load(w + at, mask=good, other=0.0)
    change = g + decay * old
    if MOMENTUM:
        change += momentum * tl.load(velocity + at, mask=good, other=0.0)
        tl.store(velocity + at, change, mask=good)
    tl.store(w + at, old + rate * change, mask=good)


@triton.jit(do_not_specialize=["images", "N"])
def to_channels_last(images, x, N, C: tl.constexpr, CP: tl.constexpr, PIXELS: tl.constexpr, B: tl.constexpr):
    """images [n, lanes, c, pixels] -> x [lanes, n, pixels, cp]; channels from c on are zero."""
    lane = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * B + tl.arange(0, B)
    good = i < N * PIXELS * CP
    c, pixel, n = i % CP, i // CP % PIXELS, i // (CP * PIXELS)
    at = (n.to(tl.int64) * tl.num_programs(1) + lane) * C * PIXELS + c * PIXELS + pixel
    value = tl.load(images + at, mask=good & (c < C), other=0.0)
    tl.store(x + lane * N * PIXELS * CP + i, value, mask=good)


@triton.jit(do_not_specialize=["N"])
def conv_forward(
    x, w, y, residual, N,
    H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, S: tl.constexpr, PAD: tl.constexpr, BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr, RELU: tl.constexpr, SHARED: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Convolution, bias, residual, rectifier. SHARED: all lanes have the same images."""
    lane = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    n, p, q = rows // (P * Q), rows // Q % P, rows % Q
    live = rows < N * P * Q
    K: tl.constexpr = KH * KW * CI
    if not SHARED:
        x += lane * N * H * W * CI
    w += lane * (K + BIAS) * CO
    acc = tl.zeros((BM, BN), tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        if CI % BK == 0:  # a tile is at one tap of the kernel
            tap = k0 // CI
            h, v = p * S - PAD + tap // KW, q * S - PAD + tap % KW
            ok = live & (h >= 0) & (h < H) & (v >= 0) & (v < W)
            at = ((n * H + h) * W + v) * CI + tl.multiple_of(k0 % CI, BK)
            a = tl.load(x + at[:, None] + tl.arange(0, BK)[None, :], mask=ok[:, None], other=0.0)
        else:
            tap, ci = k // CI, k % CI
            h = p[:, None] * S - PAD + (tap // KW)[None, :]
            v = q[:, None] * S - PAD + (tap % KW)[None, :]
            ok = live[:, None] & (k < K)[None, :] & (h >= 0) & (h < H) & (v >= 0) & (v < W)
            a = tl.load(x + ((n[:, None] * H + h) * W + v) * CI + ci[None, :], mask=ok, other=0.0)
        b = tl.load(w + k[:, None] * CO + cols[None, :], mask=(k < K)[:, None] & (cols < CO)[None, :], other=0.0)
        acc = product(a, b, acc, PRECISION)
    good = live[:, None] & (cols < CO)[None, :]
    at = lane * N * P * Q * CO + rows[:, None] * CO + cols[None, :]
    if BIAS:
        acc += tl.load(w + K * CO + cols, mask=cols < CO, other=0.0)[None, :]
    if RESIDUAL:
        acc += tl.load(residual + at, mask=good, other=0.0)
    if RELU:
        acc = tl.where(acc < 0, 0.0, acc)
    tl.store(y + at, acc, mask=good)


@triton.jit(do_not_specialize=["N"])
def conv_input_gradient(
    dy, w, dx, other, active, N,
    H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, S: tl.constexpr, PAD: tl.constexpr, BIAS: tl.constexpr,
    ADD: tl.constexpr, MASK: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of a convolution's input, for each of the S * S phases of pixels with the taps that reach it."""
    lane = tl.program_id(2).to(tl.int64)
    phase, tile = tl.program_id(0) % (S * S), tl.program_id(0) // (S * S)
    HS: tl.constexpr = (H + S - 1) // S
    WS: tl.constexpr = (W + S - 1) // S
    rows = tile * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    n, h, v = rows // (HS * WS), rows // WS % HS * S + phase // S, rows % WS * S + phase % S
    live = (rows < N * HS * WS) & (h < H) & (v < W)
    first_h, first_v = (phase // S + PAD) % S, (phase % S + PAD) % S
    across = (KW - first_v + S - 1) // S
    K = (KH - first_h + S - 1) // S * across * CO
    dy += lane * N * P * Q * CO
    w += lane * (KH * KW * CI + BIAS) * CO
    acc = tl.zeros((BM, BN), tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        if CO % BK == 0:  # a tile is at one tap of the kernel
            tap = k0 // CO
            kh, kw = first_h + tap // across * S, first_v + tap % across * S
            p, q = (h + PAD - kh) // S, (v + PAD - kw) // S
            ok = live & (h + PAD >= kh) & (p < P) & (v + PAD >= kw) & (q < Q)
            co = tl.multiple_of(k0 % CO, BK) + tl.arange(0, BK)
            a = tl.load(dy + (((n * P + p) * Q + q) * CO)[:, None] + co[None, :], mask=ok[:, None], other=0.0)
            at = ((kh * KW + kw) * CI + cols[None, :]) * CO + co[:, None]
            b = tl.load(w + at, mask=(cols < CI)[None, :], other=0.0)
        else:
            tap, co = k // CO, k % CO
            kh, kw = first_h + tap // across * S, first_v + tap % across * S
            p, q = (h[:, None] + PAD - kh[None, :]) // S, (v[:, None] + PAD - kw[None, :]) // S
            ok = (h[:, None] + PAD >= kh[None, :]) & (p < P) & (v[:, None] + PAD >= kw[None, :]) & (q < Q)
            ok = ok & live[:, None] & (k < K)[None, :]
            a = tl.load(dy + ((n[:, None] * P + p) * Q + q) * CO + co[None, :], mask=ok, other=0.0)
            at = ((kh * KW + kw)[:, None] * CI + cols[None, :]) * CO + co[:, None]
            b = tl.load(w + at, mask=(k < K)[:, None] & (cols < CI)[None, :], other=0.0)
        acc = product(a, b, acc, PRECISION)
    good = live[:, None] & (cols < CI)[None, :]
    at = lane * N * H * W * CI + (((n * H + h) * W + v) * CI)[:, None] + cols[None, :]
    tl.store(dx + at, finish_gradient(acc, at, good, other, active, ADD, MASK), mask=good)


@triton.jit(do_not_specialize=["N", "L", "PER", "SLAB", "rate"])
def conv_weight_gradient(
    dy, x, slabs, w, velocity, rate, decay, momentum, N, L, PER, SLAB,
    H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, S: tl.constexpr, PAD: tl.constexpr, BIAS: tl.constexpr,
    SPLIT: tl.constexpr, MOMENTUM: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of packed weights over PER pixels, and the update.

    The row of biases is that of an input of ones. SPLIT: each chunk of the sum goes to a slab of its own, for `update`.
    """
    lane, chunk = (tl.program_id(2) % L).to(tl.int64), tl.program_id(2) // L
    R: tl.constexpr = KH * KW * CI
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    tap, ci = rows // CI, rows % CI
    kh, kw = tap // KW, tap % KW
    total = N * P * Q
    x += lane * N * H * W * CI
    dy += lane * total * CO
    acc = tl.zeros((BM, BN), tl.float32)
    for k0 in range(chunk * PER, tl.minimum(chunk * PER + PER, total), BK):
        k = k0 + tl.arange(0, BK)
        n, p, q = k // (P * Q), k // Q % P, k % Q
        h = p[None, :] * S - PAD + kh[:, None]
        v = q[None, :] * S - PAD + kw[:, None]
        ok = (rows < R)[:, None] & (k < total)[None, :] & (h >= 0) & (h < H) & (v >= 0) & (v < W)
        a = tl.load(x + ((n[None, :] * H + h) * W + v) * CI + ci[:, None], mask=ok, other=0.0)
        if BIAS:
            a = tl.where((rows == R)[:, None] & (k < total)[None, :], 1.0, a)
        b = tl.load(dy + k[:, None] * CO + cols[None, :], mask=(k < total)[:, None] & (cols < CO)[None, :], other=0.0)
        acc = product(a, b, acc, PRECISION)
    good = (rows < R + BIAS)[:, None] & (cols < CO)[None, :]
    at = lane * (R + BIAS) * CO + rows[:, None] * CO + cols[None, :]
    if SPLIT:
        tl.store(slabs + chunk.to(tl.int64) * SLAB + at, acc, mask=good)
    else:
        sgd_update(w, velocity, at, good, acc, tl.load(rate + lane), decay, momentum, MOMENTUM)


@triton.jit(do_not_specialize=["SIZE", "CHUNKS", "SLAB", "rate"])
def update(w, velocity, slabs, rate, decay, momentum, SIZE, CHUNKS, SLAB, MOMENTUM: tl.constexpr, B: tl.constexpr):
    """The update from the chunks of a gradient, which are summed in order."""
    lane = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * B + tl.arange(0, B)
    good, at = i < SIZE, lane * SIZE + i
    g = tl.zeros((B,), tl.float32)
    chunk = slabs + at
    for _ in range(CHUNKS):
        g += tl.load(chunk, mask=good, other=0.0)
        chunk += SLAB
    sgd_update(w, velocity, at, good, g, tl.load(rate + lane), decay, momentum, MOMENTUM)


@triton.jit(do_not_specialize=["N"])
def max_pool(
    x, y, argmax, N,
    H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, PAD: tl.constexpr, KEEP: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """The maximum, and if it is to be kept its index in the window: the first of equals, the last that is no number."""
    lane = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < N * P * Q * C
    c, q, p, n = i % C, i // C % Q, i // (C * Q) % P, i // (C * Q * P)
    x += lane * N * H * W * C
    best, index = tl.full((B,), float("-inf"), tl.float32), tl.zeros((B,), tl.int32)
    for t in tl.static_range(K * K):
        h, v = p * S - PAD + t // K, q * S - PAD + t % K
        ok = live & (h >= 0) & (h < H) & (v >= 0) & (v < W)
        value = tl.load(x + ((n * H + h) * W + v) * C + c, mask=ok, other=float("-inf"))
        more = (value > best) | (value != value)
        best, index = tl.where(more, value, best), tl.where(more, t, index)
    at = lane * N * P * Q * C + i
    tl.store(y + at, best, mask=live)
    if KEEP:
        tl.store(argmax + at, index.to(tl.int8), mask=live)


@triton.jit(do_not_specialize=["N"])
def max_pool_gradient(
    dy, argmax, dx, other, active, N,
    H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, C: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, PAD: tl.constexpr, ADD: tl.constexpr, MASK: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Gathers, for each pixel, from the windows whose maximum it is."""
    lane = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < N * H * W * C
    c, v, h, n = i % C, i // C % W, i // (C * W) % H, i // (C * W * H)
    dy += lane * N * P * Q * C
    argmax += lane * N * P * Q * C
    g = tl.zeros((B,), tl.float32)
    OVER: tl.constexpr = (K + S - 1) // S  # windows that hold a pixel, in each direction
    for t in tl.static_range(OVER * OVER):
        kh, kw = (h + PAD) % S + t // OVER * S, (v + PAD) % S + t % OVER * S
        p, q = (h + PAD - kh) // S, (v + PAD - kw) // S
        ok = live & (kh < K) & (kw < K) & (h + PAD >= kh) & (v + PAD >= kw) & (p < P) & (q < Q)
        at = ((n * P + p) * Q + q) * C + c
        is_max = ok & (tl.load(argmax + at, mask=ok, other=-1) == kh * K + kw)
        g += tl.load(dy + at, mask=is_max, other=0.0)
    at = lane * N * H * W * C + i
    tl.store(dx + at, finish_gradient(g, at, live, other, active, ADD, MASK), mask=live)


@triton.jit(do_not_specialize=["N"])
def mean_pool(
    x, y, N,
    H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, C: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """The mean over windows that cover the image without overlap."""
    lane = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < N * P * Q * C
    c, q, p, n = i % C, i // C % Q, i // (C * Q) % P, i // (C * Q * P)
    x += lane * N * H * W * C
    total = tl.zeros((B,), tl.float32)
    for t in range(KH * KW):
        at = ((n * H + p * KH + t // KW) * W + q * KW + t % KW) * C + c
        total += tl.load(x + at, mask=live, other=0.0)
    tl.store(y + lane * N * P * Q * C + i, total / (KH * KW), mask=live)


@triton.jit(do_not_specialize=["N"])
def mean_pool_gradient(
    dy, dx, other, active, N,
    H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, C: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, ADD: tl.constexpr, MASK: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Spreads each gradient evenly over its window."""
    lane = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < N * H * W * C
    c, v, h, n = i % C, i // C % W, i // (C * W) % H, i // (C * W * H)
    at = lane * N * P * Q * C + ((n * P + h // KH) * Q + v // KW) * C + c
    g = tl.load(dy + at, mask=live, other=0.0) / (KH * KW)
    at = lane * N * H * W * C + i
    tl.store(dx + at, finish_gradient(g, at, live, other, active, ADD, MASK), mask=live)


@triton.jit(do_not_specialize=["N"])
def shortcut(
    x, y, N,
    H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr,
    B: tl.constexpr,
):  # fmt: skip
    """Every second pixel, and new channels of zeros."""
    lane = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < N * P * Q * CO
    c, q, p, n = i % CO, i // CO % Q, i // (CO * Q) % P, i // (CO * Q * P)
    at = lane * N * H * W * CI + ((n * H + 2 * p) * W + 2 * q) * CI + c
    tl.store(y + lane * N * P * Q * CO + i, tl.load(x + at, mask=live & (c < CI), other=0.0), mask=live)


@triton.jit(do_not_specialize=["N"])
def shortcut_gradient(
    dy, dx, other, active, N,
    H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr,
    ADD: tl.constexpr, MASK: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """The gradient of the pixels that were taken; zero for the others."""
    lane = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < N * H * W * CI
    c, v, h, n = i % CI, i // CI % W, i // (CI * W) % H, i // (CI * W * H)
    taken = live & (h % 2 == 0) & (v % 2 == 0)
    at = lane * N * P * Q * CO + ((n * P + h // 2) * Q + v // 2) * CO + c
    g = tl.load(dy + at, mask=taken, other=0.0)
    at = lane * N * H * W * CI + i
    tl.store(dx + at, finish_gradient(g, at, live, other, active, ADD, MASK), mask=live)


# Batch norm: g counts the sub-batches of all lanes, of R rows (images x pixels) each, which are taken in CHUNKS of PER.
# `statistics` holds a mean and a sum of squared deviations of each chunk, `saved` mean and variance of each sub-batch.


@triton.jit(do_not_specialize=["R", "PER", "CHUNKS"])
def norm_statistics(x, statistics, R, PER, CHUNKS, C: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Mean and sum of squared deviations of a chunk, tile by tile (Chan, Golub and LeVeque 1979)."""
    g, chunk = (tl.program_id(0) // CHUNKS).to(tl.int64), tl.program_id(0) % CHUNKS
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    x += g * R * C
    first, last = chunk * PER, tl.minimum(chunk * PER + PER, R)
    mean, squares, seen = tl.zeros((BN,), tl.float32), tl.zeros((BN,), tl.float32), 0.0
    for r0 in range(first, last, BM):
        r = r0 + tl.arange(0, BM)
        ok = (r < last)[:, None] & (cols < C)[None, :]
        value = tl.load(x + r[:, None] * C + cols[None, :], mask=ok, other=0.0)
        count = tl.minimum(last - r0, BM).to(tl.float32)
        tile_mean = tl.sum(value, 0) / count
        deviation = tl.where(ok, value - tile_mean[None, :], 0.0)
        weight, delta = count / (seen + count), tile_mean - mean
        squares += tl.sum(deviation * deviation, 0) + delta * delta * (seen * weight)
        mean += delta * weight
        seen += count
    at = (g * CHUNKS + chunk) * 2 * C + cols
    tl.store(statistics + at, mean, mask=cols < C)
    tl.store(statistics + at + C, squares, mask=cols < C)


@triton.jit
def moments(statistics, g, cols, R, PER, CHUNKS, C: tl.constexpr, BP: tl.constexpr):
    """Mean and (biased) variance from those of up to BP chunks (Chan, Golub and LeVeque 1979)."""
    chunk = tl.arange(0, BP)
    ok = (chunk < CHUNKS)[:, None] & (cols < C)[None, :]
    rows = tl.where(chunk < CHUNKS, tl.minimum(R - chunk * PER, PER), 0).to(tl.float32)[:, None]
    at = statistics + ((g * CHUNKS + chunk) * 2 * C)[:, None] + cols[None, :]
    means = tl.load(at, mask=ok, other=0.0)
    mean = tl.sum(rows * means, 0) / R
    deviation = tl.where(ok, means - mean[None, :], 0.0)
    return mean, tl.sum(tl.load(at + C, mask=ok, other=0.0) + rows * deviation * deviation, 0) / R


@triton.jit(do_not_specialize=["R", "PER", "CHUNKS", "SUB_BATCHES"])
def norm_forward(
    x, statistics, weight, bias, y, residual, saved, R, PER, CHUNKS, SUB_BATCHES, eps,
    C: tl.constexpr, RESIDUAL: tl.constexpr, RELU: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Normalise, add the residual, rectify."""
    blocks = (R + BM - 1) // BM
    g, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    mean, variance = moments(statistics, g, cols, R, PER, CHUNKS, C, BP)
    if block == 0:
        tl.store(saved + g * 2 * C + cols, mean, mask=cols < C)
        tl.store(saved + g * 2 * C + C + cols, variance, mask=cols < C)
    lane = g // SUB_BATCHES
    scale = tl.load(weight + lane * C + cols, mask=cols < C, other=0.0) / tl.sqrt(variance + eps)
    shift = tl.load(bias + lane * C + cols, mask=cols < C, other=0.0)
    r = block * BM + tl.arange(0, BM)
    ok = (r < R)[:, None] & (cols < C)[None, :]
    at = g * R * C + r[:, None] * C + cols[None, :]
    value = (tl.load(x + at, mask=ok, other=0.0) - mean[None, :]) * scale[None, :] + shift[None, :]
    if RESIDUAL:
        value += tl.load(residual + at, mask=ok, other=0.0)
    if RELU:
        value = tl.where(value < 0, 0.0, value)
    tl.store(y + at, value, mask=ok)


@triton.jit(do_not_specialize=["R", "SUB_BATCHES"])
def norm_forward_fused(
    x, weight, bias, y, residual, saved, R, SUB_BATCHES, eps,
    C: tl.constexpr, RESIDUAL: tl.constexpr, RELU: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """`norm_statistics` and `norm_forward` in one, where a tile holds all rows of a sub-batch."""
    g = tl.program_id(0).to(tl.int64)
    cols, r = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BM)
    ok = (r < R)[:, None] & (cols < C)[None, :]
    at = g * R * C + r[:, None] * C + cols[None, :]
    value = tl.load(x + at, mask=ok, other=0.0)
    mean = tl.sum(value, 0) / R
    value = tl.where(ok, value - mean[None, :], 0.0)
    variance = tl.sum(value * value, 0) / R
    tl.store(saved + g * 2 * C + cols, mean, mask=cols < C)
    tl.store(saved + g * 2 * C + C + cols, variance, mask=cols < C)
    channel = g // SUB_BATCHES * C + cols
    scale = tl.load(weight + channel, mask=cols < C, other=0.0) / tl.sqrt(variance + eps)
    value = value * scale[None, :] + tl.load(bias + channel, mask=cols < C, other=0.0)[None, :]
    if RESIDUAL:
        value += tl.load(residual + at, mask=ok, other=0.0)
    if RELU:
        value = tl.where(value < 0, 0.0, value)
    tl.store(y + at, value, mask=ok)


@triton.jit(do_not_specialize=["R"])
def norm_test(
    x, running_mean, running_var, weight, bias, y, residual, R, eps,
    C: tl.constexpr, RESIDUAL: tl.constexpr, RELU: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Normalise by running statistics, add the residual, rectify; R rows a lane."""
    blocks = (R + BM - 1) // BM
    lane, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    channel = lane * C + cols
    mean = tl.load(running_mean + channel, mask=cols < C, other=0.0)
    scale = tl.load(weight + channel, mask=cols < C, other=0.0) / tl.sqrt(
        tl.load(running_var + channel, mask=cols < C, other=1.0) + eps
    )
    shift = tl.load(bias + channel, mask=cols < C, other=0.0)
    r = block * BM + tl.arange(0, BM)
    ok = (r < R)[:, None] & (cols < C)[None, :]
    at = lane * R * C + r[:, None] * C + cols[None, :]
    value = (tl.load(x + at, mask=ok, other=0.0) - mean[None, :]) * scale[None, :] + shift[None, :]
    if RESIDUAL:
        value += tl.load(residual + at, mask=ok, other=0.0)
    if RELU:
        value = tl.where(value < 0, 0.0, value)
    tl.store(y + at, value, mask=ok)


@triton.jit(do_not_specialize=["R", "PER", "CHUNKS"])
def norm_gradient_sums(
    dy, x, saved, sums, R, PER, CHUNKS, eps, C: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """Of each chunk: the sums of gradients, and of gradients times normalised values."""
    g, chunk = (tl.program_id(0) // CHUNKS).to(tl.int64), tl.program_id(0) % CHUNKS
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    mean = tl.load(saved + g * 2 * C + cols, mask=cols < C, other=0.0)
    inverse = 1 / tl.sqrt(tl.load(saved + g * 2 * C + C + cols, mask=cols < C, other=1.0) + eps)
    plain, scaled = tl.zeros((BN,), tl.float32), tl.zeros((BN,), tl.float32)
    last = tl.minimum(chunk * PER + PER, R)
    for r0 in range(chunk * PER, last, BM):
        r = r0 + tl.arange(0, BM)
        ok = (r < last)[:, None] & (cols < C)[None, :]
        at = g * R * C + r[:, None] * C + cols[None, :]
        d = tl.load(dy + at, mask=ok, other=0.0)
        plain += tl.sum(d, 0)
        normalised = (tl.load(x + at, mask=ok, other=0.0) - mean[None, :]) * inverse[None, :]
        scaled += tl.sum(tl.where(ok, d * normalised, 0.0), 0)
    at = (g * CHUNKS + chunk) * 2 * C + cols
    tl.store(sums + at, plain, mask=cols < C)
    tl.store(sums + at + C, scaled, mask=cols < C)


@triton.jit
def sum_chunks(sums, first, count, cols, C: tl.constexpr, BN: tl.constexpr, BP: tl.constexpr):
    """Both sums of `count` chunks from `first` on, BP at once."""
    plain, scaled = tl.zeros((BN,), tl.float32), tl.zeros((BN,), tl.float32)
    for p0 in range(0, count, BP):
        chunk = p0 + tl.arange(0, BP)
        ok = (chunk < count)[:, None] & (cols < C)[None, :]
        at = sums + ((first + chunk) * 2 * C)[:, None] + cols[None, :]
        plain += tl.sum(tl.load(at, mask=ok, other=0.0), 0)
        scaled += tl.sum(tl.load(at + C, mask=ok, other=0.0), 0)
    return plain, scaled


@triton.jit(do_not_specialize=["R", "CHUNKS", "SUB_BATCHES"])
def norm_input_gradient(
    dy, x, saved, sums, weight, dx, other, active, R, CHUNKS, SUB_BATCHES, eps,
    C: tl.constexpr, ADD: tl.constexpr, MASK: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """The gradient through normalisation and its statistics (Ioffe and Szegedy 2015, section 3)."""
    blocks = (R + BM - 1) // BM
    g, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    plain, scaled = sum_chunks(sums, g * CHUNKS, CHUNKS, cols, C, BN, BP)
    mean = tl.load(saved + g * 2 * C + cols, mask=cols < C, other=0.0)
    inverse = 1 / tl.sqrt(tl.load(saved + g * 2 * C + C + cols, mask=cols < C, other=1.0) + eps)
    scale = tl.load(weight + g // SUB_BATCHES * C + cols, mask=cols < C, other=0.0) * inverse
    r = block * BM + tl.arange(0, BM)
    ok = (r < R)[:, None] & (cols < C)[None, :]
    at = g * R * C + r[:, None] * C + cols[None, :]
    normalised = (tl.load(x + at, mask=ok, other=0.0) - mean[None, :]) * inverse[None, :]
    d = tl.load(dy + at, mask=ok, other=0.0)
    d = scale[None, :] * (d - plain[None, :] / R - normalised * scaled[None, :] / R)
    tl.store(dx + at, finish_gradient(d, at, ok, other, active, ADD, MASK), mask=ok)


@triton.jit(do_not_specialize=["R", "SUB_BATCHES"])
def norm_gradient_fused(
    dy, x, saved, sums, weight, dx, other, active, R, SUB_BATCHES, eps,
    C: tl.constexpr, ADD: tl.constexpr, MASK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """`norm_gradient_sums` and `norm_input_gradient` in one, where a tile holds all rows of a sub-batch."""
    g = tl.program_id(0).to(tl.int64)
    cols, r = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BM)
    ok = (r < R)[:, None] & (cols < C)[None, :]
    at = g * R * C + r[:, None] * C + cols[None, :]
    mean = tl.load(saved + g * 2 * C + cols, mask=cols < C, other=0.0)
    inverse = 1 / tl.sqrt(tl.load(saved + g * 2 * C + C + cols, mask=cols < C, other=1.0) + eps)
    d = tl.load(dy + at, mask=ok, other=0.0)
    normalised = (tl.load(x + at, mask=ok, other=0.0) - mean[None, :]) * inverse[None, :]
    plain, scaled = tl.sum(d, 0), tl.sum(tl.where(ok, d * normalised, 0.0), 0)
    tl.store(sums + g * 2 * C + cols, plain, mask=cols < C)
    tl.store(sums + g * 2 * C + C + cols, scaled, mask=cols < C)
    scale = tl.load(weight + g // SUB_BATCHES * C + cols, mask=cols < C, other=0.0) * inverse
    d = scale[None, :] * (d - plain[None, :] / R - normalised * scaled[None, :] / R)
    tl.store(dx + at, finish_gradient(d, at, ok, other, active, ADD, MASK), mask=ok)


@triton.jit(do_not_specialize=["R", "CHUNKS", "SUB_BATCHES", "rate"])
def norm_update(
    weight, bias, weight_velocity, bias_velocity, running_mean, running_var, saved, sums, rate, decay, momentum,
    norm_momentum, R, CHUNKS, SUB_BATCHES, C: tl.constexpr, MOMENTUM: tl.constexpr, BN: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Update weight and bias of a lane, and its running statistics from the mean over its sub-batches."""
    lane = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    good, at = cols < C, lane * C + cols
    plain, scaled = sum_chunks(sums, lane * SUB_BATCHES * CHUNKS, SUB_BATCHES * CHUNKS, cols, C, BN, BP)
    eta = tl.load(rate + lane)
    sgd_update(weight, weight_velocity, at, good, scaled, eta, decay, momentum, MOMENTUM)
    sgd_update(bias, bias_velocity, at, good, plain, eta, decay, momentum, MOMENTUM)
    mean, variance = sum_chunks(saved, lane * SUB_BATCHES, SUB_BATCHES, cols, C, BN, BP)
    unbiased = variance / SUB_BATCHES * (R / (R - 1))
    old_mean, old_var = (
        tl.load(running_mean + at, mask=good, other=0.0),
        tl.load(running_var + at, mask=good, other=0.0),
    )
    tl.store(running_mean + at, old_mean + norm_momentum * (mean / SUB_BATCHES - old_mean), mask=good)
    tl.store(running_var + at, old_var + norm_momentum * (unbiased - old_var), mask=good)


@triton.jit(do_not_specialize=["labels", "losses", "N", "L"])
def loss(logits, labels, d_logits, losses, N, L, C: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Mean cross-entropy of a lane and its gradient; labels [n, lanes]."""
    lane = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BN)
    total = tl.zeros((BM,), tl.float32)
    for n0 in range(0, N, BM):
        n = n0 + tl.arange(0, BM)
        ok = (n < N)[:, None] & (c < C)[None, :]
        at = (lane * N + n)[:, None] * C + c[None, :]
        z = tl.load(logits + at, mask=ok, other=0.0)
        label = tl.load(labels + n * L + lane, mask=n < N, other=0)
        largest = tl.max(tl.where((c < C)[None, :], z, float("-inf")), 1)
        e = tl.where((c < C)[None, :], tl.exp(z - largest[:, None]), 0.0)
        denominator = tl.sum(e, 1)
        hot = c[None, :] == label[:, None]
        label_logit = tl.sum(tl.where(hot, z, 0.0), 1)
        total += tl.where(n < N, tl.log(denominator) + largest - label_logit, 0.0)
        tl.store(d_logits + at, (e / denominator[:, None] - tl.where(hot, 1.0, 0.0)) / N, mask=ok)
    tl.store(losses + lane, tl.sum(total, 0) / N)
