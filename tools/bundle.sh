#!/bin/sh
# Completes a bundle: FOLDER/bin is there; adds the shared libraries its programs need, the plug-in, recipes, tests' files
# and the scripts that run them, and packs everything as FOLDER.tar.gz.
#
#   tools/bundle.sh FOLDER [libtane_cuda.so]
set -eu
folder=$1
plugin=${2:-}
mkdir -p "$folder/lib" "$folder/tests" "$folder/bench"

# Not the C library, which must be the machine's own, and nothing of the driver or CUDA.
not_bundled='linux-vdso|ld-linux|libc\.so|libm\.so|libdl\.so|librt\.so|libpthread\.so|libresolv\.so|libutil\.so|libcuda|libcu|libnv'
for program in "$folder"/bin/tane "$folder"/bin/*/*; do
    if ldd "$program" | grep 'not found'; then
        echo "tools/bundle.sh: $program lacks a library" >&2
        exit 1
    fi
    ldd "$program" | awk '$2 == "=>" { print $3 }'
done | sort -u | grep -Ev "/($not_bundled)" | while read -r library; do
    case $library in
    "$folder"/*) ;;
    *) install -m 755 "$library" "$folder/lib/" ;;
    esac
done
[ -z "$plugin" ] || install -m 755 "$plugin" "$folder/lib/"

cp -r recipes LICENSE README.md README.ja.md "$folder/"
cp -r tests/golden tests/run.sh "$folder/tests/"
cp bench/gpu*.py bench/gpu*.sh "$folder/bench/" 2>/dev/null || true

cat >"$folder/gpu-test" <<'TEST'
#!/bin/sh
# Every op, model and run of tane's tests on this machine's GPU.
cd "$(dirname "$0")" || exit 1
TANE=$PWD/bin/tane TANE_TEST_DEVICE=${TANE_TEST_DEVICE:-cuda} exec tests/run.sh bin/tests/test_*
TEST
cat >"$folder/gpu-bench" <<'BENCH'
#!/bin/sh
# Speed on this machine's GPU beside PyTorch, transformers and llm.c, as far as they are here.
cd "$(dirname "$0")" || exit 1
exec bench/gpu.sh "$@"
BENCH
chmod +x "$folder/gpu-test" "$folder/gpu-bench"
tar -C "$(dirname "$folder")" -czf "$folder.tar.gz" "$(basename "$folder")"
du -sh "$folder" "$folder.tar.gz"
