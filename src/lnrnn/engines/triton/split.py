"""K3, the split kernel: programs share the columns of M rows, and loop over time together.

Each program holds its columns of U, of all gates, on chip for the whole sequence.  At each step
it gets h of all columns from its peers, the row sums of the norms, and computes its own units.
On the way back it multiplies the gradients of its own gates by its part of U, sends each peer
its columns of the product, and sums what all peers sent.  See
[lnrnn.engines.triton.exchange][] for how they tell each other.

Rows of a tile of gates are (unit, gate), gates filled up to a power of two, so that one product
serves all gates of a program.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lnrnn.engines.triton.exchange import (
    counted,
    floats,
    give_up,
    load,
    pair,
    pairs,
    settled,
    store,
    word,
    word_of_pair,
)
from lnrnn.engines.triton.memory import (
    added_sums,
    factor,
    load_gates,
    no_sums,
    product,
    state_vectors,
    store_gates,
    store_sums,
    vectors,
)
from lnrnn.engines.triton.step import (
    close,
    early,
    enter,
    late,
    leave,
    open_back,
    projection_back,
    reset_back,
    save,
    saved,
)


@triton.jit
def gates_apart(C: tl.constexpr, s):
    """A tile (M, block gates) as tiles (M, block), one a gate."""
    M: tl.constexpr = s.shape[0]
    if C.gates == 1:
        return (s,)
    elif C.gates == 2:
        first, second = tl.split(tl.reshape(s, (M, C.block, 2)))
        return (first, second)
    else:
        even, odd = tl.split(tl.reshape(s, (M, C.block, 2, 2)))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        if C.gates == 3:
            return (first, second, third)
        else:
            return (first, second, third, fourth)


@triton.jit
def gates_joined(C: tl.constexpr, v):
    """The inverse of `gates_apart`."""
    M: tl.constexpr = v[0].shape[0]
    if C.gates == 1:
        return v[0]
    elif C.gates == 2:
        return tl.reshape(tl.join(v[0], v[1]), (M, 2 * C.block))
    else:
        if C.gates == 3:
            fourth = 0.0 * v[0]
        else:
            fourth = v[3]
        both = tl.join(tl.join(v[0], v[2]), tl.join(v[1], fourth))
        return tl.reshape(both, (M, 4 * C.block))


@triton.jit
def words_of_h(C: tl.constexpr, PAIRS: tl.constexpr):
    """Words of all columns of a row."""
    if PAIRS:
        return C.programs * C.block // 2
    else:
        return C.programs * C.block


@triton.jit
def send_h(C: tl.constexpr, HS, h, link, DT: tl.constexpr, PAIRS: tl.constexpr):
    """The own columns of h (M, block), rounded, to all programs."""
    M: tl.constexpr = h.shape[0]
    width = words_of_h(C, PAIRS)
    at = HS + (link[2] % 2) * (M * width) + tl.arange(0, M)[:, None] * width
    if PAIRS:
        half: tl.constexpr = C.block // 2
        store(at + (link[1] * half + tl.arange(0, half))[None, :], word_of_pair(h, link[2], DT))
    else:
        store(at + (link[1] * C.block + tl.arange(0, C.block))[None, :], word(h, link[2]))


@triton.jit
def product_of_all(
    C: tl.constexpr, HS, link, u_tiles, M: tl.constexpr, CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr, DT: tl.constexpr, PRECISION: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """h of all columns times the columns of U that this program holds."""
    W: tl.constexpr = CHUNK // 2 if PAIRS else CHUNK
    width = words_of_h(C, PAIRS)
    col = tl.arange(0, W)[None, :]
    at = HS + (link[2] % 2) * (M * width) + tl.arange(0, M)[:, None] * width + col
    after = load(at, tl.broadcast_to(col < width, (M, W)))
    s = 0.0
    for n in tl.static_range(CHUNKS):
        words = after
        if n + 1 < CHUNKS:  # on its way while this one is multiplied
            after = load(at + W, tl.broadcast_to(col + (n + 1) * W < width, (M, W)))
        words = settled(C, words, at, tl.broadcast_to(col + n * W < width, (M, W)), link)
        h = pairs(words, DT) if PAIRS else floats(words)
        if PAIRS:
            part = product(C, u_tiles[n], tl.trans(h), DT, PRECISION)
        else:
            part = product(C, h, u_tiles[n], DT, PRECISION)
        s += part
        at += W
    return tl.trans(s) if PAIRS else s


@triton.jit
def send_parts(
    C: tl.constexpr, DQ, part, first: tl.constexpr, link, DT: tl.constexpr, PAIRS: tl.constexpr
):  # fmt: skip
    """What this program adds to the columns [first, first + N) of the product, (N, M), to their
    owners; `first` is one's first column."""
    if PAIRS:
        words = word_of_pair(part, link[2], DT)
    else:
        words = word(part, link[2])
    W: tl.constexpr = words.shape[1]
    tile: tl.constexpr = W * C.block
    col = tl.arange(0, part.shape[0])
    owner = col // C.block
    at = DQ + (link[2] % 2) * (C.programs * C.programs * tile)
    at += (owner * C.programs + link[1]) * tile + (col % C.block) * W
    # a constant beside pointers that all products share: those of each would fill the registers
    before: tl.constexpr = first // C.block
    to = at[:, None] + tl.arange(0, W)[None, :] + before * (C.programs * tile)
    store(to, words, tl.broadcast_to((before + owner < C.programs)[:, None], words.shape))


