"""Tokenizers of the families' kinds, made with Hugging Face's tokenizers, and what these say about texts.

    tokenizer_json.py golden                     writes tests/golden/tokenizer_json/ (small, committed)
    tokenizer_json.py build FOLDER DATA...       large ones, trained on the files DATA
    tokenizer_json.py compare FOLDER DRIVER DATA...
                                                 ids, offsets and texts of tane's tools/tokenizer_driver beside the library's
                                                 own on the files, every code point of Unicode, random strings

The pipelines are those of the families' tokenizer.json files, written down with the library's classes as transformers'
converters do; the vocabularies are trained here. Made with tokenizers 0.23.3, sentencepiece 0.2.3, Python 3.11."""

import base64
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
GOLDEN = os.path.join(ROOT, "tests", "golden", "tokenizer_json")

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]" + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]
SPACE = "▁"


def special(*texts):
    return [AddedToken(t, special=True, normalized=False) for t in texts]


def template(tok, before, after=()):
    def ids(names):
        return [(n, tok.token_to_id(n)) for n in names]
    single = " ".join([f"{n}:0" for n in before] + ["$A:0"] + [f"{n}:0" for n in after])
    pair = single + " " + " ".join([f"{n}:1" for n in before] + ["$B:1"] + [f"{n}:1" for n in after])
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids(list(before) + list(after)))


# ---- vocabularies


def train_bytes(texts, size, pre, normalizer=None):
    """A byte-level vocabulary and its merges, without special tokens."""
    tok = Tokenizer(models.BPE())
    if normalizer:
        tok.normalizer = normalizer
    tok.pre_tokenizer = pre
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=[],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(texts, trainer)
    model = json.loads(tok.to_str())["model"]
    return model["vocab"], [tuple(m) for m in model["merges"]]


def train_chars(texts, size, head, keep_runs=False):
    """A SentencePiece-style vocabulary: head, 256 bytes, then what BPE over words with U+2581 in front makes."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.Replace(" ", SPACE)
    tok.pre_tokenizer = pre_tokenizers.Split(Regex(f"{SPACE}*[^{SPACE}]+|{SPACE}+"), "isolated")
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=[],
                                                       limit_alphabet=400))
    model = json.loads(tok.to_str())["model"]
    merges = [tuple(m) for m in model["merges"]]
    names = list(head) + [f"<0x{b:02X}>" for b in range(256)]
    made = [a + b for a, b in merges]
    chars = [t for t in model["vocab"] if len(t) == 1]
    names += [t for t in dict.fromkeys(made + sorted(chars)) if t not in names]
    return {t: i for i, t in enumerate(names)}, merges


# A small map of characters for the small tokenizers: one to one, one to many, to nothing, and clusters.
RULES = [("\u3000", " "), ("\t", " "), ("\n", " "), ("\r", ""), ("\ufb01", "fi"), ("\u2122", "TM"), ("\u2026", "..."),
         ("\u200b", " "), ("\u00ad", ""), ("\u00a0", " "), ("e\u0301", "\u00e9"), ("\uff76\uff9e", "\u30ac"), ("\uff76", "\u30ab"),
         ("\u2167", "VIII"), ("\u1100\u1161", "\uac00"), ("A\u030a", "\u00c5"), ("\u212b", "\u00c5"), ("\r\n", " ")]
RULES += [(chr(c), chr(c - 0xFEE0)) for c in range(0xFF01, 0xFF5F)]


def fields(message):
    """Numbers and payloads of a protobuf message."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        n = {1: 8, 5: 4}.get(key & 7) or varint()
        yield key >> 3, message[at:at + n]
        at += n


