"""Real weights against transformers: tests/golden/real/NAME.safetensors and NAME.json.

Run from the repository's root with a Python that has torch, transformers, sentencepiece, protobuf, numpy, safetensors,
accelerate and gguf, after tools/real/fetch.sh and tools/real/llama_cpp.sh:

    python tools/golden/real_model.py build/real build/llama.cpp/bin [smollm2] [gemma3]

The GGUF file is read with the package gguf: tensors dequantized to fp32, Llama's order of the rows of q and k and
Gemma's norms (+ 1) undone, and put into transformers' own model class; transformers' own reading of the file
(gguf_file=) must give the same numbers. Models run in fp32, on the CPU, with eager attention. NAME.safetensors then has

  sample           (64) int32, ids spread over the vocabulary
  PROMPT.ids       (T) int32
  PROMPT.argmax    (T) int32, the most probable next token at each place
  PROMPT.top       (T) its logit
  PROMPT.lse       (T) log of the sum of exp over all logits
  PROMPT.logits    (T, 64) the logits of `sample`
  greedy.N.ids     (n) int32, a prompt
  greedy.N.tokens  (200) int32, the most probable continuation, going on behind end-of-text tokens

and metadata: versions, sha256 of the GGUF file, the smallest distance between the first and the second logit while
choosing greedily (the choice can only be the same where it is far larger than rounding), and what fp32 itself costs:
the largest difference from the same model in fp64.

NAME.json has texts with their ids ("encode": nothing is added; "special": special tokens spelled out count), and what
the chat template makes of conversations ("chats"), rendered by transformers. The reference for the ids is a tokenizer
built with tokenizers (byte-level BPE) or sentencepiece from the vocabulary inside the file; llama.cpp must agree but
for the texts named in LLAMA_CPP_DIFFERS.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata

import gguf
import numpy as np
import sentencepiece
import tokenizers
import torch
import transformers
from safetensors.numpy import save_file
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

OUT = "tests/golden/real"
SAMPLE = 64
GREEDY = 200

ESSAY = """A seed is a small promise. Inside its coat lies a plant that has already begun, a root that points down, a
bud that points up, and beside them a store of food for the first days underground. It may wait for a season or for a
century. In 2005 a date palm grew from a stone that had been lying in the ruins of a fortress for about 2,000 years;
nobody had asked it to be patient, and it had not been told that the world above had changed.

What wakes it is not one thing. Water comes first: the coat swells, enzymes that were dry begin to move, and starch
turns into sugar. Temperature counts, and so does light, of which a grain of lettuce needs no more than a flash. Some
seeds ask for fire, others for the acid of a bird's stomach, and a few for nothing but a winter. A gardener who knows
these habits can do with a paper bag, a refrigerator and a cup of warm water what a forest does with years.

People learned early that seeds could be kept, counted and exchanged. A farmer who sets aside one part in ten of the
harvest has bread for this year and a field for the next. Traders carried wheat along rivers and rice over mountains;
sailors took potatoes from the Andes to Ireland, and with them, without knowing it, the disease that would one day
follow. Each village had its own beans, and each bean its own story: this one stands the drought, that one ripens
before the frost, and the red one is only for weddings.

Today there is a vault in the ice of an island in the far north. It holds more than a million samples, sealed in foil,
sorted in boxes, at minus eighteen degrees. The door has been opened for withdrawal only a few times, the first time
because of a war. It is an odd kind of library: nobody reads there, every book is a copy, and the librarians hope that
no reader will ever come. But they also know that paper burns, that disks fail, and that what is not planted is slowly
forgotten. So once in a while they take out a box, thaw it, and sow.

