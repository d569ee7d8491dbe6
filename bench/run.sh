#!/bin/bash
# Training speed beside the peers that are installed, with ratios, all in one run. `make bench` calls it.
#
#   bench/run.sh [--rounds N] [--cases "gpt2-1024 gpt2-256 seed-8 seed-512"] [--quick] [--gemm]
#
#   PYTHON=python   a Python with torch, for the PyTorch rows (default python3)
#   LLMC=folder     holds llm.c's train_gpt2 as built from its source, which fixes batch 4 and context 64; copies built
#                   for another batch B and context T are found as train_gpt2_BxT, e.g. train_gpt2_4x256
#   THREADS=N       for all contestants (default: all cores this process may use)
#   BUILD=folder    where the bench programs are (default build)
#
# Contestants of a case are started together, warmed up, and take turns, round by round, so that all see the same
# machine. Rows show the median round with the slowest and fastest; a ratio is median over median. One FLOP formula
# holds for all: 6 per matrix weight and token, plus attention (model_train_flops).
set -u
cd "$(dirname "$0")/.."

rounds=5 cases="gpt2-1024 gpt2-256 seed-8 seed-512" quick= gemm=
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=${2:?--rounds takes a number}; shift ;;
    --cases) cases=${2:?--cases takes names}; shift ;;
    --quick) quick=2 ;;
    --gemm) gemm=1 ;;
    *) echo "bench/run.sh: unknown option $1 (--rounds N, --cases LIST, --quick, --gemm)" >&2; exit 2 ;;
    esac
    shift
done

build=${BUILD:-build} python=${PYTHON:-python3} threads=${THREADS:-$(nproc)}
export OMP_NUM_THREADS=$threads
work=$(mktemp -d)
declare -A pid in out
failed=0

stop() { # NAME
    [ -n "${pid[$1]:-}" ] || return 0
    echo quit >&"${in[$1]}"
    wait "${pid[$1]}"
    eval "exec ${in[$1]}>&- ${out[$1]}<&-"
    unset "pid[$1]" "in[$1]" "out[$1]"
}

