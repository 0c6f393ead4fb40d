"""Baseline JPEG to planes of Y, Cb and Cr (ITU-T T.81), for `prepare`: two thirds of the time of a decoding to RGB.

The planes are those of libjpeg-turbo, bit for bit: its inverse transform ("islow", of Loeffler, Ligtenberg and
Moschytz) is defined in integers. Only values that no encoder makes may run over another way. What is not as nearly all
JPEGs are (progressive, restart markers, other subsampling, any damage) is refused, for libjpeg to decode or to say what
is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import int64, njit, types, uint64
from numba.extending import intrinsic

from trainer_classification.kernels.planes import Planes
from trainer_classification.kernels.vector import fill_8x8, idct_8x8, put_byte

_BITS = 10  # of a code that is looked up at once, with the value behind it where that fits too
_LIMIT, _OFFSET, _VALUES = 1 << _BITS, (1 << _BITS) + 17, (1 << _BITS) + 34  # parts of a table behind the first
_TABLE = _VALUES + 256
_END = 200  # run of an end of block: behind any
_LATER = 1 << 7  # of an entry: the value is not in it, but its size
_SLACK = 512  # bytes behind the codes that a block may read: 64 values of at most 31 bits, and what is read ahead

_ZIGZAG = np.array(
    [
        0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5,
        12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
        35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
        58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    ],
    np.int64,
)  # fmt: skip


def _loader(bits: int, signed: Any, swapped: bool = False) -> Any:
    @intrinsic
    def load(typing_context: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.load(builder.inttoptr(args[0], ir.IntType(bits).as_pointer()), align=1)
            if swapped:
                return builder.bswap(value)
            return value if bits == 64 else builder.sext(value, ir.IntType(64))

        return signed(types.int64), codegen

    return load


_word_at = _loader(64, types.uint64, swapped=True)  # eight bytes, the first uppermost
_raw_at = _loader(64, types.uint64)
_entry_at = _loader(32, types.int64)
_short_at = _loader(16, types.int64)


def _storer(bits: int) -> Any:
    @intrinsic
    def store(typing_context: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = args[1] if bits == 64 else builder.trunc(args[1], ir.IntType(bits))
            builder.store(value, builder.inttoptr(args[0], ir.IntType(bits).as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.uint64 if bits == 64 else types.int64), codegen

    return store


_put_raw, _put_short = _storer(64), _storer(16)


@njit(nogil=True, cache=True)
def decode(data):  # type: ignore[no-untyped-def]
    """Decode a JPEG to planes.

    Args:
        data: uint8 [n], the file.

    Returns:
        (whether it was decoded, Planes, uint8: these, Y first)
    """
    nothing, empty = Planes(0, 0, 0, 0, 0, 0, 1, 1, 0), np.empty(0, np.uint8)
    tables = np.empty((8, _TABLE), np.int32)  # four for DC, four for AC
    quants = np.empty((4, 64), np.int16)
    about = np.zeros((3, 4), np.int64)  # of a component: its id, and the numbers of its quants, DC and AC table
    start, width, height, count, across, down = _head(data, tables, quants, about)
    if start == 0:
        return False, nothing, empty
    codes = np.empty(len(data) - start + _SLACK, np.uint8)
    length = _unstuffed(data, start, codes)
    if length < 0:
        return False, nothing, empty
    columns, rows = -(-width // (8 * across)), -(-height // (8 * down))  # of MCUs
    stride, chroma_stride = columns * 8 * across, columns * 8
    blue = stride * rows * 8 * down
    chroma = chroma_stride * rows * 8 if count == 3 else 0
    planes = Planes(width, height, stride, chroma_stride, blue, blue + chroma, across, down, 1 if count == 3 else 0)
    buffer = np.empty(blue + 2 * chroma, np.uint8)
    return _scan(codes, length, tables, quants, about, planes, columns, rows, buffer), planes, buffer


@njit(nogil=True, cache=True)
def _head(data, tables, quants, about):  # type: ignore[no-untyped-def]
    """Read all up to the codes: (where these start; 0: refused, width, height, components, across, down)."""
    known = np.zeros(12, np.bool_)  # tables: four each of DC, AC and quants
    frame, at = (0, 0, 0, 1, 1), 2
    while at + 4 <= len(data):
        marker, end = int64(data[at + 1]), at + 2 + _pair(data, at + 2)
        content = data[at + 4 : end]
        if data[at] != 0xFF or end < at + 4 or end > len(data):
            break
        if marker == 0xDA:
            return (end if frame[2] and _is_scan(content, frame[2], about, known) else 0, *frame)
        if marker == 0xC0 or marker == 0xC1:
            frame = _frame(content, about) if frame[2] == 0 else (0, 0, 0, 1, 1)
            fine = frame[2] != 0
        elif marker == 0xDB:
            fine = _read_quants(content, quants, known)
        elif marker == 0xC4:
            fine = _read_codes(content, tables, known)
        elif marker == 0xE0 or marker == 0xEE:
            fine = not _is_odd(content, marker)
        else:  # not another kind of frame, nor restarts
            fine = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not fine:
            break
        at = end
    return 0, 0, 0, 0, 1, 1


@njit(nogil=True, inline="always")
def _pair(data, at):  # type: ignore[no-untyped-def]
    """The number of two bytes."""
    return int64(data[at]) * 256 + int64(data[at + 1])


@njit(nogil=True, cache=True)
def _read_quants(content, quants, known):  # type: ignore[no-untyped-def]
    """Read the 8-bit tables of a DQT segment (B.2.4.1)."""
    for at in range(0, len(content), 65):
        number = int64(content[at])
        if number > 3 or at + 65 > len(content):  # 16 bits, or there is no such number
            return False
        quants[number] = content[at + 1 : at + 65]
        known[8 + number] = True
    return True


@njit(nogil=True, cache=True)
def _read_codes(content, tables, known):  # type: ignore[no-untyped-def]
    """Read the tables of a DHT segment (B.2.4.2)."""
    at = 0
    while at < len(content):
        kind, number = int64(content[at]) >> 4, int64(content[at]) & 15
        if kind > 1 or number > 3 or at + 17 > len(content):
            return False
        counts = content[at + 1 : at + 17]
        total = int64(0)
        for length in range(16):
            total += int64(counts[length])
        symbols, at = content[at + 17 : at + 17 + total], at + 17 + total
        if total > 256 or len(symbols) < total or not _table(counts, symbols, kind == 0, tables[kind * 4 + number]):
            return False
        known[kind * 4 + number] = True
    return True


@njit(nogil=True, cache=True)
def _frame(content, about):  # type: ignore[no-untyped-def]
    """(width, height, components; 0: refused, across, down) of a baseline frame's SOF segment (B.2.2)."""
    refused = 0, 0, 0, 1, 1
    if len(content) < 9 or content[0] != 8:
        return refused
    height, width, count = _pair(content, 1), _pair(content, 3), int64(content[5])
    across, down = (int64(content[7]) >> 4, int64(content[7]) & 15) if count == 3 else (1, 1)  # alone, a block is all
    if (count != 1 and count != 3) or len(content) != 6 + 3 * count or width == 0 or height == 0:
        return refused
    for c in range(count):
        about[c, 0], about[c, 1] = content[6 + 3 * c], content[8 + 3 * c]
        if about[c, 1] > 3 or (c > 0 and content[7 + 3 * c] != 0x11):
            return refused
    if not (1 <= across <= 2 and 1 <= down <= 2):
        return refused
    return width, height, count, across, down