"And what," asked the child who was visiting, "do you do when they come up?" The librarian thought about it. "We look
at them," she said, "and then we collect their seeds."
"""

PROMPTS = {
    "story": "Once upon a time, in a village at the foot of a mountain,",
    "code": "def fibonacci(n):\n    \"\"\"The first n Fibonacci numbers.\"\"\"\n    a, b = 0, 1\n"
            "    for i in range(n):\n        yield a\n        a, b = b, a + b\n\n"
            "print(list(fibonacci(10)))  # [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]\n",
    "mixed": "種から芽が出る。 Ein Samen keimt. Семя прорастает 🌱🌳\t3.14159 + 2,718 = 5,859…\r\n",
}

LONG = ESSAY + "\n" + PROMPTS["code"]  # more than Gemma's window of 512 tokens

CONTINUE = ["The capital of France is", "Question: What is 17 + 25?\nAnswer:", ESSAY]

CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "You answer in one short sentence."},
     {"role": "user", "content": "Why is the sky blue?"}],
    [{"role": "user", "content": "Write a Python function that reverses a string."},
     {"role": "assistant", "content": "def reverse(s):\n    return s[::-1]"},
     {"role": "user", "content": "Now explain what `[::-1]` means, step by step."}],
    [{"role": "user", "content": ""}],
    [{"role": "system", "content": ""},
     {"role": "user", "content": "  spaces, <b>tags</b> & \"quotes\" \\n\n\tand 種 🌱  "}],
    [{"role": "assistant", "content": "I begin."}, {"role": "assistant", "content": "And go on."}],
    [{"role": "narrator", "content": "A role that the template has never heard of."}],
]

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n \n", "\t", "\t\t\t", "\r\n", "\r", " \n", "\n ", "a", " a", "a ",
    "  a  b   c    d", "Hello, world!", "Hello  world", " Hello world ", "hello\nworld", "Hello\n\n\nworld\n\n\n\n\n",
    "x\n\n  y\n\n\n   z", "don't can't we've I'll you'd he's I'm they're", "DON'T CAN'T WE'VE I'LL YOU'D HE'S I'M",
    "don’t ‘quoted’ “text”", "0", "12", "123", "1234567890", "3.14159", "1,000,000", "-42", "0x7fff",
    "1e-5", "2024-11-22T20:00:00Z", "a1b22c333", "１２３ ٣٤٥ ४५६ Ⅷ ²³ ½",
    "def f(x):\n\treturn x ** 2  # square\n", "for (int i = 0; i < n; i++) { a[i] += b[i]; }",
    "    indented\n        twice\n            three times\n", "\\u0041 \\n \\\\", "https://example.org/a?b=c&d=%20#e",
    "user@example.org", "<html><body class=\"x\">&nbsp;</body></html>", "{\"a\": [1, 2.5, null, true]}",
    "| a | b |\n|---|---|\n", "naïve café résumé Ångström", "nai\u0308ve cafe\u0301", "Straße GROẞ ſ İ ı",
    "œuvre ﬁne ﬀ ǅ", "Ελληνικά γλώσσα", "Русский язык, ёлка",
    "Українська їжак", "עברית שָׁלוֹם", "العربية مَرْحَبًا",
    "हिन्दी नमस्ते क्षत्रिय", "বাংলা ভাষা",
    "தமிழ் மொழி", "ภาษาไทยไม่มีช่องว่าง",
    "ລາວ ພາສາ", "မြန်မာဘာသာ", "ភាសាខ្មែរ",
    "ქართული ენა", "Հայերեն լեզու", "አማርኛ ቋንቋ",
    "བོད་སྐད།", "中文没有空格，标点是全角的。",
    "日本語のひらがな、カタカナ、漢字。ｶﾀｶﾅ", "한국어 띄어쓰기 한글", "한글",
    "𠮷野家 𡚴 𪚥", "Tiếng Việt có dấu", "😀", "👍🏽", "👩‍👩‍👧‍👦",
    "🏳️‍🌈 🇯🇵🇫🇷 1️⃣", "🌱🌳 種 🌾", "a😀b 😀 c", "\u200b\u200c\u200d\ufeff",
    "a\u00a0b\u2003c\u3000d\u2028e", "\x01\x02\x1f\x7f", "a\x0bb\x0cc\x85d", "\ufffd", "\ue000 \U000f0000 \U0010fffd",
    "e\u0301\u0302\u0303\u0304", "\u0301alone",
    "ᚠᚢᚦ 𓀀𓁐 𐎀 ꙮ ﷽ ℵ∀∃∑∫√∞≠≤ ←↑→↓ ■□▲ ①②③ ♠♥ ☃",
    "$€£¥₹₿ ©®™ §¶† ‰ ° ± × ÷", "…—–‐‑ ‚„‹›«»", "!!!???...,,,;;;:::",
    "~!@#$%^&*()_+`-={}|[]\\:\";'<>?,./", "____ ---- ==== ****", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "a" * 200,
    " " * 75, "\n" * 40, "\t" * 35, "ab" * 50, "1" * 60, "é" * 30, "種" * 30, "😀" * 12, "▁ ▁▁ a▁b",
    "Ġ Ċ ĠĠ", "<0x41> <0x0A>", "antidisestablishmentarianism floccinaucinihilipilification",
    "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch",
    "iPhone XMLHttpRequest camelCase snake_case SCREAMING_CASE", "THE QUICK BROWN FOX", "tHe QuIcK bRoWn FoX", ESSAY,
]
# Special tokens, and what only looks like them; each with and without "special".
SPECIAL_TEXTS = {
    "smollm2": [
        "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|>", "a<|endoftext|>b", " <|im_end|> ", "<|im_start|",
        "<|im_start |>", "<|im_start|><|im_end|><|im_start|>", "<repo_name>x<file_sep>y", "< |im_end|>", "<|IM_END|>",
        "|>", "<gh_stars><gh_star>",
    ],
    "gemma3": [
        "<bos>", "<eos>a", "<start_of_turn>user\nhi<end_of_turn>\n", "<unused5>", "<unused9999>",
        "<table><tr><td>a</td></tr>", "[multimodal]", "<start_of_image>", "< bos>", "a<pad>b", "<unk>", "<mask>",
        "</s>", "<h1>t</h1>", "<code>x</code>", "<em>a</em> <b>c</b>",
    ],
}
# Texts that llama.cpp cuts otherwise, and why.
LLAMA_CPP_DIFFERS = {"smollm2": {}, "gemma3": {
    "</s>": "it takes every token of this name for an end of text, which counts only where special tokens do",
    "\u2581 \u2581\u2581 a\u2581b": "it looks for runs of spaces before spaces become \u2581, sentencepiece after",
}}

transformers.utils.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()
torch.set_num_threads(2)
torch.use_deterministic_algorithms(True)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ---- weights


def dequantized(reader):
    def numbers(t):
        return gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32).reshape(t.shape.tolist()[::-1])

    return {t.name: numbers(t) for t in reader.tensors}


NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
}
NORMS = {"llama": {"ffn_norm": "post_attention_layernorm"},
         "gemma3": {"ffn_norm": "pre_feedforward_layernorm", "post_attention_norm": "post_attention_layernorm",
                    "post_ffw_norm": "post_feedforward_layernorm"}}


def state_dict(tensors, architecture, heads, kv_heads):
    names = {**NAMES, **NORMS[architecture]}
    state = {}
    for name, x in tensors.items():
        parts = name.split(".")
        assert parts[-1] == "weight", name
        place = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
        part = parts[-2]
        if architecture == "llama" and part in ("attn_q", "attn_k"):
            # llama.cpp turns neighbours (2i, 2i+1), transformers i and i + d/2: rows were reordered for the former.
            n = heads if part == "attn_q" else kv_heads
            x = x.reshape(n, x.shape[0] // n // 2, 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
        if architecture == "gemma3" and part.endswith("norm"):
            x = x - np.float32(1)
        state[place + names[part] + ".weight"] = torch.from_numpy(np.ascontiguousarray(x))
    return state


def make_model(reader, path):
    get = lambda key: reader.fields[key].contents() if key in reader.fields else None
    arch = get("general.architecture")
    number = lambda key: get(f"{arch}.{key}")
    common = dict(
        vocab_size=len(get("tokenizer.ggml.tokens")), hidden_size=number("embedding_length"),
        intermediate_size=number("feed_forward_length"), num_hidden_layers=number("block_count"),
        num_attention_heads=number("attention.head_count"), num_key_value_heads=number("attention.head_count_kv"),
        max_position_embeddings=number("context_length"), rms_norm_eps=number("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=True, attn_implementation="eager")
    if arch == "llama":
        rope = {"rope_type": "default", "rope_theta": number("rope.freq_base")}
        config = transformers.LlamaConfig(rope_parameters=rope, **common)
        model = transformers.LlamaForCausalLM(config)
    else:
        layers = common["num_hidden_layers"]
        config = transformers.Gemma3TextConfig(
            head_dim=number("attention.key_length"), query_pre_attn_scalar=number("attention.key_length"),
            sliding_window=number("attention.sliding_window"),
            layer_types=["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(layers)],
            rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": number("rope.freq_base")},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}, **common)
        model = transformers.Gemma3ForCausalLM(config)
    state = state_dict(dequantized(reader), arch, common["num_attention_heads"], common["num_key_value_heads"])
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and missing.missing_keys in ([], ["lm_head.weight"]), missing
    model.tie_weights()
    model = model.float().eval()
    check_against_transformers(model, path)
    return model


def check_against_transformers(model, path):
    """transformers' own reading of the file: the same weights, and the same configuration where it takes one."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(os.path.dirname(path), gguf_file=os.path.basename(path),
                                                              dtype=torch.float32)
    mine, other = model.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys()
    worst = max((mine[k] - other[k]).abs().max().item() for k in mine)
    print(f"  transformers' own reading: {len(mine)} tensors, largest difference {worst:g}")
    assert worst == 0
    for key, value in model.config.to_dict().items():
        if theirs.config.to_dict().get(key) != value:
            print(f"    config {key}: {value}; transformers' own reading: {theirs.config.to_dict().get(key)}")


