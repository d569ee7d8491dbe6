#!/usr/bin/env bash
# Builds llama.cpp, to compare tane with: tools/real/llama_cpp.sh FOLDER (default build/llama.cpp). Takes the source
# that PyPI's llama-cpp-python brings along, builds the library and llama-bench for this CPU, and on top of them
# tools/real/llama_probe.c. Then:
#
#     make test-real LLAMA_CPP=FOLDER/bin        files written by tane, opened by llama.cpp
#     bench/llamacpp.sh FOLDER/bin MODEL.gguf    its speed
#
# SDIST=file takes a source archive that is there already.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-build/llama.cpp}
version=0.3.36
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
archive=${SDIST:-$folder/llama_cpp_python-$version.tar.gz}

if [ ! -e "$archive" ]; then
    # --no-binary: the source. pip builds its metadata to look at its needs, which takes some seconds.
    ${PIP:-python3 -m pip} download -q --no-deps --no-binary llama-cpp-python -d "$folder" "llama-cpp-python==$version"
fi
echo "$sha256  $archive" | sha256sum --check --quiet
echo "llama-cpp-python $version: $(stat -c %s "$archive") bytes, sha256 $sha256"
if [ ! -d "$folder/src" ]; then
    rm -rf "$folder/src.tmp"
    mkdir "$folder/src.tmp"
    tar xzf "$archive" --strip-components=1 -C "$folder/src.tmp"
    mv "$folder/src.tmp" "$folder/src"
fi
source=$folder/src/vendor/llama.cpp

# gcc 12 drops stores to the block that ldtilecfg reads, and llama.cpp's AMX products die of it: clang where it is.
if command -v clang++ >/dev/null; then
    compiler=(-DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++)
else
    compiler=()
fi
cmake -S "$source" -B "$folder/objects" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_CUDA=OFF -DLLAMA_CURL=OFF \
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
    "${compiler[@]}" >"$folder/cmake.log"
cmake --build "$folder/objects" -j "${JOBS:-2}" --target llama llama-bench >"$folder/build.log"
ln -sfn objects/bin "$folder/bin"
${CC:-cc} -std=c17 -D_GNU_SOURCE -O2 -o "$folder/bin/llama_probe" "$here/llama_probe.c" -I"$source/include" \
    -I"$source/ggml/include" -L"$folder/bin" -lllama -lggml -lggml-base -lm -Wl,-rpath,'$ORIGIN'
echo "built: $folder/bin/llama-bench, $folder/bin/llama_probe"