def train_spm(texts, size, rule, **options):
    """Pieces with scores, and the map of characters."""
    out = io.BytesIO()
    sentences = [line for t in texts for line in t.split("\n") if line.strip()]
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as tsv:
        if size < 2000:
            rows = [[" ".join(f"{ord(c):X}" for c in side) for side in pair] for pair in RULES]
            tsv.write("".join(f"{a}\t{b}\n" for a, b in rows))
            tsv.flush()
            options["normalization_rule_tsv"] = tsv.name
        else:
            options["normalization_rule_name"] = rule
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(sentences), model_writer=out, vocab_size=size,
                                                 minloglevel=2, num_threads=1, hard_vocab_limit=False, **options)
    model = dict(fields(out.getvalue()))
    sp = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    pieces = [(sp.id_to_piece(i), sp.get_score(i)) for i in range(len(sp))]
    return pieces, normalizers.Precompiled(dict(fields(model[3]))[2])


# ---- families


def byte_level_bpe(vocab, merges, **options):
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, **options))
    tok.decoder = decoders.ByteLevel()
    return tok


def gpt2(texts, size):
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    tok = byte_level_bpe(*train_bytes(texts, size, pre))
    tok.pre_tokenizer = pre
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.add_special_tokens(special("<|endoftext|>"))
    return tok


def roberta(texts, size):
    pre = pre_tokenizers.ByteLevel(add_prefix_space=True, trim_offsets=False)
    vocab, merges = train_bytes(texts, size, pre)
    names = ["<s>", "<pad>", "</s>", "<unk>"] + list(vocab) + ["<mask>"]
    tok = byte_level_bpe({t: i for i, t in enumerate(names)}, merges, unk_token="<unk>")
    tok.pre_tokenizer = pre
    tok.add_special_tokens(special("<s>", "<pad>", "</s>", "<unk>"))
    tok.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    tok.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False, add_prefix_space=True)
    return tok


def llama3(texts, size, pattern=LLAMA3):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    tok = byte_level_bpe(*train_bytes(texts, size, pre), ignore_merges=True)
    tok.pre_tokenizer = pre
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tok.add_special_tokens(special(*names))
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template(tok, names[:1])])
    return tok


def tekken(texts, size):
    return llama3(texts, size, TEKKEN)


def qwen2(texts, size):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    tok = byte_level_bpe(*train_bytes(texts, size, pre, normalizers.NFC()))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tok.add_tokens([AddedToken("<tool_call>", special=False, normalized=False),
                    AddedToken("</tool_call>", special=False, normalized=False)])
    return tok


def deepseek(texts, size):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in DEEPSEEK] +
                                  [pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])
    vocab, merges = train_bytes(texts, size, pre)
    names = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"] + list(vocab)
    tok = byte_level_bpe({t: i for i, t in enumerate(names)}, merges)
    tok.normalizer = normalizers.Sequence([])
    tok.pre_tokenizer = pre
    tok.add_special_tokens(special(*names[:2]))
    tok.add_tokens([AddedToken("<｜User｜>", special=False, normalized=False)])
    tok.post_processor = template(tok, names[:1])
    return tok


def smollm(texts, size):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)])
    vocab, merges = train_bytes(texts, size, pre)
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + list(vocab)
    tok = byte_level_bpe({t: i for i, t in enumerate(names)}, merges)
    tok.pre_tokenizer = pre
    tok.add_special_tokens(special(*names[:3]))
    return tok


LLAMA_DECODER = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]


def llama2(texts, size):
    vocab, merges = train_chars(texts, size, ["<unk>", "<s>", "</s>"])
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tok.decoder = decoders.Sequence(LLAMA_DECODER + [decoders.Strip(" ", 1, 0)])
    tok.add_special_tokens(special("<unk>", "<s>", "</s>"))
    tok.post_processor = template(tok, ["<s>"])
    return tok


def mistral(texts, size):
    """Metaspace in place of the normalizers, a space in front of the text only."""
    tok = llama2(texts, size)
    tok.normalizer = None
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
    tok.add_special_tokens(special("[INST]", "[/INST]"))
    return tok


