"""Bytes of the native protocol: numbers, strings and compressed frames, read from a socket and built for it."""

import re
import struct
from collections.abc import Callable
from typing import Final

import lz4.block  # type: ignore[import-untyped]
from clickhouse_cityhash.cityhash import CityHash128  # type: ignore[import-untyped]

from pipeline.embedded.native.faults import ServerError

PIECE_BYTES: Final = 1 << 20
"""What is handed on at once while a block passes through."""
_FRAME_BYTES_MAX: Final = 1 << 30
_LZ4: Final = 0x82
_NONE: Final = 0x02
_FRAME_HEAD: Final = struct.Struct("<BII")
_MASK64: Final = (1 << 64) - 1
_ZEROS: Final = re.compile(rb"\0*").match

Sink = Callable[[bytes], None]


class ByteReader:
    """Reads numbers and strings from whatever `refill` brings; what is read can be tapped as raw bytes.

    refill: returns the next bytes, at least one; raises EOFError at the end.
    """

    def __init__(self, refill: Callable[[], bytes]) -> None:
        """Start empty."""
        self._refill = refill
        self._data = bytearray()
        self._pos = 0
        self._tapped = 0
        self._sink: Sink | None = None

    @property
    def at_boundary(self) -> bool:
        """True when nothing is left over from the last refill."""
        return self._pos == len(self._data)

    def tap(self, sink: Sink | None) -> None:
        """Hand what is read from here on to sink, in pieces; `untap` ends it. None: read without handing on."""
        self._sink, self._tapped = sink, self._pos

    def untap(self, keep: bool) -> None:
        """End the tap; keep=False forgets the piece that was not handed on yet."""
        if keep:
            self._hand_on()
        self._sink = None

    def _hand_on(self) -> None:
        if self._sink is not None and self._pos > self._tapped:
            self._sink(bytes(memoryview(self._data)[self._tapped : self._pos]))
            self._tapped = self._pos

    def _more(self) -> None:
        if self._sink is None:
            self._drop(self._pos)
        elif self._pos - self._tapped >= PIECE_BYTES:
            self._hand_on()
            self._drop(self._tapped)
        self._data += self._refill()

    def _drop(self, count: int) -> None:
        del self._data[:count]
        self._pos -= count
        self._tapped = max(0, self._tapped - count)

    def take(self, count: int) -> bytes:
        """Read count bytes."""
        while len(self._data) - self._pos < count:
            self._more()
        self._pos += count
        return bytes(memoryview(self._data)[self._pos - count : self._pos])

    def skip(self, count: int) -> None:
        """Pass count bytes by; they are never all in memory."""
        while True:
            step = min(count, len(self._data) - self._pos)
            self._pos += step
            count -= step
            if not count:
                return
            self._more()

    def skip_strings(self, count: int) -> None:
        """Pass count strings by, each a varint length and its bytes. The one loop here that runs for each value."""
        data, pos, left = self._data, self._pos, count
        while left:
            try:
                while left:
                    start = pos
                    size = data[pos]
                    if not size:  # many columns are mostly empty: pass a run of empty strings by at once
                        pos = _ZEROS(data, pos, pos + left).end()  # type: ignore[union-attr]
                        left -= pos - start
                        continue
                    pos += 1
                    if size >= 0x80:
                        size &= 0x7F
                        shift = 7
                        while (byte := data[pos]) >= 0x80:
                            size |= (byte & 0x7F) << shift
                            shift += 7
                            pos += 1
                        size |= byte << shift
                        pos += 1
                    pos += size
                    left -= 1
            except IndexError:
                pos = self._catch_up(start)
        self._catch_up_to(pos)

    def _catch_up(self, pos: int) -> int:
        # Past the end: the last string's bytes are missing, and what follows them may be here already, so asking for
        # more could wait for ever. Up to the end: a length is cut in two.
        length_is_cut = pos <= len(self._data)
        self._catch_up_to(pos)
        if length_is_cut:
            self._more()
        return self._pos

    def _catch_up_to(self, pos: int) -> None:
        """Make pos the place to read from, though its bytes may not have come yet."""
        missing = pos - len(self._data)
        if missing <= 0:
            self._pos = pos
        else:
            self._pos = len(self._data)
            self.skip(missing)

    def u8(self) -> int:
        """Read one byte."""
        while self._pos >= len(self._data):
            self._more()
        self._pos += 1
        return self._data[self._pos - 1]

    def u64(self) -> int:
        """Read eight bytes, little endian."""
        return int.from_bytes(self.take(8), "little")

    def varint(self) -> int:
        """Read an unsigned LEB128 number. Raises ServerError 33 above 64 bits."""
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ServerError(33, "a number of more than 64 bits was sent", fatal=True)

    def text(self, bytes_max: int) -> str:
        """Read a string. Raises ServerError 131 above bytes_max. Bytes that are no UTF-8 become U+FFFD."""
        size = self.varint()
        if size > bytes_max:
            raise ServerError(131, f"a string of {size} bytes was sent; expected {bytes_max} at most here", fatal=True)
        return self.take(size).decode("utf-8", "replace")


def varint(value: int) -> bytes:
    """Build an unsigned LEB128 number.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value: str) -> bytes:
    """Build a string: varint length, UTF-8 bytes."""
    raw = value.encode("utf-8", "replace")
    return varint(len(raw)) + raw


def compress(data: bytes) -> bytes:
    """Build LZ4 frames: checksum, method, sizes, data. Large data becomes several frames."""
    frames = []
    for start in range(0, len(data), PIECE_BYTES):
        piece = data[start : start + PIECE_BYTES]
        packed = lz4.block.compress(piece, store_size=False)
        frame = _FRAME_HEAD.pack(_LZ4, _FRAME_HEAD.size + len(packed), len(piece)) + packed
        frames += [_checksum(frame), frame]
    return b"".join(frames)


def read_frame(reader: ByteReader) -> bytes:
    """Read one compressed frame and return what was inside.

    Raises ServerError 40 (checksum), 89 (a method other than LZ4), 271 (cannot be unpacked); all end the connection.
    """
    checksum = reader.take(16)
    head = reader.take(_FRAME_HEAD.size)
    method, packed_size, size = _FRAME_HEAD.unpack(head)
    if not _FRAME_HEAD.size <= packed_size <= _FRAME_BYTES_MAX or not 0 < size <= _FRAME_BYTES_MAX:
        raise ServerError(271, f"a compressed frame claims {packed_size} bytes that unpack to {size}", fatal=True)
    packed = reader.take(packed_size - _FRAME_HEAD.size)
    if _checksum(head + packed) != checksum:
        raise ServerError(40, "checksum of a compressed frame does not match: the data was damaged", fatal=True)
    if method == _NONE:
        return packed
    if method != _LZ4:
        raise ServerError(89, f"compression method 0x{method:02x} is not supported; expected LZ4", fatal=True)
    try:
        return bytes(lz4.block.decompress(packed, uncompressed_size=size))
    except lz4.block.LZ4BlockError as error:
        raise ServerError(271, f"an LZ4 frame cannot be unpacked: {error}", fatal=True) from error


def _checksum(frame: bytes) -> bytes:
    value = int(CityHash128(frame))
    # The upper half goes first on the wire, each half little endian.
    return (value >> 64).to_bytes(8, "little") + (value & _MASK64).to_bytes(8, "little")
