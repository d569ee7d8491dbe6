#!/bin/bash
# Speed on one GPU beside the peers that are installed, with ratios, all in one run. `make gpu-bench` calls it.
#
#   bench/gpu.sh [ROW...] [--no-peers | --no-tane] [--json FILE]
#
# Rows: gpt2 llama seed8 seed512 shakespeare decode1 decode256 (default: all, in this order).
#
#   BIN=folder       holds tane's train_step and decode (default bin/bench, as in the bundle)
#   PYTHON=python    a Python with torch and transformers (default python3)
#   LLMC=folder      holds llm.c's train_gpt2cu-cudnn or train_gpt2cu from bench/gpu_llmc.sh (default bin/llmc)
#   TEXT=file        Shakespeare as one text file, for the whole training in row shakespeare
#   DEVICE=name      --device of all contestants but llm.c (default cuda)
#   TANE_OPTIONS=... added to tane's training commands
#   SEED_LENGTH=N    tokens of the seed model's rows (default 16: its batches are padded to their longest, 13 to 16)
#   SECONDS_EACH=N   a contestant is stopped after these (default 300)
#   PEAK, COPY       what the GPU does at best: FLOP/s of a bf16 product of 8192 x 8192 x 8192, and bytes/s read and
#                    written by a copy (default: an H100's 777e12 and 2.99e12)
#
# Contestants have the GPU to themselves, one after another; a training row shows the median of three rounds, warm-up
# and compilation apart. The ratio in a peer's line is tane's rate, in the line above it, over the peer's. Rates of
# decoding begin when all prompts have their first token. Memory is what a contestant allocates on the GPU: tane's is
# its plan, PyTorch's the allocator's peak, llm.c's includes the CUDA context.
#
# Two limits, derived from the shape alone:
#
# - A training step takes at least its products at PEAK (6 operations per matrix weight and token, the output layer
#   included, and 6 x layers x heads x head size x length a token for causal attention), or reading each bf16 weight
#   twice and writing its fp32 gradient (8 bytes) at COPY if that takes longer; then, as clipping has to know all
#   gradients before, AdamW's 30 bytes a parameter (reads master, moments and gradient; writes master, moments and bf16
#   weight). With weights, gradients and moments all in bf16 it is 6 and 14 bytes.
# - A decoding step takes at least reading the weights and the mean KV cache at COPY, or its products at PEAK.
set -u
cd "$(dirname "$0")/.." || exit 1

every="gpt2 llama seed8 seed512 shakespeare decode1 decode256"
rows='' peers=1 tane=1 json=/dev/null
usage() { echo "bench/gpu.sh: $1 (rows: $every; --no-peers, --no-tane, --json FILE)" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
    --no-peers) peers= ;;
    --no-tane) tane= ;;
    --json) json=${2:-}; [ -n "$json" ] || usage "--json takes a file"; shift ;;
    *) case " $every " in *" $1 "*) rows+=" $1" ;; *) usage "unknown word $1" ;; esac ;;
    esac
    shift
done

