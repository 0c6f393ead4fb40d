"""Process short runs of bytes with vector instructions, which numba's own loops do not compile to.

Addresses are integers (`array.ctypes.data` plus bytes), and nothing here checks a
bound. LLVM compiles each function to the widest instructions of the machine
(AVX-512, AVX2, NEON).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

COPY = 32  # bytes of `copy_vector`
MIRROR = 16  # 3-byte pixels of `mirror_vector`
SUM = 32  # bytes of `sum_vector`
SHARP_FLOOR = 16384  # initial value of the sums of `sharp_vector_of`
TILE = 16  # side in bytes of `transpose_tile`
PIXELS = 8  # pixels of a row of `transpose_pixels`
RGB = 32  # pixels of `rgb_vector`
LINE = 64  # bytes of a cache line, which `prefetch` fetches

_ADDRESS = types.uintp


def _pointer(builder: Any, address: Any, bits: int, lanes: int) -> Any:
    kind = ir.IntType(bits) if lanes == 1 else ir.VectorType(ir.IntType(bits), lanes)
    return builder.inttoptr(address, kind.as_pointer())


def _move(
    builder: Any, target: Any, source: Any, bits: int, lanes: int, order: list[int] | None = None
) -> None:
    """Load a vector and store it, aligned or not, with its lanes in another order if one is given."""
    value = builder.load(_pointer(builder, source, bits, lanes), align=1)
    if order is not None:
        value = _shuffle(builder, value, ir.Constant(value.type, ir.Undefined), order)
    builder.store(value, _pointer(builder, target, bits, lanes), align=1)


def _shuffle(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    """Pick lanes by number from those of a, followed by those of b."""
    return builder.shuffle_vector(
        a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
    )


def _broadcast(builder: Any, value: Any, lanes: Any) -> Any:
    """Return a vector with the value in each lane."""
    undefined = ir.Constant(lanes, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, first, undefined, [0] * lanes.count)


@intrinsic
def copy(typing_context: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy `count` bytes, as memcpy does."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, origin = (_pointer(builder, address, 8, 1) for address in args[:2])
        cgutils.raw_memcpy(builder, to, origin, args[2], 1)
        return context.get_dummy_value()

    return types.void(_ADDRESS, _ADDRESS, _ADDRESS), codegen


@intrinsic
def byte_at(typing_context: Any, address: Any) -> Any:
    """Load the uint8 at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(builder, args[0], 8, 1))

    return types.uint8(_ADDRESS), codegen


@intrinsic
def put_byte(typing_context: Any, address: Any, value: Any) -> Any:
    """Store a uint8 at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], _pointer(builder, args[0], 8, 1))
        return context.get_dummy_value()

    return types.void(_ADDRESS, types.uint8), codegen


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Fetch the cache line of an address, which may be invalid, into the second-level cache."""
    byte = ir.IntType(8).as_pointer()
    number = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    read, second_level, data = (ir.Constant(number, value) for value in (0, 2, 1))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [_pointer(builder, args[0], 8, 1), read, second_level, data])
        return context.get_dummy_value()

    return types.void(_ADDRESS), codegen


