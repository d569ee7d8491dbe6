"""Golden values for tests/test_tokenizer.c, and the proof that what tane exports means the same elsewhere.

    tokenizer.py             trains small models with Python's sentencepiece; writes them and what they give
    tokenizer.py --export T  exports every model with the program T (`tane`), checks the folders with transformers
                             text by text, and keeps each tokenizer.json that gave the same ids

Made with sentencepiece 0.2.3, transformers 5.23.0, tokenizers 0.23.3.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import tempfile

import sentencepiece as spm

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/tokenizer"

ARITHMETIC = [f"{a}{op}({b})={eval(f'{a}{op}({b})')}" for a in range(-12, 13) for b in range(-12, 13) for op in "+-*"]
PROSE = [f"The quick brown fox number {i} jumps over the lazy dog." for i in range(40)] + [
    "吾輩は猫である。名前はまだ無い。", "国境の長いトンネルを抜けると雪国であった。", "東京は日本の首都です。",
    "def f(x):\n    return x * 2  # twice", "emoji 😀 and café, naïve, ﬁne",
] * 4

COMMON = dict(pad_id=3, character_coverage=1.0, minloglevel=3, hard_vocab_limit=False, num_threads=1)
PLAIN = dict(normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False)

# A handful of rules, "from<TAB>to" in hexadecimal code points: the full NFKC map would be 240 KB. (The tokenizers
# library only applies rules within a grapheme, so AB would be left alone; e + acute is one.)
RULES = "FB01\t66 69\nFF11\t31\nFF12\t32\n41\t61\n65 301\tE9\nB5\t3BC\n9\t20\n"

MODELS = {
    "unigram": dict(PLAIN, model_type="unigram", vocab_size=35, sentences=ARITHMETIC),
    "bpe": dict(PLAIN, model_type="bpe", vocab_size=48, sentences=ARITHMETIC),
    "char": dict(PLAIN, model_type="char", vocab_size=64, sentences=ARITHMETIC),
    "bytes": dict(PLAIN, model_type="bpe", vocab_size=500, sentences=PROSE, byte_fallback=True),
    "user": dict(normalization_rule_name="identity", model_type="unigram", vocab_size=300, sentences=PROSE,
                 user_defined_symbols=["\t", "<sep>", "<sep2>"]),
    "rules": dict(model_type="unigram", vocab_size=280, sentences=PROSE, user_defined_symbols=["AB!"]),
    "rules_bpe": dict(model_type="bpe", vocab_size=400, sentences=PROSE, byte_fallback=True),
}

TEXTS = [
    "", " ", "   ", "1", "12+(-34)=-22", "-5*(-7)=35", " 12 + 3 ", "(()))==--11  ", "99999999999999999999",
    "The quick brown fox.", "  two  spaces  ", "tab\tand\nnewline\r\n", "吾輩は猫である。", "東京 大阪", "ﬁne café １２ µ",
    "AB ABA Ab", "AB AB!AB", "a<sep>b<sep2><sep>", "\t\tx\t", "😀", "😀😀 種種 x", "種1種2種", "<s>a</s><unk><pad>", "a▁b", "▁",
    "\x01\x02\x1f\x7f", "e\u0301", "\u200b\u00a0\u3000", "\ufffd", "<0x41>",
]
BROKEN = [
    b"\xff", b"1\xff2", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ab\xe3\x81", b"\xe7\xa8\xae\xe7\xa8 x",
    b"\x80\x80\x80",
]


def train(name, spec):
    spec = dict(spec)
    sentences = iter(spec.pop("sentences"))
    if name.startswith("rules"):
        with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
            rules.write(RULES)
            rules.flush()
            return train_bytes(sentences, normalization_rule_tsv=rules.name, **spec)
    return train_bytes(sentences, **spec)


def train_bytes(sentences, **spec):
    import io

    model = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=sentences, model_writer=model, **COMMON, **spec)
    return model.getvalue()


def type_of(sp, i):
    if sp.is_unknown(i): return "unknown"
    if sp.is_control(i): return "control"
    if sp.is_unused(i): return "unused"
    if sp.is_byte(i): return "byte"
    user = [s for spec in MODELS.values() for s in spec.get("user_defined_symbols", [])]
    return "user-defined" if sp.id_to_piece(i) in user else "normal"


def write_golden():
    OUT.mkdir(parents=True, exist_ok=True)
    golden = {"sentencepiece": spm.__version__, "models": {}}
    for name, spec in MODELS.items():
        model = train(name, spec)
        (OUT / f"{name}.model").write_bytes(model)
        sp = spm.SentencePieceProcessor(model_proto=model)
        cases = []
        for text in [t.encode() for t in TEXTS] + BROKEN:
            ids = sp.encode(text)
            cases.append({"text": text.hex(), "ids": ids, "decoded": sp.decode(ids).encode().hex()})
        pieces = [[sp.id_to_piece(i), sp.get_score(i), type_of(sp, i)] for i in range(len(sp))]
        golden["models"][name] = {"pieces": pieces, "cases": cases,
                                  "special": [sp.unk_id(), sp.bos_id(), sp.eos_id(), sp.pad_id()]}
    lines = [f'{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}' for k, v in golden["models"].items()]
    (OUT / "cases.json").write_text(
        '{"sentencepiece": "%s", "models": {\n%s\n}}\n' % (spm.__version__, ",\n".join(lines)))


def check_exports(tane):
    from transformers import AutoTokenizer

    for name in MODELS:
        sp = spm.SentencePieceProcessor(model_file=str(OUT / f"{name}.model"))
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([tane, "tokenizer", "export", OUT / f"{name}.model", "--out", folder], check=True)
            hf = AutoTokenizer.from_pretrained(folder)
            ids = (sp.unk_id(), sp.bos_id(), sp.eos_id(), sp.pad_id())
            assert ids == (hf.unk_token_id, hf.bos_token_id, hf.eos_token_id, hf.pad_token_id), name
            for text in TEXTS:
                if "</s>" in text or (name == "rules" and "AB!" in text):
                    # Special tokens to transformers, plain text to SentencePiece; and where a piece must be found
                    # before the character map, the tokenizers library splits the text there and adds a space to each
                    # part.
                    continue
                assert hf.encode(text) == sp.encode(text), (name, text, sp.encode(text), hf.encode(text))
                if sp.unk_id() not in sp.encode(text):  # written differently: " \u2047 " and "<unk>"
                    a, b = sp.decode(sp.encode(text)), hf.decode(sp.encode(text))
                    assert a == b, (name, text, a, b)
            shutil.copy(pathlib.Path(folder) / "tokenizer.json", OUT / f"{name}.tokenizer.json")
        print(name, "the same in transformers")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--export")
    args = parser.parse_args()
    check_exports(args.export) if args.export else write_golden()