@njit(nogil=True, cache=True)
def _is_scan(content, count, about, known):  # type: ignore[no-untyped-def]
    """Read an SOS segment (B.2.3): whether it is of all components, at full precision, and their tables are known."""
    if len(content) != 4 + 2 * count or content[0] != count:
        return False
    for c in range(count):
        dc, ac = int64(content[2 + 2 * c]) >> 4, int64(content[2 + 2 * c]) & 15
        if about[c, 0] != content[1 + 2 * c] or dc > 3 or ac > 3:
            return False
        if not (known[dc] and known[4 + ac] and known[8 + about[c, 1]]):
            return False
        about[c, 2], about[c, 3] = dc, 4 + ac
    return content[1 + 2 * count] == 0 and content[2 + 2 * count] == 63 and content[3 + 2 * count] == 0


@njit(nogil=True, cache=True)
def _is_odd(content, marker):  # type: ignore[no-untyped-def]
    """Whether libjpeg warns of what JFIF's or Adobe's segment says: of its version, or of its colours."""
    if marker == 0xE0:
        return len(content) >= 14 and content[0] == 0x4A and content[1] == 0x46 and content[5] != 1
    return len(content) >= 12 and content[0] == 0x41 and content[11] > 1


@njit(nogil=True, cache=True)
def _table(counts, symbols, direct, table):  # type: ignore[no-untyped-def]
    """Write the table of a Huffman code (T.81, C and F.2.2.3); False: there is no such code.

    An entry has, from the top, 16 bits of value (or its size, with _LATER), 8 of run, and the bits that it took.
    """
    table[:] = 0
    code, s = int64(0), int64(0)
    for length in range(1, 17):
        table[_OFFSET + length] = s - code
        for _ in range(counts[length - 1]):
            symbol = int64(symbols[s])
            table[_VALUES + s] = symbol
            if code >= 1 << length or (direct and symbol > 15):
                return False
            if length <= _BITS:
                _enter(table, code, int64(length), symbol, direct)
            code += 1
            s += 1
        if code > 1 << length:
            return False
        table[_LIMIT + length] = code << (16 - length)
        code <<= 1
    return True


