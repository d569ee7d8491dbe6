"""PyTorch's side of bench/sft.sh: supervised fine-tuning of a Llama on rows that are packed already.

    sft.py MODEL_FOLDER UNITS.jsonl [--device cpu] [--attention sdpa|flex_attention] [--compile] [--pure-bf16]
           [--rows 8] [--width 1024] [--rounds 3] [--steps 10]

UNITS is what `tane data show --layout packing --json --limit 0` prints: the documents of each packed row, with their tokens
and which of them are trained on. So both sides see the same rows, the same positions and the same targets; attention stays
inside each document (transformers makes the mask from position_ids). A step is forward, backward, clipping and fused AdamW.
Prints JSON lines: a round of steps each, with tokens that are no padding, and trained-on tokens, a second.
"""

import argparse
import json
import resource
import time

import torch
from transformers import AutoModelForCausalLM

p = argparse.ArgumentParser()
p.add_argument("model")
p.add_argument("units")
p.add_argument("--device", default="cuda")
p.add_argument("--attention", default="sdpa")
p.add_argument("--compile", action="store_true")
p.add_argument("--pure-bf16", action="store_true")
p.add_argument("--rows", type=int, default=8)
p.add_argument("--width", type=int, default=1024)
p.add_argument("--rounds", type=int, default=3)
p.add_argument("--steps", type=int, default=10)
o = p.parse_args()
WARM_UP = 5 if o.device == "cuda" else 2


def read_units():
    units = []
    for line in open(o.units):
        d = json.loads(line)
        if d["row"] == len(units):
            units.append([])
        units[-1].append(d)
    tokens = torch.zeros(len(units), o.width, dtype=torch.long)
    labels = torch.full((len(units), o.width), -100, dtype=torch.long)
    positions = torch.zeros(len(units), o.width, dtype=torch.long)
    real = torch.zeros(len(units), dtype=torch.long)
    for u, documents in enumerate(units):
        at = 0
        for d in documents:
            n = len(d["ids"]) - 1
            tokens[u, at : at + n] = torch.tensor(d["ids"][:-1])
            wanted = [i if t else -100 for i, t in zip(d["ids"][1:], d["trained"][1:])]
            labels[u, at : at + n] = torch.tensor(wanted)
            positions[u, at : at + n] = torch.arange(n)
            at += n
        positions[u, at:] = torch.arange(o.width - at)
        real[u] = at
    return tokens, labels, positions, real


tokens, labels, positions, real = read_units()
kind = torch.bfloat16 if o.pure_bf16 else torch.float32
model = AutoModelForCausalLM.from_pretrained(o.model, dtype=kind, attn_implementation=o.attention)
model = model.to(o.device)
model.train()
forward = torch.compile(model) if o.compile else model
adamw = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(1))


def step(i):
    rows = order[torch.arange(i * o.rows, (i + 1) * o.rows) % len(order)]
    t, l, q = (x[rows].to(o.device, non_blocking=True) for x in (tokens, labels, positions))
    with torch.autocast(o.device, torch.bfloat16, enabled=not o.pure_bf16):
        loss = forward(input_ids=t, position_ids=q, labels=l, shift_labels=l, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adamw.step()
    adamw.zero_grad(set_to_none=True)
    return int(real[rows].sum()), int((labels[rows] != -100).sum()), loss


def memory():
    """Peak GiB: on the GPU of what was allocated, on the CPU of the process."""
    if o.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def finish():
    if o.device == "cuda":
        torch.cuda.synchronize()


start = time.time()
for i in range(WARM_UP):
    step(i)
finish()
print(json.dumps({"event": "ready", "warm_up_s": round(time.time() - start, 1)}), flush=True)
at = WARM_UP
for _ in range(o.rounds):
    seen = trained = 0
    start = time.time()
    for _ in range(o.steps):
        a, b, loss = step(at)
        seen, trained, at = seen + a, trained + b, at + 1
    finish()
    seconds = time.time() - start
    print(json.dumps({"event": "round", "step_ms": 1e3 * seconds / o.steps, "tokens_per_second": seen / seconds,
                      "trained_per_second": trained / seconds, "loss": loss.item(),
                      "peak_gib": memory()}), flush=True)