@triton.jit
def load_sources(C: tl.constexpr, at, first: tl.constexpr, n: tl.constexpr, tile: tl.constexpr):
    """Words of the programs [first, first + n), a tile each."""
    words = ()
    for i in tl.static_range(n):
        if first + i < C.programs:
            words = words + (load(at + (first + i) * tile),)
    return words


@triton.jit
def late_sources(C: tl.constexpr, words, first: tl.constexpr, n: tl.constexpr, step):
    """1 where a word of these does not bear the step's number, else 0."""
    late = (words[0] >> 32) != step
    for i in tl.static_range(1, n):
        if first + i < C.programs:
            late = late | ((words[i] >> 32) != step)
    return tl.max(late.to(tl.int32), 0)


@triton.jit
def receive_parts(
    C: tl.constexpr, DQ, link, M: tl.constexpr, SOURCES: tl.constexpr, DT: tl.constexpr,
    PAIRS: tl.constexpr,
):  # fmt: skip
    """The sum (M, block) of what all programs send to this one, a few of them at a time."""
    tile: tl.constexpr = M * C.block // 2 if PAIRS else M * C.block
    at = DQ + ((link[2] % 2) * C.programs + link[1]) * (C.programs * tile) + tl.arange(0, tile)
    even = tl.zeros((tile,), tl.float32)
    odd = even
    after = load_sources(C, at, 0, SOURCES, tile)
    for first in tl.static_range(0, C.programs, SOURCES):
        words = after
        if first + SOURCES < C.programs:  # on their way while these are added
            after = load_sources(C, at, first + SOURCES, SOURCES, tile)
        polls = 0
        while (late_sources(C, words, first, SOURCES, link[2]) != 0) & (polls < C.polls):
            words = load_sources(C, at, first, SOURCES, tile)
            polls = counted(C, polls, link)
        give_up(C, polls, link)
        for i in tl.static_range(SOURCES):
            if first + i < C.programs:
                if PAIRS:
                    low, high = pair(words[i], DT)
                    even += low.to(tl.float32)
                    odd += high.to(tl.float32)
                else:
                    even += floats(words[i])
    if PAIRS:
        dq = tl.reshape(tl.join(even, odd), (C.block, M))
    else:
        dq = tl.reshape(even, (C.block, M))
    return tl.trans(dq)