# ---- tokenizers


class ByteLevel:
    """SmolLM2: digits one by one, then GPT-2's splitting and byte-level BPE."""

    def __init__(self, reader):
        get = lambda key: reader.fields["tokenizer." + key].contents()
        tokens, types = get("ggml.tokens"), get("ggml.token_type")
        assert get("ggml.model") == "gpt2" and get("ggml.pre") == "smollm"
        merges = [tuple(m.split(" ")) for m in get("ggml.merges")]
        tok = Tokenizer(BPE({t: i for i, t in enumerate(tokens)}, merges, fuse_unk=False, byte_fallback=False))
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                     pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
        tok.decoder = decoders.ByteLevel()
        tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t, k in zip(tokens, types) if k == 3])
        assert tok.get_vocab_size() == len(tokens)
        self.tokenizer = tok
        self.fast = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tok,
            bos_token=tokens[get("ggml.bos_token_id")], eos_token=tokens[get("ggml.eos_token_id")],
            unk_token=tokens[get("ggml.unknown_token_id")], pad_token=tokens[get("ggml.padding_token_id")],
            chat_template=get("chat_template"))

    def encode(self, text, special):
        self.tokenizer.encode_special_tokens = not special
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)


class Pieces:
    """Gemma: sentencepiece itself, with a model put together from what the GGUF file kept of it."""

    def __init__(self, reader):
        get = lambda key: reader.fields["tokenizer." + key].contents()
        assert get("ggml.model") == "llama"
        proto = sentencepiece_model_pb2.ModelProto()
        Piece = sentencepiece_model_pb2.ModelProto.SentencePiece
        self.tokens, self.special = get("ggml.tokens"), {}
        bos, eos, pad, unk = (get(f"ggml.{k}_token_id") for k in ("bos", "eos", "padding", "unknown"))
        for i, (text, score, kind) in enumerate(zip(self.tokens, get("ggml.scores"), get("ggml.token_type"))):
            # Spaces of user-defined pieces were written as spaces. <unk> is a control token in the file; sentencepiece
            # wants its kind.
            piece = text.replace(" ", "\u2581") if kind == 4 else text
            if kind == 3:
                self.special[text] = i
            proto.pieces.append(Piece(piece=piece, score=score, type=Piece.UNKNOWN if i == unk else kind))
        spec = proto.trainer_spec
        spec.model_type, spec.byte_fallback, spec.vocab_size = 2, True, len(self.tokens)
        spec.bos_id, spec.eos_id, spec.pad_id, spec.unk_id = bos, eos, pad, unk
        spec.bos_piece, spec.eos_piece, spec.pad_piece, spec.unk_piece = (self.tokens[i] for i in (bos, eos, pad, unk))
        norm = proto.normalizer_spec
        norm.name, norm.escape_whitespaces = "identity", True
        norm.add_dummy_prefix, norm.remove_extra_whitespaces = False, False
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self.bos = bos

    def encode(self, text, special):
        if not special:
            return self.processor.encode(text)
        ids, start, at = [], 0, 0
        while at < len(text):  # special tokens leftmost, the longest of those that begin there
            token = text[at] == "<" and max((t for t in self.special if text.startswith(t, at)), key=len, default=None)
            if token:
                ids += self.processor.encode(text[start:at]) + [self.special[token]]
                start = at = at + len(token)
            else:
                at += 1
        return ids + self.processor.encode(text[start:])

    def decode(self, ids):  # special tokens give nothing, as elsewhere; sentencepiece would write <unk> as a sign
        return self.processor.decode([i for i in ids if i not in self.special.values()])


