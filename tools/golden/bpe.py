"""Golden files of splitting and byte-pair encoding.

    python tools/golden/bpe.py classes    tests/golden/unicode_classes.txt: tiktoken's classes of every code point

Written with tiktoken 0.14.0 and tokenizers 0.23.3, whose regular expressions both know Unicode 16.
"""
import sys
from pathlib import Path

import tiktoken

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
SURROGATES = range(0xD800, 0xE000)


def classes():
    """For each run of code points with the same classes: the first of them and the classes (bits of text/unicode.h)."""
    bits = {
        r"\p{L}": 1, r"\p{N}": 2, r"\s": 4, r"\p{M}": 8, r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]": 16,
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]": 32, r"[\p{P}\p{S}]": 128,
    }
    of = [0] * 0x110000
    for pattern, bit in bits.items():
        # A token for each byte: what the expression leaves out gives no token.
        encoding = tiktoken.Encoding("classes", pat_str=pattern, mergeable_ranks={bytes([i]): i for i in range(256)},
                                     special_tokens={})
        for code in range(0x110000):
            if code not in SURROGATES and encoding.encode_ordinary(chr(code)):
                of[code] |= bit
    lines = [f"# by tools/golden/bpe.py, tiktoken {tiktoken.__version__}: first code point of a run, its classes"]
    lines += [f"{c:x} {of[c]:x}" for c in range(0x110000) if c == 0 or of[c] != of[c - 1]]
    (GOLDEN / "unicode_classes.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    {"classes": classes}[sys.argv[1]]()
