#!/bin/sh
# Finds the packages that building and testing tane needs and this machine lacks. On Debian and Ubuntu it installs them,
# as root or through sudo; elsewhere it prints their names. `make setup`, and first of all `make test` and
# `make quickstart`, run it. When nothing is missing it says nothing.
set -u

# One line a need: how to see that it is there, the packages of Debian, Fedora, Arch and openSUSE, and the reason.
needs() {
    cat <<'LIST'
command:gcc|gcc|gcc|gcc|gcc|the C compiler
command:g++|g++|gcc-c++|gcc|gcc-c++|SentencePiece is written in C++
command:make|make|make|make|make|the build
command:pkg-config|pkg-config|pkgconf-pkg-config|pkgconf|pkg-config|finds the libraries
header:dnnl.h|libdnnl-dev|onednn-devel|onednn|onednn-devel|oneDNN: matrix products
header:jansson.h|libjansson-dev|jansson-devel|jansson|libjansson-devel|configurations in JSON
header:yaml.h|libyaml-dev|libyaml-devel|libyaml|libyaml-devel|recipes in YAML
header:sqlite3.h|libsqlite3-dev|sqlite-devel|sqlite|sqlite3-devel|the database of runs
header:openssl/evp.h|libssl-dev|openssl-devel|openssl|libopenssl-devel|checksums of checkpoints
header:editline/readline.h|libedit-dev|libedit-devel|libedit|libedit-devel|editing and history in tane chat
header:sentencepiece_processor.h|libsentencepiece-dev|sentencepiece-devel|sentencepiece|sentencepiece-devel|tokenizers
header:pcre2.h|libpcre2-dev|pcre2-devel|pcre2|pcre2-devel|splitting expressions of tokenizers
header:utf8proc.h|libutf8proc-dev|utf8proc-devel|libutf8proc|utf8proc-devel|Unicode in tokenizers
header:zlib.h|zlib1g-dev|zlib-devel|zlib|zlib-devel|data files compressed with gzip
header:zstd.h|libzstd-dev|libzstd-devel|zstd|libzstd-devel|data files compressed with zstd
header:snappy-c.h|libsnappy-dev|snappy-devel|snappy|snappy-devel|Parquet files
header:cmocka.h|libcmocka-dev|libcmocka-devel|cmocka|libcmocka-devel|the tests
LIST
}

# A header counts wherever the compiler looks; without a compiler, in the usual places.
has_header() {
    for folder in /usr/include /usr/include/"$(uname -m)"-linux-gnu /usr/local/include; do
        [ -e "$folder/$1" ] && return 0
    done
    command -v gcc >/dev/null 2>&1 || return 1
    printf '#include <stddef.h>\n#include <stdint.h>\n#if !__has_include(<%s>)\n#error\n#endif\n' "$1" |
        gcc -E -x c++ - >/dev/null 2>&1
}

has() {
    case $1 in
    command:*) command -v "${1#command:}" >/dev/null 2>&1 ;;
    header:*) has_header "${1#header:}" ;;
    esac
}

# Fields of a line of needs().
field() { printf '%s' "$1" | cut -d '|' -f "$2"; }

missing_needs() {
    needs | while IFS= read -r line; do
        has "$(field "$line" 1)" || printf '%s\n' "$line"
    done
}

missing=$(missing_needs)
[ -z "$missing" ] && exit 0

if command -v apt-get >/dev/null 2>&1; then
    column=2
elif command -v dnf >/dev/null 2>&1; then
    column=3
elif command -v pacman >/dev/null 2>&1; then
    column=4
elif command -v zypper >/dev/null 2>&1; then
    column=5
else
    column=0
fi

# Names as Debian has them where the distribution is unknown: the reason tells which library is meant.
shown=$column
[ "$shown" -eq 0 ] && shown=2
packages=$(printf '%s\n' "$missing" | cut -d '|' -f "$shown" | sort -u | tr '\n' ' ' | sed 's/ $//')

echo "tane needs these packages, which are not installed:" >&2
printf '%s\n' "$missing" | while IFS= read -r line; do
    printf '    %-22s %s\n' "$(field "$line" "$shown")" "$(field "$line" 6)" >&2
done

case $column in
0)
    echo "These are Debian's names. Install the same libraries, with their headers, in your system's way and run make again." >&2
    exit 1
    ;;
3 | 4 | 5)
    case $column in
    3) how="dnf install" ;;
    4) how="pacman -S --needed" ;;
    5) how="zypper install" ;;
    esac
    echo "Install them and run make again:" >&2
    echo "    sudo $how $packages" >&2
    echo "A package that your distribution does not have must be built from source; the table above says what it is for." >&2
    exit 1
    ;;
esac

if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
else
    echo "Installing them needs root, and there is no sudo here. As root:" >&2
    echo "    apt-get install $packages" >&2
    exit 1
fi

# $packages is a list of words, and $as_root may be no word at all.
# shellcheck disable=SC2086
install() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages </dev/null; }

# Without lists of packages, as in a fresh container, apt-get knows none of them.
update() {
    echo "Fetching the lists of packages: ${as_root:+$as_root }apt-get update" >&2
    $as_root apt-get update -qq </dev/null
}

known() {
    for package in $packages; do
        apt-cache show "$package" >/dev/null 2>&1 || return 1
    done
}

log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
updated=0
if ! known; then
    update >&2 || true
    updated=1
fi
echo "Installing them: ${as_root:+$as_root }apt-get install $packages" >&2
if ! install >"$log" 2>&1; then
    # Old lists name files that are gone from the server: once more with new ones.
    [ "$updated" -eq 0 ] && update >&2
    if [ "$updated" -eq 1 ] || ! install >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "setup: apt-get could not install them; what it says stands above. Is there a network connection? Then:" >&2
        echo "    ${as_root:+$as_root }apt-get update && ${as_root:+$as_root }apt-get install $packages" >&2
        exit 1
    fi
fi
missing=$(missing_needs)
if [ -n "$missing" ]; then
    echo "setup: apt-get was content, but this is still not there: $(printf '%s\n' "$missing" | cut -d '|' -f 1 | tr '\n' ' ')" >&2
    exit 1
fi
echo "Installed." >&2
