"""Looks at what `tane convert` writes through other software's eyes. Not part of make test: run from the repository's root
with a Python that has torch, transformers, safetensors and gguf:

    python tools/golden/convert_check.py TANE [LLAMA_PROBE]

TANE is the program, LLAMA_PROBE what tools/real/llama_cpp.sh builds. For each model of tests/golden/models it prints

  hf        largest difference of transformers' logits between the folder and folder -> GGUF (F32) -> folder
  bf16      the same through bf16 folders: nothing is rounded on the way there, so it must be 0 for all
  llama.cpp largest difference of its logits for the GGUF file from transformers' for the folder

Gemma's norms lie in GGUF with 1 added, which rounds fp32 numbers. llama.cpp knows nothing of some things that the golden
models have on purpose (see PLAIN): the weights are compared without them. (Phi-3's long factors it takes for every context
above the original one, and its least is 256.)
"""

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
print("failed: " + ", ".join(failed) if failed else "all as they should be")
sys.exit(bool(failed))
