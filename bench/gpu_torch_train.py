"""PyTorch's side of `make gpu-bench` for training: whole optimizer steps (forward, backward, clipping, AdamW).

Takes the options of bench/train_step.c and prints the same JSON lines. What a PyTorch user can do for speed is here:
torch.compile, CUDA graphs, fused AdamW, scaled_dot_product_attention, no synchronisation within a round. bf16 means
autocast over fp32 weights; --pure-bf16 keeps weights and AdamW's moments in bf16 too, which saves memory and precision.

    --compile [--mode max-autotune-no-cudagraphs]   torch.compile; its warm-up is reported apart
    --cuda-graphs trees|step                        torch.compile's own graphs (forward and backward), or the whole
                                                    step, optimizer included, captured once and replayed
"""

import argparse
import json
import math
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


def attend(q, k, v, dropout=0.0):
    """Causal attention of (B, T, heads, D); k and v may have fewer heads. Returns (B, T, heads x D)."""
    grouped = q.shape[2] != k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=grouped)
    return y.transpose(1, 2).flatten(2)


class GPT2Block(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.heads, self.dropout = o.heads, o.dropout
        self.norm1, self.norm2 = (nn.LayerNorm(o.width, bias=o.bias) for _ in range(2))
        self.qkv, self.out = nn.Linear(o.width, 3 * o.width, o.bias), nn.Linear(o.width, o.width, o.bias)
        self.fc, self.proj = nn.Linear(o.width, o.ffn, o.bias), nn.Linear(o.ffn, o.width, o.bias)

    def forward(self, x):
        b, t, _ = x.shape
        dropout = self.dropout if self.training else 0.0
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3 * self.heads, -1).split(self.heads, dim=2)
        x = x + F.dropout(self.out(attend(q, k, v, dropout)), dropout, self.training)
        return x + F.dropout(self.proj(F.gelu(self.fc(self.norm2(x)), approximate="tanh")), dropout, self.training)


class GPT2(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(o.vocab, o.width), nn.Embedding(o.context, o.width)
        self.blocks = nn.ModuleList(GPT2Block(o) for _ in range(o.layers))
        self.norm, self.dropout = nn.LayerNorm(o.width, bias=o.bias), o.dropout
        init(self, o, residual=[linear for block in self.blocks for linear in (block.out, block.proj)])

    def forward(self, tokens, labels):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return loss_of(F.linear(self.norm(x), self.wte.weight), labels)


class LlamaBlock(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = o.heads, o.kv_heads, o.head_dim
        q, kv = o.heads * o.head_dim, o.kv_heads * o.head_dim
        self.norm1, self.norm2 = nn.RMSNorm(o.width, eps=1e-5), nn.RMSNorm(o.width, eps=1e-5)
        self.qkv, self.out = nn.Linear(o.width, q + 2 * kv, bias=False), nn.Linear(q, o.width, bias=False)
        self.gate, self.up = (nn.Linear(o.width, o.ffn, bias=False) for _ in range(2))
        self.down = nn.Linear(o.ffn, o.width, bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        heads = self.qkv(self.norm1(x)).view(b, t, -1, self.head_dim)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=2)
        x = x + self.out(attend(rotate(q, cos, sin), rotate(k, cos, sin), v))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.wte = nn.Embedding(o.vocab, o.width)
        self.blocks = nn.ModuleList(LlamaBlock(o) for _ in range(o.layers))
        self.norm = nn.RMSNorm(o.width, eps=1e-5)
        angles = torch.outer(torch.arange(o.context).float(), 5e5 ** (-torch.arange(0, o.head_dim, 2) / o.head_dim))
        self.register_buffer("cos", angles.cos()[:, None], persistent=False)
        self.register_buffer("sin", angles.sin()[:, None], persistent=False)
        init(self, o, residual=[linear for block in self.blocks for linear in (block.out, block.down)])

    def forward(self, tokens, labels):
        x = self.wte(tokens)
        cos, sin = self.cos[:tokens.shape[1]], self.sin[:tokens.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin)
        return loss_of(F.linear(self.norm(x), self.wte.weight), labels)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def loss_of(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


def init(model, o, residual):
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * o.layers) if module in residual else 0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)


def adamw_for(model, lr, betas, weight_decay, capturable=False):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8, fused=True, capturable=capturable)