bin=${BIN:-bin/bench} python=${PYTHON:-python3} llmc=${LLMC:-bin/llmc} text=${TEXT:-} device=${DEVICE:-cuda}
seed_length=${SEED_LENGTH:-16} seconds=${SECONDS_EACH:-300} peak=${PEAK:-777e12} copy=${COPY:-2.99e12}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
failed=0
export TORCHINDUCTOR_FX_GRAPH_CACHE=1 HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error PYTHONWARNINGS=ignore
# tane and llm.c take cuBLAS and cuDNN from the same packages as PyTorch where there are such.
libraries=$("$python" -c 'import glob, nvidia
print(":".join(glob.glob(list(nvidia.__path__)[0] + "/*/lib")))' 2> /dev/null)
libraries=${libraries:+$libraries:}/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# ------------------------------------------------------------------------------------------------------ limits

# shape KEY=NUMBER...: the row's model, for the limits and, as options, for the contestants.
declare -A n
shape() {
    local pair ffn_matrices=2
    n=([arch]=gpt2 [kv_heads]=0 [head_dim]=0 [ffn]=0 [context]=0 [batch]=0 [prompt]=0 [new]=0 [rows]=1 [length]=1)
    for pair; do n[${pair%%=*}]=${pair#*=}; done
    [ "${n[kv_heads]}" != 0 ] || n[kv_heads]=${n[heads]}
    [ "${n[head_dim]}" != 0 ] || n[head_dim]=$((n[width] / n[heads]))
    [ "${n[ffn]}" != 0 ] || n[ffn]=$((4 * n[width]))
    [ "${n[context]}" != 0 ] || n[context]=${n[length]}
    [ "${n[arch]}" != llama ] || ffn_matrices=3
    matrices=$((n[layers] * (2 * n[width] * n[head_dim] * (n[heads] + n[kv_heads]) +
        ffn_matrices * n[width] * n[ffn]) + n[vocab] * n[width]))
    parameters=$matrices
    [ "${n[arch]}" != gpt2 ] || parameters=$((matrices + n[context] * n[width]))
}

# options KEY...: as a command's arguments.
options() {
    local key
    for key; do printf -- '--%s %s ' "${key//_/-}" "${n[$key]}"; done
}

# Both set limit, in the row's unit, and why.
train_limit() { # BYTES_A_WEIGHT BYTES_OF_ADAMW, by default those of fp32 master weights
    read -r limit why <<< "$(awk -v p="$parameters" -v m="$matrices" -v layers="${n[layers]}" \
        -v inner=$((n[heads] * n[head_dim])) -v rows="${n[rows]}" -v length_="${n[length]}" \
        -v peak="$peak" -v copy="$copy" -v unit="$unit" -v touched="${1:-8}" -v adamw="${2:-30}" 'BEGIN {
            tokens = rows * length_
            flops = tokens * (6 * m + 6 * layers * inner * length_)
            compute = flops / peak
            weights = touched * p / copy
            seconds = (compute > weights ? compute : weights) + adamw * p / copy
            printf "%.1f %.3f TFLOP: %.3f ms; ", (unit == "steps/s" ? 1 : tokens) / seconds, flops / 1e12, compute * 1e3
            printf "weights and gradients, %.3f GB: %.3f ms; ", touched * p / 1e9, weights * 1e3
            printf "AdamW, %.3f GB: %.3f ms", adamw * p / 1e9, adamw * p / copy * 1e3
        }')"
}

decode_limit() {
    read -r limit why <<< "$(awk -v m="$matrices" -v layers="${n[layers]}" -v kv=$((n[kv_heads] * n[head_dim])) \
        -v inner=$((n[heads] * n[head_dim])) -v batch="${n[batch]}" -v prompt="${n[prompt]}" -v new="${n[new]}" \
        -v peak="$peak" -v copy="$copy" 'BEGIN {
            past = prompt + new / 2
            cache = batch * past * layers * kv * 2 * 2
            flops = batch * (2 * m + 4 * layers * inner * past)
            read_ = (2 * m + cache) / copy
            compute = flops / peak
            printf "%.1f a step: weights, %.3f GB, and cache, %.3f GB: %.3f ms; %.3f TFLOP: %.3f ms",
                batch / (read_ > compute ? read_ : compute), 2 * m / 1e9, cache / 1e9, read_ * 1e3, flops / 1e12,
                compute * 1e3
        }')"
}

# ------------------------------------------------------------------------------------------------ contestants

head_of_row() { # TITLE
    our_rate=
    echo
    echo "$1"
    echo "  limit $limit $unit ($why)"
    printf '  %-36s %12s %10s %9s %9s %7s %9s\n' '' "$unit" ms/step GiB 'warm-up s' ratio 'of limit'
}