def phi3(texts, size):
    tok = llama2(texts, size)
    tok.add_special_tokens([AddedToken(t, rstrip=True, special=True, normalized=False)
                            for t in ("<|assistant|>", "<|user|>", "<|end|>")])
    return tok


def no_fallback(texts, size):
    """Characters without a token are <unk>, one each."""
    vocab, merges = train_chars(texts, size, ["<unk>", "<s>", "</s>"])
    vocab = {t: i for i, t in enumerate([t for t in vocab if not (len(t) == 6 and t.startswith("<0x"))])}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=False))
    tok.normalizer = normalizers.Replace(" ", SPACE)
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    tok.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    tok.add_special_tokens(special("<unk>", "<s>", "</s>"))
    return tok


def gemma(texts, size):
    head = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<unused0>"]
    runs = ["\n" * n for n in range(1, 9)] + [SPACE * n for n in range(2, 9)] + ["<table>", "</h1>"]
    vocab, merges = train_chars(texts, size, head + runs)
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Replace(" ", SPACE)
    tok.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tok.decoder = decoders.Sequence(LLAMA_DECODER)
    tok.add_special_tokens(special(*head[:5]))
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in head[5:] + runs])
    tok.post_processor = template(tok, ["<bos>"])
    return tok


def t5(texts, size):
    pieces, charsmap = train_spm(texts, size, "nmt_nfkc", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    pieces += [("<extra_id_1>", 0.0), ("<extra_id_0>", 0.0)]
    tok = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tok.normalizer = normalizers.Sequence([charsmap, normalizers.Strip(left=False, right=True),
                                           normalizers.Replace(Regex(" {2,}"), SPACE)])
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    tok.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    tok.add_special_tokens(special("<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_1>"))
    tok.post_processor = template(tok, [], ["</s>"])
    return tok


def albert(texts, size):
    pieces, charsmap = train_spm([t.lower() for t in texts], size, "nmt_nfkc_cf", byte_fallback=True, pad_id=3)
    tok = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace("''", '"'),
                                           normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(),
                                           charsmap, normalizers.Replace(Regex(" {2,}"), " ")])
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=True)
    tok.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement=SPACE)])
    tok.add_special_tokens(special("<unk>", "<s>", "</s>", "<pad>"))
    tok.add_tokens([AddedToken("ROMEO", special=False, normalized=True)])
    tok.post_processor = template(tok, ["<s>"], ["</s>"])
    return tok


def bert(texts, size, lower=True):
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lower)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tok.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=size, show_progress=False, special_tokens=names,
                                                             limit_alphabet=300))
    tok.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tok.post_processor = template(tok, ["[CLS]"], ["[SEP]"])
    return tok


def bert_cased(texts, size):
    tok = bert(texts, size, lower=False)
    tok.post_processor = processors.BertProcessing(("[SEP]", tok.token_to_id("[SEP]")), ("[CLS]", tok.token_to_id("[CLS]")))
    return tok


def steps(texts, size):
    """What no family has together: many steps, added tokens of all kinds."""
    tok = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tok.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Strip(), normalizers.NFD(),
                                           normalizers.StripAccents(), normalizers.Lowercase(),
                                           normalizers.Replace(Regex("[aeiou]{2}"), "V"), normalizers.NFC()])
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("merged_with_previous"),
        pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.CharDelimiterSplit("-"),
        pre_tokenizers.Split("th", "merged_with_next"), pre_tokenizers.Split(Regex("[xyz]+"), "contiguous"),
        pre_tokenizers.Split(Regex("[a-m]+"), "removed", invert=True), pre_tokenizers.Whitespace()])
    tok.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=size, show_progress=False, special_tokens=["[UNK]"]))
    tok.add_special_tokens(special("[UNK]"))
    tok.add_special_tokens([AddedToken("<l>", lstrip=True, special=True, normalized=False),
                            AddedToken("<r>", rstrip=True, special=True, normalized=False),
                            AddedToken("<lr>", lstrip=True, rstrip=True, special=True, normalized=False),
                            AddedToken("<w>", single_word=True, special=True, normalized=False)])
    tok.add_tokens([AddedToken("King", normalized=True), AddedToken("Queen Mary", single_word=True, normalized=True),
                    AddedToken("the the", lstrip=True, rstrip=True, normalized=True),
                    AddedToken("ab", normalized=False), AddedToken("abc", normalized=False),
                    AddedToken("bcd", normalized=False)])
    tok.decoder = decoders.BPEDecoder("V")
    return tok


