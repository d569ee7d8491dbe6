"""Supervised fine-tuning by transformers' Trainer, for tests/test_sft.c: tests/golden/sft/.

Run from the repository's root with a Python that has torch, transformers, tokenizers, accelerate and safetensors:

    python tools/golden/sft.py

It writes what both sides begin with,

  llama/         a tiny random Llama in fp32 with its tokenizer and chat template, as save_pretrained writes them
  pairs.jsonl    prompts and completions of unequal lengths
  chats.jsonl    conversations

and for each case what Trainer made of it, in CASE.safetensors: loss, grad_norm (before clipping) and learning_rate of
each step as Trainer logs them, and final.NAME for each weight after the last step. The cases:

  padding   50 steps on pairs.jsonl, a pair a row, padded on the right (DataCollatorForSeq2Seq)
  packing   50 steps on pairs.jsonl, packed to 96 positions, attention inside each pair, positions restarting
  chat      10 steps on chats.jsonl, a conversation a row, padded; labels are return_assistant_tokens_mask
  whole     10 steps on pairs.jsonl, prompts trained on too: a row's first token is a label that nothing predicts
            (no weights kept)

Micro-batches of 2 rows, 4 to a step; the last step of an epoch has fewer rows. Everything else is SETTINGS and
Trainer's defaults: fused AdamW, weight decay not on norms. Rows come in tane's order, computed here from the
definitions in src/base/rng.h and src/data/layout.h; Trainer gets it from its sampler.

Trainer 5.23 counts targets as tane does: num_items_in_batch is the number of labels[:, 1:] that are not -100 over all
micro-batches of a step, each micro-batch's loss is its sum over that number, and the last, shorter step of an epoch has
its own count. This script checks that (see Recorder).

How far a right implementation may be off: with all weights changed by 3e-7 of themselves (two units in the last place
of fp32) Trainer's own losses and final weights move by 2e-6, its gradient norms by 5e-6; the script prints it as NOISE.

Made with torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3, accelerate 1.15.0.
"""

import json
import pathlib
import random
import tempfile

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (DataCollatorForSeq2Seq, DataCollatorWithFlattening, LlamaConfig, LlamaForCausalLM,
                          PreTrainedTokenizerFast, Trainer, TrainingArguments)

OUT = pathlib.Path("tests/golden/sft")
SEED, WIDTH, MICRO, ACCUMULATION = 42, 96, 2, 4
SETTINGS = dict(per_device_train_batch_size=MICRO, gradient_accumulation_steps=ACCUMULATION, learning_rate=2e-3,
                lr_scheduler_type="linear", warmup_steps=0.1, weight_decay=0.01, max_grad_norm=1.0, seed=SEED)
CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
            {{- message['content'] + '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message['content'] + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


# ---- rows

def sum_of(rng, terms):
    numbers = [rng.randint(1, 99) for _ in range(terms)]
    total, steps = numbers[0], []
    for n in numbers[1:]:
        steps.append(f"{total}+{n}={total + n}.")
        total += n
    return "+".join(map(str, numbers)), " ".join(steps), total


def pairs():
    rng, rows = random.Random(5), []
    for i in range(117):  # no multiple of 2, 4 or 8
        if i % 3 == 0:
            words = [rng.choice(["seed", "leaf", "root", "stem", "bud"]) for _ in range(rng.randint(1, 6))]
            rows.append((f"Reverse: {' '.join(words)}\n", " ".join(reversed(words))))
        else:
            text, steps, total = sum_of(rng, rng.choice([2, 2, 3, 4, 5, 6]))
            rows.append((f"What is {text}? ", f"{steps} The sum is {total}." if i % 3 == 1 else str(total)))
    return [{"prompt": p, "completion": c} for p, c in rows]


def chats():
    rng, rows = random.Random(6), []
    for i in range(37):
        messages = [{"role": "system", "content": rng.choice(["Be brief.", "Show each step."])}] if i % 3 == 0 else []
        for _ in range(rng.randint(1, 4)):
            text, steps, total = sum_of(rng, rng.choice([2, 3, 4]))
            messages.append({"role": "user", "content": f"{text}?"})
            messages.append({"role": "assistant", "content": steps if rng.random() < 0.5 else str(total)})
        rows.append({"messages": messages})
    return rows


def write_rows(name, rows):
    (OUT / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


# ---- the model and its tokenizer

def make_tokenizer(texts):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    # Padding with EOS, which has to be learned all the same.
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    fast.chat_template = CHATML
    return fast


def make_model(vocab):
    config = LlamaConfig(vocab_size=vocab, hidden_size=64, intermediate_size=72, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, rope_theta=10000.0,
                         tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, pad_token_id=0)
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():  # norms that are not 1, matrices that make softmax uneven
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.2 * noise if p.ndim == 1 else noise * (0.3 if "embed" in name else 1.2 * p.shape[0] ** -0.5))
    return model


def load_model(change=0.0):
    model = LlamaForCausalLM.from_pretrained(OUT / "llama", dtype=torch.float32, attn_implementation="eager")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + change * torch.randn(p.shape, generator=generator))
    return model


# ---- tane's order: src/base/rng.h, src/data/dataset.c, src/data/layout.c

def philox(key, hi, lo):
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    c = [lo & 0xFFFFFFFF, lo >> 32, hi & 0xFFFFFFFF, hi >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def permute(key, stream, n, i):
    """Element i of a permutation of 0..n-1: a Feistel network of 6 rounds, walked until it is below n."""
    half = 1
    while half < 32 and 1 << 2 * half < n:
        half += 1
    mask = (1 << half) - 1
    while True:
        left, right = i >> half, i & mask
        for turn in range(6):
            left, right = right, left ^ philox(key, stream, right << 8 | turn)[0] & mask
        i = left << half | right
        if i < n:
            return i


def epoch_order(stream, n, epoch):
    order = [permute(SEED, (int.from_bytes(stream, "big") << 32) + epoch, n, i) for i in range(n)]
    assert sorted(order) == list(range(n))
    return order


def best_fit(lengths, width):
    """Units of row numbers: the longest row left; then the one or two rows that fill the unit exactly, else the longest
    that fits. Of equal rows the first comes first, of two the longer; inside a unit rows stand in their own order."""
    left, units = sorted(range(len(lengths)), key=lambda i: lengths[i]), []

    def first(length):
        return next((i for i in left if lengths[i] == length), None)

    def pair(room):
        for a in sorted({lengths[i] for i in left if lengths[i] <= room and 2 * lengths[i] >= room}, reverse=True):
            if sum(lengths[i] == room - a for i in left) > (a == room - a):
                return a

    while left:
        unit, room = [], width
        while fitting := [lengths[i] for i in left if lengths[i] <= room]:
            take = max(fitting)
            if unit and take < room:
                take = pair(room) or take
            unit.append(first(take))
            left.remove(unit[-1])
            room -= take
        units.append(sorted(unit))
    return units


# ---- what Trainer gets

def pair_rows(tokenizer, rows, whole=False):
    def encode(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    out = []
    for row in rows:
        prompt, answer = encode(row["prompt"]), encode(row["completion"]) + [tokenizer.eos_token_id]
        out.append({"input_ids": prompt + answer, "labels": (prompt if whole else [-100] * len(prompt)) + answer})
    return out


def chat_rows(tokenizer, rows):
    out = []
    for row in rows:
        made = tokenizer.apply_chat_template(row["messages"], return_assistant_tokens_mask=True, return_dict=True)
        labels = [t if learn else -100 for t, learn in zip(made["input_ids"], made["assistant_masks"])]
        out.append({"input_ids": made["input_ids"], "labels": labels})
    return out


class Packed:
    """A unit a row: its documents behind each other, the first label of each ignored (DataCollatorWithFlattening does
    that), and a mask by which each sees itself alone. Padding sees only itself."""

    def __init__(self):
        self.flatten = DataCollatorWithFlattening()

    def __call__(self, units):
        rows = [self.flatten(unit["documents"], return_tensors="pt") for unit in units]
        width = max(row["input_ids"].shape[1] for row in rows)
        batch = {"input_ids": torch.zeros(len(rows), width, dtype=torch.long),
                 "labels": torch.full((len(rows), width), -100),
                 "position_ids": torch.zeros(len(rows), width, dtype=torch.long)}
        for b, row in enumerate(rows):
            for name, values in batch.items():
                values[b, : row[name].shape[1]] = row[name][0]
        document = (batch["position_ids"] == 0).cumsum(1)
        see = (document[:, :, None] == document[:, None, :]).tril()
        batch["attention_mask"] = torch.where(see, 0.0, torch.finfo(torch.float32).min)[:, None]
        return batch


class InOrder(torch.utils.data.Sampler):
    def __init__(self, stream, n):
        self.stream, self.n, self.epoch = stream, n, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(epoch_order(self.stream, self.n, self.epoch))

    def __len__(self):
        return self.n


class Recorder(Trainer):
    """Trainer with tane's order of rows. Notes what each step saw, and checks what it divides its loss by."""

    def __init__(self, stream, **kwargs):
        super().__init__(**kwargs)
        self.stream, self.seen = stream, []

    def _get_train_sampler(self, train_dataset=None):
        return InOrder(self.stream, len(self.train_dataset))

    def get_batch_samples(self, *args):
        samples, count = super().get_batch_samples(*args)
        assert count == sum(int((s["labels"][:, 1:] != -100).sum()) for s in samples)
        self.seen.append([int((row[1:] != -100).sum()) for s in samples for row in s["labels"]])
        return samples, count


def train(case, stream, rows, collate, steps, change=0.0):
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(output_dir=folder, max_steps=steps, logging_steps=1, save_strategy="no",
                                 report_to="none", use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
                                 **SETTINGS)
        trainer = Recorder(stream, model=load_model(change), args=args, train_dataset=rows, data_collator=collate)
        trainer.train()
    steps_an_epoch = -(-len(rows) // (MICRO * ACCUMULATION))
    for step, seen in enumerate(trainer.seen):  # the rows of each step, by what they learn
        order = epoch_order(stream, len(rows), step // steps_an_epoch)
        at = step % steps_an_epoch * MICRO * ACCUMULATION
        assert seen == [targets_of(rows[i]) for i in order[at : at + MICRO * ACCUMULATION]], (case, step)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == len(trainer.seen) == steps
    values = {name: torch.tensor([log[name] for log in logs], dtype=torch.float64)
              for name in ("loss", "grad_norm", "learning_rate")}
    if not change:
        targets, norms = [sum(seen) for seen in trainer.seen], values["grad_norm"]
        print(f"{case}: loss {logs[0]['loss']:.4f} -> {logs[-1]['loss']:.4f}, gradient norm {norms.min():.2f} to "
              f"{norms.max():.2f}, targets of a step {min(targets)} to {max(targets)}")
    weights = {"final." + name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    assert "final.lm_head.weight" not in weights  # tied
    return values | weights


def targets_of(row):
    return sum(t != -100 for document in row.get("documents", [row]) for t in document["labels"][1:])


# ---- checks of this script itself

def check_packed(units):
    """The mask of Packed gives what DataCollatorWithFlattening and each document alone give."""
    model, flatten, packed = load_model().eval(), DataCollatorWithFlattening(), Packed()
    for unit in units[:5]:
        count = targets_of(unit)
        masked = model(**packed([unit]), num_items_in_batch=count).loss
        flat = model(**flatten(unit["documents"], return_tensors="pt"), use_cache=False, num_items_in_batch=count).loss
        alone = sum(model(**flatten([document], return_tensors="pt"), num_items_in_batch=count).loss
                    for document in unit["documents"])
        assert torch.allclose(masked, flat, rtol=1e-6) and torch.allclose(masked, alone, rtol=1e-6)


def worst(a, b, prefix):
    return max(float((a[n].double() - b[n].double()).abs().max()) for n in a if n.startswith(prefix))


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    pair_texts, chat_texts = write_rows("pairs.jsonl", pairs()), write_rows("chats.jsonl", chats())
    texts = [t for row in pair_texts for t in row.values()]
    texts += [m["content"] for row in chat_texts for m in row["messages"]]
    tokenizer = make_tokenizer(texts + ["system\nuser\nassistant\n"] * 20)
    make_model(len(tokenizer)).save_pretrained(OUT / "llama")
    tokenizer.save_pretrained(OUT / "llama")

    rows, talks = pair_rows(tokenizer, pair_texts), chat_rows(tokenizer, chat_texts)
    # A row's last token is a target and never an input, so in tane it takes one position less.
    lengths = [len(r["input_ids"]) for r in rows]
    units = [{"documents": [rows[i] for i in unit]} for unit in best_fit([n - 1 for n in lengths], WIDTH)]
    print(f"{len(rows)} pairs of {min(lengths)} to {max(lengths)} tokens, {len(units)} units "
          f"{sum(n - 1 for n in lengths) / WIDTH / len(units):.3f} full, {len(talks)} conversations of up to "
          f"{max(len(r['input_ids']) for r in talks)} tokens, vocabulary {len(tokenizer)}")
    assert max(lengths) <= WIDTH and len(units) % (MICRO * ACCUMULATION)
    check_packed(units)

    padded = DataCollatorForSeq2Seq(tokenizer)
    cases = {"padding": (b"epoc", rows, padded, 50),
             "packing": (b"unit", units, Packed(), 50),
             "chat": (b"epoc", talks, padded, 10),
             "whole": (b"epoc", pair_rows(tokenizer, pair_texts, whole=True), padded, 10)}
    for case, settings in cases.items():
        made, other = train(case, *settings), train(case, *settings, change=3e-7)
        print(f"NOISE: loss {worst(made, other, 'loss'):.1e}, gradient norm {worst(made, other, 'grad_norm'):.1e}, "
              f"weights {worst(made, other, 'final.'):.1e}")
        save_file({n: v for n, v in made.items() if case != "whole" or "final." not in n}, OUT / f"{case}.safetensors")
    for file in OUT.rglob("*.safetensors"):
        file.chmod(0o644)


main()
