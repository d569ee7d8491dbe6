"""Golden values for tests/test_bpe_train.c: what Hugging Face's BpeTrainer learns.

    bpe_train.py                     writes tests/golden/bpe_train.json
    bpe_train.py --data FOLDER       adds cases on real text (text/*.txt, gsm8k/*.jsonl), of which only hashes are kept
    bpe_train.py --check TANE FILES  trains with the program TANE (`tane`) and here, compares the two tokenizer.json,
                                     and the ids that both give for the files

Made with tokenizers 0.23.3.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import tokenizers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/bpe_train.json"
EOT = "<|endoftext|>"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
ANY = r"[\s\S]{1,7}"

# make_text() in the test is the same function.
ALPHABETS = ["ab", "aaab", "etaoinshrdlu", "0123456789", "çéßñø", "種田山頭火", "😀🎉x", "-=+!?"]
GAPS = [" ", " ", " ", " ", "  ", "\n", ", ", "'s ", "\t", " \n\n ", "", "   "]


def make_text(seed, longest, n_words, n_known):
    state = seed

    def below(n):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 33) % n

    known = []
    for _ in range(n_known):
        letters = ALPHABETS[below(len(ALPHABETS))]
        known.append("".join(letters[below(len(letters))] for _ in range(1 + below(longest))))
    return "".join(known[below(1 + below(n_known))] + GAPS[below(len(GAPS))] for _ in range(n_words))


def train(texts, vocab_size, min_frequency, special, pattern):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pattern:
        tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=special,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tok.train_from_iterator(texts, trainer)
    return tok


def learned(tok):
    """Tokens by id, and merges as pairs of ids."""
    model = json.loads(tok.to_str())["model"]
    ids = model["vocab"]
    return sorted(ids, key=ids.get), [[ids[a], ids[b]] for a, b in model["merges"]]


def fnv(tokens, merges):
    text = "".join(t + "\n" for t in tokens) + "".join(f"{a} {b}\n" for a, b in merges)
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return f"{h:016x}"


def case(texts, vocab_size, min_frequency=2, special=(EOT,), pattern=None, **source):
    """The trainer keeps its words in tables with random seeds: twice, to see that this does not show."""
    tokens, merges = learned(train(texts, vocab_size, min_frequency, list(special), pattern))
    assert (tokens, merges) == learned(train(texts, vocab_size, min_frequency, list(special), pattern))
    return dict(source, vocab_size=vocab_size, min_frequency=min_frequency, special=list(special), pattern=pattern,
                tokens=len(tokens), merges=len(merges), hash=fnv(tokens, merges)), tokens, merges


def made_cases():
    for seed, longest, n_words, n_known in [(1, 3, 2000, 400), (2, 8, 4000, 900), (3, 40, 3000, 500),
                                            (4, 12, 60000, 8000), (5, 300, 300, 100)]:
        text = make_text(seed, longest, n_words, n_known)
        made = dict(made=[seed, longest, n_words, n_known])
        for vocab_size in (257, 300, 1000, 5000):
            yield case([text], vocab_size, **made)[0]
        yield case([text], 700, min_frequency=0, special=(), **made)[0]
        yield case([text], 700, min_frequency=30, **made)[0]
        # Special tokens that are a byte's character, and texts that merges make.
        yield case([text], 600, special=("a", "aa", "ab", "Ġa", "th", "aab", EOT), **made)[0]
        yield case([text], 900, pattern=LLAMA3, **made)[0]
        yield case([text], 900, pattern=ANY, **made)[0]


def real_cases(data):
    def texts(name):
        path = data / name
        if path.suffix == ".txt": return [path.read_text(encoding="utf-8")]
        return [r["question"] + r["answer"] for r in map(json.loads, path.read_text(encoding="utf-8").splitlines())]

    for name in ["text/tinyshakespeare.txt", "text/wikitext2.valid.txt", "text/wikitext2.test.txt", "gsm8k/train.jsonl",
                 "gsm8k/test.jsonl"]:
        for vocab_size in (1000, 8000, 32000):
            yield case(texts(name), vocab_size, file=name)[0]
        yield case(texts(name), 8000, pattern=LLAMA3, file=name)[0]


def write(data):
    text = "The cat sat. The cats' 12 hats, café 種\n\nthe the the cat"
    small, tokens, merges = case([text], 290)
    lines = [json.dumps(c) for c in made_cases()]
    lines += [json.dumps(c) for c in real_cases(data)] if data else []
    small.update(text=text, all_tokens=tokens, all_merges=merges)
    OUT.write_text('{"tokenizers": "%s",\n"small": %s,\n"cases": [\n%s\n]}\n' % (
        tokenizers.__version__, json.dumps(small), ",\n".join(lines)))


def check(tane, files):
    texts = [pathlib.Path(f).read_bytes().decode() for f in files]
    for pattern in (None, LLAMA3):
        for vocab_size in (400, 8000, 32000):
            reference = train(texts, vocab_size, 2, [EOT], pattern)
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run([tane, "tokenizer", "train", "--model-type", "byte_bpe", "--out", folder + "/t",
                                "--vocab-size", str(vocab_size), *(["--pattern", pattern] if pattern else []),
                                "--input", *files], check=True)
                ours = Tokenizer.from_file(folder + "/t/tokenizer.json")
                assert learned(ours) == learned(reference)
                for text in texts:
                    ids = ours.encode(text).ids
                    assert ids == reference.encode(text).ids and ours.decode(ids) == text
                    found = subprocess.run([tane, "tokenizer", "encode", folder + "/t"], input=text + "\n",
                                           capture_output=True, text=True, check=True).stdout
                    assert found.split() == list(map(str, ids))
            print("the same:", pattern or "GPT-2's pattern", vocab_size)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--check", nargs="+")
    args = parser.parse_args()
    check(args.check[0], args.check[1:]) if args.check else write(args.data)
