#!/bin/sh
# The whole first job: data, tokenizer, training, evaluation, fine-tuning on the mistakes, evaluation, questions. It runs
# tane's own commands and shows each of them with the reason, so that every step can be repeated by hand.
#
# Everything goes under runs/. An interrupted job goes on where it was when it is started again; after a finished one the
# next starts anew, and the old folders keep their contents as runs/quickstart-old and runs/finetune-old.
set -eu
cd "$(dirname "$0")/.."

tane=${TANE:-./tane}
case $tane in
*/*) ;;
*) tane=./$tane ;;
esac
add=runs/data/add.jsonl
mul=runs/data/mul.jsonl
div=runs/data/div.jsonl
tokenizer=runs/data/math_tokenizer
wrong=runs/data/wrong.jsonl
before=runs/data/before.json
progress=runs/data/quickstart.progress
enough=0.99
started=$(date +%s)

bold='' plain=''
if [ -t 2 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
    bold=$(printf '\033[1m') plain=$(printf '\033[0m')
fi

say() { printf '%s\n' "$*" >&2; }
since_start() {
    seconds=$(($(date +%s) - started))
    printf '%d min %02d s' $((seconds / 60)) $((seconds % 60))
}

# The title of a step and why it is there.
step() {
    printf '\n%s%s%s  (%s)\n' "$bold" "$1" "$plain" "$(since_start)" >&2
    shift
    for line in "$@"; do say "  $line"; done
}

# A command as one would type it.
show() {
    line='  $'
    for word in "$@"; do
        case $word in
        *[!A-Za-z0-9_./=:,+-]* | '') line="$line '$word'" ;;
        *) line="$line $word" ;;
        esac
    done
    say "$line"
}

failed() {
    say ""
    say "quickstart: this step did not finish; what it said stands above. \`make quickstart\` goes on from here."
    exit 1
}

run() {
    show "$@"
    "$@" || failed
}

run_into() {
    into=$1
    shift
    say "$(show "$@" 2>&1) > $into"
    "$@" >"$into.tmp" || failed
    mv "$into.tmp" "$into"
}

finished() { grep -qx "$1" "$progress"; }
finish() { printf '%s\n' "$1" >>"$progress"; }

# Out of the way, not away: a model may be dear to somebody.
put_aside() {
    [ -e "$1" ] || return 0
    rm -rf "$1-old"
    mv "$1" "$1-old"
    say "$1 is of an earlier job: it is now $1-old."
}

# Another recipe or script makes another job: what an older one left is not gone on from.
job=$(cat tools/quickstart.sh recipes/math/quickstart.yaml recipes/math/finetune.yaml | cksum)
mkdir -p runs/data
if [ -f "$progress" ] && [ "$(head -n 1 "$progress")" = "$job" ]; then
    say "An earlier quickstart was interrupted; going on where it was. (rm $progress starts anew.)"
else
    put_aside runs/quickstart
    put_aside runs/finetune
    rm -f "$wrong" "$before"
    printf '%s\n' "$job" >"$progress"
fi

# Trains a recipe, or goes on with it.
train() {
    if [ -e "$2" ]; then
        run "$tane" train "$1" --resume
    else
        run "$tane" train "$1"
    fi
}

step "1/7 Data" \
    "Every problem with two numbers from -99 to 99, one a line: a question and its answer. Three files, so that the" \
    "harder kinds can come more often in training."
if ! finished data; then
    run "$tane" data arithmetic --digits 2 --negative --ops + - --out "$add"
    run "$tane" data arithmetic --digits 2 --negative --ops '*' --out "$mul"
    run "$tane" data arithmetic --digits 2 --negative --ops / --out "$div"
    finish data
fi
head -q -n 1 "$add" "$mul" "$div" | sed 's/^/    /' >&2

step "2/7 Tokenizer" \
    "A model works on numbers, not on text: each character of the data gets one."
if ! finished tokenizer; then
    run "$tane" tokenizer train --input "$add" "$mul" "$div" --model-type char --vocab-size 35 --out "$tokenizer"
    finish tokenizer
fi
run "$tane" tokenizer encode "$tokenizer.model" --pieces '12+(-34)=-22' >&2

step "3/7 Training" \
    "A Llama in small learns to continue each question with its answer. The loss says how surprised it is by the right" \
    "answer: it starts at about 3 and should end near 0. Ctrl-C saves; \`make quickstart\` then goes on."
if ! finished train; then
    train recipes/math/quickstart.yaml runs/quickstart >/dev/null
    finish train
fi

step "4/7 Evaluation" \
    "The model answers every problem. An answer counts when it is right to the last character; the wrong ones are kept."
if ! finished eval; then
    run_into "$before" "$tane" eval runs/quickstart/best --data "$add" "$mul" "$div" --extract "$wrong" --json
    finish eval
fi
say "  $(wc -l <"$wrong" | tr -d ' ') wrong answers of $(cat "$add" "$mul" "$div" | wc -l | tr -d ' '). Some of them:"
head -n 3 "$wrong" | sed 's/^/    /' >&2

if [ -s "$wrong" ]; then
    model=runs/finetune/best
    step "5/7 Fine-tuning" \
        "The model goes on learning from its mistakes, mixed with some of the other problems so that it forgets nothing."
    if ! finished finetune; then
        train recipes/math/finetune.yaml runs/finetune >/dev/null
        finish finetune
    fi
else
    model=runs/quickstart/best
    step "5/7 Fine-tuning" "There is no mistake to learn from: nothing to do."
fi

step "6/7 Evaluation, once more" \
    "The same problems; \"before\" is step 4. Each line is an operator and the digits of the longer number."
show "$tane" eval "$model" --data "$add" "$mul" "$div" --compare "$before" --at-least "$enough"
"$tane" eval "$model" --data "$add" "$mul" "$div" --compare "$before" --at-least "$enough" || {
    say ""
    say "quickstart: the model answers too few problems right (see above). If the recipe is as it came, this is a defect"
    say "of tane: please report it with runs/quickstart/metrics.jsonl and the output of \`$tane doctor\`."
    exit 1
}

step "7/7 Questions" "Ask it something."
show "$tane" generate "$model" --prompt '12+(-34)=' --temperature 0
for question in '12+(-34)=' '-99-99=' '7*8=' '-45*67=' '96/(-12)='; do
    answer=$("$tane" generate "$model" --prompt "$question" --temperature 0) || failed
    printf '    %s\n' "$answer"
done

rm -f "$progress"
cat >&2 <<END

${bold}Done in $(since_start).${plain} The model is in $model. What to try next:

    $tane chat $model                        ask more
    $tane runs tree                                     both runs, and which came from which
    $tane runs diff quickstart finetune                 what differs between their recipes and scores
    $tane train recipes/math/quickstart.yaml run_name=wide hidden_size=384
    $tane data arithmetic --digits 3 --samples 500000 --balance --ops + - --out runs/data/big.jsonl
    $tane help                                          all commands
END