@njit(nogil=True, cache=True)
def _enter(table, code, length, symbol, direct):  # type: ignore[no-untyped-def]
    run, size = symbol >> 4, symbol & 15
    first, left = code << (_BITS - length), _BITS - length
    for index in range(1 << left):
        entry = _entry(symbol, length, direct)
        if entry & _LATER and size <= left:
            value = (index >> (left - size)) & ((1 << size) - 1)
            if size > 0 and value < 1 << (size - 1):
                value -= (1 << size) - 1
            entry = (value << 16) | (run << 8) | (length + size)
        table[first + index] = entry


@njit(nogil=True, inline="always")
def _entry(symbol, length, direct):  # type: ignore[no-untyped-def]
    """The entry of a code whose value is not looked up with it; 0: no baseline JPEG has it (F.1.2.2.1)."""
    run, size = symbol >> 4, symbol & 15
    if size == 0 and not direct:
        return (15 << 8) | length if symbol == 0xF0 else (_END << 8) | length if symbol == 0 else int64(0)
    return (size << 16) | (run << 8) | _LATER | length


@njit(nogil=True, cache=True)
def _unstuffed(data, start, codes):  # type: ignore[no-untyped-def]
    """Copy the codes without the zeros behind 0xFF; returns their bytes, -1 if not the image's end follows."""
    n, source, target, at, to = len(data), data.ctypes.data, codes.ctypes.data, int64(start), int64(0)
    low, high = uint64(0x0101010101010101), uint64(0x8080808080808080)
    while at < n:
        while at + 8 <= n:
            word = _raw_at(source + at)
            if ((~word - low) & word & high) != uint64(0):
                break
            _put_raw(target + to, word)
            at += 8
            to += 8
        stop = min(at + 8, n)
        while at < stop:
            value = data[at]
            if value == 0xFF:
                if at + 1 >= n:
                    return -1
                if data[at + 1] != 0:
                    if data[at + 1] != 0xD9:
                        return -1
                    for k in range(_SLACK):
                        put_byte(target + to + k, np.uint8(0))
                    return to
                at += 1
            codes[to] = value
            to += 1
            at += 1
    return -1


@njit(nogil=True, cache=True)
def _scan(codes, length, tables, quants, about, planes, columns, rows, buffer):  # type: ignore[no-untyped-def]
    """Decode all blocks; False: damaged."""
    coefficients, places = np.zeros(64 + 8, np.int16), _places()
    first, block, to, order = codes.ctypes.data, coefficients.ctypes.data, buffer.ctypes.data, places.ctypes.data
    table, step, quant = tables.ctypes.data, 4 * _TABLE, quants.ctypes.data
    last = np.zeros(3, np.int64)
    bits, count, at = uint64(0), int64(0), int64(first)
    components = 3 if planes.colours else 1
    for my in range(rows):
        for mx in range(columns):
            for c in range(components):
                across, down = (planes.across, planes.down) if c == 0 else (1, 1)
                stride = planes.stride if c == 0 else planes.chroma_stride
                plane = to + (0 if c == 0 else planes.blue if c == 1 else planes.red)
                quanta = quant + 128 * about[c, 1]
                dc, ac = table + about[c, 2] * step, table + about[c, 3] * step
                for v in range(down):
                    for h in range(across):
                        bits, count, at, last[c], flat = _block(bits, count, at, dc, ac, quanta, block, order, last[c])
                        if at == 0 or at - first > length + 8:
                            return False
                        address = plane + (my * down + v) * 8 * stride + (mx * across + h) * 8
                        if flat:
                            fill_8x8(address, stride, _level(_short_at(block)))
                        else:
                            idct_8x8(address, stride, block)
    return at - first - count // 8 == length  # no bytes are left, nor missing