def options():
    p = argparse.ArgumentParser()
    numbers = dict(layers=6, width=512, heads=8, kv_heads=0, head_dim=0, ffn=0, vocab=35, context=0, rows=8, length=16,
                   steps=10, rounds=3)
    for name, default in numbers.items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    p.add_argument("--arch", choices=["gpt2", "llama"], default="gpt2")
    p.add_argument("--device", default="cuda")
    p.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    p.add_argument("--pure-bf16", action="store_true")
    p.add_argument("--dropout", type=float, default=0.0)
    p.add_argument("--compile", action="store_true")
    p.add_argument("--mode", default="default", choices=["default", "max-autotune-no-cudagraphs"])
    p.add_argument("--cuda-graphs", choices=["none", "trees", "step"], default="none")
    p.add_argument("--serve", action="store_true", help="a round for each line of stdin")
    o = p.parse_args()
    if o.cuda_graphs == "trees" and not o.compile:
        p.error("--cuda-graphs trees is a part of torch.compile: add --compile")
    if o.cuda_graphs == "trees" and o.mode != "default":
        p.error("--cuda-graphs trees goes with --mode default: torch.compile takes one mode")
    if o.cuda_graphs != "none" and o.device == "cpu":
        p.error("--cuda-graphs needs --device cuda")
    o.bias = True
    o.context = max(o.context, o.length)
    o.kv_heads = o.kv_heads or o.heads
    o.head_dim = o.head_dim or o.width // o.heads
    o.ffn = o.ffn or 4 * o.width
    return o


class Bench:
    def __init__(self, o):
        self.o, self.cuda = o, o.device != "cpu"
        torch.manual_seed(42)
        torch.set_float32_matmul_precision("high")
        with torch.device(o.device):
            self.model = (GPT2 if o.arch == "gpt2" else Llama)(o)
            self.tokens = torch.randint(o.vocab, (o.rows, o.length))
            self.labels = torch.randint(o.vocab, (o.rows, o.length))
        if o.pure_bf16:
            self.model.bfloat16()
        mode = "reduce-overhead" if o.cuda_graphs == "trees" else o.mode
        self.call = torch.compile(self.model, mode=mode) if o.compile else self.model
        self.adamw = adamw_for(self.model, 1e-4, (0.9, 0.95), 0.1, capturable=o.cuda_graphs == "step")
        self.step, self.loss = self.eager_step, None

    def eager_step(self):
        o = self.o
        if o.cuda_graphs == "trees":
            torch.compiler.cudagraph_mark_step_begin()
        mixed = o.dtype == "bf16" and not o.pure_bf16
        with torch.autocast(o.device.split(":")[0], dtype=torch.bfloat16, enabled=mixed):
            loss = self.call(self.tokens, self.labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        self.loss = loss.detach()

    def capture(self):
        """The whole step as one graph. Its gradients live in the graph's own memory, so none may be there before."""
        graph = torch.cuda.CUDAGraph()
        self.adamw.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            self.eager_step()
        self.step = graph.replay

    def sync(self):
        if self.cuda:
            torch.cuda.synchronize()

    def warm_up(self):
        """Some steps: the first compiles, the next ones settle the allocator and record the graphs."""
        o, start = self.o, time.perf_counter()
        self.step()
        first = self.loss.item()
        for _ in range(4):
            self.step()
        if o.cuda_graphs == "step":
            self.capture()
            self.step()
        self.sync()
        say(event="ready", name="PyTorch", version=torch.__version__, arch=o.arch, compile=o.compile, mode=o.mode,
            cuda_graphs=o.cuda_graphs, pure_bf16=o.pure_bf16,
            parameters=sum(p.numel() for p in self.model.parameters()),
            first_loss=round(first, 4), warm_up_s=round(time.perf_counter() - start, 2))

    def round(self):
        """Times a round as a whole, the way a training job runs: the host waits for the GPU once, at its end."""
        o = self.o
        self.sync()
        start = time.perf_counter()
        for _ in range(o.steps):
            self.step()
        loss = self.loss.item()
        self.sync()
        seconds = (time.perf_counter() - start) / o.steps
        memory = {}
        if self.cuda:
            memory = dict(peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2),
                          reserved_gib=round(torch.cuda.max_memory_reserved() / 2**30, 2))
        say(event="round", tokens_per_second=round(o.rows * o.length / seconds, 1), step_ms=round(seconds * 1e3, 4),
            steps_per_second=round(1 / seconds, 2), loss=round(loss, 4), **memory)


def say(**values):
    print(json.dumps(values), flush=True)


def main():
    o = options()
    bench = Bench(o)
    if o.cuda_graphs == "step":  # capture is not possible on the default stream
        torch.cuda.synchronize()
        torch.cuda.set_stream(torch.cuda.Stream())
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
