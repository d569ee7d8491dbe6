"""Writes tests/golden/ggml.safetensors (blocks and the numbers that ggml's reference functions make of them, and the
other way round) and tests/golden/gguf/ (files of gguf-py's writer: every kind of key and type of tensor, and a split
model). Run once, from the repository's root; the results are committed.

    python tools/golden/golden_gguf.py LIBGGML_BASE.so MODEL.gguf

LIBGGML_BASE.so is the library of llama.cpp with the reference functions, MODEL.gguf any model whose token_embd.weight
is Q8_0 (a few rows of it stand for real weights: SmolLM2-135M-Instruct, Apache 2.0).

Made with llama-cpp-python 0.3.36 (libggml-base 0.25.3), gguf 0.19.0, numpy 2 and safetensors 0.8.0.
"""
import ctypes
import os
import sys

import gguf
import numpy as np
from safetensors.numpy import save_file

T = gguf.GGMLQuantizationType
library = ctypes.CDLL(sys.argv[1])
rng = np.random.default_rng(20261122)
TYPES = {"Q4_0": (32, 18, "q4_0"), "Q4_1": (32, 20, "q4_1"), "Q5_0": (32, 22, "q5_0"), "Q5_1": (32, 24, "q5_1"),
         "Q8_0": (32, 34, "q8_0"), "Q4_K": (256, 144, "q4_K"), "Q5_K": (256, 176, "q5_K"), "Q6_K": (256, 210, "q6_K")}


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def decode(name, blocks):
    block, size, symbol = TYPES[name]
    out = np.empty(blocks.size // size * block, np.float32)
    getattr(library, "dequantize_row_" + symbol)(pointer(blocks), pointer(out), ctypes.c_int64(out.size))
    other = gguf.quants.dequantize(blocks.reshape(1, -1), T[name]).ravel()
    same = out == other
    assert (same | (np.isnan(out) & np.isnan(other))).all(), name  # two implementations, one answer
    return out


def encode(name, x):
    block, size, symbol = TYPES[name]
    out = np.zeros(x.size // block * size, np.uint8)
    getattr(library, f"quantize_row_{symbol}_ref")(pointer(x), pointer(out), ctypes.c_int64(x.size))
    return out


def halves(*values):
    return np.array(values, np.float16).view(np.uint8)


def random_blocks(name, n):
    """Random bits with scales between 2^-8 and 2, some negative, zero, subnormal and the largest there is."""
    _, size, _ = TYPES[name]
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    where = {"Q6_K": [208], "Q4_1": [0, 2], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2]}.get(name, [0])
    odd = [0.0, 6e-8, 65504.0, -65504.0, -1.5e-5]
    for i in range(n):
        for at in where:
            value = odd[i] if i < len(odd) else rng.choice([-1, 1], p=[0.2, 0.8]) * 2.0 ** rng.uniform(-8, 1)
            blocks[i, at:at + 2] = halves(value)
    return blocks.ravel()


def inputs():
    """Numbers for the encoders of 32: ordinary ones, and whatever makes rounding hard."""
    parts = [rng.standard_normal(32 * 24)]
    parts += [rng.standard_normal(64) * scale for scale in (1e-3, 1e-7, 1e-30, 1e-38, 1e-41, 1e-44, 1e4, 1e7, 1e30)]
    parts += [np.zeros(32), -np.zeros(32), np.where(np.arange(32) % 2, 1, -1), np.where(np.arange(32) % 2, -3, 3)]
    parts += [np.arange(32) - 15.5, (np.arange(32) - 16) * 0.5, (np.arange(32) - 16) / 127 * 0.5, np.eye(32)[31] * -2]
    parts += [np.round(rng.standard_normal(32 * 8) * 8) / 8 * 1.0]
    for steps in (127, 8):  # exactly between two whole numbers
        for sign in (1, -1):
            x = (rng.integers(-steps, steps, 32) + 0.5) / steps
            x[0] = sign
            parts += [x]
    return np.concatenate(parts).astype(np.float32)


def write_blocks():
    out = {}
    for name in TYPES:
        blocks = random_blocks(name, 32 if TYPES[name][0] == 32 else 8)
        out[f"decode.{name}.blocks"] = blocks
        out[f"decode.{name}.x"] = decode(name, blocks)
    out["encode.x"] = inputs()
    out["encode.Q8_0"] = encode("Q8_0", out["encode.x"])
    out["encode.Q4_0"] = encode("Q4_0", out["encode.x"])
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.9, 65520, -65520, 6e-8, 3e-8, 2.9e-8, 6.1e-5,
                        1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38], np.float32)
    out["half.x"] = np.concatenate([special, np.exp2(rng.uniform(-30, 20, 1000)).astype(np.float32)])
    with np.errstate(over="ignore"):
        out["half.F16"] = out["half.x"].astype(np.float16).view(np.uint16).view(np.int16)
    out["half.BF16"] = gguf.quants.quantize(out["half.x"].reshape(1, -1), T.BF16).ravel().view(np.int16)
    model = gguf.GGUFReader(sys.argv[2])
    weights = next(t for t in model.tensors if t.name == "token_embd.weight")
    rows = gguf.quants.dequantize(weights.data[1000:1000 + 8], weights.tensor_type).ravel()
    for name, x in (("gauss", rng.standard_normal(256 * 16)), ("real", rows[:256 * 16])):
        x = np.ascontiguousarray(x, np.float32)
        out[f"q4_k.{name}.x"] = x
        out[f"q4_k.{name}.blocks"] = encode("Q4_K", x)
    save_file(out, "tests/golden/ggml.safetensors", {"made_with": "libggml-base 0.25.3, gguf 0.19.0"})