@njit(nogil=True, inline="always")
def _level(dc):  # type: ignore[no-untyped-def]
    """The one value of a block that has no other coefficient: as `idct_8x8` would make it."""
    return np.uint8(min(max(((dc + 4) >> 3) + 128, 0), 255))


@njit(nogil=True, cache=True)
def _places():  # type: ignore[no-untyped-def]
    """Byte offset in a block of each coefficient, then, for those behind the last, of a place that is not used."""
    out = np.full(64 + 256, 128, np.int16)
    for k in range(64):
        out[k] = 2 * _ZIGZAG[k]
    return out


@njit(nogil=True, inline="always")
def _slow(bits, table, direct):  # type: ignore[no-untyped-def]
    """The entry of a code longer than _BITS; 0: there is none."""
    code = int64(bits >> uint64(48))
    for length in range(_BITS + 1, 17):
        if code < _entry_at(table + 4 * (_LIMIT + length)):
            s = (code >> (16 - length)) + _entry_at(table + 4 * (_OFFSET + length))
            return _entry(_entry_at(table + 4 * (_VALUES + s)), length, direct)
    return int64(0)


@njit(nogil=True, inline="always")
def _value(bits, entry):  # type: ignore[no-untyped-def]
    """The value of an entry of _LATER's kind (T.81, F.2.2.1: EXTEND)."""
    size, used = entry >> 16, entry & 63
    if size == 0:
        return int64(0)
    value = int64((bits << uint64(used)) >> uint64(64 - size))
    return value if value >= 1 << (size - 1) else value - (1 << size) + 1


@njit(nogil=True, inline="always")
def _filled(bits, count, at):  # type: ignore[no-untyped-def]
    """As many further bytes as there is room for: more than a code with its value takes."""
    if count < 32:
        bits |= _word_at(at) >> uint64(count)
        more = (63 - count) >> 3
        at += more
        count += more << 3
    return bits, count, at


@njit(nogil=True, inline="always")
def _next(bits, count, at, table, direct):  # type: ignore[no-untyped-def]
    """Read a code and its value: (bits, count, at, entry; 0: damaged, value)."""
    bits, count, at = _filled(bits, count, at)
    entry = _entry_at(table + 4 * int64(bits >> uint64(64 - _BITS)))
    if entry == 0:
        entry = _slow(bits, table, direct)
    used, value = entry & 63, entry >> 16
    if entry & _LATER:
        used, value = used + value, _value(bits, entry)
    return bits << uint64(used), count - used, at, entry, value


@njit(nogil=True, inline="always")
def _block(bits, count, at, dc, ac, quanta, block, order, last):  # type: ignore[no-untyped-def]
    """Decode a block's coefficients.

    Args:
        bits, count, at: the next codes uppermost, how many bits of them there are, and the address of the rest.
        dc, ac, quanta, block, order: addresses of the tables, of the 64 coefficients and of `_places`.
        last: the DC of the block before.

    Returns:
        (bits, count, at; 0: damaged, its DC, whether that is all there is)
    """
    for k in range(16):
        _put_raw(block + 8 * k, uint64(0))
    bits, count, at, entry, value = _next(bits, count, at, dc, True)
    last += value
    _put_short(block, last * _short_at(quanta))
    k = int64(1)
    while entry != 0 and k < 64:
        bits, count, at, entry, value = _next(bits, count, at, ac, False)
        k += (entry >> 8) & 255
        _put_short(block + _short_at(order + 2 * k), value * _short_at(quanta + 2 * (k & 63)))
        k += 1
    if entry == 0 or 64 < k < _END:
        at = int64(0)
    return bits, count, at, last, k == _END + 2