clean_up() {
    local name
    for name in "${!pid[@]}"; do kill "${pid[$name]}" 2>/dev/null; done
    [ -z "${llmc_pid:-}" ] || kill "$llmc_pid" 2>/dev/null
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
trap '' PIPE # a contestant that has died is reported when it is listened to

# number KEY: the value of a key in one flat JSON object on stdin.
number() { sed -n 's/.*"'"$1"'": "\{0,1\}\([^,"}]*\).*/\1/p' | head -n 1; }

hear() { # NAME: one line of its, into $work/NAME.jsonl
    local line
    if ! read -r line <&"${out[$1]}"; then
        echo "  $1 failed: $(tail -n 3 "$work/$1.err" | tr '\n' ' ')"
        wait "${pid[$1]}"
        unset "pid[$1]"
        return 1
    fi
    echo "$line" >> "$work/$1.jsonl"
}

start() { # NAME COMMAND...: until it is warm
    local name=$1 to from
    shift
    rm -f "$work/$name".*
    mkfifo "$work/$name.in" "$work/$name.out"
    "$@" < "$work/$name.in" > "$work/$name.out" 2> "$work/$name.err" &
    pid[$name]=$!
    exec {to}> "$work/$name.in" {from}< "$work/$name.out"
    in[$name]=$to out[$name]=$from
    hear "$name"
}

turn() { # NAME: one round
    [ -n "${pid[$1]:-}" ] || return 0
    echo go >&"${in[$1]}"
    hear "$1"
}

# ------------------------------------------------------------------------------------------------ contestants

have_torch=
if "$python" -c 'import torch' 2>/dev/null; then have_torch=1; fi

llmc_pid=
# One step's time does not depend on the others, so llm.c, which takes no turns, is stopped after a few steps.
run_llmc() { # ROWS LENGTH STEPS -> $work/llmc.jsonl
    local program=$LLMC/train_gpt2_$1x$2 took peak=0
    "$build/bench/llmc_input" "$work/llmc" || return 1
    (cd "$work/llmc" && exec stdbuf -oL "$program" > ../llmc.log 2>&1) &
    llmc_pid=$!
    while kill -0 $llmc_pid 2>/dev/null; do
        peak=$(awk '/VmHWM/ { print $2 }' /proc/$llmc_pid/status 2>/dev/null || echo "$peak")
        took=$(grep -c '(took' "$work/llmc.log")
        [ "$took" -gt "$3" ] && break
        sleep 0.2
    done
    kill $llmc_pid 2>/dev/null
    wait $llmc_pid 2>/dev/null
    llmc_pid=
    rm -rf "$work/llmc"
    # The first step allocates; it is left out.
    awk -v tokens=$(($1 * $2)) -v peak="${peak:-0}" '
        /\(took/ {
            loss = $5
            match($0, /took [0-9.]+/)
            ms = substr($0, RSTART + 5, RLENGTH - 5)
            if (!n++) printf "{\"event\": \"ready\", \"first_loss\": %s}\n", loss
            else printf "{\"event\": \"round\", \"tokens_per_second\": %.1f, \"peak_mib\": %.1f}\n",
                tokens / ms * 1e3, peak / 1024
        }' "$work/llmc.log" > "$work/llmc.jsonl"
    grep -q round "$work/llmc.jsonl" && return
    echo "  llm.c failed: $(tail -n 2 "$work/llmc.log" | tr '\n' ' ')"
    return 1
}

# ------------------------------------------------------------------------------------------------------ table

table_head() {
    printf '  %-22s %10s %21s %8s %8s %8s %9s %8s %6s %7s\n' '' tokens/s '(slowest..fastest)' \
        step TFLOP/s 'of peak' 'peak MiB' plan allocs ratio
}

# row NAME LABEL TOKENS_PER_STEP: its median, spread, share of the peak, memory; tane's tokens/s over its own.
row() {
    awk -v label="$2" -v per_step="$3" -v flops="$flops" -v peak="$peak" -v ours="$work/tane.jsonl" '
        function value(line, key,   rest) {
            if (!match(line, "\"" key "\": ")) return ""
            rest = substr(line, RSTART + RLENGTH)
            sub(/[,}].*/, "", rest)
            return rest
        }
        function median(v, n,   i, j, x) {
            for (i = 2; i <= n; i++) {
                x = v[i]
                for (j = i - 1; j > 0 && v[j] > x; j--) v[j + 1] = v[j]
                v[j + 1] = x
            }
            return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
        }
        BEGIN {
            while ((getline line < ours) > 0) {
                if (line ~ /"ready"/) {
                    our_loss = value(line, "first_loss")
                    our_parameters = value(line, "parameters")
                }
                if (line ~ /"round"/) a[++m] = value(line, "tokens_per_second") + 0
            }
        }
        /"ready"/ {
            loss = value($0, "first_loss")
            parameters = value($0, "parameters")
            plan = value($0, "planned_mib")
            warm = value($0, "warm_up_s")
        }
        /"round"/ {
            b[++n] = value($0, "tokens_per_second") + 0
            mib = value($0, "peak_mib")
            allocs = value($0, "allocations_per_step")
        }
        END {
            if (!n || !m) exit
            rate = median(b, n)
            ratio = label == "tane" ? "" : sprintf("%.2f", median(a, m) / rate)
            share = peak > 0 ? sprintf("%.1f%%", 100 * rate * flops / peak) : "-"
            planned = plan == "" ? "" : sprintf("%+.1f%%", 100 * (mib / plan - 1))
            seconds = per_step / rate
            step = seconds < 1 ? sprintf("%.1fms", seconds * 1e3) : sprintf("%.2fs", seconds)
            spread = sprintf("(%.1f..%.1f)", b[1], b[n])
            printf "  %-22s %10.1f %21s %8s %8.3f %8s %9.0f %8s %6s %7s\n", label, rate, spread, step,
                rate * flops / 1e12, share, mib, planned, allocs, ratio
            if (parameters != "" && parameters != our_parameters)
                printf "    it has %s parameters, tane %s: not the same model\n", parameters, our_parameters
            if (loss - our_loss > 0.15 || our_loss - loss > 0.15)
                printf "    its first loss is %s, tane'\''s %s: not the same start\n", loss, our_loss
            if (label ~ /compile/) printf "    warm-up %s s (not counted)\n", warm
        }' "$work/$1.jsonl"
}

# ------------------------------------------------------------------------------------------------------ cases

# measure TITLE ROWS LENGTH STEPS LLMC_ROWS SHAPE...: llm.c, if at all, runs with LLMC_ROWS rows.
measure() {
    local title=$1 rows=$2 length=$3 steps=$4 llmc_rows=$5 names=tane name round
    shift 5
    local shape=("$@" --rows "$rows" --length "$length" --steps "$steps" --threads "$threads")
    echo
    echo "$title: $rounds rounds of $steps steps, in turns"
    # As the program sets it for itself (src/cli/main.c).
    if ! start tane env GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}" "$build/bench/train_step" "${shape[@]}" --serve; then
        failed=1
        return
    fi
    flops=$(number flops_per_token < "$work/tane.jsonl")
    if [ -n "$have_torch" ]; then
        start eager "$python" bench/torch_train.py "${shape[@]}" --serve && names+=" eager"
        start compile "$python" bench/torch_train.py "${shape[@]}" --serve --compile && names+=" compile"
    fi
    for ((round = 0; round < rounds; round++)); do
        for name in $names; do turn "$name" || [ "$name" != tane ] || failed=1; done
    done
    for name in $names; do stop "$name"; done
    table_head
    row tane tane $((rows * length))
    if [ -n "$have_torch" ]; then
        row eager 'PyTorch eager' $((rows * length))
        row compile 'PyTorch compile' $((rows * length))
    else
        echo "  PyTorch: not installed for $python (PYTHON=... names another one)"
    fi
    [ "$llmc_rows" -gt 0 ] || return 0
    if [ -x "${LLMC:-}/train_gpt2_${llmc_rows}x$length" ]; then
        run_llmc "$llmc_rows" "$length" 2 && row llmc "llm.c (${llmc_rows} x $length)" $((llmc_rows * length))
    else
        echo "  llm.c: not installed (no train_gpt2_${llmc_rows}x$length in LLMC=${LLMC:-})"
    fi
}

