"""The kernels around a pass: weights as the others take them, and h as it entered its products.

See [lnrnn.engines.triton.arrays][] for the arrays.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lnrnn.engines.triton.memory import factor
from lnrnn.engines.triton.step import enter


@triton.jit(do_not_specialize=["rows_of_w", "of_u"])
def weights(
    RECURRENT, KERNEL, BIAS_X, BIAS_H, GAIN_X, SHIFT_X, GAIN_H, SHIFT_H, GAIN_SUM, SHIFT_SUM,
    GAIN_C, SHIFT_C, GAIN_HIDDEN, SHIFT_HIDDEN, PEEPHOLE, U, PLAIN, W, BIAS, VECTORS,
    rows_of_w, of_u, u_row, u_column, w_row, w_column, C: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """U, W, and all vectors, from the weights of a call.

    The first `of_u` programs take M rows of U each, the last one takes the vectors, those between
    take W.  The strides are those of U and W.
    """
    program = tl.program_id(0)
    cols = tl.arange(0, C.block)
    if program < of_u:
        row = program * M + tl.arange(0, M)
        if U is not None:
            _store_rows(C, RECURRENT, U, row, C.units, C.pitch, u_row, u_column, True)
        if PLAIN is not None:
            _store_rows(C, RECURRENT, PLAIN, row, C.units, C.pitch, u_row, u_column, False)
    elif program < tl.num_programs(0) - 1:
        if W is not None:
            row = (program - of_u) * M + tl.arange(0, M)
            _store_rows(C, KERNEL, W, row, rows_of_w, rows_of_w, w_row, w_column, False)
    else:
        if BIAS_H is not None:
            _store_rows(C, BIAS_H, VECTORS, tl.arange(0, 1), 1, 1, 0, 1, True)
        _store_affines(
            C, BIAS_X, GAIN_X, SHIFT_X, GAIN_H, SHIFT_H, GAIN_SUM, SHIFT_SUM, BIAS, VECTORS, cols
        )
        of_states = VECTORS + 3 * C.gates * C.pitch
        if C.cell_norm != "none":
            _store(C, of_states, 0, _part(C, GAIN_C, 0, cols, 1.0), cols)
            _store(C, of_states, 1, _part(C, SHIFT_C, 0, cols, 0.0), cols)
        if C.hidden_norm:
            _store(C, of_states, 2, _part(C, GAIN_HIDDEN, 0, cols, 1.0), cols)
            _store(C, of_states, 3, _part(C, SHIFT_HIDDEN, 0, cols, 0.0), cols)
        if C.peepholes != "none":
            for i in tl.static_range(C.gates - 1):
                _store(C, of_states, 8 - C.gates + i, _part(C, PEEPHOLE, i, cols, 0.0), cols)
        if C.diagonal:
            _store(C, of_states, 7, _part(C, RECURRENT, 0, cols, 0.0), cols)


@triton.jit
def _store_rows(
    C: tl.constexpr, FROM, TO, row, rows, filled, stride_row, stride, CENTRED: tl.constexpr
):  # fmt: skip
    """Rows (G H) of a matrix as rows (G, pitch), with zeros up to `filled` rows."""
    G: tl.constexpr = C.gates
    cols = tl.arange(0, C.block)
    row = row.to(tl.int64)[:, None]
    m = (row < rows) & (cols < C.units)[None, :]
    there = (row < filled) & (cols < C.pitch)[None, :]
    at = FROM + row * stride_row + (cols * stride)[None, :]
    to = TO + row * (G * C.pitch) + cols[None, :]
    for g in tl.static_range(G):
        v = tl.load(at + g * C.units * stride, m, 0.0).to(tl.float32)
        if CENTRED and C.centred_by_gate[g]:
            total = tl.zeros([row.shape[0]], tl.float32)
            for k in tl.static_range(G):
                if C.groups[k] == C.groups[g]:
                    other = tl.load(at + k * C.units * stride, m, 0.0).to(tl.float32)
                    total += tl.sum(other, 1)
            v = tl.where(m, v - (total / C.sizes[C.groups[g]])[:, None], 0.0)
        tl.store(to + g * C.pitch, v, there)


@triton.jit
def _part(C: tl.constexpr, FROM, g: tl.constexpr, cols, absent: tl.constexpr):
    """Part g of a vector of parts of H, zero beyond; `absent` where there is no vector."""
    if FROM is None:
        return tl.where(cols < C.units, absent, 0.0)
    else:
        return tl.load(FROM + g * C.units + cols, cols < C.units, 0.0).to(tl.float32)


@triton.jit
def _store(C: tl.constexpr, TO, place: tl.constexpr, v, cols):
    tl.store(TO + place * C.pitch + cols, v, cols < C.pitch)


@triton.jit
def _store_affines(
    C: tl.constexpr, BIAS_X, GAIN_X, SHIFT_X, GAIN_H, SHIFT_H, GAIN_SUM, SHIFT_SUM, BIAS, VECTORS,
    cols,
):  # fmt: skip
    """Gains and shifts by gate; those of inputs have the shifts of h U that are simply added."""
    G: tl.constexpr = C.gates
    of_inputs = VECTORS + (3 * G + 8) * C.pitch
    for g in tl.static_range(G):
        if C.groups[g] >= 0:
            if C.summed[g]:
                _store(C, VECTORS, G + g, _part(C, GAIN_SUM, g, cols, 1.0), cols)
                _store(C, VECTORS, 2 * G + g, _part(C, SHIFT_SUM, g, cols, 0.0), cols)
            else:
                _store(C, VECTORS, G + g, _part(C, GAIN_H, g, cols, 1.0), cols)
                _store(C, VECTORS, 2 * G + g, _part(C, SHIFT_H, g, cols, 0.0), cols)
        shift = _part(C, SHIFT_X, g, cols, 0.0)
        if not C.summed[g] and not (C.reset == "after" and g == G - 1):
            shift += _part(C, SHIFT_H, g, cols, 0.0)
        if C.norms_inputs:
            _store(C, of_inputs, g, _part(C, GAIN_X, g, cols, 1.0), cols)
            _store(C, of_inputs, G + g, shift, cols)
        if BIAS is not None:
            bias = _part(C, BIAS_X, g, cols, 0.0)
            if not C.norms_inputs:
                bias += shift
            _store(C, BIAS, g, bias, cols)


@triton.jit(do_not_specialize=["R", "B"])
def entering(
    H_ALL, RESET, RESET_H, FACTOR_H, GATES, INTO, GATED, R, B, C: tl.constexpr, M: tl.constexpr
):  # fmt: skip
    """INTO: h as it entered the products of all steps, rows (R, pitch); GATED: r times that."""
    row = (tl.program_id(0).to(tl.int64) * M + tl.arange(0, M))[:, None]
    cols = tl.arange(0, C.block)
    known = row < R
    m = known & (cols < C.pitch)[None, :]
    m_state = known & (cols < C.units)[None, :]
    at = row * C.pitch + cols[None, :]
    at_state = (row % B) * C.units + cols[None, :]
    at_factor = at
    if not C.moving_h:
        at_factor = (row % B) * C.pitch + cols[None, :]
    h = tl.load(H_ALL + at, m, 0.0).to(tl.float32)
    _, _, into = enter(C, h, h, RESET, RESET_H, RESET_H, at_state, m_state, row, known)
    into *= factor(FACTOR_H, at_factor, m)
    tl.store(INTO + at, into, m)
    if GATED is not None:
        at_gates = row * (C.gates * C.pitch) + cols[None, :]
        r = tl.load(GATES + at_gates, m, 0.0).to(tl.float32)
        tl.store(GATED + at, r * into, m)