def byte_normalizer(texts, size):
    """GPT-2's alphabet as a normalizer."""
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    vocab, merges = train_bytes(texts, size, pre)
    tok = byte_level_bpe(vocab, merges)
    tok.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.ByteLevel()])
    tok.pre_tokenizer = pre_tokenizers.Split(Regex("Ġ?[^Ġ]+|Ġ+"), "isolated")
    tok.add_tokens([AddedToken("añadido", normalized=True)])
    return tok


FAMILIES = [gpt2, roberta, llama3, tekken, qwen2, deepseek, smollm, llama2, mistral, phi3, no_fallback, gemma, t5, albert,
            bert, bert_cased, steps, byte_normalizer]

# ---- texts

JAPANESE = ["吾輩は猫である。名前はまだ無い。", "どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。",
            "ｶﾀｶﾅと全角ＡＢＣ１２３、㍻㌔①", "東京特許許可局　　「はい」…", "がぎぐ がぎぐ"]
MIXED = ["Hello, world! It's 2026; we'll see 1234567.89 €.", "naïve café résumé Ångström ẞß ſt ﬁ ™ Ⅷ ½", "ÀÉÎõü ÀÉ",
         "Привет мир, как дела?", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก",
         "안녕하세요 세계 한글", "你好，世界。这是一个测试", "🙂👨‍👩‍👧‍👦🏳️‍🌈👍🏽 e\u0301\u0301\u0323", "a\u200bb\u00adc\ufeffd\u2028e\u0085f",
         "\t\ttabs\r\n\r\nlines\n\n\n\n   spaces   end  ", "if (x < 0) {\n        return \"\\n\";\n}\n", "IT'S WE'LL I'M ſ'S 'ſ K'K",
         "``quoted'' 'it is do not' n't .", "the the King queen mary <l> <r> <lr> x<w>y <w> abcd ababcd the-end xyz123",
         "<s>a</s> <unk> [CLS] [MASK] <|im_start|>user\nhi<|im_end|> <|endoftext|><0x41> ▁x▁▁ y", "ROMEO and Romeo, romeo añadido",
         "<|user|>  \n hi <|end|>\n<|assistant|>", "<tool_call>{}</tool_call><｜User｜>x<table>\n\n\n</h1>", " ", "", "\n", "  a"]
BROKEN = [b"a\xffb", b"\xe2\x82", b"\xe2\x82A", b"\xf0\x9f\x98", b"\xf0\x80\x80\x80", b"\xed\xa0\x80", b"\xc0\xaf\xc3", b"\x80\x81 ok",
          b"\xf4\x90\x80\x80\xe3\x81\x82"]
SCRIPTS = [(0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x17F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x6FF),
           (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x2000, 0x206F), (0x20A0, 0x214F), (0x2460, 0x24FF),
           (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFB00, 0xFB4F), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF),
           (0x1F300, 0x1FAFF), (0x1F1E6, 0x1F1FF), (0x1D400, 0x1D7FF), (0x10000, 0x10FFFF)]
WORDS = ["the", " the", "King", "'s", "'LL", "\n", "\r\n", "  ", "\t", " ", "123", "don't", "<s>", "</s>", "<unk>", "<|im_end|>",
         "<|endoftext|>", "<l>", " <r> ", "<w>", "abc", "▁", "<0x0A>", "Ġ", "of", "tion", ".", ",", "ROMEO", "[MASK]", "\u0301"]


