"""Whole models against transformers: tests/golden/models/NAME/.

Run from the repository's root with a Python that has torch, transformers, numpy and safetensors:

    python tools/golden/models.py

Each folder is what `save_pretrained` writes for a tiny random model in fp32 (config.json, model.safetensors), and
reference.safetensors beside it, with these tensors:

  input_ids   (3, 11) int32
  labels      (3, 11) int32, as transformers takes them: labels[b, t] is the token at t, or -100
  targets     (3, 11) int32, the same shifted: targets[b, t] = labels[b, t + 1], the last one -100
  logits      (3, 11, V)
  loss        (1) mean of cross_entropy(logits[b, t], targets[b, t]) over all targets that are not -100
  losses      (3, 11) each one, 0 where the target is -100
  grad.NAME   d loss / d NAME for every parameter, shaped and named as in model.safetensors. Tied weights appear once.

Training, from the weights in model.safetensors, 50 steps of 2 micro-batches of (2, 9) tokens, no dropout:

  train.input_ids, train.targets  (50, 2, 2, 9) int32: step, micro-batch, row, token; targets are shifted already
  train.lr         (50) learning rate of each step: linear, 5 steps of warm-up, peak 1e-3. Step 0 has 0, as in transformers
  train.loss       (50) sum of cross-entropy over both micro-batches / number of their targets, before the step's update
  train.grad_norm  (50) Euclidean norm of the gradient of that loss, before clipping
  train.norms      (P) Euclidean norm of each parameter after the last step, in the order of `sorted(names)`
  train.final.NAME (at most 16) the first elements of each parameter after the last step

torch.optim.AdamW with betas (0.9, 0.999), eps 1e-8, weight decay 0.1 on everything with two dimensions (matrices and
embeddings, not biases and norms), gradients clipped to a norm of 1. The micro-batches of a step have unequal numbers of
targets, and the loss is normalised over all targets of the step.

How far a right implementation may be off: with all weights changed by 3e-7 of themselves the 50 losses and gradient norms
move by less than 2e-6 of their size, the final values by 1e-6, and the final norms by 4e-8, but 2e-5 for GPT-2's c_attn.bias:
attention does not depend on the keys' bias, whose gradient is rounding alone, and Adam makes steps of it.
"""

import os
import shutil
import sys

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors.numpy import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, get_linear_schedule_with_warmup
from transformers import (Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, MistralConfig,
                          MistralForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM, SmolLM3Config, SmolLM3ForCausalLM)

OUT = "tests/golden/models"
VOCAB = 61
STEPS, MICRO, ROWS, LENGTH = 50, 2, 2, 9

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def gpt2(tied):
    config = GPT2Config(vocab_size=VOCAB, n_positions=32, n_embd=48, n_layer=2, n_head=4, embd_pdrop=0.0, attn_pdrop=0.0,
                        resid_pdrop=0.0, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=1)
    return GPT2LMHeadModel(config)


def llama(tied, head_dim=None):
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=32, rope_theta=10000.0, tie_word_embeddings=tied,
                         bos_token_id=0, eos_token_id=1, **({"head_dim": head_dim} if head_dim else {}))
    return LlamaForCausalLM(config)


SMALL = dict(vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=32, bos_token_id=0, eos_token_id=1, pad_token_id=None)


# Windows of 4 and odd sizes, so that within 11 tokens every difference shows.
def family(config, model, **options):
    return model(config(**{**SMALL, **options}, attn_implementation="eager"))


LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
LONG = {"rope_type": "longrope", "rope_theta": 100.0, "short_factor": [1.0, 1.5, 2.0, 3.0, 3.5, 4.0],
        "long_factor": [2.0, 3.0, 4.0, 9.0, 9.5, 10.0], "partial_rotary_factor": 0.75}


def randomize(model, generator):
    """So that every term shows: biases that are not 0, norms that are not 1, matrices that make softmax uneven."""
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 2:
                p.copy_(noise * (0.5 if "emb" in name or "wte" in name or "wpe" in name else 1.2 * p.shape[0] ** -0.5))
            else:
                one = "ln" in name.split(".")[-2] or "norm" in name.split(".")[-2]
                stored_less_one = "Gemma" in type(model).__name__
                p.copy_(noise * 0.2 + (1.0 if one and not stored_less_one else 0.0))


def shifted(labels):
    return torch.cat([labels[..., 1:], torch.full_like(labels[..., :1], -100)], -1)


def loss_sum(model, input_ids, targets):
    logits = model(input_ids=input_ids).logits
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-100)
    return logits, losses.view(targets.shape)


def forward_and_gradients(model, generator):
    input_ids = torch.randint(0, VOCAB, (3, 11), generator=generator)
    labels = input_ids.clone()
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = -100
    labels[1, :7] = -100  # a prompt
    targets = shifted(labels)
    logits, losses = loss_sum(model, input_ids, targets)
    loss = model(input_ids=input_ids, labels=labels).loss
    assert torch.allclose(loss, losses.sum() / (targets != -100).sum(), rtol=1e-6)
    model.zero_grad()
    loss.backward()
    values = {"input_ids": input_ids.int(), "labels": labels.int(), "targets": targets.int(), "logits": logits,
              "loss": loss.view(1), "losses": losses}
    for name, p in model.named_parameters():
        values["grad." + name] = p.grad
    return values


