"""The text of mesh files: one way to decode it, and its numbers read many at a time.

A number of at most eighteen digits without an exponent is an integer over a power of ten, both exact in float64, so
that their quotient is the nearest float64 to what is written (Clinger 1990, "How to read floating point numbers
accurately"); these are read digit by digit, all words at once. Others go to Python's `float`, which is as exact.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshgan.arrays import Floats, Integers
from meshgan.errors import MeshganError
from meshgan.reading import decoded, shown, wide_encoding

BLOCK = 2**16  # words read at a time: what is needed for them stays in the cache
DIGITS = 18  # letters of a word that is read digit by digit; 10^18 < 2^63
EXACT = 2**53  # integers up to here are exact in float64
POWERS = 10.0 ** np.arange(DIGITS + 1)  # exact, up to 10^22
MARK = b"\xef\xbb\xbf"

Letters = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Words:
    """Words of a text: where each begins and ends (W,), and how many of all there are on each line (L,)."""

    letters: Letters
    begins: Integers
    ends: Integers
    counts: Integers
    first_line: int = 1
    chosen: Integers | None = None  # which of all words these are, if not all

    @classmethod
    def of(cls, text: bytes, first_line: int = 1) -> "Words":
        """All words of a text whose lines end in `\\n`."""
        letters = np.frombuffer(b"\n" + text + b"\n", dtype=np.uint8)
        solid = letters > ord(" ")
        changes = np.flatnonzero(solid[1:] != solid[:-1]) + 1
        begins, ends = changes[::2], changes[1::2]
        line_ends = np.flatnonzero(letters[1:] == ord("\n")) + 1
        return cls(letters, begins, ends, np.diff(np.searchsorted(begins, line_ends), prepend=0), first_line)

    def some(self, chosen: Integers) -> "Words":
        """Some of all words, by their numbers."""
        return Words(self.letters, self.begins[chosen], self.ends[chosen], self.counts, self.first_line, chosen)

    def line(self, number: int) -> int:
        """The line on which a word stands."""
        among_all = number if self.chosen is None else self.chosen[number]
        return int(np.searchsorted(np.cumsum(self.counts), among_all, side="right")) + self.first_line

    def statements(self, keyword: bytes) -> tuple[Integers, Integers]:
        """The lines that begin with a lower-case keyword, whatever their capitals: (N,) numbers of their first words,
        and how many words each has."""
        starts = np.cumsum(self.counts) - self.counts
        lines = np.flatnonzero(self.counts)
        first = starts[lines]
        alike = self.ends[first] - self.begins[first] == len(keyword)
        lines, first = lines[alike], first[alike]
        for place, letter in enumerate(keyword):
            alike = self.letters[self.begins[first] + place] | 32 == letter
            lines, first = lines[alike], first[alike]
        return first, self.counts[lines]

    def word(self, number: int) -> bytes:
        """One of the words."""
        return self.letters[self.begins[number] : self.ends[number]].tobytes()

    def numbers(self) -> Floats:
        """The values (W,) of all words. Raises `MeshganError` that names the first that is no number, and its line."""
        values = np.empty(len(self.begins))
        for start in range(0, len(values), BLOCK):
            block = slice(start, start + BLOCK)
            values[block], hard = _easy(self.letters, self.begins[block], self.ends[block])
            for number in (np.flatnonzero(hard) + start).tolist():
                word = self.word(number)
                try:
                    values[number] = float(word.replace(b"_", b"x"))  # only Python allows 1_000
                except ValueError as error:
                    raise MeshganError(f"line {self.line(number)}: {told(word)}") from error
        return values

    def coordinates(self, keyword: bytes, most: int) -> Floats:
        """The three numbers (N, 3) behind a keyword, on each line that begins with it; more may follow."""
        first, counts = self.statements(keyword)
        if len(first) > most:
            raise MeshganError(f"it would have {len(first):,} corners or vertices; {most:,} are read at most.")
        if (counts < 4).any():
            line = self.line(int(first[(counts < 4).argmax()]))
            raise MeshganError(f"line {line}: a vertex needs three coordinates; is the file cut off?")
        places = (first[:, None] + np.arange(1, 4)).ravel()
        numbers = self.some(places).numbers().reshape(-1, 3)
        if not np.isfinite(numbers).all():
            line = self.line(int(first[np.isfinite(numbers).all(axis=1).argmin()]))
            raise MeshganError(f"line {line}: a coordinate is NaN or infinite.")
        return numbers


def plain(data: bytes) -> bytes:
    """The text of a file in UTF-8 or a superset of ASCII, without a mark, its lines ended by `\\n`."""
    if wide_encoding(data):
        return decoded(data).encode("utf-8", "replace")
    data = data.removeprefix(MARK)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data.rstrip(b"\x1a\0")


def told(word: bytes) -> str:
    """Why a word is no number, as the end of a sentence."""
    text = shown(word[:20])
    decimal = "," in text and text.replace(",", "").strip("+-").isdigit()
    return f"'{text}' is not a number{'; write decimals with a point' if decimal else ''}."


def _easy(letters: Letters, begins: Integers, ends: Integers) -> tuple[Floats, NDArray[np.bool_]]:
    """The values of words that are digits with at most a sign and a point, and which words are others."""
    lengths = ends - begins
    width = min(int(lengths.max(initial=0)), DIGITS)
    first = letters[begins]
    negative = first == ord("-")
    hard = lengths > DIGITS
    mantissa, decimals = np.zeros(len(begins), dtype=np.int64), np.zeros(len(begins), dtype=np.int64)
    behind = np.zeros(len(begins), dtype=bool)  # the point
    some = np.zeros(len(begins), dtype=bool)  # digits
    for place in range(width):
        inside = place < lengths
        letter = letters[np.where(inside, begins + place, 0)]  # letter 0 is a line's end
        digit = letter - np.uint8(ord("0"))
        is_digit = digit <= 9
        is_point = letter == ord(".")
        hard |= inside & ~(is_digit | (is_point & ~behind) | ((place == 0) & (negative | (first == ord("+")))))
        np.copyto(mantissa, mantissa * 10 + digit, where=is_digit)
        decimals += is_digit & behind
        behind |= is_point
        some |= is_digit
    hard |= ~some | (mantissa > EXACT)
    values = mantissa / POWERS[decimals]
    return np.where(negative, -values, values), hard
