"""Write baseline JPEGs that common encoders cannot: any sampling, color space, restart interval and scan layout.

Only the sequential DCT processes of ITU-T T.81 are written (SOF0 and SOF1), with the Huffman tables of its annex K.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

Uint8 = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

ZIGZAG = sorted(range(64), key=lambda n: (n // 8 + n % 8, n // 8 if (n // 8 + n % 8) % 2 else n % 8))
JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"
SOF0, SOF1, DHT, SOI, EOI, SOS, DQT, DRI, APP0, APP1, APP14 = (
    0xC0, 0xC1, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xEE,
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How a JPEG is written.

    Attributes:
        samplings: horizontal and vertical factor of each component.
        ids: number of each component.
        step: distance of the quantization steps; 1 is fine, 8 is coarse.
        restart: MCUs between restart markers; 0: none.
        frame: SOF0 (baseline) or SOF1 (extended sequential, Huffman).
        wide_tables: write quantization tables with 16 bits; for SOF1.
        one_scan: False: a scan for each component.
        jfif: write an APP0 segment.
        adobe: color transform of an APP14 segment; -1: no such segment.
        segments: further segments, complete with marker and length, before the tables.
        fill: fill bytes before each marker segment.
    """

    samplings: tuple[tuple[int, int], ...]
    ids: tuple[int, ...] = (1, 2, 3, 4)
    step: int = 1
    restart: int = 0
    frame: int = SOF0
    wide_tables: bool = False
    one_scan: bool = True
    jfif: bool = True
    adobe: int = -1
    segments: tuple[bytes, ...] = ()
    fill: int = 0


