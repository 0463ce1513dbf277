"""Features made into vectors: named or hashed columns, on every machine the same, in whole multiples of 1/1024.

A vector is int16 in units of 1/GRID. It is what a decision was made with, and it is logged and learnt from as it was:
the learner needs neither the features nor the way they were hashed. Whole numbers, because then the sums over vectors
are exact (see schemas/linear.py). Numbers are squeezed by log1p with their sign: counts, ages and prices of any size
then need no running scale, which would make the vector depend on the order of the log (measured: no worse in AUC than
a standard scaler, and a quarter of its time). Categories are one column for each value.
"""

import hashlib
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.int16]
"""Shape (dimension,), units of 1/GRID."""
Vectors = NDArray[np.int16]
"""The same, one a row."""

GRID: Final = 1024
VALUE_MAX: Final = 16
"""Values beyond +-16 (numbers beyond e^16 = 8.9 million) count as the bound."""
DIMENSION_MAX: Final = 256
"""Of a vector that is learnt from: its sums take 4 bytes times its square, 263 kB at most."""
SLOTS_CACHED_MAX: Final = 65_536
NOT_FEATURES: Final = frozenset({"profile.version"})
"""In a decision's context for its log alone: an offset says nothing of a visitor."""
_LIMIT: Final = GRID * VALUE_MAX
_PLAIN: Final = (str, int, float)  # asked first: whether something is a Mapping is a slow question


@dataclass(frozen=True, slots=True)
class FeatureSpace:
    """How features become a vector. Immutable; two spaces with the same fields are the same everywhere.

    dimension: columns, the constant column 0 among them. named: features (`name` of a number or bool, `name=value` of
    a category) with a column of their own, from column 1 on. All others share the columns that are left, by a signed
    hash; where none is left they are ignored. seed: of the hash.
    Raises ValueError where the dimension has no room for the named ones, or is beyond DIMENSION_MAX.
    """

    dimension: int = 32
    named: tuple[str, ...] = ()
    seed: int = 0
    _columns: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """See the class."""
        if not 1 + len(self.named) <= self.dimension <= DIMENSION_MAX:
            raise ValueError(
                f"feature space: dimension {self.dimension}, expected 1 + {len(self.named)} named to {DIMENSION_MAX}"
            )
        if len(set(self.named)) < len(self.named):
            raise ValueError("feature space: a name stands twice among the named features")

    @property
    def fingerprint(self) -> int:
        """Return 48 bits that differ between spaces."""
        text = "\n".join((str(self.dimension), str(self.seed), str(GRID), *self.named))
        return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).digest(), "big")

    def vector(self, features: Mapping[str, object]) -> Vector:
        """Return the features' vector, shape (dimension,); column 0 is 1.

        features: bool (as 0 or 1), int, float, str; None counts as absent; a mapping inside is taken as `outer.inner`.
        Their order changes nothing. What NOT_FEATURES names is left out.
        Raises ValueError for a number that is not finite, TypeError for any other type.
        """
        columns = [0] * self.dimension
        columns[0] = GRID
        known = self._columns
        for name, value in flat(features):
            if isinstance(value, str):
                token, units = f"{name}={value}", GRID
            elif isinstance(value, int | float):
                token, units = name, _units(name, value)
            elif value is None:
                continue
            else:
                raise TypeError(f"feature {name!r}: {type(value).__name__}, expected a bool, number, string or null")
            at = known.get(token)
            if at is None:
                at = self._column(token)
            if at > 0:
                columns[at] += units
            elif at < 0:
                columns[-at] -= units
        if max(columns) > _LIMIT or min(columns) < -_LIMIT:
            columns = [min(max(units, -_LIMIT), _LIMIT) for units in columns]
        return np.array(columns, np.int16)

    def _column(self, token: str) -> int:
        """Return the token's column, negative where it is subtracted; 0: it has none. Remembers it."""
        if len(self._columns) >= SLOTS_CACHED_MAX:
            self._columns.clear()
        found = self._columns[token] = _column(self, token)
        return found


@dataclass(frozen=True, slots=True)
class FoldedSpace:
    """A feature space in fewer columns: those beyond share the others (see `folded`)."""

    whole: FeatureSpace
    dimension: int

    @property
    def fingerprint(self) -> int:
        """Return 48 bits that differ between spaces."""
        return (self.whole.fingerprint * 31 + self.dimension) % 2**48

    def vector(self, features: Mapping[str, object]) -> Vector:
        """Return the features' vector, shape (dimension,). See FeatureSpace."""
        return folded(self.whole.vector(features), self.dimension)