@intrinsic
def copy_vector(typing_context: Any, target: Any, source: Any) -> Any:
    """Copy COPY bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _move(builder, args[0], args[1], 8, COPY)
        return context.get_dummy_value()

    return types.void(_ADDRESS, _ADDRESS), codegen


@intrinsic
def mirror_vector(typing_context: Any, target: Any, source: Any) -> Any:
    """Copy MIRROR pixels of three bytes in reverse."""
    order = [3 * (MIRROR - 1 - pixel) + channel for pixel in range(MIRROR) for channel in range(3)]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _move(builder, args[0], args[1], 8, 3 * MIRROR, order)
        return context.get_dummy_value()

    return types.void(_ADDRESS, _ADDRESS), codegen


def _multiply_bytes(builder: Any, address: Any, weight: Any) -> tuple[Any, Any]:
    """Multiply SUM bytes by a weight: return the even and the odd ones in 16 bits, which needs no shuffle."""
    lanes = ir.VectorType(ir.IntType(16), SUM // 2)
    values = builder.load(_pointer(builder, address, 16, SUM // 2), align=1)
    even = builder.and_(values, ir.Constant(lanes, [255] * lanes.count))
    odd = _upper_bytes(builder, values)
    weights = _broadcast(builder, weight, lanes)
    return builder.mul(even, weights), builder.mul(odd, weights)


def _upper_bytes(builder: Any, values: Any) -> Any:
    """Return the upper byte of each 16-bit lane."""
    return builder.lshr(values, ir.Constant(values.type, [8] * values.type.count))


def _store_rounded(builder: Any, address: Any, even: Any, odd: Any) -> None:
    """Store the upper bytes of the sums, those of even and odd bytes alternating."""
    upper = builder.and_(odd, ir.Constant(odd.type, [0xFF00] * odd.type.count))
    builder.store(
        builder.or_(_upper_bytes(builder, even), upper),
        _pointer(builder, address, 16, SUM // 2),
        align=1,
    )


@intrinsic
def sum_vector(typing_context: Any, target: Any, source: Any, step: Any, weights: Any) -> Any:
    """Store (sum of row * weight + 128) >> 8 for SUM bytes of rows that lie `step` bytes apart.

    The weights, a tuple of unsigned integers, sum to 256, so that the largest
    sum, 255 * 256 + 128, fits 16 bits.
    """
    half = ir.Constant(ir.VectorType(ir.IntType(16), SUM // 2), [128] * (SUM // 2))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, source, step, weights = args
        even = odd = half
        for weight in cgutils.unpack_tuple(builder, weights):
            more_even, more_odd = _multiply_bytes(
                builder, source, builder.trunc(weight, ir.IntType(16))
            )
            even = builder.add(even, more_even)
            odd = builder.add(odd, more_odd)
            source = builder.add(source, step)
        _store_rounded(builder, target, even, odd)
        return context.get_dummy_value()

    return types.void(*[_ADDRESS] * 3, types.UniTuple(types.uintp, len(weights))), codegen


def _sum_rows(
    builder: Any, start: Any, source: Any, step: Any, weights: Any, taps: Any
) -> list[Any]:
    """Sum SUM bytes over `taps` rows with weights; return the sums of the even and of the odd bytes."""
    totals = [cgutils.alloca_once_value(builder, start) for _ in range(2)]
    with cgutils.for_range(builder, taps) as loop:
        row = builder.add(source, builder.mul(loop.index, step))
        weight_at = builder.add(weights, builder.mul(loop.index, ir.Constant(loop.index.type, 2)))
        weight = builder.load(_pointer(builder, weight_at, 16, 1))
        for total, product in zip(totals, _multiply_bytes(builder, row, weight), strict=True):
            builder.store(builder.add(builder.load(total), product), total)
    return [builder.load(total) for total in totals]


@intrinsic
def sum_vector_of(
    typing_context: Any, target: Any, source: Any, step: Any, weights: Any, taps: Any
) -> Any:
    """Sum as `sum_vector` does over `taps` rows, with uint16 weights at the address `weights`."""
    half = ir.Constant(ir.VectorType(ir.IntType(16), SUM // 2), [128] * (SUM // 2))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _store_rounded(builder, args[0], *_sum_rows(builder, half, *args[1:]))
        return context.get_dummy_value()

    return types.void(*[_ADDRESS] * 5), codegen


@intrinsic
def sharp_vector_of(
    typing_context: Any, target: Any, source: Any, step: Any, weights: Any, taps: Any
) -> Any:
    """Sum as `sum_vector_of` does, with signed weights that sum to 128, and clip to 0 and 255.

    The negative weights may sum to -64. Sums start at SHARP_FLOOR, so that none
    of them overflows unsigned 16 bits.
    """
    half = ir.Constant(ir.VectorType(ir.IntType(16), SUM // 2), [SHARP_FLOOR + 64] * (SUM // 2))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        even, odd = (_clip(builder, total) for total in _sum_rows(builder, half, *args[1:]))
        joined = builder.or_(even, builder.shl(odd, ir.Constant(odd.type, [8] * odd.type.count)))
        builder.store(joined, _pointer(builder, args[0], 16, SUM // 2), align=1)
        return context.get_dummy_value()

    return types.void(*[_ADDRESS] * 5), codegen


def _clip(builder: Any, total: Any) -> Any:
    """Return a sum of `sharp_vector_of` as a value from 0 to 255, in 16 bits."""

    def constant(value: int) -> Any:
        return ir.Constant(total.type, [value] * total.type.count)

    low = constant(SHARP_FLOOR)
    high = constant(SHARP_FLOOR + 32767)
    total = builder.select(builder.icmp_unsigned("<", total, low), low, total)
    total = builder.select(builder.icmp_unsigned(">", total, high), high, total)
    return builder.lshr(builder.sub(total, low), constant(7))


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose a square of vectors, whose side is a power of two.

    For each bit of the side, rows i and i + half are interleaved to rows 2 i and
    2 i + 1. This perfect shuffle rotates the address (row, column) by one bit.
    """
    side = len(rows)
    half = side // 2
    orders = [
        [lane // 2 + start + side * (lane % 2) for lane in range(side)] for start in (0, half)
    ]
    for _ in range(half.bit_length()):
        pairs = zip(rows[:half], rows[half:], strict=True)
        rows = [_shuffle(builder, a, b, order) for a, b in pairs for order in orders]

    return rows


@intrinsic
def transpose_tile(
    typing_context: Any, target: Any, target_step: Any, source: Any, source_step: Any
) -> Any:
    """Transpose TILE x TILE bytes; the steps are bytes from row to row."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, target_step, source, source_step = args

        def row_at(base: Any, step: Any, row: int) -> Any:
            return _pointer(
                builder, builder.add(base, builder.mul(step, ir.Constant(step.type, row))), 8, TILE
            )

        rows = [builder.load(row_at(source, source_step, row), align=1) for row in range(TILE)]
        for row, value in enumerate(_transpose(builder, rows)):
            builder.store(value, row_at(target, target_step, row), align=1)
        return context.get_dummy_value()

    return types.void(*[_ADDRESS] * 4), codegen


@intrinsic
def transpose_pixels(
    typing_context: Any, target: Any, target_step: Any, source: Any, source_step: Any
) -> Any:
    """Transpose TILE rows of PIXELS pixels of three bytes; nothing outside is read or written.

    Four pixels of four rows become four columns of 12 bytes. Pixels are spread to
    32 bits. Then the 32-bit words of the result are joined for all columns at
    once, and squares of 4 x 4 words are transposed.
    """
    quad = ir.VectorType(ir.IntType(32), 4)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, target_step, source, source_step = args

        def at(base: Any, step: Any, row: int, start: int) -> Any:
            offset = builder.add(
                builder.mul(step, ir.Constant(step.type, row)), ir.Constant(step.type, start)
            )
            return _pointer(builder, builder.add(base, offset), 8, 16)

        def load_pixels(row: int, start: int, skip: int) -> Any:
            """Load four pixels of a row, `skip` bytes behind the start of a vector, each in 32 bits."""
            value = builder.load(at(source, source_step, row, start), align=1)
            order = [16 if c == 3 else skip + 3 * pixel + c for pixel in range(4) for c in range(4)]
            return builder.bitcast(
                _shuffle(builder, value, ir.Constant(value.type, None), order), quad
            )

        def join(low: Any, right: int, high: Any, left: int) -> Any:
            low = builder.lshr(low, ir.Constant(quad, [right] * 4)) if right else low
            return builder.or_(low, builder.shl(high, ir.Constant(quad, [left] * 4)))

        for first, start, skip in ((0, 0, 0), (4, 8, 4)):
            words = []
            for row in range(0, TILE, 4):
                a, b, c, d = (load_pixels(row + r, start, skip) for r in range(4))
                words += [join(a, 0, b, 24), join(b, 8, c, 16), join(c, 16, d, 8)]
            for part in range(3):
                block = words[4 * part : 4 * part + 4]
                for _ in range(2):
                    pairs = zip(block[:2], block[2:], strict=True)
                    orders = [0, 4, 1, 5], [2, 6, 3, 7]
                    block = [_shuffle(builder, a, b, order) for a, b in pairs for order in orders]
                for column, value in enumerate(block):
                    value = builder.bitcast(value, ir.VectorType(ir.IntType(8), 16))
                    builder.store(
                        value, at(target, target_step, first + column, 16 * part), align=1
                    )

        return context.get_dummy_value()

    return types.void(*[_ADDRESS] * 4), codegen


@intrinsic
def rgb_vector(typing_context: Any, target: Any, luma: Any, blue: Any, red: Any) -> Any:
    """Convert RGB pixels from Y, Cb and Cr by JFIF's full-range BT.601 (ITU-T T.871), in 16-bit integers.

    R = Y + 1.402 r, G = Y - 0.344136 b - 0.714136 r, B = Y + 1.772 b, with b = Cb
    - 128 and r = Cr - 128. The integer parts of the factors are added separately,
    so that 8-bit fractions of the rest fit.
    """
    bytes_ = ir.VectorType(ir.IntType(8), RGB)
    lanes = ir.VectorType(ir.IntType(16), RGB)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def constant(value: int) -> Any:
            return ir.Constant(lanes, [value] * RGB)

        def fraction(*terms: tuple[Any, int]) -> Any:
            """Return the sum of value * factor / 256 over the terms, rounded."""
            total = constant(128)
            for value, factor in terms:
                total = builder.add(total, builder.mul(value, constant(factor)))
            return builder.ashr(total, constant(8))

        def clip(value: Any) -> Any:
            value = builder.select(builder.icmp_signed("<", value, constant(0)), constant(0), value)
            value = builder.select(
                builder.icmp_signed(">", value, constant(255)), constant(255), value
            )
            return builder.trunc(value, bytes_)

        y, b, r = (
            builder.zext(builder.load(_pointer(builder, address, 8, RGB), align=1), lanes)
            for address in args[1:]
        )
        b = builder.sub(b, constant(128))
        r = builder.sub(r, constant(128))
        red = clip(builder.add(builder.add(y, r), fraction((r, 103))))
        green = clip(builder.add(builder.sub(y, r), fraction((r, 73), (b, -88))))
        blue = clip(builder.add(builder.add(y, builder.add(b, b)), fraction((b, -58))))
        first = _shuffle(builder, red, green, list(range(2 * RGB)))
        second = _shuffle(builder, blue, blue, list(range(2 * RGB)))
        order = [pixel + RGB * channel for pixel in range(RGB) for channel in range(3)]
        builder.store(
            _shuffle(builder, first, second, order), _pointer(builder, args[0], 8, 3 * RGB), align=1
        )

        return context.get_dummy_value()

    return types.void(*[_ADDRESS] * 4), codegen


@njit(nogil=True, inline="always")
def fetch(address, count):  # type: ignore[no-untyped-def]
    """Fetch all cache lines of `count` bytes."""
    for at in range(0, count, LINE):
        prefetch(address + at)


@njit(nogil=True, inline="always")
def copy_row(target, source, count):  # type: ignore[no-untyped-def]
    """Copy `count` bytes. The last vector overlaps the one before."""
    if count < COPY:
        copy(target, source, count)
        return
    for at in range(0, count - COPY, COPY):
        copy_vector(target + at, source + at)
    copy_vector(target + count - COPY, source + count - COPY)


@njit(nogil=True, inline="always")
def mirror_row(target, source, count, channels):  # type: ignore[no-untyped-def]
    """Copy `count` pixels in reverse. The last vector overlaps the one before."""
    if channels != 3 or count < MIRROR:
        for x in range(count):
            copy(target + (count - 1 - x) * channels, source + x * channels, channels)
        return
    for at in range(0, count - MIRROR, MIRROR):
        mirror_vector(target + 3 * (count - MIRROR - at), source + 3 * at)
    mirror_vector(target, source + 3 * (count - MIRROR))


@njit(nogil=True, inline="always")
def sum_row(target, source, step, weights, count):  # type: ignore[no-untyped-def]
    """Sum `count` bytes, SUM or more, by `sum_vector`.

    The last vector overlaps the one before.
    """
    for at in range(0, count - SUM, SUM):
        sum_vector(target + at, source + at, step, weights)
    sum_vector(target + count - SUM, source + count - SUM, step, weights)


@njit(nogil=True, inline="always")
def sum_row_of(target, source, step, weights, taps, count):  # type: ignore[no-untyped-def]
    """Sum `count` bytes, SUM or more, by `sum_vector_of`.

    The last vector overlaps the one before.
    """
    for at in range(0, count - SUM, SUM):
        sum_vector_of(target + at, source + at, step, weights, taps)
    sum_vector_of(target + count - SUM, source + count - SUM, step, weights, taps)


@njit(nogil=True, inline="always")
def sharp_row_of(target, source, step, weights, taps, count):  # type: ignore[no-untyped-def]
    """Sum `count` bytes, SUM or more, by `sharp_vector_of`.

    The last vector overlaps the one before.
    """
    for at in range(0, count - SUM, SUM):
        sharp_vector_of(target + at, source + at, step, weights, taps)
    sharp_vector_of(target + count - SUM, source + count - SUM, step, weights, taps)


# The sines and cosines of libjpeg's jidctint.c, in 13-bit fixed point.
_C = {name: round(float(name) * (1 << 13)) for name in (
    "0.298631336", "0.390180644", "0.541196100", "0.765366865", "0.899976223", "1.175875602", "1.501321110",
    "1.847759065", "1.961570560", "2.053119869", "2.562915447", "3.072711026")}  # fmt: skip


def _idct_1d(builder: Any, x: list[Any], bits: int) -> list[Any]:
    """Transform eight values in each lane as libjpeg's jidctint.c does, and round away `bits` bits."""
    kind = x[0].type

    def constant(value: int) -> Any:
        return ir.Constant(kind, [value] * kind.count)

    def times(value: Any, name: str) -> Any:
        factor = -_C[name[1:]] if name[0] == "-" else _C[name]
        return builder.mul(value, constant(factor))

    add = builder.add
    sub = builder.sub

    # Even part. The names are those of jidctint.c.
    z = times(add(x[2], x[6]), "0.541196100")
    t2 = add(z, times(x[6], "-1.847759065"))
    t3 = add(z, times(x[2], "0.765366865"))
    t0 = builder.shl(add(x[0], x[4]), constant(13))
    t1 = builder.shl(sub(x[0], x[4]), constant(13))
    even = [add(t0, t3), add(t1, t2), sub(t1, t2), sub(t0, t3)]

    # Odd part
    z3 = add(x[7], x[3])
    z4 = add(x[5], x[1])
    z5 = times(add(z3, z4), "1.175875602")
    z1 = times(add(x[7], x[1]), "-0.899976223")
    z2 = times(add(x[5], x[3]), "-2.562915447")
    z3 = add(times(z3, "-1.961570560"), z5)
    z4 = add(times(z4, "-0.390180644"), z5)
    odd = [
        add(add(times(x[1], "1.501321110"), z1), z4),
        add(add(times(x[3], "3.072711026"), z2), z3),
        add(add(times(x[5], "2.053119869"), z2), z4),
        add(add(times(x[7], "0.298631336"), z1), z3),
    ]

    half = constant(1 << (bits - 1))
    pairs = [(add(a, half), b) for a, b in zip(even, odd, strict=True)]
    out = [add(a, b) for a, b in pairs] + [sub(a, b) for a, b in reversed(pairs)]

    return [builder.ashr(value, constant(bits)) for value in out]


@intrinsic
def idct_8x8(typing_context: Any, target: Any, step: Any, source: Any) -> Any:
    """Transform 64 int16 coefficients to 8 x 8 pixels, rows `step` bytes apart: libjpeg's "islow", bit for bit."""
    wide = ir.VectorType(ir.IntType(32), 8)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, step, source = args
        rows = []
        for row in range(8):
            at = builder.add(source, ir.Constant(source.type, 16 * row))
            rows.append(builder.sext(builder.load(_pointer(builder, at, 16, 8), align=2), wide))
        columns = _transpose(builder, _idct_1d(builder, rows, 11))
        values = _idct_1d(builder, columns, 18)
        low, high, middle = (ir.Constant(wide, [value] * 8) for value in (0, 255, 128))
        narrow = []
        for value in values:
            value = builder.add(value, middle)
            value = builder.select(builder.icmp_signed("<", value, low), low, value)
            value = builder.select(builder.icmp_signed(">", value, high), high, value)
            narrow.append(builder.trunc(value, ir.VectorType(ir.IntType(8), 8)))
        for row, value in enumerate(_transpose(builder, narrow)):
            at = builder.add(target, builder.mul(step, ir.Constant(step.type, row)))
            builder.store(value, _pointer(builder, at, 8, 8), align=1)

        return context.get_dummy_value()

    return types.void(*[_ADDRESS] * 3), codegen


@intrinsic
def fill_8x8(typing_context: Any, target: Any, step: Any, value: Any) -> Any:
    """Set 8 x 8 pixels, rows `step` bytes apart, to one value."""
    lanes = ir.VectorType(ir.IntType(8), 8)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, step, value = args
        value = _broadcast(builder, value, lanes)
        for row in range(8):
            at = builder.add(target, builder.mul(step, ir.Constant(step.type, row)))
            builder.store(value, _pointer(builder, at, 8, 8), align=1)
        return context.get_dummy_value()

    return types.void(_ADDRESS, _ADDRESS, types.uint8), codegen
