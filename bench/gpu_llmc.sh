#!/bin/bash
# Builds the llm.c peer of bench/gpu.sh: its train_gpt2cu for an H100, on a machine that needs nvcc but no GPU.
#
#   bench/gpu_llmc.sh LLMC_CHECKOUT OUTPUT_FOLDER [CUDNN_FRONTEND_CHECKOUT]
#
# With NVIDIA/cudnn-frontend given it is built with cuDNN's attention (llm.c's fastest), and OUTPUT_FOLDER gets
# train_gpt2cu-cudnn; without, it gets train_gpt2cu, with llm.c's own attention. The program needs cuBLAS, cuBLASLt and
# cuDNN 9 of the same CUDA major version where it runs. The checkout is built in a copy and stays as it is.
set -eu

[ $# -ge 2 ] || { echo "usage: bench/gpu_llmc.sh LLMC_CHECKOUT OUTPUT_FOLDER [CUDNN_FRONTEND_CHECKOUT]" >&2; exit 2; }
source=$(cd "$1" && pwd)
mkdir -p "$2"
output=$(cd "$2" && pwd)
frontend=${3:+$(cd "$3" && pwd)}
[ -f "$source/train_gpt2.cu" ] || { echo "gpu_llmc.sh: no train_gpt2.cu in $source" >&2; exit 1; }
command -v nvcc > /dev/null || { echo "gpu_llmc.sh: nvcc is not on the PATH" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$source" "$work/llm.c"

# CUDA 13 gives cudaMemAdvise a location where CUDA 12, for which llm.c was written, has a device number.
cat > "$work/cuda13.h" <<'END'
#pragma once
#include <cuda_runtime.h>
#if CUDART_VERSION >= 13000
static inline cudaError_t cudaMemAdvise(const void *memory, size_t bytes, cudaMemoryAdvise advice, int device) {
    cudaMemLocation location;
    location.type = device < 0 ? cudaMemLocationTypeHost : cudaMemLocationTypeDevice;
    location.id = device < 0 ? 0 : device;
    return cudaMemAdvise(memory, bytes, advice, location);
}
#endif
END

# Values given to make replace all that the Makefile would add to them: no NVML, which a build machine lacks.
libraries="-lcublas -lcublasLt" includes="-include $work/cuda13.h" name=train_gpt2cu cudnn=0
if [ -n "$frontend" ]; then
    name+=-cudnn cudnn=1 libraries+=" -lcudnn -lnvrtc" includes+=" -I$frontend/include"
    ln -s "$frontend" "$work/cudnn-frontend" # the Makefile looks for it in $HOME
fi
make -C "$work/llm.c" train_gpt2cu HOME="$work" GPU_COMPUTE_CAPABILITY=90 NO_MULTI_GPU=1 NO_USE_MPI=1 \
    USE_CUDNN=$cudnn NVCC_LDFLAGS="$libraries" NVCC_INCLUDES="$includes"
cp "$work/llm.c/train_gpt2cu" "$output/$name"
echo "$output/$name"