def random_text(rng):
    out = []
    for _ in range(rng.randint(1, 12)):
        kind = rng.random()
        if kind < 0.45:
            out.append(rng.choice(WORDS).encode())
        elif kind < 0.95:
            lo, hi = rng.choice(SCRIPTS)
            run = "".join(chr(rng.randint(lo, hi)) for _ in range(rng.randint(1, 5)))
            out.append(run.encode("utf-8", "ignore"))
        else:
            out.append(bytes(rng.randint(0x80, 0xFF) for _ in range(rng.randint(1, 4))))
    return b"".join(out)


def all_code_points():
    """Every code point that Python knows, and noncharacters, with neighbours and alone."""
    codes = [c for c in range(1, 0x110000) if not 0xD800 <= c <= 0xDFFF and
             (unicodedata.category(chr(c)) not in ("Cn", "Co") or c % 997 == 0 or c < 0x600)]
    for at in range(0, len(codes), 16):
        chunk = [chr(c) for c in codes[at:at + 16]]
        yield "".join(chunk).encode()
        yield "".join(f"a{c} {c}1{c}" for c in chunk).encode()


# ---- golden


def answers(tok, raw):
    """What the library says about a text: ids without and with special tokens parsed, ends, both decodings."""
    text = raw.decode("utf-8", "replace")
    tok.encode_special_tokens = True
    plain = tok.encode(text, add_special_tokens=False)
    tok.encode_special_tokens = False
    parsed = tok.encode(text, add_special_tokens=True)
    return {"text": base64.b64encode(raw).decode(), "plain": plain.ids, "parsed": parsed.ids,
            "skip": tok.decode(parsed.ids), "all": tok.decode(parsed.ids, skip_special_tokens=False)}


def small_corpus():
    rng = random.Random(5)
    shakespeare = ["First Citizen: Before we proceed any further, hear me speak. All: Speak, speak.",
                   "You are all resolved rather to die than to famish? Resolved. resolved.",
                   "First, you know Caius Marcius is chief enemy to the people. We know't, we know't.",
                   "Let us kill him, and we'll have corn at our own price. Is't a verdict?",
                   "ROMEO: But, soft! what light through yonder window breaks? It is the east, and Juliet is the sun."]
    return shakespeare * 3 + MIXED * 2 + JAPANESE * 2 + ["".join(rng.choice("etaoin shrdlu") for _ in range(400))]


def write_golden():
    os.makedirs(GOLDEN, exist_ok=True)
    texts = [t.encode() for t in MIXED + JAPANESE] + BROKEN
    rng = random.Random(7)
    texts += [random_text(rng) for _ in range(24)]
    for make in FAMILIES:
        tok = make(small_corpus(), 700)
        path = os.path.join(GOLDEN, make.__name__)
        with open(path + ".json", "w") as f:
            json.dump(json.loads(tok.to_str()), f, ensure_ascii=False, separators=(",", ":"))
        with open(path + ".cases.json", "w") as f:
            json.dump([answers(tok, t) for t in texts], f, ensure_ascii=False, separators=(",", ":"))
        print(make.__name__, tok.get_vocab_size(), os.path.getsize(path + ".json"), os.path.getsize(path + ".cases.json"))


# ---- comparing