def ramp(rows, columns):
    return ((np.arange(rows * columns, dtype=np.float32) % 97 - 48) / 32).reshape(rows, columns)


def write_file():
    w = gguf.GGUFWriter("tests/golden/gguf/kinds.gguf", "llama")
    w.add_uint8("kind.u8", 255)
    w.add_int8("kind.i8", -128)
    w.add_uint16("kind.u16", 65535)
    w.add_int16("kind.i16", -32768)
    w.add_uint32("kind.u32", 4294967295)
    w.add_int32("kind.i32", -2147483648)
    w.add_uint64("kind.u64", 2**64 - 1)
    w.add_int64("kind.i64", -2**63)
    w.add_float32("kind.f32", 0.1)
    w.add_float64("kind.f64", 0.1)
    w.add_bool("kind.true", True)
    w.add_bool("kind.false", False)
    w.add_string("kind.text", "種 seed\n")
    w.add_key_value("kind.empty", "", gguf.GGUFValueType.STRING)  # add_string leaves it out
    V = gguf.GGUFValueType
    w.add_key_value("array.text", [f"token {i}" for i in range(200)], V.ARRAY, V.STRING)
    w.add_key_value("array.i32", [1, -2, 3], V.ARRAY, V.INT32)
    w.add_key_value("array.u16", [1, 65535], V.ARRAY, V.UINT16)
    w.add_key_value("array.u64", [1, 2**64 - 1], V.ARRAY, V.UINT64)
    w.add_key_value("array.f32", [0.5, -1e-3, float("inf")], V.ARRAY, V.FLOAT32)
    w.add_key_value("array.f64", [0.1], V.ARRAY, V.FLOAT64)
    w.add_key_value("array.bool", [True, False, True], V.ARRAY, V.BOOL)
    w.add_tensor("plain.F32", ramp(3, 5))
    w.add_tensor("plain.F16", ramp(2, 7).astype(np.float16))
    w.add_tensor("one", np.array([7.5], np.float32))
    w.add_tensor("four", ramp(6, 4).reshape(3, 2, 1, 4))
    w.add_tensor("plain.BF16", gguf.quants.quantize(ramp(2, 8), T.BF16), raw_dtype=T.BF16)
    for name, (block, size, _) in TYPES.items():
        blocks = encode(name, np.ascontiguousarray(ramp(2, 256).ravel()))
        w.add_tensor("blocks." + name, blocks.reshape(2, -1), raw_dtype=T[name])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_plain():
    """Only what tane writes too: tests/test_gguf.c makes the same bytes."""
    w = gguf.GGUFWriter("tests/golden/gguf/plain.gguf", "llama")
    V = gguf.GGUFValueType
    w.add_uint32("a.u32", 7)
    w.add_float32("a.f32", 0.1)
    w.add_bool("a.bool", True)
    w.add_string("a.text", "種")
    w.add_key_value("a.texts", ["", "b", "cc"], V.ARRAY, V.STRING)
    w.add_key_value("a.f32s", [0.5, -1e-3], V.ARRAY, V.FLOAT32)
    w.add_key_value("a.i32s", [1, -2, 3], V.ARRAY, V.INT32)
    w.add_tensor("first", ramp(3, 5))
    w.add_tensor("second", encode("Q8_0", np.ascontiguousarray(ramp(3, 32).ravel())).reshape(3, -1), raw_dtype=T.Q8_0)
    w.add_tensor("third", ramp(6, 4).reshape(3, 2, 4))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_split():
    w = gguf.GGUFWriter("tests/golden/gguf/split.gguf", "llama", split_max_tensors=2)
    w.add_uint32("llama.block_count", 5)
    for i in range(5):
        w.add_tensor(f"blk.{i}.weight", ramp(2, 4 + i))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


os.makedirs("tests/golden/gguf", exist_ok=True)
write_blocks()
write_file()
write_plain()
write_split()
