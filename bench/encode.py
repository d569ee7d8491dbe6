"""Encoding beside tiktoken and Hugging Face's tokenizers: one thread, vocabulary and documents the same, in turns.

    python bench/encode.py --text FILE [FILE ...] [--ranks FILE --pattern cl100k|o200k|gpt2] [--rounds 5]
                             [--bench build/bench/encode]

Without --ranks a vocabulary of 32,000 tokens is trained on the text (by tokenizers). Either way tiktoken gets it as
ranks, tokenizers and tane as one tokenizer.json. --text ja makes Japanese text: a chain of characters, each drawn by the
two before it, learned from README.ja.md.

Prints MB per CPU second (median round, slowest, fastest) and tane's ratio to each peer; ids are compared, all of them.
"""
import argparse
import base64
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
import tiktoken  # noqa: E402
import tokenizers  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
# tiktoken's text of an expression, and that of tokenizer.json files: cl100k_base's is possessive in tiktoken alone.
PATTERNS = {
    "gpt2": (GPT2, GPT2),
    "cl100k": (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
               r"|\s*[\r\n]|\s+(?!\S)|\s",
               r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
               r"|\s+(?!\S)|\s+"),
    "o200k": ("|".join([rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDING}",
                        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDING}", r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"]),) * 2,
}


def japanese(size=4 << 20):
    source = (ROOT / "README.ja.md").read_text()
    follows = defaultdict(list)
    for a, b, c in zip(source, source[1:], source[2:]):
        follows[a + b].append(c)
    rng, state, out, n = random.Random(1), source[:2], [], 0
    while n < size:
        c = rng.choice(follows.get(state) or [source[0]])
        out.append(c)
        state = state[1] + c
        n += len(c.encode())
    return "".join(out).encode()


def byte_characters():
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


CHARACTER = byte_characters()


def spell(token):
    return "".join(CHARACTER[b] for b in token)


def merges_of(ranks):
    """The last step of each token when it is merged by ranks alone: the merges of a tokenizer.json."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], 1 << 40))
            if parts[best] + parts[best + 1] not in ranks:
                break
            parts[best:best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append((spell(parts[0]), spell(parts[1])))
    return merges


def train(text):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    lines = text.decode().splitlines(keepends=True)
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=32000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    of_character = {c: b for b, c in CHARACTER.items()}
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    tokens = [bytes([b]) for b in range(256)] + [bytes(of_character[c] for c in a + b) for a, b in merges]
    return {t: i for i, t in enumerate(tokens)}


def read_ranks(path):
    return {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in open(path, "rb") if line.strip()}


def documents(text, size=16384):
    """As bench/encode.c cuts them."""
    at = 0
    while at < len(text):
        end = text.find(b"\n", at + size - 1) + 1 if len(text) - at > size else len(text)
        end = end or len(text)
        yield text[at:end].decode()
        at = end


class Row:
    def __init__(self, name):
        self.name, self.rates, self.ids, self.tane = name, [], None, False

    def median(self):
        return statistics.median(self.rates)

    def show(self, base):
        line = f"  {self.name:34} {self.median():9.2f}   ({min(self.rates):.2f}..{max(self.rates):.2f})"
        print(line + (f"   {base.median() / self.median():7.1f}" if base else ""), flush=True)


def tane_rounds(args, rows, tokenizer, text_path, ids_path):
    """One process: the first round with an empty cache of words, then rounds that find it filled."""
    command = [args.bench, "--tokenizer", tokenizer, "--text", text_path, "--pattern", args.pattern, "--rounds", "4",
               "--ids", ids_path]
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode:
        sys.exit(out.stderr)
    lines = [json.loads(line) for line in out.stdout.splitlines()]
    best = max(lines[1:], key=lambda r: r["encode"])
    for row, rate in zip(rows, (lines[0]["encode"], best["encode"], best["scan"], best["decode"], best["copy"])):
        row.rates.append(rate)
    import array
    ids = array.array("i")
    ids.frombytes(Path(ids_path).read_bytes())
    return list(ids)


def timed(row, encode, docs, n):
    start = time.process_time()
    ids = encode(docs)
    row.rates.append(n / (time.process_time() - start) / 1e6)
    row.ids = ids


def compare(text_name, text, args, folder):
    ranks = read_ranks(args.ranks) if args.ranks else train(text)
    tik_pattern, json_pattern = PATTERNS[args.pattern]
    text_path, ranks_path, json_path, ids_path = (os.path.join(folder, f) for f in
                                                  ("text", "ranks.tiktoken", "tokenizer.json", "ids"))
    Path(text_path).write_bytes(text)
    docs, n = list(documents(text)), len(text)
    encoding = tiktoken.Encoding("bench", pat_str=tik_pattern, mergeable_ranks=ranks, special_tokens={})
    vocab = {spell(t): i for t, i in ranks.items()}
    hf = Tokenizer(models.BPE(vocab=vocab, merges=merges_of(ranks), ignore_merges=True))
    hf.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(json_pattern), "isolated"),
                                                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    hf.decoder = decoders.ByteLevel()
    hf.save(json_path)
    contestants = {name: Row(name) for name in ("tiktoken", "tokenizers", "tokenizers, whole text")}
    tane = [Row(f"tane, {name}") for name in ("empty cache", "encode", "scanner alone", "decode", "copying the bytes")]
    for round_ in range(args.rounds):
        own = tane_rounds(args, tane, json_path, text_path, ids_path)
        timed(contestants["tiktoken"], lambda d: [i for x in d for i in encoding.encode_ordinary(x)], docs, n)
        if round_ < 2:  # slow, and steady
            timed(contestants["tokenizers"],
                  lambda d: [i for e in hf.encode_batch_fast(d, add_special_tokens=False) for i in e.ids], docs, n)
            timed(contestants["tokenizers, whole text"],
                  lambda d: hf.encode_batch_fast(["".join(d)], add_special_tokens=False)[0].ids, docs, n)
    print(f"{text_name}: {n / 1e6:.1f} MB, {len(docs)} documents, {len(ranks)} tokens, {len(own)} ids; MB per CPU second "
          f"(slowest..fastest), tane's ratio")
    for row in tane:
        row.show(None)
    for row in contestants.values():
        row.show(tane[1])
    for name in ("tiktoken", "tokenizers"):
        same = contestants[name].ids == own
        print(f"  ids of {name}: {'the same' if same else 'DIFFERENT'}")
        if not same and not (name == "tiktoken" and tik_pattern != json_pattern):
            sys.exit(1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--ranks")
    parser.add_argument("--pattern", default="o200k", choices=PATTERNS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--bench", default=str(ROOT / "build" / "bench" / "tokenize"))
    args = parser.parse_args()
    print(f"tiktoken {tiktoken.__version__}, tokenizers {tokenizers.__version__}; one thread; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        english = b"".join(Path(p).read_bytes() for p in args.text if p != "ja")
        if english:
            compare("text", english * args.repeat, args, folder)
        if "ja" in args.text:
            compare("Japanese", japanese(), args, folder)


if __name__ == "__main__":
    main()