# report LABEL < JSON lines of a contestant: its row of the table and its line of the file. Fails if there is no rate.
report() {
    local line
    line=$(awk -v row="$row" -v label="$1" -v unit="$unit" -v limit="$limit" -v ours="$our_rate" '
        function value(key,   rest) {
            if (!match($0, "\"" key "\": *")) return ""
            rest = substr($0, RSTART + RLENGTH)
            sub(/[,}].*/, "", rest)
            return rest
        }
        function field(key, x) { return x == "" ? "" : sprintf(", \"%s\": %s", key, x) }
        /"ready"|"done"/ { warm = value("warm_up_s") }
        /"ready"/ && value("planned_mib") != "" { plan = sprintf("%.2f", value("planned_mib") / 1024) }
        /"round"|"done"/ {
            ms = value("step_ms")
            rate = unit == "steps/s" ? (ms > 0 ? 1e3 / ms : 0) : value("tokens_per_second")
            if (rate + 0 <= 0) next
            for (i = ++k; i > 1 && rates[i - 1] > rate + 0; i--) { rates[i] = rates[i - 1]; steps[i] = steps[i - 1] }
            rates[i] = rate + 0
            steps[i] = ms
            gib = plan != "" ? plan : value("peak_gib")
        }
        END {
            if (!k) exit 1
            rate = rates[int((k + 1) / 2)]
            ms = steps[int((k + 1) / 2)]
            ratio = ours == "" ? "" : sprintf("%.3f", ours / rate)
            printf "%.6g|  %-36s %12.1f %10s %9s %9s %7s %8.1f%%|", rate, label, rate,
                ms == "" ? "" : sprintf("%.3f", ms), gib, warm, ratio == "" ? "" : sprintf("%.2f", ratio),
                100 * rate / limit
            printf "{\"row\": \"%s\", \"contestant\": \"%s\", \"unit\": \"%s\", \"rate\": %.6g", row, label, unit, rate
            printf "%s%s%s", field("step_ms", ms), field("gib", gib), field("warm_up_s", warm)
            printf ", \"limit\": %.6g, \"fraction\": %.4f%s}\n", limit, rate / limit, field("tane_over_it", ratio)
        }') || return 1
    [ "$1" != tane ] || our_rate=${line%%|*}
    line=${line#*|}
    echo "${line%%|*}"
    echo "${line#*|}" >> "$json"
}

no_result() { # LABEL REASON
    local reason
    reason=$(tr '\n"\\' "  /" <<< "$2" | cut -c1-400)
    echo "  $1 failed: $reason"
    echo "{\"row\": \"$row\", \"contestant\": \"$1\", \"error\": \"$reason\"}" >> "$json"
}

contest() { # LABEL COMMAND...
    local label=$1 status
    shift
    timeout "$seconds" "$@" > "$work/out" 2> "$work/err"
    status=$?
    [ $status = 0 ] && report "$label" < "$work/out" && return
    [ $status != 124 ] || echo "stopped after $seconds s" >> "$work/err"
    no_result "$label" "exit status $status: $(tail -n 3 "$work/err")"
    return 1
}

ours() { # PROGRAM OPTIONS...
    [ -n "$tane" ] || return 0
    contest tane env LD_LIBRARY_PATH="$libraries" "$bin/$1" --device "$device" "${@:2}" || failed=1
}

torch() { # LABEL OPTIONS...
    [ -n "$peers" ] || return 0
    contest "PyTorch $1" "$python" bench/gpu_torch_train.py --device "$device" "${@:2}"
}

transformers() { # LABEL OPTIONS...
    [ -n "$peers" ] || return 0
    contest "transformers $1" "$python" bench/gpu_decode.py --device "$device" "${@:2}"
}

# With cuDNN's attention, or with its own where that does not run. Its first three steps allocate and choose kernels.
llmc() { # ROWS LENGTH
    local name arguments tokens=$((4 * $1 * $2 + 1))
    [ -n "$peers" ] || return 0
    # A file of random tokens: 256 int32, of which three count, then uint16.
    "$python" -c 'import array, random, sys
header = array.array("i", [20240520, 1, int(sys.argv[2])] + [0] * 253)
random.seed(43)
tokens = array.array("H", random.choices(range(50257), k=int(sys.argv[2])))
with open(sys.argv[1], "wb") as f: header.tofile(f), tokens.tofile(f)' "$work/tokens.bin" "$tokens" || return
    arguments=(-e d12 -i "$work/tokens.bin" -j "$work/tokens.bin" -b "$1" -t "$2" -d $(($1 * $2)) -x 20 -r 0 -z 0 -ge 1
        -v 1000 -m 1 -s 0 -h 0 -n 0 -c 0.1)
    for name in train_gpt2cu-cudnn train_gpt2cu; do
        [ -x "$llmc/$name" ] || continue
        LD_LIBRARY_PATH=$libraries timeout "$seconds" "$llmc/$name" "${arguments[@]}" > "$work/llmc.log" 2>&1
        awk -v tokens=$(($1 * $2)) '
            /^device memory usage/ { gib = $4 / 1024 }
            /^step .* ms / && ++k > 3 {
                match($0, /[0-9.]+ ms /)
                ms = substr($0, RSTART, RLENGTH) + 0
                printf "{\"event\": \"round\", \"tokens_per_second\": %.1f, \"step_ms\": %.3f", tokens / ms * 1e3, ms
                printf ", \"peak_gib\": %.2f}\n", gib
            }' "$work/llmc.log" > "$work/out"
        report "llm.c ($name)" < "$work/out" && return
        no_result "llm.c ($name)" "$(tail -n 3 "$work/llmc.log")"
    done
    [ -n "$(compgen -G "$llmc/train_gpt2cu*")" ] || echo "  llm.c: no train_gpt2cu in $llmc (see bench/gpu_llmc.sh)"
}

# -------------------------------------------------------------------------------------------------------- rows

train_keys="arch layers width heads vocab context rows length"
llama1b="arch=llama layers=16 width=2048 heads=32 kv_heads=8 head_dim=64 ffn=8192 vocab=128256"

run_gpt2() {
    unit=tokens/s
    shape layers=12 width=768 heads=12 vocab=50304 rows=64 length=1024
    train_limit
    head_of_row "GPT-2 124M, batch 64 x 1024"
    local same="$(options $train_keys) --steps 10"
    ours train_step $same ${TANE_OPTIONS:-}
    torch compile $same --compile
    llmc 64 1024
}

# Twice, as precision and memory differ: fp32 master weights, and everything in bf16.
run_llama() {
    unit=tokens/s
    shape $llama1b rows=8 length=1024
    local same="$(options $train_keys kv_heads ffn) --steps 10"
    local title="Llama-3.2-1B shape, full fine-tune, batch 8 x 1024"
    train_limit
    head_of_row "$title, fp32 master weights and moments"
    ours train_step $same ${TANE_OPTIONS:-}
    torch compile $same --compile
    train_limit 6 14
    head_of_row "$title, weights, gradients and moments in bf16"
    ours train_step $same --bf16-states ${TANE_OPTIONS:-}
    torch eager $same --pure-bf16
    torch compile $same --pure-bf16 --compile
}

run_seed() { # ROWS STEPS
    shape layers=6 width=512 heads=8 vocab=35 context=32 rows="$1" length="$seed_length"
    train_limit
    head_of_row "seed math model, batch $1 x $seed_length"
    local same="$(options $train_keys) --steps $2"
    ours train_step $same ${TANE_OPTIONS:-}
    torch eager $same
    torch 'compile, CUDA graphs' $same --compile --cuda-graphs trees
    torch 'compile, the step one graph' $same --compile --cuda-graphs step
}

run_seed8() { unit=steps/s; run_seed 8 200; }
run_seed512() { unit=tokens/s; run_seed 512 50; }

run_shakespeare() {
    unit=steps/s
    shape layers=6 width=384 heads=6 vocab=65 rows=64 length=256
    train_limit
    head_of_row "tinyshakespeare, characters, batch 64 x 256, dropout 0.2"
    local same="$(options $train_keys) --dropout 0.2 --steps 100"
    ours train_step $same ${TANE_OPTIONS:-}
    torch compile $same --compile
    torch 'compile, the step one graph' $same --compile --cuda-graphs step
    whole_training
}

# tane reads bytes and takes random windows of the last tenth, PyTorch characters and all windows of it.
whole_training() {
    [ -f "$text" ] || { echo "  whole training of 2,000 steps: needs TEXT=file"; return; }
    local schedule="--dropout 0.2 --lr 1e-3 --warmup 100 --beta2 0.99 --steps 250 --rounds 8"
    [ -z "$tane" ] || trained tane env LD_LIBRARY_PATH="$libraries" "$bin/train_step" --device "$device" \
        --text "$text" $(options $train_keys) $schedule ${TANE_OPTIONS:-} || failed=1
    [ -z "$peers" ] || trained "PyTorch compile" "$python" bench/gpu_shakespeare.py "$text" --device "$device"
}

# Best loss and seconds, evaluations included: those of the last line, or summed over the rounds, of 250 steps each.
trained() { # LABEL COMMAND...
    local label=$1 line
    shift
    if ! timeout "$seconds" "$@" > "$work/out" 2> "$work/err"; then
        no_result "$label, whole training" "$(tail -n 3 "$work/err")"
        return 1
    fi
    line=$(awk '
        function value(key,   rest) {
            if (!match($0, "\"" key "\": *")) return ""
            rest = substr($0, RSTART + RLENGTH)
            sub(/[,}].*/, "", rest)
            return rest
        }
        /"round"/ {
            loss = value("eval_loss") + 0
            if (best == "" || loss < best) best = loss
            seconds += 250 * value("step_ms") / 1e3 + value("eval_s")
            training += 250 * value("step_ms") / 1e3
            rate = (steps += 250) / training
        }
        /"done"/ { best = value("best_val_loss"); seconds = value("seconds"); rate = value("steps_per_second") }
        END {
            printf "\"steps_per_second\": %.1f, \"best_val_loss\": %.4f, \"seconds\": %.2f", rate, best, seconds
        }' "$work/out")
    echo "  $label, whole training of 2,000 steps: ${line//\"/}"
    echo "{\"row\": \"$row\", \"contestant\": \"$label, whole training\", $line}" >> "$json"
}

run_decode() { # BATCH NEW
    unit=tokens/s
    shape $llama1b batch="$1" prompt=128 new="$2"
    decode_limit
    head_of_row "Llama-3.2-1B shape, decode, batch $1, prompt 128, $2 new tokens"
    same="$(options layers width heads kv_heads head_dim ffn vocab batch prompt new)"
    ours decode $same
}

run_decode1() {
    run_decode 1 256
    transformers generate $same --case default --seconds 15
    transformers 'static cache, compile' $same --case static --seconds 30
}

run_decode256() {
    run_decode 256 256
    transformers generate $same --case default --seconds 20
    transformers 'continuous batching' $same --case continuous --seconds 20
}

command -v nvidia-smi > /dev/null &&
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
[ -z "$peers" ] || "$python" -c 'import torch, transformers
print("PyTorch", torch.__version__, "transformers", transformers.__version__)' 2> /dev/null || {
    echo "no torch and transformers in $python: no peers but llm.c"
}
for row in ${rows:-$every}; do "run_$row"; done
exit $failed
