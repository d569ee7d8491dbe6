#!/usr/bin/env bash
# Runs the test programs given as arguments, one after another. Prints one line a program, the whole output of those
# that fail, and at the end exactly "N passed, N failed, N skipped". A crash, a time-out (TEST_TIMEOUT seconds, 600)
# and a program that ends badly without naming a test count as failures. The exit code says whether all is well.
set -u

# As in the program (src/cli/main.c): on a busy machine threads that spin for long cost more than the tests.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}
limit=${TEST_TIMEOUT:-600}
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
passed=0 failed=0 skipped=0

# Reads cmocka's output: "passed failed skipped name-of-the-test-that-was-running".
count() {
    awk '
        /^\[ RUN      \] / { running = $0; sub(/^\[ RUN      \] /, "", running); next }
        running != "" && /^\[       OK \] / { passed++; running = "" }
        running != "" && /^\[  FAILED  \] / { failed++; running = "" }
        running != "" && /^\[  SKIPPED \] / { skipped++; running = "" }
        END { print passed + 0, failed + 0, skipped + 0, running }' "$1"
}

# What skipped tests printed, and their names.
reasons() {
    awk '
        /^\[ RUN      \] / { text = ""; running = 1; next }
        { text = text "    " $0 "\n" }
        running && /^\[  SKIPPED \] / { printf "%s", text }
        /^\[ / { running = 0 }' "$1"
}

for program in "$@"; do
    name=$(basename "$program")
    start=$SECONDS
    timeout -k 10 "$limit" "$program" >"$log" 2>&1
    code=$?
    read -r p f s running <<<"$(count "$log")"
    why=""
    if [ -n "$running" ]; then
        f=$((f + 1))
        why=", died in $running"
    elif [ $((p + f + s)) -eq 0 ]; then
        f=1
        why=", ran no test"
    elif [ "$code" -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
        why=", ended badly"
    fi
    [ "$code" -ne 0 ] && why="$why (exit code $code)"
    [ "$code" -eq 124 ] && why="$why, over the time limit of $limit s"
    echo "$name: $p passed, $f failed, $s skipped, $((SECONDS - start)) s$why"
    if [ "$f" -gt 0 ]; then
        sed 's/^/    /' "$log"
    elif [ "$s" -gt 0 ]; then
        reasons "$log"
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
