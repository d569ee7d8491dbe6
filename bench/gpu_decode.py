"""transformers' side of `make gpu-bench` for generation: a Llama of random weights, greedy, bf16.

    gpu_decode.py --case default|static|continuous [--batch N] [--prompt N] [--new N] [--seconds S]

default: model.generate() as it comes. static: with a static cache, for which transformers compiles the step
(torch.compile with CUDA graphs). continuous: generate_batch(), its continuous batching. The shape is Llama-3.2-1B's
unless options say otherwise. Prints one JSON line: tokens_per_second counts from when all prompts have their first
token, as bench/decode.c does; all_tokens_per_second counts all new tokens over the whole call. generate() stops at
the next token once it has run for --seconds after its warm-up, and counts what it has.
"""

import argparse
import json
import time

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, StoppingCriteria

WARM_UP_TOKENS = 8


def options():
    p = argparse.ArgumentParser()
    numbers = dict(layers=16, width=2048, heads=32, kv_heads=8, head_dim=64, ffn=8192, vocab=128256, batch=1,
                   prompt=128, new=128)
    for name, default in numbers.items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    p.add_argument("--case", choices=["default", "static", "continuous"], default="default")
    p.add_argument("--device", default="cuda")
    p.add_argument("--seconds", type=float, default=60)
    return p.parse_args()


def make_model(o):
    config = LlamaConfig(
        num_hidden_layers=o.layers, hidden_size=o.width, num_attention_heads=o.heads, num_key_value_heads=o.kv_heads,
        head_dim=o.head_dim, intermediate_size=o.ffn, vocab_size=o.vocab, max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=0, dtype="bfloat16")
    torch.manual_seed(42)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(o.device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model.eval()


class Stop(StoppingCriteria):
    """After so many tokens, or seconds. Notes when the first new token was there."""

    def __init__(self, o, tokens):
        self.o, self.length, self.start, self.first = o, o.prompt + tokens, time.perf_counter(), None

    def __call__(self, input_ids, scores, **kwargs):
        if self.first is None:
            sync(self.o)
            self.first = time.perf_counter()
        over = input_ids.shape[1] >= self.length or time.perf_counter() - self.start > self.o.seconds
        return torch.full((input_ids.shape[0],), over, device=input_ids.device)


def sync(o):
    if o.device != "cpu":
        torch.cuda.synchronize()


def prompts(o):
    return torch.randint(1, o.vocab, (o.batch, o.prompt), device=o.device)


def generate(model, o, tokens):
    """Returns new tokens, seconds, and of both the part after all prompts had their first token."""
    ids, cache = prompts(o), {"cache_implementation": "static"} if o.case == "static" else {}
    sync(o)
    stop = Stop(o, tokens)
    # The cache is sized by max_new_tokens: the same in the warm-up, so that what was compiled fits.
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=o.new, do_sample=False,
                         stopping_criteria=[stop], **cache)
    sync(o)
    end = time.perf_counter()
    new = out.shape[1] - o.prompt
    return new * o.batch, end - stop.start, (new - 1) * o.batch, end - stop.first


def generate_continuous(model, o, tokens):
    config = transformers.GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    ids = prompts(o).tolist()
    start = time.perf_counter()
    # The manager that stays has its graphs and its cache ready for the next call, as a server would.
    done = model.generate_batch(inputs=ids, generation_config=config, record_timestamps=True, persistent_manager=True)
    end = time.perf_counter()
    times = [t for request in done.values() for t in request.timestamps]
    if not times:
        raise SystemExit("gpu_decode.py: generate_batch() generated nothing")
    first = max(request.timestamps[0] for request in done.values())
    return len(times), end - start, sum(t > first for t in times), max(times) - first


@torch.no_grad()
def main():
    o = options()
    model = make_model(o)
    start = time.perf_counter()
    if o.case == "continuous":
        # Its first call makes cache and graphs; where it is slow anyway, it is the measurement, too.
        call = generate_continuous
        result = call(model, o, o.new)
        warm = result[1] > o.seconds
    else:
        # The first call compiles, the second records graphs.
        call, warm = generate, False
        for _ in range(2):
            result = call(model, o, WARM_UP_TOKENS)
    warm_up = 0 if warm else time.perf_counter() - start
    tokens, seconds, tokens_after, seconds_after = result if warm else call(model, o, o.new)
    line = dict(event="done", name="transformers", version=transformers.__version__, torch=torch.__version__,
                case=o.case, batch=o.batch, prompt=o.prompt, new=tokens // o.batch,
                tokens_per_second=round(tokens_after / seconds_after, 1),
                step_ms=round(seconds_after / tokens_after * o.batch * 1e3, 4),
                all_tokens_per_second=round(tokens / seconds, 1), seconds=round(seconds, 3),
                warm_up_s=round(warm_up, 2))
    if o.device != "cpu":
        line["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    print(json.dumps(line), flush=True)
    if getattr(model, "destroy_cached_continuous_batching_manager", None):
        model.destroy_cached_continuous_batching_manager()


if __name__ == "__main__":
    main()