def llama_cpp_tokens(probe, path, texts, special):
    data = b"".join(t.encode() + b"\0" for t in texts)
    command = [probe, "tokens", path, str(int(special))]
    out = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout
    return [[int(i) for i in line.split()] for line in out.decode().splitlines()]


def encodings(name, tokenizer, probe, path):
    rows = []
    for special, texts in ((False, TEXTS + SPECIAL_TEXTS[name]), (True, SPECIAL_TEXTS[name])):
        texts = [t for t in texts if t]
        theirs = llama_cpp_tokens(probe, path, texts, special)
        differing = set()
        for text, other in zip(texts, theirs, strict=True):
            ids = tokenizer.encode(text, special)
            rows.append({"text": text, "special": special, "ids": ids, "decoded": tokenizer.decode(ids)})
            if ids != other:
                differing.add(text)
                print(f"  llama.cpp cuts {text[:60]!r} (special={special}) otherwise: {other[:20]}, not {ids[:20]}")
        print(f"  {len(texts)} texts, special={special}: llama.cpp agrees on {len(texts) - len(differing)}")
        assert differing <= set(LLAMA_CPP_DIFFERS[name]), differing - set(LLAMA_CPP_DIFFERS[name])
    return rows


def chats(tokenizer):
    rows = []
    for messages in CHATS:
        for prompt in (True, False):
            text = tokenizer.fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            rows.append({"messages": messages, "add_generation_prompt": prompt, "text": text,
                         "ids": tokenizer.encode(text, True)})
    return rows


