"""PyTorch's side of `make bench`: the same model, shapes and optimizer step as bench/train_step.c, on the CPU.

Takes the same options and prints the same JSON lines. bf16 means autocast over fp32 weights; --compile adds
torch.compile, whose warm-up is reported apart. GPT-2 as PyTorch's users write it: pre-norm, tanh GELU, tied output
layer, scaled_dot_product_attention, cross_entropy, AdamW, clip_grad_norm_.
"""

import argparse
import json
import math
import resource
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads, layers):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for linear in (self.qkv, self.out, self.fc, self.proj):
            residual = linear in (self.out, self.proj)
            nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * layers) if residual else 0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x):
        b, t, c = x.shape
        heads = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(c, dim=2))
        attention = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(attention.transpose(1, 2).reshape(b, t, c))
        return x + self.proj(F.gelu(self.fc(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(o.vocab, o.width), nn.Embedding(o.context, o.width)
        nn.init.normal_(self.wte.weight, std=0.02)
        nn.init.normal_(self.wpe.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(o.width, o.heads, o.layers) for _ in range(o.layers))
        self.norm = nn.LayerNorm(o.width)

    def forward(self, tokens, labels):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))


def options():
    p = argparse.ArgumentParser()
    numbers = dict(layers=6, width=512, heads=8, vocab=35, context=0, rows=8, length=16, steps=10, rounds=3, threads=0)
    for name, default in numbers.items():
        p.add_argument("--" + name, type=int, default=default)
    p.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--adamw", choices=["fused", "foreach"], default="fused")
    p.add_argument("--serve", action="store_true", help="a round for each line of stdin")
    o = p.parse_args()
    o.context = max(o.context, o.length)
    return o


class Bench:
    def __init__(self, o):
        self.o = o
        if o.threads:
            torch.set_num_threads(o.threads)
        torch.manual_seed(42)
        self.model = GPT(o)
        self.call = torch.compile(self.model) if o.compile else self.model
        matrices = [p for p in self.model.parameters() if p.dim() == 2]
        others = [p for p in self.model.parameters() if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, **{o.adamw: True})
        self.tokens = torch.randint(o.vocab, (o.rows, o.length))
        self.labels = torch.randint(o.vocab, (o.rows, o.length))

    def step(self):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.o.dtype == "bf16"):
            loss = self.call(self.tokens, self.labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return loss.item()

    def warm_up(self):
        """Three steps: the first compiles and touches the memory, the next ones settle the allocator."""
        start = time.perf_counter()
        first = self.step()
        for _ in range(2):
            self.step()
        say(event="ready", name="PyTorch", version=torch.__version__, compile=self.o.compile, adamw=self.o.adamw,
            threads=torch.get_num_threads(), parameters=sum(p.numel() for p in self.model.parameters()),
            first_loss=round(first, 4), warm_up_s=round(time.perf_counter() - start, 2))

    def round(self):
        times, loss = [], math.nan
        for _ in range(self.o.steps):
            start = time.perf_counter()
            loss = self.step()
            times.append(time.perf_counter() - start)
        seconds = sum(times) / len(times)
        rate = self.o.rows * self.o.length / seconds
        say(event="round", tokens_per_second=round(rate, 1), step_ms=round(seconds * 1e3, 3),
            least_step_ms=round(min(times) * 1e3, 3), loss=round(loss, 4),
            peak_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1))


def say(**values):
    print(json.dumps(values), flush=True)


def main():
    o = options()
    bench = Bench(o)
    bench.warm_up()
    if o.serve:
        for line in sys.stdin:
            if line == "quit\n":
                break
            bench.round()
    else:
        for _ in range(o.rounds):
            bench.round()


if __name__ == "__main__":
    main()