class Driver:
    def __init__(self, program, path):
        self.p = subprocess.Popen([program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, flags, payload):
        self.p.stdin.write(struct.pack("<II", flags, len(payload)) + payload)
        self.p.stdin.flush()
        head = self.p.stdout.read(4)
        if len(head) < 4:
            raise SystemExit("the driver stopped")
        return struct.unpack("<I", head)[0]

    def encode(self, raw, parse=False, ends=False):
        n = self.ask((3 if parse else 0) | (4 if ends else 0), raw)
        ids = list(struct.unpack(f"<{n}i", self.p.stdout.read(4 * n)))
        return (ids, list(struct.unpack(f"<{n}I", self.p.stdout.read(4 * n)))) if ends else ids

    def decode(self, ids, all_tokens):
        n = self.ask(16 | (1 if all_tokens else 0), struct.pack(f"<{len(ids)}i", *ids))
        return self.p.stdout.read(n).decode()


def ends_of(text, encoding):
    """Ends in bytes; the library counts characters."""
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode()))
    return [at[end] for _, end in encoding.offsets]


class Comparison:
    def __init__(self, name, tok, driver):
        self.name, self.tok, self.driver = name, tok, driver
        self.texts = self.tokens = self.wrong = 0
        self.codes = {}

    def report(self, what, raw, ours, theirs):
        self.wrong += 1
        if self.wrong <= 5:
            print(f"  {self.name}: {what} differ for {raw[:120]!r}\n    tane {ours if len(str(ours)) < 400 else str(ours)[:400]}\n"
                  f"    hf   {theirs if len(str(theirs)) < 400 else str(theirs)[:400]}")

    def text(self, raw, decode=True):
        text = raw.decode("utf-8", "replace")
        for parse in (False, True):
            self.tok.encode_special_tokens = not parse
            theirs = self.tok.encode(text, add_special_tokens=parse).ids
            ours = self.driver.encode(raw, parse)
            if ours != theirs and not (parse and ours == theirs[1:] and theirs[:2] == theirs[:1] * 2):
                self.report(f"ids (parse={parse})", raw, ours, theirs)
            self.texts += 1
            self.tokens += len(theirs)
            if decode and parse:
                for all_tokens in (False, True):
                    a, b = self.driver.decode(theirs, all_tokens), self.tok.decode(theirs, skip_special_tokens=not all_tokens)
                    if a != b:
                        self.report(f"texts (all={all_tokens})", raw, a, b)


def compare(folder, program, data):
    total = 0
    for name in sorted(n for n in os.listdir(folder) if not n.endswith(".cases.json")):
        path = os.path.join(folder, name)
        tok = Tokenizer.from_file(path)
        c = Comparison(name, tok, Driver(program, path))
        for file in data:
            with open(file, "rb") as f:
                whole = f.read()
            for at in range(0, len(whole), 1 << 16):
                c.text(whole[at:at + (1 << 16)])
        for raw in all_code_points():
            c.text(raw, decode=False)
        rng = random.Random(11)
        for _ in range(int(os.environ.get("RANDOM", "100000"))):
            c.text(random_text(rng), decode=rng.random() < 0.2)
        for raw in [t.encode() for t in MIXED + JAPANESE] + BROKEN:
            c.text(raw)
        print(f"{name}: {c.texts} texts, {c.tokens} tokens, {c.wrong} differ", flush=True)
        total += c.wrong
    raise SystemExit(1 if total else 0)


def build(folder, data):
    os.makedirs(folder, exist_ok=True)
    texts = []
    for file in data:
        with open(file, encoding="utf-8", errors="replace") as f:
            texts += f.read().split("\n\n")
    texts += (MIXED + JAPANESE) * 20
    for make in FAMILIES:
        make(texts, int(os.environ.get("SIZE", "8000"))).save(os.path.join(folder, make.__name__ + ".json"))
        print(make.__name__, flush=True)


if __name__ == "__main__":
    print("tokenizers", tokenizers.__version__, "sentencepiece", sentencepiece.__version__, file=sys.stderr)
    if sys.argv[1:2] == ["golden"]:
        write_golden()
    elif sys.argv[1:2] == ["build"] and len(sys.argv) > 3:
        build(sys.argv[2], sys.argv[3:])
    elif sys.argv[1:2] == ["compare"] and len(sys.argv) > 4:
        compare(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        raise SystemExit(__doc__)