@triton.jit(do_not_specialize=["T", "B", "first"])
def forward(
    P, U, VECTORS, H0, C0, H_LAST, C_LAST, MASK, RESET, RESET_H, RESET_C, TAKE_H, TAKE_C,
    FACTOR_H, FACTOR_N, OUT, H_ALL, C_ALL, N, A, S, HS, WORDS, LOST, T, B, first,
    C: tl.constexpr, M: tl.constexpr, DT: tl.constexpr, PRECISION: tl.constexpr,
    SAVE: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PAIRS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """All steps of M rows, the columns of one program, whose number is `first` more than its
    place in the grid."""
    G: tl.constexpr = C.gates
    GP: tl.constexpr = 4 if C.gates == 3 else C.gates
    q = tl.program_id(0) + first
    tile = tl.program_id(1)
    rows = tile * M + tl.arange(0, M)
    cols = q * C.block + tl.arange(0, C.block)
    row = rows.to(tl.int64)[:, None]
    known = (rows < B)[:, None]
    leads = known & (q == 0)
    m = known & (cols < C.pitch)[None, :]
    m_state = known & (cols < C.units)[None, :]
    at = row * C.pitch + cols[None, :]
    at_state = row * C.units + cols[None, :]
    at_gates = row * (G * C.pitch) + cols[None, :]
    step = B.to(tl.int64) * C.pitch
    step_out = B.to(tl.int64) * C.units
    HS += tile.to(tl.int64) * (2 * M * words_of_h(C, PAIRS))
    WORDS += tile.to(tl.int64) * (2 * CHANNELS * C.peers * M)

    # columns (unit, gate) of U; of 16 bits they are the rows of a product, which takes 64 at once
    place = tl.arange(0, GP * C.block)
    unit = q * C.block + place // GP
    of_gate = (unit < C.pitch) & (place % GP < G)
    u_tiles = ()
    for n in tl.static_range(CHUNKS):
        k = n * CHUNK + tl.arange(0, CHUNK)
        at_k, at_place = k * (G * C.pitch), (place % GP) * C.pitch + unit
        if PAIRS:
            at_u = U + at_k[None, :] + at_place[:, None]
            of_u = (k < C.pitch)[None, :] & of_gate[:, None]
        else:
            at_u = U + at_k[:, None] + at_place[None, :]
            of_u = (k < C.pitch)[:, None] & of_gate[None, :]
        u_tiles = u_tiles + (tl.load(at_u, of_u, 0.0).to(DT),)
    bias, gain, shift = vectors(C, VECTORS, cols)
    state = state_vectors(C, VECTORS, cols)

    h = tl.load(H0 + at_state, m_state, 0.0)
    c = 0.0 * h
    if C.kind == "lstm":
        c = tl.load(C0 + at_state, m_state, 0.0)
    if SAVE:
        tl.store(H_ALL + at, h, m)
        if C.kind == "lstm":
            tl.store(C_ALL + at, c, m)
    h_from, c_from, entering = enter(
        C, h, c, RESET, RESET_H, RESET_C, at_state, m_state, row, known
    )
    link = (WORDS, q, tl.full((), 1, tl.int32), LOST)
    send_h(C, HS, entering * factor(FACTOR_H, at, m), link, DT, PAIRS)
    for t in range(T):
        t = tl.full((), t, tl.int32)
        link = (WORDS, q, t + 1, LOST)
        p = load_gates(C, P + at_gates, m, 0, G)
        on_n = factor(FACTOR_N, at, m)
        s = product_of_all(C, HS, link, u_tiles, M, CHUNK, CHUNKS, DT, PRECISION, PAIRS)
        parts = gates_apart(C, s)
        of_h = ()
        for g in tl.static_range(G):
            of_h = of_h + (parts[g] + bias[g],)
        gates, u, kept, gated = early(C, of_h, p, gain, shift, c_from, state, link)
        if C.reset == "inside":
            gates, u, kept = late(C, gates[0] * gated, gates, u, kept, p, gain, shift, cols, link)
        gates, h, c, of_states = close(
            C, gates, h, c, h_from, c_from, entering, on_n, state, MASK, TAKE_H, TAKE_C,
            at, m, row, known, cols, link,
        )  # fmt: skip
        if RESET is not None:
            RESET += B
        if C.moving_h:
            FACTOR_H += step
        more = t + 1 < T
        h_from, c_from, entering = enter(
            C, h, c, RESET, RESET_H, RESET_C, at_state, m_state, row, known & more
        )
        if more:
            link = (WORDS, q, t + 2, LOST)
            send_h(C, HS, entering * factor(FACTOR_H, at, m), link, DT, PAIRS)
        tl.store(OUT + at_state, h, m_state)
        OUT += step_out
        if SAVE:
            H_ALL += step
            tl.store(H_ALL + at, h, m)
            save(C, gates, u, gated, kept, of_states, P, N, A, S, B, at, at_gates, m, row, leads)
            if C.kind == "lstm":
                C_ALL += step
                tl.store(C_ALL + at, c, m)
            if C.norms > 0:
                N += G * step
            if C.gated:
                A += step
            S += C.statistics * B.to(tl.int64)
        P += G * step
        if MASK is not None:
            MASK += B
        if TAKE_H is not None:
            TAKE_H += step
        if TAKE_C is not None:
            TAKE_C += step
        if C.moving_n:
            FACTOR_N += step
    if tl.load(LOST, volatile=True) != 0:
        h = 0.0 * h + float("nan")
        tl.store(OUT - step_out + at_state, h, m_state)
    tl.store(H_LAST + at_state, h, m_state)
    if C.kind == "lstm":
        tl.store(C_LAST + at_state, c, m_state)


@triton.jit(do_not_specialize=["T", "B", "first"])
def backward(
    GATES, U, VECTORS, MASK, RESET, RESET_H, RESET_C, TAKE_H, TAKE_C, FACTOR_H, FACTOR_N,
    H_ALL, C_ALL, N, A, S, DH_ALL, DH_LAST, DC_LAST, DH, DC, DRESET_H, DRESET_C, D, SUMS,
    DQ, WORDS, LOST, T, B, first,
    C: tl.constexpr, M: tl.constexpr, DT: tl.constexpr, PRECISION: tl.constexpr,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, SOURCES: tl.constexpr, PAIRS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """The derivative: D, gradients of the initial states and of those of resets, and SUMS."""
    G: tl.constexpr = C.gates
    GP: tl.constexpr = 4 if C.gates == 3 else C.gates
    q = tl.program_id(0) + first
    tile = tl.program_id(1)
    rows = tile * M + tl.arange(0, M)
    cols = q * C.block + tl.arange(0, C.block)
    row = rows.to(tl.int64)[:, None]
    known = (rows < B)[:, None]
    m = known & (cols < C.pitch)[None, :]
    m_state = known & (cols < C.units)[None, :]
    at = row * C.pitch + cols[None, :]
    at_state = row * C.units + cols[None, :]
    at_gates = row * (G * C.pitch) + cols[None, :]
    step = B.to(tl.int64) * C.pitch
    step_out = B.to(tl.int64) * C.units
    DQ += tile.to(tl.int64) * (2 * M * C.programs * words_of_h(C, PAIRS))
    WORDS += tile.to(tl.int64) * (2 * CHANNELS * C.peers * M)
    last = (T - 1).to(tl.int64)
    GATES += last * G * step
    H_ALL += last * step
    D += last * G * step
    S += last * C.statistics * B
    if C.kind == "lstm":
        C_ALL += last * step
    if C.norms > 0:
        N += last * G * step
    if C.gated:
        A += last * step
    if DH_ALL is not None:
        DH_ALL += last * step_out
    if MASK is not None:
        MASK += last * B
    if RESET is not None:
        RESET += last * B
    if TAKE_H is not None:
        TAKE_H += last * step
    if TAKE_C is not None:
        TAKE_C += last * step
    if C.moving_h:
        FACTOR_H += last * step
    if C.moving_n:
        FACTOR_N += last * step

    # columns (unit, gate) of U
    place = tl.arange(0, GP * C.block)
    unit = q * C.block + place // GP
    of_gate = (unit < C.pitch) & (place % GP < G)
    u_tiles = ()
    for n in tl.static_range(CHUNKS):
        k = n * CHUNK + tl.arange(0, CHUNK)
        at_u = U + (k * (G * C.pitch))[:, None] + ((place % GP) * C.pitch + unit)[None, :]
        of_u = (k < C.pitch)[:, None] & of_gate[None, :]
        u_tiles = u_tiles + (tl.load(at_u, of_u, 0.0).to(DT),)
    _, gain, _ = vectors(C, VECTORS, cols)
    state = state_vectors(C, VECTORS, cols)

    dh = tl.zeros([M, C.block], tl.float32)
    if DH_LAST is not None:
        dh = tl.load(DH_LAST + at_state, m_state, 0.0)
    dc = 0.0 * dh
    if DC_LAST is not None:
        dc = tl.load(DC_LAST + at_state, m_state, 0.0)
    of_reset_h, of_reset_c = 0.0 * dh, 0.0 * dh
    totals = no_sums(C, dh)
    of_forward = saved(C, H_ALL, C_ALL, GATES, N, A, S, B, at, at_gates, m, row, known)
    of_output = 0.0
    if DH_ALL is not None:
        of_output = tl.load(DH_ALL + at_state, m_state, 0.0).to(tl.float32)
    for back in range(T):
        back = tl.full((), back, tl.int32)
        link = (WORDS, q, back + 1, LOST)
        if DH_ALL is not None:
            dh += of_output
        d, _entering, direct, dc, to_c, held, sums = open_back(
            C, dh, dc, of_forward, MASK, RESET, RESET_H, RESET_C, TAKE_H, TAKE_C, FACTOR_N,
            state, at, at_state, m, m_state, row, known, cols, link,
        )  # fmt: skip
        d_n = 0.0 * dh
        if C.gated:
            d, d_n = reset_back(C, d, gain, of_forward, cols, link)
        s = projection_back(C, d, d_n, gain, of_forward, cols, link)
        joined = tl.trans(gates_joined(C, s)).to(DT)
        for n in tl.static_range(CHUNKS):
            part = product(C, u_tiles[n], joined, DT, PRECISION)
            send_parts(C, DQ, part, n * CHUNK, link, DT, PAIRS)
        store_gates(C, D + at_gates, d, m, G)
        totals = added_sums(C, totals, sums)
        on_h = factor(FACTOR_H, at, m)
        # what the next step reads is on its way while this one waits
        more = back + 1 < T
        at_h = H_ALL
        if more:
            GATES -= G * step
            H_ALL -= step
            D -= G * step
            S -= C.statistics * B.to(tl.int64)
            if C.kind == "lstm":
                C_ALL -= step
            if C.norms > 0:
                N -= G * step
            if C.gated:
                A -= step
            if DH_ALL is not None:
                DH_ALL -= step_out
        of_forward = saved(C, H_ALL, C_ALL, GATES, N, A, S, B, at, at_gates, m, row, known)
        if DH_ALL is not None:
            of_output = tl.load(DH_ALL + at_state, m_state, 0.0).to(tl.float32)
        dq = receive_parts(C, DQ, link, M, SOURCES, DT, PAIRS)
        dh, to_h = leave(C, dq, on_h, direct, held, at_h, RESET, at, m, row, known)
        if RESET_H is not None:
            of_reset_h += to_h
            of_reset_c += to_c
        if MASK is not None:
            MASK -= B
        if RESET is not None:
            RESET -= B
        if TAKE_H is not None:
            TAKE_H -= step
        if TAKE_C is not None:
            TAKE_C -= step
        if C.moving_h:
            FACTOR_H -= step
        if C.moving_n:
            FACTOR_N -= step
    if tl.load(LOST, volatile=True) != 0:
        dh = 0.0 * dh + float("nan")
        for g in tl.static_range(G):
            tl.store(D + at_gates + g * C.pitch, dh, m)
    tl.store(DH + at_state, dh, m_state)
    if C.kind == "lstm":
        tl.store(DC + at_state, dc, m_state)
    if RESET_H is not None:
        tl.store(DRESET_H + at_state, of_reset_h, m_state)
        if C.kind == "lstm":
            tl.store(DRESET_C + at_state, of_reset_c, m_state)
    store_sums(C, SUMS, tile, totals, cols)