def train(model, generator):
    input_ids = torch.randint(0, VOCAB, (STEPS, MICRO, ROWS, LENGTH), generator=generator)
    # Something to learn: a token is mostly the one before it plus 7.
    for t in range(1, LENGTH):
        follow = torch.rand(input_ids.shape[:-1], generator=generator) < 0.8
        input_ids[..., t] = torch.where(follow, (input_ids[..., t - 1] + 7) % VOCAB, input_ids[..., t])
    labels = input_ids.clone()
    share = torch.tensor([0.1, 0.6]).view(1, MICRO, 1, 1)  # unequal micro-batches
    labels[torch.rand(labels.shape, generator=generator) < share] = -100
    targets = shifted(labels)
    targets[..., 0] = input_ids[..., 1]  # at least one a row
    counts = (targets != -100).flatten(2).sum(2)
    assert (counts[:, 0] != counts[:, 1]).float().mean() > 0.9

    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, foreach=False, fused=False)
    schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=5, num_training_steps=STEPS)
    model.train()
    rates, losses, norms = [], [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        total = counts[step].sum()
        loss = 0.0
        for micro in range(MICRO):
            part = loss_sum(model, input_ids[step, micro], targets[step, micro])[1].sum() / total
            part.backward()
            loss += part.item()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        losses.append(loss)
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    final = {name: p.detach() for name, p in sorted(model.named_parameters())}
    values = {"input_ids": input_ids.int(), "targets": targets.int(), "lr": torch.tensor(rates), "loss": torch.tensor(losses),
              "grad_norm": torch.tensor(norms), "norms": torch.stack([p.norm() for p in final.values()])}
    for name, p in final.items():
        values["final." + name] = p.flatten()[:16]
    return {"train." + name: x for name, x in values.items()}


def make(name, build, seed):
    generator = torch.Generator().manual_seed(seed)
    folder = os.path.join(OUT, name)
    shutil.rmtree(folder, ignore_errors=True)
    model = build().float().eval()
    randomize(model, generator)
    model.save_pretrained(folder)
    for extra in set(os.listdir(folder)) - {"config.json", "model.safetensors"}:
        os.remove(os.path.join(folder, extra))
    values = forward_and_gradients(model, generator)
    values.update(train(model, generator))
    arrays = {k: np.ascontiguousarray(v.detach().numpy()) for k, v in values.items()}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "python": sys.version.split()[0]}
    save_file(arrays, os.path.join(folder, "reference.safetensors"), {"format": "pt", **versions})
    trained = values["train.loss"]
    print(f"{folder}: loss {values['loss'].item():.4f}, training {trained[0]:.4f} -> {trained[-1]:.4f}, "
          f"{sum(p.numel() for p in model.parameters())} parameters; {versions}")


make("gpt2-tied", lambda: gpt2(True), 1)
make("gpt2-untied", lambda: gpt2(False), 2)
make("llama-tied", lambda: llama(True), 3)
make("llama-untied", lambda: llama(False), 4)
make("llama-head-dim", lambda: llama(False, head_dim=16), 5)
make("llama3-rope", lambda: family(LlamaConfig, LlamaForCausalLM, rope_parameters=LLAMA3, tie_word_embeddings=True), 6)
make("llama-yarn", lambda: family(LlamaConfig, LlamaForCausalLM, rope_parameters=YARN, attention_bias=True, mlp_bias=True), 7)
make("mistral", lambda: family(MistralConfig, MistralForCausalLM, sliding_window=4, head_dim=8), 8)
make("qwen2", lambda: family(Qwen2Config, Qwen2ForCausalLM, use_sliding_window=True, sliding_window=5, max_window_layers=1), 9)
make("qwen3", lambda: family(Qwen3Config, Qwen3ForCausalLM, head_dim=16, tie_word_embeddings=True), 10)
make("gemma2", lambda: family(Gemma2Config, Gemma2ForCausalLM, head_dim=10, query_pre_attn_scalar=12, sliding_window=4,
                              attn_logit_softcapping=2.0, final_logit_softcapping=3.0), 11)
make("gemma3", lambda: family(Gemma3TextConfig, Gemma3ForCausalLM, head_dim=16, query_pre_attn_scalar=20, sliding_window=4,
                              num_hidden_layers=3, layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
     12)
make("smollm3", lambda: family(SmolLM3Config, SmolLM3ForCausalLM, no_rope_layers=[1, 0], tie_word_embeddings=True), 13)
make("phi3", lambda: family(Phi3Config, Phi3ForCausalLM, hidden_size=64, rope_parameters=LONG, max_position_embeddings=128,
                            original_max_position_embeddings=32), 14)
