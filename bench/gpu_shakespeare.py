"""PyTorch's side of `make gpu-bench` for a whole small training: a character model of one text file.

    gpu_shakespeare.py shakespeare.txt [--steps 2000] [--eval-every 250] [--no-compile]

nanoGPT's well-known settings for it: 6 layers, 6 heads, width 384, no biases, context 256, batch 64, dropout 0.2, AdamW
with weight decay 0.1 and betas 0.9 and 0.99, learning rate 1e-3 after 100 steps of warm-up, then a cosine down to 1e-4.
The first 90% of the text are for training; validation is the mean loss over all whole windows of the rest, the same
each time. Prints a JSON line an evaluation, and a last one: steps/s of training alone, best loss, and the seconds from
the first step to the end, evaluations included and compilation not.
"""

import argparse
import json
import math
import time
from types import SimpleNamespace

import torch
from gpu_torch_train import GPT2, adamw_for
from torch import nn

ROWS, LENGTH, WARMUP, PEAK, FLOOR = 64, 256, 100, 1e-3, 1e-4
EVAL_ROWS = 64  # at a time


def options():
    p = argparse.ArgumentParser()
    p.add_argument("text")
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--eval-every", type=int, default=250)
    p.add_argument("--device", default="cuda")
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--seed", type=int, default=1337)
    p.add_argument("--no-compile", action="store_true")
    return p.parse_args()


def read_text(path, device):
    """Both parts as ids, and the number of characters."""
    text = open(path, encoding="utf-8").read()
    ids = {c: i for i, c in enumerate(sorted(set(text)))}
    data = torch.tensor([ids[c] for c in text], device=device)
    cut = len(text) * 9 // 10
    return data[:cut], data[cut:], len(ids)


def learning_rate(step, steps):
    if step < WARMUP:
        return PEAK * (step + 1) / (WARMUP + 1)
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return FLOOR + 0.5 * (1 + math.cos(math.pi * done)) * (PEAK - FLOOR)


class Training:
    def __init__(self, o):
        self.o = o
        torch.manual_seed(o.seed)
        torch.set_float32_matmul_precision("high")
        self.train_ids, val_ids, vocab = read_text(o.text, o.device)
        windows = (len(val_ids) - 1) // LENGTH
        self.val_tokens = val_ids[:windows * LENGTH].view(windows, LENGTH)
        self.val_labels = val_ids[1:windows * LENGTH + 1].view(windows, LENGTH)
        shape = SimpleNamespace(layers=o.layers, width=384, heads=6, ffn=4 * 384, vocab=vocab, context=LENGTH,
                                dropout=0.2, bias=False)
        with torch.device(o.device):
            self.model = GPT2(shape)
            self.window = torch.arange(LENGTH + 1)
        self.call = self.model if o.no_compile else torch.compile(self.model)
        self.adamw = adamw_for(self.model, PEAK, (0.9, 0.99), 0.1)

    def batch(self):
        starts = torch.randint(len(self.train_ids) - LENGTH, (ROWS, 1), device=self.o.device)
        rows = self.train_ids[starts + self.window]
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def gradients(self):
        with torch.autocast(self.train_ids.device.type, dtype=torch.bfloat16):
            loss = self.call(*self.batch())
        loss.backward()

    def step(self, step):
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate(step, self.o.steps)
        self.gradients()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)

    @torch.no_grad()
    def validate(self):
        self.model.eval()
        total = torch.zeros((), device=self.o.device)
        for tokens, labels in zip(self.val_tokens.split(EVAL_ROWS), self.val_labels.split(EVAL_ROWS)):
            with torch.autocast(self.train_ids.device.type, dtype=torch.bfloat16):
                total += self.model(tokens, labels) * len(tokens)
        self.model.train()
        return total.item() / len(self.val_tokens)

    def sync(self):
        if self.o.device != "cpu":
            torch.cuda.synchronize()

    def compile(self):
        """Compiles without training; returns its seconds."""
        start = time.perf_counter()
        for _ in range(3):
            self.gradients()
            self.adamw.zero_grad(set_to_none=True)
        self.validate()
        self.sync()
        return time.perf_counter() - start

    def run(self):
        compile_s, best, best_step, training = self.compile(), math.inf, 0, 0.0
        start = time.perf_counter()
        for step in range(0, self.o.steps, self.o.eval_every):
            count = min(self.o.eval_every, self.o.steps - step)
            from_ = time.perf_counter()
            for i in range(count):
                self.step(step + i)
            self.sync()
            training += time.perf_counter() - from_
            loss, at = self.validate(), step + count
            if loss < best:
                best, best_step = loss, at
            say(event="eval", step=at, val_loss=round(loss, 4), seconds=round(time.perf_counter() - start, 2))
        seconds = time.perf_counter() - start
        say(event="done", steps_per_second=round(self.o.steps / training, 2), best_val_loss=round(best, 4),
            best_step=best_step, seconds=round(seconds, 2), compile_s=round(compile_s, 2))


def say(**values):
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    Training(options()).run()
