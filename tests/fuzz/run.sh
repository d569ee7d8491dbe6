#!/usr/bin/env bash
# run.sh PROGRAM SECONDS [TARGET...]: fuzzes each target (all of fuzz.def when none is named) for so many seconds.
# Inputs that reach new code are kept beside the program, inputs that fail too; the last line counts the failures.
set -u

program=$1 seconds=$2
shift 2
folder=$(dirname "$program")
[ $# -gt 0 ] || set -- $(sed -n 's/^FUZZ(\([a-z0-9_]*\)).*/\1/p' tests/fuzz/fuzz.def)
mkdir -p "$folder/failures"
failed=0

for target in "$@"; do
    link=$folder/fuzz_$target found=$folder/inputs/$target log=$folder/fuzz_$target.log
    mkdir -p "$found"
    ln -sf "$(basename "$program")" "$link"
    ASAN_OPTIONS=allocator_may_return_null=1 "$link" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
        -artifact_prefix="$folder/failures/$target-" -print_final_stats=1 "$found" "tests/corpus/$target" >"$log" 2>&1
    code=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ $code -eq 0 ]; then
        echo "$target: ${runs:-no} inputs, no failure"
    else
        failed=$((failed + 1))
        echo "$target: FAILED (exit code $code); the whole log is $log"
        grep -m 3 -E 'ERROR: |runtime error: |Assertion|Test unit written' "$log" | sed 's/^/    /'
    fi
done
echo "$# targets, $failed failed"
[ $failed -eq 0 ]