# ---- numbers


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


def greedy(model, ids):
    """The continuation and the smallest lead of a chosen token over the next best."""
    tokens, lead, cache = [], float("inf"), None
    feed = torch.tensor([ids])
    with torch.no_grad():
        for _ in range(GREEDY):
            out = model(input_ids=feed, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            best = out.logits[0, -1].topk(2)
            lead = min(lead, (best.values[0] - best.values[1]).item())
            tokens.append(best.indices[0].item())
            feed = torch.tensor([[tokens[-1]]])
    return tokens, lead


def llama_cpp_logits(probe, path, sample, prompts):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as f:
        for ids in [sample, *prompts]:
            f.write(" ".join(map(str, ids)) + "\n")
        f.flush()
        out = subprocess.run([probe, "logits", path, f.name], stdout=subprocess.PIPE, check=True).stdout
    return np.array([[float(x) for x in line.split()] for line in out.decode().splitlines()])


def numbers(name, model, prompts, starts, probe, path):
    vocab = model.config.vocab_size
    sample = [(2 * i + 1) * vocab // (2 * SAMPLE) for i in range(SAMPLE)]
    arrays, rows, wide = {"sample": np.array(sample, np.int32)}, [], []
    double = transformers.AutoModelForCausalLM.from_config(model.config, dtype=torch.float64,
                                                           attn_implementation="eager")
    double.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    double.eval()
    for prompt, ids in prompts.items():
        logits = logits_of(model, ids)
        wide.append((logits_of(double, ids) - logits.double()).abs().max().item())
        top, argmax = logits.max(-1)
        parts = {"ids": torch.tensor(ids, dtype=torch.int32), "argmax": argmax.int(), "top": top,
                 "lse": logits.logsumexp(-1), "logits": logits[:, sample]}
        arrays.update({f"{prompt}.{k}": np.ascontiguousarray(v.numpy()) for k, v in parts.items()})
        rows.append(torch.cat([top[:, None], parts["lse"][:, None], parts["logits"]], 1).numpy())
        print(f"  {prompt}: {len(ids)} tokens, logits up to {logits.abs().max():.1f}, "
              f"fp32 off from fp64 by {wide[-1]:.2g}")
    theirs = llama_cpp_logits(probe, path, sample, prompts.values())
    mine = np.concatenate(rows)
    off = np.abs(theirs[:, 1:] - mine)
    same = (theirs[:, 0] == np.concatenate([arrays[f"{p}.argmax"] for p in prompts])).mean()
    print(f"  llama.cpp on the file itself: off by {off.max():.3g} at most, {np.sqrt((off**2).mean()):.3g} rms; "
          f"same most probable token at {100 * same:.1f}% of {len(mine)} places")
    leads = []
    for i, ids in enumerate(starts):
        tokens, lead = greedy(model, ids)
        same = logits_of(double, ids + tokens)[len(ids) - 1:-1].argmax(-1).tolist() == tokens
        leads.append(lead)
        arrays[f"greedy.{i}.ids"], arrays[f"greedy.{i}.tokens"] = np.array(ids, np.int32), np.array(tokens, np.int32)
        print(f"  greedy {i}: {len(ids)} tokens, smallest lead {lead:.3g}, fp64 {'the same' if same else 'DIFFERS'}: "
              f"{TOKENIZERS[name].decode(tokens)[:300]!r}")
        assert same
    return arrays, {"smallest_lead": f"{min(leads):.3g}", "fp32_off_fp64": f"{max(wide):.3g}",
                    "llama_cpp_off": f"{off.max():.3g}"}


TOKENIZERS = {}


def make(name, path, probe):
    print(f"{name}: {path}")
    reader = gguf.GGUFReader(path)
    model = make_model(reader, path)
    tokenizer = TOKENIZERS[name] = ByteLevel(reader) if name == "smollm2" else Pieces(reader)
    begin = [] if name == "smollm2" else [tokenizer.bos]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__,
                "tokenizers": tokenizers.__version__, "sentencepiece": sentencepiece.__version__,
                "gguf": metadata.version("gguf"),
                "python": sys.version.split()[0]}
    texts = {"versions": versions, "encode": encodings(name, tokenizer, probe, path)}
    prompts = {p: begin + tokenizer.encode(text, False) for p, text in {**PROMPTS, "long": LONG}.items()}
    if name == "smollm2":
        texts["chats"] = chats(tokenizer)
        starts = [row["ids"] for row in texts["chats"] if row["add_generation_prompt"]][:3]
        prompts["chat"] = starts[2]
    else:
        starts = [begin + tokenizer.encode(text, False) for text in CONTINUE]
    arrays, found = numbers(name, model, prompts, starts, probe, path)
    os.makedirs(OUT, exist_ok=True)
    save_file(arrays, f"{OUT}/{name}.safetensors", {"format": "pt", **versions, **found, "gguf_sha256": sha256(path)})
    with open(f"{OUT}/{name}.json", "w", encoding="utf-8") as f:
        f.write('{"versions": ' + json.dumps(versions))
        for key in ("encode", "chats"):
            if key in texts:
                f.write(f',\n"{key}": [\n' + ",\n".join(json.dumps(r, ensure_ascii=False) for r in texts[key]) + "\n]")
        f.write("}\n")
    for ending in ("safetensors", "json"):
        print(f"  {OUT}/{name}.{ending}: {os.path.getsize(f'{OUT}/{name}.{ending}')} bytes")


folder, tools = sys.argv[1:3]
for name, file in (("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"), ("gemma3", "gemma-3-270m.Q4_K_M.gguf")):
    if name in (sys.argv[3:] or ["smollm2", "gemma3"]):
        make(name, os.path.join(folder, file), os.path.join(tools, "llama_probe"))
