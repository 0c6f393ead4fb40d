"""Decode baseline JPEG to planes of Y, Cb and Cr (ITU-T T.81), for `prepare`: in two thirds of the time of RGB.

The planes are those of libjpeg-turbo bit for bit, because its inverse transform
("islow", by Loeffler, Ligtenberg and Moschytz) is defined in integers. Only
values that no encoder produces may overflow differently. JPEGs that differ from
nearly all others (progressive, restart markers, other subsampling, any damage)
are refused. Then libjpeg decodes them, or says what is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import int64, njit, types, uint64
from numba.extending import intrinsic

from trainer_classification.kernels.planes import Planes
from trainer_classification.kernels.vector import fill_8x8, idct_8x8, put_byte

# Bits of a code that are looked up at once, with the value behind it if that fits
# too.
_BITS = 10

# Parts of a Huffman table behind the entries that are looked up at once.
_LIMIT = 1 << _BITS
_OFFSET = _LIMIT + 17
_VALUES = _OFFSET + 17
_TABLE = _VALUES + 256  # length of a table

_END = 200  # run of an end of block: larger than any other
_LATER = 1 << 7  # flag of an entry that holds the size of the value, not the value

# Bytes behind the codes that a block may read: 64 values of at most 31 bits, and
# what is read ahead.
_SLACK = 512

# Markers (T.81, B.1.1.3)
_APP0 = 0xE0
_APP14 = 0xEE
_APP15 = 0xEF
_COM = 0xFE
_DHT = 0xC4
_DQT = 0xDB
_EOI = 0xD9
_SOF0 = 0xC0
_SOF1 = 0xC1
_SOS = 0xDA

_ZIGZAG = np.array(
    [
        0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5,
        12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
        35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
        58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    ],
    np.int64,
)  # fmt: skip


def _make_load(bits: int, result: Any, swapped: bool = False) -> Any:
    """Return an intrinsic that loads an integer from an address.

    Args:
        bits: of the integer.
        result: numba type of the loaded value.
        swapped: True to reverse its bytes.
    """

    @intrinsic
    def load(typing_context: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            value = builder.load(pointer, align=1)
            if swapped:
                return builder.bswap(value)
            return value if bits == 64 else builder.sext(value, ir.IntType(64))

        return result(types.int64), codegen

    return load


_load_big_endian = _make_load(64, types.uint64, swapped=True)
_load_u64 = _make_load(64, types.uint64)
_load_i32 = _make_load(32, types.int64)
_load_i16 = _make_load(16, types.int64)


def _make_store(bits: int) -> Any:
    """Return an intrinsic that stores an integer of 16 or 64 bits at an address."""

    @intrinsic
    def store(typing_context: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = args[1] if bits == 64 else builder.trunc(args[1], ir.IntType(bits))
            pointer = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            builder.store(value, pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.uint64 if bits == 64 else types.int64), codegen

    return store


_store_u64 = _make_store(64)
_store_i16 = _make_store(16)


@njit(nogil=True, cache=True)
def decode(data):  # type: ignore[no-untyped-def]
    """Decode a JPEG to planes.

    Args:
        data: uint8 [n], the file.

    Returns:
        (True if it was decoded, Planes, uint8 [m] that holds them with Y first).
    """
    nothing = Planes(0, 0, 0, 0, 0, 0, 1, 1, 0)
    empty = np.empty(0, np.uint8)
    tables = np.empty((8, _TABLE), np.int32)  # four for DC, four for AC
    quants = np.empty((4, 64), np.int16)
    components = np.zeros((3, 4), np.int64)  # id, and numbers of the quantization, DC and AC tables
    start, width, height, count, across, down = _read_head(data, tables, quants, components)
    if start == 0:
        return False, nothing, empty

    codes = np.empty(len(data) - start + _SLACK, np.uint8)
    length = _unstuff(data, start, codes)
    if length < 0:
        return False, nothing, empty

    columns = -(-width // (8 * across))  # of MCUs
    rows = -(-height // (8 * down))
    stride = columns * 8 * across
    chroma_stride = columns * 8
    blue = stride * rows * 8 * down
    chroma = chroma_stride * rows * 8 if count == 3 else 0
    has_chroma = 1 if count == 3 else 0
    planes = Planes(
        width, height, stride, chroma_stride, blue, blue + chroma, across, down, has_chroma
    )
    buffer = np.empty(blue + 2 * chroma, np.uint8)
    decoded = _decode_scan(codes, length, tables, quants, components, planes, columns, rows, buffer)

    return decoded, planes, buffer


@njit(nogil=True, cache=True)
def _read_head(data, tables, quants, components):  # type: ignore[no-untyped-def]
    """Read all segments before the codes.

    Returns:
        (offset of the codes or 0 if the file is refused, width, height, number of
        components, across, down).
    """
    known = np.zeros(12, np.bool_)  # tables read so far: four each of DC, AC and quantization
    frame = (0, 0, 0, 1, 1)
    position = 2
    while position + 4 <= len(data):
        marker = int64(data[position + 1])
        end = position + 2 + _read_u16(data, position + 2)
        content = data[position + 4 : end]
        if data[position] != 0xFF or end < position + 4 or end > len(data):
            break

        if marker == _SOS:
            return (
                end if frame[2] and _read_scan(content, frame[2], components, known) else 0,
                *frame,
            )
        if marker in (_SOF0, _SOF1):
            frame = _read_frame(content, components) if frame[2] == 0 else (0, 0, 0, 1, 1)
            accepted = frame[2] != 0
        elif marker == _DQT:
            accepted = _read_quants(content, quants, known)
        elif marker == _DHT:
            accepted = _read_codes(content, tables, known)
        elif marker in (_APP0, _APP14):
            accepted = not _is_unusual(content, marker)
        else:  # refuses other kinds of frame, and restarts
            accepted = _APP0 <= marker <= _APP15 or marker == _COM
        if not accepted:
            break
        position = end

    return 0, 0, 0, 0, 1, 1


@njit(nogil=True, inline="always")
def _read_u16(data, position):  # type: ignore[no-untyped-def]
    """Read a big-endian number of two bytes."""
    return int64(data[position]) * 256 + int64(data[position + 1])


@njit(nogil=True, cache=True)
def _read_quants(content, quants, known):  # type: ignore[no-untyped-def]
    """Read the 8-bit tables of a DQT segment (B.2.4.1), and return True if they are valid."""
    for start in range(0, len(content), 65):
        number = int64(content[start])
        if number > 3 or start + 65 > len(content):  # a table of 16 bits has a larger number
            return False
        quants[number] = content[start + 1 : start + 65]
        known[8 + number] = True
    return True


@njit(nogil=True, cache=True)
def _read_codes(content, tables, known):  # type: ignore[no-untyped-def]
    """Read the tables of a DHT segment (B.2.4.2), and return True if they are valid."""
    position = 0
    while position < len(content):
        kind = int64(content[position]) >> 4
        number = int64(content[position]) & 15
        if kind > 1 or number > 3 or position + 17 > len(content):
            return False

        counts = content[position + 1 : position + 17]
        total = int64(0)
        for length in range(16):
            total += int64(counts[length])

        symbols = content[position + 17 : position + 17 + total]
        position = position + 17 + total
        index = kind * 4 + number
        if (
            total > 256
            or len(symbols) < total
            or not _build_table(counts, symbols, kind == 0, tables[index])
        ):
            return False
        known[index] = True

    return True


@njit(nogil=True, cache=True)
def _read_frame(content, components):  # type: ignore[no-untyped-def]
    """Read the SOF segment of a baseline frame (B.2.2).

    Returns:
        (width, height, number of components or 0 if it is refused, across, down).
    """
    refused = 0, 0, 0, 1, 1
    if len(content) < 9 or content[0] != 8:
        return refused

    height = _read_u16(content, 1)
    width = _read_u16(content, 3)
    count = int64(content[5])
    if (count != 1 and count != 3) or len(content) != 6 + 3 * count or width == 0 or height == 0:
        return refused

    # The sampling factors of a single component do not matter: an MCU is one
    # block.
    across = int64(content[7]) >> 4 if count == 3 else 1
    down = int64(content[7]) & 15 if count == 3 else 1
    if not (1 <= across <= 2 and 1 <= down <= 2):
        return refused

    for c in range(count):
        components[c, 0] = content[6 + 3 * c]
        components[c, 1] = content[8 + 3 * c]
        if components[c, 1] > 3 or (c > 0 and content[7 + 3 * c] != 0x11):
            return refused

    return width, height, count, across, down


@njit(nogil=True, cache=True)
def _read_scan(content, count, components, known):  # type: ignore[no-untyped-def]
    """Read an SOS segment (B.2.3).

    Returns:
        True if it has all components at full precision, and their tables are
        known.
    """
    if len(content) != 4 + 2 * count or content[0] != count:
        return False

    for c in range(count):
        dc = int64(content[2 + 2 * c]) >> 4
        ac = int64(content[2 + 2 * c]) & 15
        if components[c, 0] != content[1 + 2 * c] or dc > 3 or ac > 3:
            return False
        if not (known[dc] and known[4 + ac] and known[8 + components[c, 1]]):
            return False
        components[c, 2] = dc
        components[c, 3] = 4 + ac

    return (
        content[1 + 2 * count] == 0 and content[2 + 2 * count] == 63 and content[3 + 2 * count] == 0
    )


@njit(nogil=True, cache=True)
def _is_unusual(content, marker):  # type: ignore[no-untyped-def]
    """Return True if libjpeg warns about a JFIF or Adobe segment: about its version, or its color transform."""
    if marker == _APP0:
        return len(content) >= 14 and content[0] == 0x4A and content[1] == 0x46 and content[5] != 1
    return len(content) >= 12 and content[0] == 0x41 and content[11] > 1


@njit(nogil=True, cache=True)
def _build_table(counts, symbols, direct, table):  # type: ignore[no-untyped-def]
    """Write the table of a Huffman code (T.81, C and F.2.2.3), and return True if there is such a code.

    From its top an entry has 16 bits of value (or its size, with _LATER), 8 of
    run, and the number of bits that it took.

    Args:
        counts: uint8 [16], number of codes of each length.
        symbols: uint8 [n], of the codes in order.
        direct: True for DC, whose symbols are sizes.
        table: int32 [_TABLE], written.
    """
    table[:] = 0
    code = int64(0)
    s = int64(0)
    for length in range(1, 17):
        table[_OFFSET + length] = s - code
        for _ in range(counts[length - 1]):
            symbol = int64(symbols[s])
            table[_VALUES + s] = symbol
            if code >= 1 << length or (direct and symbol > 15):
                return False
            # Runs without a value end a block and skip 16 in baseline files; others are damage.
            if not direct and symbol & 15 == 0 and symbol != 0 and symbol != 0xF0:
                return False
            if length <= _BITS:
                _write_entries(table, code, int64(length), symbol, direct)
            code += 1
            s += 1
        if code > 1 << length:
            return False
        table[_LIMIT + length] = code << (16 - length)
        code <<= 1

    return True


@njit(nogil=True, cache=True)
def _write_entries(table, code, length, symbol, direct):  # type: ignore[no-untyped-def]
    """Write the entries of all lookups that begin with a code."""
    run = symbol >> 4
    size = symbol & 15
    left = _BITS - length
    first = code << left
    for index in range(1 << left):
        entry = _make_entry(symbol, length, direct)
        if entry & _LATER and size <= left:
            value = (index >> (left - size)) & ((1 << size) - 1)
            if size > 0 and value < 1 << (size - 1):
                value -= (1 << size) - 1
            entry = (value << 16) | (run << 8) | (length + size)
        table[first + index] = entry


@njit(nogil=True, inline="always")
def _make_entry(symbol, length, direct):  # type: ignore[no-untyped-def]
    """Return the entry of a code without its value, or 0 if no baseline JPEG has the code (F.1.2.2.1)."""
    run = symbol >> 4
    size = symbol & 15
    if size > 0 or direct:
        return (size << 16) | (run << 8) | _LATER | length
    if symbol == 0xF0:  # 16 zeros
        return int64((15 << 8) | length)
    if symbol == 0:
        return int64((_END << 8) | length)
    return int64(0)


@njit(nogil=True, cache=True)
def _unstuff(data, start, codes):  # type: ignore[no-untyped-def]
    """Copy the codes without the zero that follows each 0xFF.

    Returns:
        The number of bytes, or -1 if the codes do not end with the end of the
        image.
    """
    n = len(data)
    source = data.ctypes.data
    target = codes.ctypes.data
    at = int64(start)
    to = int64(0)
    low_bits = uint64(0x0101010101010101)
    high_bits = uint64(0x8080808080808080)
    while at < n:
        # Copy eight bytes at a time while none of them is 0xFF.
        while at + 8 <= n:
            word = _load_u64(source + at)
            if ((~word - low_bits) & word & high_bits) != uint64(0):
                break
            _store_u64(target + to, word)
            at += 8
            to += 8

        stop = min(at + 8, n)
        while at < stop:
            value = data[at]
            if value == 0xFF:
                if at + 1 >= n:
                    return -1
                if data[at + 1] == _EOI:
                    for k in range(_SLACK):
                        put_byte(target + to + k, np.uint8(0))
                    return to
                if data[at + 1] != 0:
                    return -1
                at += 1
            codes[to] = value
            to += 1
            at += 1

    return -1


@njit(nogil=True, cache=True)
def _decode_scan(codes, length, tables, quants, components, planes, columns, rows, buffer):  # type: ignore[no-untyped-def]
    """Decode all blocks, and return False if the codes are damaged."""
    coefficients = np.zeros(64 + 8, np.int16)
    offsets = _coefficient_offsets()
    first = codes.ctypes.data
    block = coefficients.ctypes.data
    order = offsets.ctypes.data
    table_step = 4 * _TABLE
    last = np.zeros(3, np.int64)  # DC of each component's last block
    bits = uint64(0)
    count = int64(0)
    at = int64(first)
    number = 3 if planes.has_chroma else 1
    for my in range(rows):
        for mx in range(columns):
            for c in range(number):
                across = planes.across if c == 0 else 1
                down = planes.down if c == 0 else 1
                stride = planes.stride if c == 0 else planes.chroma_stride
                plane = buffer.ctypes.data + _plane_offset(planes, c)
                quant = quants.ctypes.data + 128 * components[c, 1]
                dc = tables.ctypes.data + components[c, 2] * table_step
                ac = tables.ctypes.data + components[c, 3] * table_step

                for v in range(down):
                    for h in range(across):
                        bits, count, at, last[c], is_flat = _decode_block(
                            bits, count, at, dc, ac, quant, block, order, last[c]
                        )
                        if at == 0 or at - first > length + 8:
                            return False
                        address = plane + (my * down + v) * 8 * stride + (mx * across + h) * 8
                        if is_flat:
                            fill_8x8(address, stride, _flat_value(_load_i16(block)))
                        else:
                            idct_8x8(address, stride, block)

    return at - first - count // 8 == length  # no bytes are left over or missing


@njit(nogil=True, inline="always")
def _plane_offset(planes, component):  # type: ignore[no-untyped-def]
    if component == 0:
        return int64(0)
    return int64(planes.blue) if component == 1 else int64(planes.red)


@njit(nogil=True, inline="always")
def _flat_value(dc):  # type: ignore[no-untyped-def]
    """Return the value that `idct_8x8` gives all pixels of a block without AC coefficients."""
    return np.uint8(min(max(((dc + 4) >> 3) + 128, 0), 255))


@njit(nogil=True, cache=True)
def _coefficient_offsets():  # type: ignore[no-untyped-def]
    """Return the offset in a block of each coefficient in bytes, int16 [320].

    Coefficients behind the last one of a block have the offset of a dummy.
    """
    out = np.full(64 + 256, 128, np.int16)
    for k in range(64):
        out[k] = 2 * _ZIGZAG[k]
    return out


@njit(nogil=True, inline="always")
def _find_long_code(bits, table, direct):  # type: ignore[no-untyped-def]
    """Return the entry of a code longer than _BITS, or 0 if there is none."""
    code = int64(bits >> uint64(48))
    for length in range(_BITS + 1, 17):
        if code < _load_i32(table + 4 * (_LIMIT + length)):
            s = (code >> (16 - length)) + _load_i32(table + 4 * (_OFFSET + length))
            return _make_entry(_load_i32(table + 4 * (_VALUES + s)), length, direct)
    return int64(0)


@njit(nogil=True, inline="always")
def _read_value(bits, entry):  # type: ignore[no-untyped-def]
    """Read the value of an entry with _LATER (T.81, F.2.2.1: EXTEND)."""
    size = entry >> 16
    used = entry & 63
    if size == 0:
        return int64(0)
    value = int64((bits << uint64(used)) >> uint64(64 - size))
    return value if value >= 1 << (size - 1) else value - (1 << size) + 1


@njit(nogil=True, inline="always")
def _fill_bits(bits, count, at):  # type: ignore[no-untyped-def]
    """Append as many bytes as there is room for, which is more than a code with its value takes."""
    if count < 32:
        bits |= _load_big_endian(at) >> uint64(count)
        more = (63 - count) >> 3
        at += more
        count += more << 3
    return bits, count, at


@njit(nogil=True, inline="always")
def _read_code(bits, count, at, table, direct):  # type: ignore[no-untyped-def]
    """Read a code and its value, and return (bits, count, at, entry or 0 if damaged, value)."""
    bits, count, at = _fill_bits(bits, count, at)
    entry = _load_i32(table + 4 * int64(bits >> uint64(64 - _BITS)))
    if entry == 0:
        entry = _find_long_code(bits, table, direct)

    used = entry & 63
    value = entry >> 16
    if entry & _LATER:
        used += value
        value = _read_value(bits, entry)
    return bits << uint64(used), count - used, at, entry, value


@njit(nogil=True, inline="always")
def _decode_block(bits, count, at, dc, ac, quant, block, order, last):  # type: ignore[no-untyped-def]
    """Decode the coefficients of a block.

    Args:
        bits: the next codes, from the top bit on.
        count: number of these bits.
        at: address of the following codes.
        dc: address of the table for DC.
        ac: address of the table for AC.
        quant: address of the quantization table.
        block: address of the 64 coefficients, written.
        order: address of `_coefficient_offsets`.
        last: DC of the component's last block.

    Returns:
        (bits, count, at or 0 if damaged, DC, True if there is no AC coefficient).
    """
    for k in range(16):
        _store_u64(block + 8 * k, uint64(0))

    bits, count, at, entry, value = _read_code(bits, count, at, dc, True)
    last += value
    _store_i16(block, last * _load_i16(quant))

    k = int64(1)
    while entry != 0 and k < 64:
        bits, count, at, entry, value = _read_code(bits, count, at, ac, False)
        k += (entry >> 8) & 255
        _store_i16(block + _load_i16(order + 2 * k), value * _load_i16(quant + 2 * (k & 63)))
        k += 1

    if entry == 0 or 64 < k < _END:
        at = int64(0)
    return bits, count, at, last, k == _END + 2
