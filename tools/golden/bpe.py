"""Golden files of splitting and byte-pair encoding.

    python tools/golden/bpe.py classes    tests/golden/unicode_classes.txt: tiktoken's classes of every code point
    python tools/golden/bpe.py bpe        tests/golden/bpe.json: vocabularies, texts, and the ids that tiktoken and
                                          tokenizers give them

Written with tiktoken 0.14.0 and tokenizers 0.23.3, whose regular expressions both know Unicode 16. The vocabularies are
trained on tane's own pages.
"""
import json
import random
import sys
from pathlib import Path

import tiktoken
import tokenizers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
SURROGATES = range(0xD800, 0xE000)

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
          r"|\s+(?!\S)|\s")


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


def byte_alphabet():
    """GPT-2's characters for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def pages():
    return [p.read_text() for p in [ROOT / "README.md", ROOT / "README.ja.md", *sorted((ROOT / "docs").glob("*.md"))]]


def texts():
    rng = random.Random(5)
    fixed = [
        "", " ", "a", "the", "The model's weights, and it's what they'LL say: don't.",
        "  two  spaces\n\n\tand\r\nlines  ",
        "1234567 3.14159 2026-11-22", "日本語のテキストを、トークンに分ける。", "種は学習し、評価し、動かすプログラムです。",
        "naïve café — “quotes” … €5", "e\u0301 n\u0303 \u0301", "👩‍👩‍👧‍👦 🇯🇵 ✊🏽", "русский текст", "हिन्दी में",
        "한국어", "ไทย",
        "x" * 40, "=" * 100, "ab" * 50, "あ" * 60, "\u0001\u007f", "don\u017f't 'ſ", "\U0010ffff\ue000\u0378",
        "averyveryverylongwordthatnobodyeverwroteinonepieceandthatiscut", "ａｂｃ１２３", "\u00a0\u3000\u2028 x",
    ]
    pool = [*"abcdefghij THE.,!?'\n0123", *"あいうえおのをにはですます日本語学習、。", "ing", " the", "é", "ß", "ж", "ب", "क", "ก",
            "\u200d", "\U0001f600", "\u0301", "\ufffd"]
    made = ["".join(rng.choice(pool) for _ in range(rng.randrange(1, 40))) for _ in range(30)]
    wild = ["".join(chr(c) for c in (rng.randrange(0x110000) for _ in range(12)) if c not in SURROGATES)
            for _ in range(10)]
    return fixed + made + wild


def bpe():
    corpus = pages()
    out = {"by": f"tools/golden/bpe.py, tiktoken {tiktoken.__version__}, tokenizers {tokenizers.__version__}",
           "texts": texts(), "vocabularies": {}, "models": []}
    alphabet = byte_alphabet()

    # Bytes: ids 0 to 255 are the bytes themselves, then the merges in their order.
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=1100, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    byte_of = {c: b for b, c in alphabet.items()}
    merges = [tuple(m) for m in json.loads(trained.to_str())["model"]["merges"]]
    tokens = [alphabet[b] for b in range(256)] + [a + b for a, b in merges]
    raw = [bytes(byte_of[c] for c in t) for t in tokens]
    of = {t: i for i, t in enumerate(tokens)}
    out["vocabularies"]["bytes"] = {"tokens": [t.hex() for t in raw],
                                    "merges": [[of[a], of[b], of[a + b]] for a, b in merges]}
    for name, pattern in ("gpt2", GPT2), ("cl100k", CL100K):
        encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks={t: i for i, t in enumerate(raw)},
                                     special_tokens={})
        out["models"].append({"name": f"tiktoken, {name}", "vocabulary": "bytes", "pattern": pattern, "ranks": True,
                              "ids": [encoding.encode_ordinary(t) for t in out["texts"]]})
    for ignore in False, True:
        # Words that are tokens by themselves differ only where the merges lead elsewhere: turned round, they do.
        used = merges if not ignore else merges[::-1]
        tokenizer = Tokenizer(models.BPE(vocab=of, merges=used, ignore_merges=ignore))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        out["models"].append({"name": f"tokenizers, bytes, ignore_merges {ignore}", "vocabulary": "bytes",
                              "pattern": GPT2, "ignore_merges": ignore, "reversed": ignore,
                              "ids": [tokenizer.encode(t).ids for t in out["texts"]]})

    # Characters: the whole text is one word.
    special = ["<unk>"] + [f"<0x{b:02X}>" for b in range(256)]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, limit_alphabet=200, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    of, merges = model["vocab"], [tuple(m) for m in model["merges"]]
    tokens = sorted(of, key=of.get)
    out["vocabularies"]["chars"] = {"tokens": [t.encode().hex() for t in tokens],
                                    "merges": [[of[a], of[b], of[a + b]] for a, b in merges]}
    for unk, fuse, fallback in (1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0), (0, 0, 1):
        tokenizer = Tokenizer(models.BPE(vocab=of, merges=merges, unk_token="<unk>" if unk else None,
                                         fuse_unk=bool(fuse), byte_fallback=bool(fallback)))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        out["models"].append({"name": f"tokenizers, characters, unk {unk} fuse {fuse} byte fallback {fallback}",
                              "vocabulary": "chars", "unk": of["<unk>"] if unk else -1, "fuse_unk": bool(fuse),
                              "byte_tokens": of["<0x00>"] if fallback else -1,
                              "ids": [tokenizer.encode(t).ids for t in out["texts"]]})
    (GOLDEN / "bpe.json").write_text(json.dumps(out, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    {"classes": classes, "bpe": bpe}[sys.argv[1]]()
