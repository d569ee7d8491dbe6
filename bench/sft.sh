#!/bin/bash
# Supervised fine-tuning on packed rows: tane beside transformers with torch.compile, on the same rows, in one run. On a GPU
# with Llama-3.2-1B's shape; on a CPU with a model that is there.
#
#   bench/sft.sh TRAIN.jsonl TOKENIZER
#   DEVICE=cpu MODEL=SmolLM2-135M bench/sft.sh TRAIN.jsonl SmolLM2-135M
#
#   TANE=program (bin/tane), PYTHON=python (python3), WORK=folder for a model of 2.5 GB (default: a temporary one),
#   ROWS=rows a step (8; on a CPU 4), SECONDS_EACH=limit of a peer (200)
set -eu
data=$1 tokenizer=$2 tane=${TANE:-bin/tane} python=${PYTHON:-python3}
work=${WORK:-$(mktemp -d)} device=${DEVICE:-cuda} model=${MODEL:-}
steps=60 every=10 rounds=3 rows=${ROWS:-8}
[ "$device" = cuda ] || steps=8 every=2 rounds=2 rows=${ROWS:-4}
here=$(dirname "$0")
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error PYTHONWARNINGS=ignore
mkdir -p "$work"

# Random weights: speed does not depend on them.
[ -n "$model" ] || model=$work/model
[ -e "$model/config.json" ] || "$python" - "$model" <<'PY'
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                     num_attention_heads=32, num_key_value_heads=8, head_dim=64, max_position_embeddings=4096,
                     rope_theta=500000.0, rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0)
torch.set_default_dtype(torch.bfloat16)
with torch.device("cuda"):
    model = LlamaForCausalLM(config)
model.save_pretrained(sys.argv[1])
PY

ours() { # NAME OPTIONS...
    local name=$1
    shift
    rm -rf "$work/runs"
    # Killed once it has been measured: the end of a run is saved always, and these are 17 GB.
    "$tane" train model="$model" device="$device" tokenizer="$tokenizer" train_files="$data" layout=packing max_length=1024 \
        truncation=drop per_device_train_batch_size=$rows max_steps=100000 logging_steps=$every learning_rate=1e-5 adam_beta2=0.95 \
        weight_decay=0.01 save_strategy=no run_name="$name" output_dir="$work/runs/$name" db="$work/runs/db" "$@" \
        > "$work/log" 2>&1 &
    local run=$! metrics="$work/runs/$name/metrics.jsonl"
    until grep -q "\"step\": $steps," "$metrics" 2> /dev/null; do
        kill -0 $run 2> /dev/null || { tail -5 "$work/log"; return; }
        sleep 0.2
    done
    kill -9 $run
    wait $run 2> /dev/null || true
    printf 'tane %s: ' "$name"
    grep -a -o 'memory [0-9.]* [GM]iB' "$work/log" | head -1 | tr '\n' ' '
    "$python" - "$work/runs/$name/metrics.jsonl" $((2 * every)) <<'PY'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
rows = [r for r in rows if r["step"] > int(sys.argv[2]) and "loss" in r]
rate = sorted(r["tokens_per_second"] for r in rows)[len(rows) // 2]
print(f"{rate:.0f} tokens/s, loader {100 * max(r['loader_share'] for r in rows):.3f}% of the time, loss {rows[-1]['loss']:.3f}")
PY
}

peer() { # NAME OPTIONS...
    local name=$1
    shift
    printf 'transformers %s: ' "$name"
    timeout "${SECONDS_EACH:-200}" "$python" "$here/sft.py" "$model" "$work/units.jsonl" --device "$device" --rows $rows \
        --rounds $rounds --steps $every "$@" > "$work/out" 2> "$work/err" ||
        { tail -2 "$work/err"; return 0; }
    "$python" - "$work/out" <<'PY'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
warm = rows[0]["warm_up_s"]
r = sorted(rows[1:], key=lambda r: r["tokens_per_second"])[len(rows[1:]) // 2]
print(f"{r['tokens_per_second']:.0f} tokens/s ({r['trained_per_second']:.0f} trained on), {r['peak_gib']:.1f} GiB, "
      f"warm-up {warm} s, loss {r['loss']:.3f}")
PY
}

"$tane" data show "$data" --tokenizer "$tokenizer" --layout packing --max-length 1024 --truncation drop --json --limit 0 \
    > "$work/units.jsonl" 2> "$work/err"
if [ "$device" = cuda ]; then
    ours bf16-states optimizer_states=bf16
    ours fp32-master
    peer "sdpa, compile, pure bf16" --compile --pure-bf16
    peer "flex_attention, compile, pure bf16" --compile --pure-bf16 --attention flex_attention
    peer "sdpa, eager, pure bf16" --pure-bf16
    peer "sdpa, compile, autocast" --compile
else
    ours fp32-master
    peer "sdpa, compile, autocast" --compile
    peer "sdpa, eager, autocast"
fi