def flat(features: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Give features one by one, those of a mapping inside as `outer.inner`."""
    for name, value in features.items():
        if isinstance(value, _PLAIN) or not isinstance(value, Mapping):
            yield name, value
        else:
            for inner, found in flat(value):
                full = f"{name}.{inner}"
                if full not in NOT_FEATURES:
                    yield full, found


def _column(space: FeatureSpace, token: str) -> int:
    if token in space.named:
        return 1 + space.named.index(token)
    first = 1 + len(space.named)
    room = space.dimension - first
    if room == 0:
        return 0
    salt = struct.pack("<q", space.seed)
    digest = hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt).digest()
    bits = int.from_bytes(digest, "little")
    column = first + (bits >> 1) % room
    return column if bits & 1 else -column


def _units(name: str, value: float) -> int:
    """Return a number squeezed by log1p, in units of 1/GRID."""
    try:
        squeezed = math.log1p(abs(value))
    except OverflowError:  # an int beyond every float
        squeezed = float(VALUE_MAX)
    if not squeezed <= 1_000.0:
        raise ValueError(f"feature {name!r} = {value}: expected a finite number")
    units = round(squeezed * GRID) if squeezed < VALUE_MAX else _LIMIT
    return units if value >= 0 else -units


def crossed_columns(actions: int, contexts: int) -> int:
    """Return how many columns `crossed` gives for vectors of these."""
    return min(actions * contexts, DIMENSION_MAX)


def crossed(action: Vector, context: Vector) -> Vector:
    """Return the products of an action's and a context's columns: what one ridge over both learns from.

    action: shape (p,). context: shape (q,). Returns shape (crossed_columns(p, q),). Both have the constant column, so
    each one's own columns are among the products. Where there is no column for each product (then p is below
    DIMENSION_MAX), those with the context's constant have their own, and the others share what is left by a signed
    hash.
    """
    found: Vector = crossed_rows(action[None, :], context[None, :])[0]
    return found


def crossed_rows(actions: Vectors, contexts: Vectors) -> Vectors:
    """Return `crossed` of each row of both, shape (n, crossed_columns(p, q)): many at once cost a tenth each.

    actions: shape (n, p). contexts: shape (n, q). Only the columns that are not 0 are multiplied.
    """
    count, p = actions.shape
    q = contexts.shape[1]
    row, at = actions.nonzero()
    row_of, by = contexts.nonzero()
    many = np.bincount(row_of, minlength=count)  # columns that a row's context has, each of its action's meets all
    times = many[row]
    left = np.repeat(np.arange(len(at)), times)
    begins = (np.cumsum(many) - many)[row] - (np.cumsum(times) - times)
    right = np.arange(len(left)) + np.repeat(begins, times)
    products = actions[row, at].astype(np.float64)[left] * contexts[row_of, by].astype(np.float64)[right] / GRID
    table, columns, pair = crossing(p, q), crossed_columns(p, q), at[left] * q + by[right]
    signed = np.rint(products) * table.signs.ravel()[pair]
    places = row[left] * columns + table.places.ravel()[pair]
    return _clipped(np.bincount(places, signed, count * columns).reshape(count, columns))


class Crossing(NamedTuple):
    """Where each product of an action's column and a context's goes, and its sign; both of shape (p, q)."""

    places: NDArray[np.intp]
    signs: NDArray[np.float64]


@lru_cache(64)
def crossing(actions: int, contexts: int) -> Crossing:
    """Return where `crossed` puts the products of vectors of so many columns."""
    numbers = np.arange(actions * contexts).reshape(actions, contexts)
    if numbers.size <= DIMENSION_MAX:
        return Crossing(numbers, np.ones(numbers.shape))
    room = DIMENSION_MAX - actions
    if room < 1:
        raise ValueError(f"{actions} columns of an action, expected fewer than {DIMENSION_MAX}")
    hashes = [hashlib.blake2b(b"%d" % number, digest_size=8).digest() for number in range(numbers.size)]
    bits = np.frombuffer(b"".join(hashes), "<u8").reshape(numbers.shape)
    places = actions + (bits >> np.uint64(1)) % np.uint64(room)
    places[:, 0] = np.arange(actions)
    signs = np.where(bits & np.uint64(1), 1.0, -1.0)
    signs[:, 0] = 1.0
    return Crossing(places.astype(np.intp), signs)


def folded(vector: Vector, columns: int) -> Vector:
    """Return a vector with its columns beyond so many added to those before, the constant one left alone."""
    found: Vector = folded_rows(vector[None, :], columns)[0]
    return found


def folded_rows(vectors: Vectors, columns: int) -> Vectors:
    """Return `folded` of each row, shape (n, at most `columns`)."""
    count, whole = vectors.shape
    if whole <= columns:
        return vectors
    row, at = vectors.nonzero()
    places = row * columns + _folding(whole, columns)[at]
    return _clipped(np.bincount(places, vectors[row, at], count * columns).reshape(count, columns))


@lru_cache(64)
def _folding(count: int, columns: int) -> NDArray[np.intp]:
    """To which of so many columns each of `count` is added."""
    places = 1 + np.arange(-1, count - 1) % (columns - 1)
    places[0] = 0
    return places


def _clipped(units: NDArray[np.float64] | NDArray[np.int_]) -> Vectors:
    return np.minimum(np.maximum(units, -_LIMIT), _LIMIT).astype(np.int16)


def pack(vector: Vector) -> bytes:
    """Return a vector as little-endian int16, as a decision logs it."""
    return vector.astype("<i2").tobytes()


def unpack(raw: bytes) -> Vector:
    """Return a vector from its bytes. Raises ValueError where a number is cut short."""
    return np.frombuffer(raw, "<i2").astype(np.int16)
