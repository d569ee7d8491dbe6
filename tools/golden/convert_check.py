"""Looks at what `tane convert` writes through other software's eyes. Not part of make test: run from the repository's root
with a Python that has torch, transformers, safetensors and gguf:

    python tools/golden/convert_check.py TANE [LLAMA_PROBE]

TANE is the program, LLAMA_PROBE what tools/real/llama_cpp.sh builds. For each model of tests/golden/models it prints

  hf        largest difference of transformers' logits between the folder and folder -> GGUF (F32) -> folder
  bf16      the same through bf16 folders: nothing is rounded on the way there, so it must be 0 for all
  llama.cpp largest difference of its logits for the GGUF file from transformers' for the folder

For each tokenizer of tests/golden/tokenizer_json that GGUF has a name for it prints on how many of the texts beside it
llama.cpp finds the same tokens in a GGUF file with this tokenizer, and which it cuts otherwise (see DIFFERS).

Gemma's norms lie in GGUF with 1 added, which rounds fp32 numbers. llama.cpp knows nothing of some things that the golden
models have on purpose (see PLAIN): the weights are compared without them. (Phi-3's long factors it takes for every context
above the original one, and its least is 256.)
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile

import gguf
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

MODELS = "tests/golden/models"
PLAIN = {
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False, "sliding_window": None, "layer_types": ["full_attention"] * 2},
    "gemma2": {"query_pre_attn_scalar": 10},
    "gemma3": {"query_pre_attn_scalar": 16},
    "smollm3": {"no_rope_layers": [1, 1]},
    "phi3": {"rope_parameters": {"short_factor": [2.0, 3.0, 4.0, 9.0, 9.5, 10.0]}},
}
TOKENIZERS = "tests/golden/tokenizer_json"
# Why some texts are cut otherwise: what is GGUF's, or llama.cpp's.
DIFFERS = {
    "qwen2": "llama.cpp does not normalize (NFC)",
    "mistral": "a text that begins with a space gets none in front of it from Metaspace",
    "tekken": "its expression in llama.cpp takes marks for no letters",
    "llama2": "llama.cpp also merges pieces to control tokens and byte tokens",
    "phi3": "llama.cpp also merges pieces to control tokens and byte tokens",
    "gemma": "runs of spaces are tokens in llama.cpp, as in SentencePiece; in this tokenizer.json they never match",
}
tane = sys.argv[1]
probe = sys.argv[2] if len(sys.argv) > 2 else None


def convert(*words):
    subprocess.run([tane, "convert", *words], check=True, stderr=subprocess.DEVNULL)


def logits(folder, ids):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(input_ids=ids).logits


def probe_logits(path, ids, vocab):
    lines = [" ".join(map(str, range(vocab)))] + [" ".join(map(str, row.tolist())) for row in ids]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as f:
        f.write("\n".join(lines) + "\n")
        f.flush()
        out = subprocess.run([probe, "logits", path, f.name], check=True, capture_output=True).stdout.decode()
    rows = [[float(x) for x in line.split()][3:] for line in out.splitlines()]
    return torch.tensor(rows).view(*ids.shape, vocab)


def plain_folder(folder, name, out):
    shutil.copytree(folder, out)
    with open(os.path.join(out, "config.json")) as f:
        config = json.load(f)
    for key, value in PLAIN.get(name, {}).items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(config, f)


transformers.utils.logging.disable_progress_bar()
print(f"transformers {transformers.__version__}, torch {torch.__version__}, gguf {getattr(gguf, '__version__', '?')}")
failed = []
for name in sorted(os.listdir(MODELS)):
    folder = os.path.join(MODELS, name)
    reference = load_file(os.path.join(folder, "reference.safetensors"))
    ids = reference["input_ids"].long()
    with tempfile.TemporaryDirectory() as d:
        at = lambda x: os.path.join(d, x)
        convert(folder, at("f32.gguf"), "--type", "f32")
        convert(at("f32.gguf"), at("f32"))
        convert(folder, at("half"), "--type", "bf16")
        convert(at("half"), at("half.gguf"), "--type", "f32")
        convert(at("half.gguf"), at("half2"), "--type", "bf16")
        tensors = len(gguf.GGUFReader(at("f32.gguf")).tensors)
        want = logits(folder, ids)
        first = (logits(at("f32"), ids) - want).abs().max().item()
        second = (logits(at("half2"), ids) - logits(at("half"), ids)).abs().max().item()
        line = f"{name:16s} {tensors:3d} tensors  hf {first:.2g}  bf16 {second:.2g}"
        if second != 0 or first > (1e-5 if "gemma" in name else 0):
            failed.append(name)
        if probe:
            plain_folder(folder, name, at("plain"))
            convert(at("plain"), at("plain.gguf"), "--type", "f32")
            want = logits(at("plain"), ids)
            off = (probe_logits(at("plain.gguf"), ids, want.shape[-1]) - want).abs().max().item()
            line += f"  llama.cpp {off:.2g} of {want.abs().max().item():.2g}"
            if off > 2e-2:
                failed.append(name)
        print(line, flush=True)


def tokenizer_folder(name, out):
    """A tiny random Llama with this tokenizer."""
    with open(os.path.join(TOKENIZERS, name + ".json")) as f:
        tokenizer = json.load(f)
    vocab = max([*tokenizer["model"]["vocab"].values(), *(t["id"] for t in tokenizer["added_tokens"])]) + 1
    config = transformers.LlamaConfig(vocab_size=vocab, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                                      num_attention_heads=2, max_position_embeddings=64)
    transformers.LlamaForCausalLM(config).save_pretrained(out)
    shutil.copy(os.path.join(TOKENIZERS, name + ".json"), os.path.join(out, "tokenizer.json"))


for name in ("gpt2", "smollm", "llama3", "qwen2", "tekken", "deepseek", "llama2", "mistral", "gemma", "phi3") if probe else ():
    with open(os.path.join(TOKENIZERS, name + ".cases.json")) as f:
        cases = json.load(f)
    texts = [base64.b64decode(c["text"]) for c in cases]
    usable = [i for i, t in enumerate(texts) if t and b"\0" not in t and t.decode(errors="replace").encode() == t]
    with tempfile.TemporaryDirectory() as d:
        tokenizer_folder(name, os.path.join(d, "model"))
        convert(os.path.join(d, "model"), os.path.join(d, "x.gguf"))
        out = subprocess.run([probe, "tokens", os.path.join(d, "x.gguf"), "0"], check=True, capture_output=True,
                             input=b"".join(texts[i] + b"\0" for i in usable)).stdout.decode()
    rows = [[int(i) for i in line.split()] for line in out.splitlines()]
    other = [texts[i].decode() for i, row in zip(usable, rows, strict=True) if row != cases[i]["plain"]]
    print(f"{name:16s} llama.cpp agrees on {len(usable) - len(other)} of {len(usable)} texts"
          + (f"; {DIFFERS.get(name, '?')}: {other[:4]!r}" if other else ""), flush=True)
    if other and name not in DIFFERS:
        failed.append(name)
print("failed: " + ", ".join(failed) if failed else "all as they should be")
sys.exit(bool(failed))
