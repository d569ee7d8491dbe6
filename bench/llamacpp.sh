#!/usr/bin/env bash
# llama.cpp's speed on this machine, to set tane's beside it: prompt processing (512 tokens at once) and generation (128
# tokens one by one), in tokens a second, mean and deviation of several rounds.
#
#     bench/llamacpp.sh BIN MODEL.gguf ...
#
# BIN is where llama-bench is: tools/real/llama_cpp.sh FOLDER builds it in FOLDER/bin. THREADS (2) and ROUNDS (5) from the
# environment.
set -eu

[ $# -ge 2 ] || { echo "usage: bench/llamacpp.sh BIN MODEL.gguf ..." >&2; exit 2; }
bin=$1
shift
[ -x "$bin/llama-bench" ] || { echo "$bin/llama-bench is not there: tools/real/llama_cpp.sh builds it" >&2; exit 1; }
grep -m 1 'model name' /proc/cpuinfo
for model in "$@"; do
    "$bin/llama-bench" -m "$model" -t "${THREADS:-2}" -p 512 -n 128 -r "${ROUNDS:-5}"
done