def segment(marker: int, content: bytes) -> bytes:
    """Return a marker segment."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def write_jpeg(planes: Sequence[Uint8], layout: Layout) -> bytes:
    """Return a JPEG of planes in the stored color space, uint8 [H, W] each, all of full size."""
    height, width = planes[0].shape
    most_h = max(h for h, _ in layout.samplings)
    most_v = max(v for _, v in layout.samplings)
    steps = _steps(layout.step)
    precision = 1 if layout.wide_tables else 0
    table = struct.pack(">64H" if precision else "64B", *(int(steps.flat[n]) for n in ZIGZAG))
    factors = zip(layout.ids, layout.samplings, strict=False)
    components = b"".join(struct.pack("4B", number, h << 4 | v, 0, 0)[:3] for number, (h, v) in factors)

    pieces = [segment(APP0, JFIF)] if layout.jfif else []
    if layout.adobe >= 0:
        pieces.append(segment(APP14, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, layout.adobe)))
    pieces += [*layout.segments, segment(DQT, bytes([precision << 4]) + table)]
    pieces.append(segment(layout.frame, struct.pack(">BHHB", 8, height, width, len(planes)) + components))
    pieces += [segment(DHT, content) for content in _standard_tables()]
    if layout.restart:
        pieces.append(segment(DRI, struct.pack(">H", layout.restart)))

    blocks = []
    for plane, (h, v) in zip(planes, layout.samplings, strict=True):
        size = (-(-width * h // most_h), -(-height * v // most_v))
        reduced = np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX))
        columns = -(-width // (8 * most_h)) * h
        rows = -(-height // (8 * most_v)) * v
        blocks.append((_quantized(reduced, columns, rows, steps), size))
    scans = [list(range(len(planes)))] if layout.one_scan else [[n] for n in range(len(planes))]
    for scan in scans:
        head = b"".join(bytes([layout.ids[n], 0x00 if n == 0 else 0x11]) for n in scan)
        pieces.append(segment(SOS, bytes([len(scan)]) + head + b"\0\x3f\0") + _scan(scan, blocks, layout))
    before = b"\xff" * layout.fill
    return b"\xff\xd8" + b"".join(before + piece for piece in pieces) + b"\xff\xd9"


def _steps(step: int) -> Int64:
    rows, columns = np.indices((8, 8))
    return np.clip(step + (rows + columns) * step // 2, 1, 255).astype(np.int64)


def _quantized(plane: Uint8, columns: int, rows: int, steps: Int64) -> Int64:
    """Return the quantized coefficients [rows, columns, 64] in zigzag order."""
    more = ((0, rows * 8 - plane.shape[0]), (0, columns * 8 - plane.shape[1]))
    padded = np.pad(plane, more, "edge").astype(float) - 128
    blocks = padded.reshape(rows, 8, columns, 8).swapaxes(1, 2)
    n = np.arange(8)
    dct = np.cos((2 * n[None, :] + 1) * n[:, None] * np.pi / 16) / 2
    dct[0] /= np.sqrt(2)
    coefficients = np.rint(dct @ blocks @ dct.T / steps).astype(np.int64)
    return coefficients.reshape(rows, columns, 64)[:, :, ZIGZAG]


def _mcus(
    scan: list[int], blocks: list[tuple[Int64, tuple[int, int]]], layout: Layout
) -> Iterator[list[tuple[int, Int64]]]:
    """Yield the (component, block) pairs of each MCU; a scan of one component has MCUs of one block (T.81, A.2.2)."""
    if len(scan) == 1:
        coefficients, (width, height) = blocks[scan[0]]
        for row in coefficients[: -(-height // 8)]:
            for block in row[: -(-width // 8)]:
                yield [(scan[0], block)]
        return
    h, v = layout.samplings[scan[0]]
    rows = blocks[scan[0]][0].shape[0] // v
    columns = blocks[scan[0]][0].shape[1] // h
    for y in range(rows):
        for x in range(columns):
            yield [
                (n, blocks[n][0][y * layout.samplings[n][1] + dy, x * layout.samplings[n][0] + dx])
                for n in scan
                for dy in range(layout.samplings[n][1])
                for dx in range(layout.samplings[n][0])
            ]


def _scan(scan: list[int], blocks: list[tuple[Int64, tuple[int, int]]], layout: Layout) -> bytes:
    out: list[bytes] = []
    bits: list[str] = []
    last = dict.fromkeys(scan, 0)
    for number, mcu in enumerate(_mcus(scan, blocks, layout)):
        if layout.restart and number and number % layout.restart == 0:
            out += [_packed(bits), bytes([0xFF, 0xD0 + (number // layout.restart - 1) % 8])]
            bits = []
            last = dict.fromkeys(scan, 0)
        for component, block in mcu:
            kind = 0 if component == 0 else 1
            bits += _coded(block.tolist(), last[component], kind)
            last[component] = int(block[0])
    return b"".join([*out, _packed(bits)])


def _coded(block: list[int], last: int, kind: int) -> list[str]:
    codes = _codes()
    bits = [_value(codes[0, kind], 0, block[0] - last)]
    run = 0
    for value in block[1:]:
        if value == 0:
            run += 1
            continue
        while run > 15:
            bits.append(codes[1, kind][0xF0])
            run -= 16
        bits.append(_value(codes[1, kind], run << 4, value))
        run = 0
    return [*bits, codes[1, kind][0]] if run else bits


def _value(codes: dict[int, str], run: int, value: int) -> str:
    size = abs(value).bit_length()
    rest = value if value >= 0 else value + (1 << size) - 1
    return codes[run | size] + (f"{rest:0{size}b}" if size else "")


def _packed(bits: list[str]) -> bytes:
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0") if text else b""


@cache
def _standard_tables() -> list[bytes]:
    """Return the contents of the four DHT segments of annex K, as libjpeg writes them."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    data = file.getvalue()
    tables: list[bytes] = []
    at = 2
    while data[at + 1] != SOS:
        length = struct.unpack_from(">H", data, at + 2)[0]
        if data[at + 1] == DHT:
            tables.append(data[at + 4 : at + 2 + length])
        at += 2 + length
    return tables


@cache
def _codes() -> dict[tuple[int, int], dict[int, str]]:
    """Return symbol -> code, by (class, number) of the table."""
    found = {}
    for content in _standard_tables():
        codes: dict[int, str] = {}
        code = 0
        symbols = iter(content[17:])
        for length, count in enumerate(content[1:17], 1):
            for _ in range(count):
                codes[next(symbols)] = f"{code:0{length}b}"
                code += 1
            code <<= 1
        found[content[0] >> 4, content[0] & 15] = codes
    return found
