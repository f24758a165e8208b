"""How programs that share rows tell each other numbers, without a barrier.

Every float travels in a word of 64 bits with the number of its step.  The writer stores and goes
on; the reader loads all words that it wants again and again until each bears that number.  Two
slots, by the step's parity, are enough: a program that writes step t + 2 has read step t + 1 of
all its peers, so that all of them had done with step t.  Words start as zero, steps count from 1.

A peer that never sends would hang the reader.  So polls are counted: whoever reaches the limit
raises the flag `LOST` and goes on with what there is, and so do all who then wait.  Where the flag
is up the last results are NaN, and the host raises an error at its next call.

A link is (words of this tile of rows, this program, step, flag).
"""

from __future__ import annotations

import triton
import triton.language as tl

# what has a place of its own in the words of a link: M floats of each program
CHANNELS = 14
EARLY: tl.constexpr = tl.constexpr(0)
STATES: tl.constexpr = tl.constexpr(8)
LATE: tl.constexpr = tl.constexpr(10)
HIDDEN: tl.constexpr = tl.constexpr(12)
_CHANNELS: tl.constexpr = tl.constexpr(CHANNELS)

# polls between two looks at the flag
_PATIENCE: tl.constexpr = tl.constexpr(64)


@triton.jit
def word(v, step):
    """Float32 with the step's number."""
    return _tagged(v.to(tl.float32).to(tl.int32, bitcast=True), step)


@triton.jit
def floats(words):
    """The numbers of `word`."""
    return words.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def word_of_pair(v, step, DT: tl.constexpr):
    """Neighbours in a row as 16 bits each: (M, N) to words (M, N / 2)."""
    even, odd = tl.split(tl.reshape(v.to(DT), (v.shape[0], v.shape[1] // 2, 2)))
    low = even.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
    high = odd.to(tl.int16, bitcast=True).to(tl.int32) << 16
    return _tagged(low | high, step)


@triton.jit
def pair(words, DT: tl.constexpr):
    """The two numbers of each word of `word_of_pair`."""
    bits = words.to(tl.int32)
    low = (bits & 0xFFFF).to(tl.int16).to(DT, bitcast=True)
    return low, (bits >> 16).to(tl.int16).to(DT, bitcast=True)


@triton.jit
def pairs(words, DT: tl.constexpr):
    """The numbers of `word_of_pair` in their order: words (M, N / 2) to (M, N)."""
    even, odd = pair(words, DT)
    return tl.reshape(tl.join(even, odd), (words.shape[0], 2 * words.shape[1]))


@triton.jit
def store(at, words, m=None):
    tl.store(at, words, m, cache_modifier=".cg")


@triton.jit
def late_words(words, wanted, step):
    """1 where a wanted word of a tile does not bear the step's number, else 0."""
    late = (((words >> 32) != step) & wanted).to(tl.int32)
    return tl.max(late)


@triton.jit
def counted(C: tl.constexpr, polls, link):
    """One more poll; the limit where the flag is up."""
    polls += 1
    if polls % _PATIENCE == 0:
        polls = tl.where(tl.load(link[3], volatile=True) != 0, C.polls, polls)
    return polls


@triton.jit
def give_up(C: tl.constexpr, polls, link):
    if polls >= C.polls:
        tl.store(link[3], 1)


@triton.jit
def load(at, m=None):
    if m is None:
        return tl.load(at, volatile=True)
    else:
        return tl.load(at, m, 0, volatile=True)


@triton.jit
def settled(C: tl.constexpr, words, at, m, link):
    """A tile of words as loaded once, again until all within m bear the step's number."""
    polls = 0
    while (late_words(words, m, link[2]) != 0) & (polls < C.polls):
        words = load(at, m)
        polls = counted(C, polls, link)
    give_up(C, polls, link)
    return words


@triton.jit
def tell(C: tl.constexpr, v, link, channel: tl.constexpr):
    """A number of each row, (M), to all programs."""
    M: tl.constexpr = v.shape[0]
    at = link[0] + (link[2] % 2) * (_CHANNELS * C.peers * M) + channel * (C.peers * M)
    store(at + link[1] * M + tl.arange(0, M), word(v, link[2]))


@triton.jit
def hear(C: tl.constexpr, link, channel: tl.constexpr, M: tl.constexpr):
    """What all programs told on a channel, (peers, M), zero for those that do not exist."""
    at = link[0] + (link[2] % 2) * (_CHANNELS * C.peers * M) + channel * (C.peers * M)
    peer = tl.arange(0, C.peers)[:, None]
    wanted = tl.broadcast_to(peer < C.programs, (C.peers, M))
    at += peer * M + tl.arange(0, M)[None, :]
    return floats(settled(C, load(at, wanted), at, wanted, link))


@triton.jit
def hear_two(C: tl.constexpr, link, channel: tl.constexpr, M: tl.constexpr):
    """The same of a channel and the next one, in one wait."""
    P: tl.constexpr = C.peers
    at = link[0] + (link[2] % 2) * (_CHANNELS * P * M) + channel * (P * M)
    peer = tl.arange(0, 2 * P)[:, None]
    wanted = tl.broadcast_to(peer % P < C.programs, (2 * P, M))
    at += peer * M + tl.arange(0, M)[None, :]
    v = tl.reshape(floats(settled(C, load(at, wanted), at, wanted, link)), (2, P, M))
    return tl.split(tl.permute(v, (1, 2, 0)))


@triton.jit
def _tagged(bits, step):
    return (step.to(tl.int64) << 32) | (bits.to(tl.int64) & 0xFFFFFFFF)


@triton.jit
def total(C: tl.constexpr, v, link, channel: tl.constexpr):
    """The sums (M) of v over the programs that share its rows."""
    if C.programs > 1:
        tell(C, v, link, channel)
        return tl.sum(hear(C, link, channel, v.shape[0]), 0)
    else:
        return v


@triton.jit
def totals(C: tl.constexpr, a, b, link, channel: tl.constexpr):
    """The same of two."""
    if C.programs > 1:
        tell(C, a, link, channel)
        tell(C, b, link, channel + 1)
        a, b = hear_two(C, link, channel, a.shape[0])
        return tl.sum(a, 0), tl.sum(b, 0)
    else:
        return a, b


@triton.jit
def moments(C: tl.constexpr, v, cols, link, channel: tl.constexpr):
    """Mean and sum of squared deviations (M) of rows of H, of which v (M, block) is a part.

    Each program sends those of its own columns; the mean of a root mean square is zero.
    """
    M: tl.constexpr = v.shape[0]
    real = (cols < C.units)[None, :]
    own = tl.minimum(C.units - link[1] * C.block, C.block).to(tl.float32)
    mean = tl.sum(v, 1) / own
    d = tl.where(real, v - mean[:, None], 0.0)
    tell(C, mean, link, channel)
    tell(C, tl.sum(d * d, 1), link, channel + 1)
    means, squares = hear_two(C, link, channel, M)
    peer = tl.arange(0, C.peers)
    columns = tl.minimum(tl.maximum(C.units - peer * C.block, 0), C.block).to(tl.float32)[:, None]
    mean = tl.sum(columns * means, 0) / C.units
    away = means - mean[None, :]
    return mean, tl.sum(squares, 0) + tl.sum(columns * away * away, 0)
