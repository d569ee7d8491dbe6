"""Golden values of the ops: tests/golden/ops.safetensors, read by tests/test_ops.c.

Run from the repository's root with a Python that has torch, numpy and safetensors:

    python tools/golden/ops.py

Every op of src/ops/ops.def is computed by PyTorch's own functions in double precision from fp32 inputs, and every
gradient by autograd from a random output gradient; results are rounded to fp32 once, at the end. Tensors are named
`op.case.what`: inputs as in ops.h, `y` the output, `dy` the gradient it is given, `d_NAME` the gradient of input NAME, and
`args`, fp32, the op's own parameters in the order noted at each op below. An optional input that is absent has no tensor.
Dropout has no golden values: its mask comes from tane's own counters.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

OUT = "tests/golden/ops.safetensors"
rng = np.random.default_rng(20261122)
tensors = {}
cases = {}


def normal(*shape, scale=1.0):
    return torch.tensor((rng.standard_normal(shape) * scale).astype(np.float32))


def integers(low, high, *shape):
    return torch.tensor(rng.integers(low, high, shape).astype(np.int32))


def leaf(x):
    return None if x is None else x.double().requires_grad_(True)


def store(op, args=None, **values):
    case = cases[op] = cases.get(op, -1) + 1
    if args is not None:
        values["args"] = torch.tensor(args, dtype=torch.float32)
    for name, value in values.items():
        if value is not None:
            value = value.detach()
            value = value.to(torch.int32 if value.dtype in (torch.int32, torch.int64, torch.bool) else torch.float32)
            tensors[f"{op}.{case}.{name}"] = np.ascontiguousarray(value.numpy())


def record(op, function, inputs, args=None, plain=None, outputs=("y",)):
    """function(**double leaves) -> outputs; stores inputs, outputs, output gradients and input gradients."""
    leaves = {name: leaf(x) for name, x in inputs.items()}
    results = function(**leaves)
    results = results if isinstance(results, tuple) else (results,)
    seeds = [normal(*y.shape) for y in results]
    torch.autograd.backward(results, [s.double() for s in seeds])
    values = dict(plain or {})
    for name, x in inputs.items():
        if x is not None:
            values[name] = x
            values["d_" + name] = leaves[name].grad
    for name, y, seed in zip(outputs, results, seeds):
        values[name] = y
        values["d" + name] = seed
    store(op, args, **values)


# embedding, args [scale]: tokens, positions, wte, wpe -> y
def embedding(b, t, v, p, c, with_positions=True, scale=1.0):
    tokens, positions = integers(0, v, b, t), integers(0, p, b, t)
    tokens[0, 0], tokens[-1, -1] = 0, v - 1

    def run(wte, wpe):
        y = F.embedding(tokens.long(), wte) * float(np.float32(scale))
        return y + F.embedding(positions.long(), wpe) if wpe is not None else y

    inputs = {"wte": normal(v, c), "wpe": normal(p, c) if with_positions else None}
    record("embedding", run, inputs, [scale], plain={"tokens": tokens, "positions": positions})


embedding(2, 5, 7, 9, 13)
embedding(1, 1, 2, 1, 3)
embedding(3, 4, 5, 1, 17, with_positions=False)
embedding(2, 3, 4, 3, 257)


# norm, args [kind (0 LayerNorm, 1 RMSNorm, 2 RMSNorm with 1 + weight), epsilon]: x, delta, weight, bias -> sum (with delta), y
def norm(b, t, c, rms=False, delta=True, bias=True, epsilon=1e-5, scale=1.0, offset=0.0, one=False):
    def run(x, delta, weight, bias):
        s = x if delta is None else x + delta
        if rms:
            y = F.rms_norm(s, (c,), weight + 1 if one else weight, epsilon)
            y = y if bias is None else y + bias
        else:
            y = F.layer_norm(s, (c,), weight, bias, epsilon)
        return y if delta is None else (y, s)

    inputs = {
        "x": normal(b, t, c, scale=scale) + offset,
        "delta": normal(b, t, c, scale=scale) if delta else None,
        "weight": normal(c) + 1,
        "bias": normal(c) if bias else None,
    }
    record("norm", run, inputs, [float(rms) + float(one), epsilon], outputs=("y", "sum"))


norm(2, 3, 48)
norm(2, 3, 33, delta=False)
norm(1, 1, 7, bias=False)
norm(2, 5, 17, rms=True, bias=False, epsilon=1e-6)
norm(1, 4, 19, rms=True, delta=False, bias=False, epsilon=1e-6)
norm(1, 3, 16, rms=True, bias=True)
norm(1, 2, 1)
norm(1, 3, 65, delta=False, scale=1e-3)  # epsilon matters
norm(1, 3, 40, delta=False, scale=0.1, offset=30.0)  # mean far above the deviation


# linear: x, w, bias -> y
def linear(b, t, k, m, bias=True):
    inputs = {"x": normal(b, t, k), "w": normal(m, k, scale=k**-0.5), "bias": normal(m) if bias else None}
    record("linear", lambda x, w, bias: F.linear(x, w, bias), inputs)


linear(2, 5, 13, 9)
linear(1, 1, 1, 1)
linear(1, 1, 3, 5, bias=False)
linear(3, 4, 16, 48, bias=False)
linear(2, 3, 65, 2)
linear(1, 7, 2, 33)


# rope, args [heads, KV heads, head_dim]: x = qkv, positions, cos_sin -> y
def rope(b, t, h, kv, d, context=12, rotated=None):
    half = (rotated or d) // 2
    frequency = 10000.0 ** (-np.arange(half) / half)
    angle = np.outer(np.arange(context), frequency)
    table = torch.tensor(np.concatenate([np.cos(angle), np.sin(angle)], 1).astype(np.float32))
    positions = integers(0, context, b, t)
    row = table[positions.long()].double()[:, :, None]
    cos, sin = row[..., :half], row[..., half:]

    def run(x):
        x = x.view(b, t, h + 2 * kv, d)
        qk, v = x[:, :, : h + kv], x[:, :, h + kv :]
        first, second, rest = qk[..., :half], qk[..., half : 2 * half], qk[..., 2 * half :]
        qk = torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)
        return torch.cat([qk, v], 2).reshape(b, t, -1)

    record("rope", run, {"x": normal(b, t, (h + 2 * kv) * d)}, [h, kv, d], {"positions": positions, "cos_sin": table})


rope(2, 3, 2, 1, 6)
rope(1, 1, 1, 1, 2)
rope(2, 4, 2, 2, 16)


# attention, args [heads, KV heads, head_dim, scale (0: 1 / sqrt(head_dim)), window (0: none), softcap (0: none)]:
# x = qkv, starts -> y
def attention(b, t, h, kv, d, sharp=1.0, scale=0.0, window=0, starts=None, softcap=0.0):
    i, j = torch.arange(t)[:, None], torch.arange(t)[None]
    seen = (j <= i) & (j > i - (window or t))
    seen = seen if starts is None else (seen & (j >= torch.tensor(starts)[:, :, None]))[:, None]
    masked = window or starts is not None

    def run(x):
        x = x.view(b, t, h + 2 * kv, d).transpose(1, 2)
        q, k, v = x[:, :h], x[:, h : h + kv], x[:, h + kv :]
        if softcap:
            k, v = (z.repeat_interleave(h // kv, 1) for z in (k, v))
            scores = softcap * torch.tanh(q @ k.transpose(-1, -2) * (scale or d**-0.5) / softcap)
            y = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v
            return y.transpose(1, 2).reshape(b, t, h * d)
        how = {"attn_mask": seen} if masked else {"is_causal": True}
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, scale=scale or None, **how)
        return y.transpose(1, 2).reshape(b, t, h * d)

    plain = None if starts is None else {"starts": torch.tensor(starts, dtype=torch.int32)}
    record("attention", run, {"x": normal(b, t, (h + 2 * kv) * d, scale=sharp)}, [h, kv, d, scale, window, softcap], plain)


attention(2, 5, 2, 2, 8)
attention(1, 1, 1, 1, 4)
attention(2, 7, 4, 2, 5)
attention(1, 17, 3, 1, 16)
attention(1, 16, 1, 1, 3)
attention(2, 2, 6, 3, 1)
attention(1, 9, 2, 1, 33, sharp=4.0)  # sharp softmax
attention(1, 65, 2, 1, 8)  # from here the blocked kernel
attention(1, 64, 1, 1, 4)
attention(1, 130, 2, 2, 3)


# activation and glu, args [kind]: 0 GELU with tanh, 1 GELU, 2 ReLU, 3 SiLU
KINDS = [lambda x: F.gelu(x, approximate="tanh"), F.gelu, F.relu, F.silu]
EXTREMES = torch.tensor([0.0, -0.0, 1e-8, -1e-8, 1e-3, 5.0, -5.0, 12.0, -12.0, 60.0, -60.0, 100.0, -100.0, 1e4, -1e4])
for kind, function in enumerate(KINDS):
    x = normal(2, 3, 13, scale=2.0)
    record("activation", lambda x: function(x), {"x": x}, [kind])
    record("activation", lambda x: function(x), {"x": EXTREMES.view(1, 1, -1).clone()}, [kind])
    for b, t, f in [(2, 3, 11), (1, 1, 1)]:
        record("glu", lambda x: function(x[..., :f]) * x[..., f:], {"x": normal(b, t, 2 * f, scale=2.0)}, [kind])


# cross_entropy, args [smoothing, grad_scale, softcap]: x, w, labels -> y = losses, hits; objective grad_scale * sum(losses)
def cross_entropy(b, t, c, v, smoothing=0.0, masked=0.3, grad_scale=0.25, scale=1.0, softcap=0.0):
    labels = integers(0, v, b, t)
    labels[torch.tensor(rng.random((b, t)) < masked)] = -100
    labels[0, 0] = v - 1 if masked < 1 else -100
    x, w = normal(b, t, c), normal(v, c, scale=scale)
    dx, dw = leaf(x), leaf(w)
    logits = dx @ dw.T
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    losses = F.cross_entropy(logits.view(-1, v), labels.view(-1).long(), reduction="none", ignore_index=-100,
                             label_smoothing=smoothing).view(b, t)
    (losses.sum() * grad_scale).backward()
    hits = (logits.argmax(-1) == labels) & (labels != -100)
    store("cross_entropy", [smoothing, grad_scale, softcap], x=x, w=w, labels=labels, y=losses, hits=hits, d_x=dx.grad, d_w=dw.grad)


cross_entropy(2, 5, 9, 11)
cross_entropy(2, 5, 9, 11, smoothing=0.1)
cross_entropy(1, 1, 1, 2, masked=0.0)
cross_entropy(1, 3, 4, 1, masked=0.0)  # one class: the loss is zero
cross_entropy(3, 4, 17, 61, masked=0.0, smoothing=0.3, grad_scale=1.0)
cross_entropy(2, 3, 5, 7, masked=1.0)  # nothing to train on
cross_entropy(1, 6, 33, 35, scale=5.0)  # far from uniform

# More of attention, at the end so that what is above keeps its numbers.
attention(2, 11, 2, 1, 6, scale=0.25, window=4)
attention(1, 70, 2, 1, 4, window=20)
attention(2, 9, 2, 1, 8, starts=[[0, 0, 2, 2, 2, 5, 6, 6, 6], [0] * 9])
attention(1, 140, 1, 1, 4, starts=[[0] * 33 + [33] + [34] * 94 + [128] * 12])
attention(1, 66, 2, 2, 4, window=9, starts=[[0] * 20 + [20] * 46])


# head_norm, args [heads, KV heads, head_dim, kind (1 or 2, as norm has it), epsilon]: x = qkv, q_weight, k_weight -> y
def head_norm(b, t, h, kv, d, one=False, epsilon=1e-6):
    def run(x, q_weight, k_weight):
        x = x.view(b, t, h + 2 * kv, d)
        q = F.rms_norm(x[:, :, :h], (d,), q_weight + one, epsilon)
        k = F.rms_norm(x[:, :, h : h + kv], (d,), k_weight + one, epsilon)
        return torch.cat([q, k, x[:, :, h + kv :]], 2).reshape(b, t, -1)

    inputs = {"x": normal(b, t, (h + 2 * kv) * d), "q_weight": normal(d), "k_weight": normal(d)}
    record("head_norm", run, inputs, [h, kv, d, 1 + one, epsilon])


head_norm(2, 3, 2, 1, 6)
head_norm(1, 1, 1, 1, 2)
head_norm(3, 11, 4, 2, 16, one=True)
head_norm(2, 5, 3, 3, 33, epsilon=0.1)

# What other families need of the ops above, at the end so that what stands before keeps its numbers.
embedding(2, 3, 5, 4, 20, with_positions=False, scale=25.298221)
embedding(2, 3, 5, 4, 20, scale=0.5)
norm(2, 5, 17, rms=True, bias=False, epsilon=1e-6, one=True)
norm(1, 4, 33, rms=True, delta=False, bias=False, epsilon=1e-6, one=True)
rope(2, 3, 2, 1, 8, rotated=6)
rope(1, 2, 2, 2, 5, rotated=2)
attention(2, 7, 4, 2, 5, softcap=2.0, sharp=2.0)
attention(1, 70, 2, 1, 4, softcap=1.5, sharp=2.0)
attention(1, 66, 2, 2, 4, window=9, starts=[[0] * 20 + [20] * 46], softcap=5.0, scale=0.7)
attention(1, 9, 2, 1, 8, softcap=50.0)
cross_entropy(2, 5, 9, 11, softcap=3.0)
cross_entropy(3, 4, 17, 61, masked=0.0, smoothing=0.3, grad_scale=1.0, softcap=1.0, scale=2.0)

versions = {"torch": torch.__version__, "numpy": np.__version__, "python": sys.version.split()[0]}
save_file(tensors, OUT, {"format": "pt", **versions})
print(f"{OUT}: {len(tensors)} tensors, {sum(x.nbytes for x in tensors.values())} bytes; made with {versions}")