gpt2=(--layers 12 --width 768 --heads 12 --vocab 50304 --context 1024)
seed=(--layers 6 --width 512 --heads 8 --vocab 35)
[ -z "$quick" ] || rounds=1

machine=$("$build/bench/peak" "$threads") || exit 1
peak=$(number bf16_tiles <<< "$machine")
[ "$peak" != 0 ] || peak=$(number bf16_vectors <<< "$machine")
[ "$peak" != 0 ] || peak=$(number fp32_vectors <<< "$machine")
awk -v cpu="$(number cpu <<< "$machine")" -v threads="$threads" -v tiles="$(number bf16_tiles <<< "$machine")" \
    -v vectors="$(number bf16_vectors <<< "$machine")" -v fp32="$(number fp32_vectors <<< "$machine")" \
    -v gemm="$(number gemm_bf16 <<< "$machine")" -v gemm32="$(number gemm_fp32 <<< "$machine")" \
    -v backend="$(number gemm_backend <<< "$machine")" -v copy="$(number copy <<< "$machine")" -v peak="$peak" 'BEGIN {
        printf "%s, %d threads, load %s\n", cpu, threads, "'"$(cut -d' ' -f1 /proc/loadavg)"'"
        printf "  in registers: bf16 tiles %.3f, bf16 vectors %.3f, fp32 %.3f TFLOP/s; copy %.1f GB/s\n",
            tiles / 1e12, vectors / 1e12, fp32 / 1e12, copy / 1e9
        printf "  4096 x 3072 x 768: bf16 %.3f TFLOP/s (%.0f%% of the peak, %s), fp32 %.3f\n",
            gemm / 1e12, 100 * gemm / peak, backend, gemm32 / 1e12
    }'

awk -v n="$threads" '$1 > n / 2 { print "  busy with other work: the ratios below mean little" }' /proc/loadavg

for name in $cases; do
    case $name in
    # llm.c holds all of attention and the logits in fp32, twice: 19 GiB at batch 4, so one row stands for four.
    gpt2-1024) measure "GPT-2 124M, batch 4, context 1024" 4 1024 "${quick:-3}" 1 "${gpt2[@]}" ;;
    gpt2-256) measure "GPT-2 124M, batch 4, context 256" 4 256 "${quick:-8}" 4 "${gpt2[@]}" ;;
    gpt2-64) measure "GPT-2 124M, batch 4, context 64" 4 64 "${quick:-8}" 4 "${gpt2[@]}" ;;
    seed-8) measure "seed math model, batch 8 x 16" 8 16 "${quick:-50}" 0 "${seed[@]}" ;;
    seed-512) measure "seed math model, batch 512 x 16" 512 16 "${quick:-8}" 0 "${seed[@]}" ;;
    *) echo "bench/run.sh: no case $name" >&2; exit 2 ;;
    esac
done
[ -z "$gemm" ] || { echo; "$build/bench/gemm"; }

# Time to 99% of the quickstart's questions, from the record of its last run: a line's rate holds since the line before.
record=runs/quickstart/metrics.jsonl
if [ -f "$record" ]; then
    echo
    awk '
        function value(key) {
            if (!match($0, "\"" key "\": *[0-9.e+-]+")) return -1
            v = substr($0, RSTART, RLENGTH)
            sub(/.*: */, "", v)
            return v + 0
        }
        value("tokens_per_second") > 0 {
            seconds += (value("tokens_seen") - seen) / value("tokens_per_second")
            seen = value("tokens_seen")
        }
        value("eval_exact_match") >= 0.99 && !at { at = seconds; step = value("step") }
        END {
            if (at) printf "quickstart: 99%% of its questions right at step %d, after %.0f s of training\n", step, at
            else print "quickstart: its last run did not reach 99%"
        }' "$record"
fi
exit $failed
