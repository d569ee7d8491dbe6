"""Writes the damaged safetensors files of tests/corpus/safetensors/bad_*.safetensors; tests/test_safetensors.c says
what each must be told. Made with nothing but struct and json. Run from the repository's root; the results are
committed.
"""
import json
import struct

HUGE = 2**64 - 1


def write(name, header="{}", data=b"", claimed=None, cut=None):
    header = header if isinstance(header, (str, bytes)) else json.dumps(header, separators=(",", ":"))
    header = header if isinstance(header, bytes) else header.encode()
    out = struct.pack("<Q", len(header) if claimed is None else claimed) + header + data
    with open(f"tests/corpus/safetensors/{name}.safetensors", "wb") as f:
        f.write(out[:cut])


def bad(name, *args, **more):
    write("bad_" + name, *args, **more)


def t(dtype="U8", shape=(1,), offsets=(0, 1)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


write("no_tensors")
write("scalar_and_empty", {"a": t("F32", [], [0, 4]), "b": t("F32", [0], [4, 4]), "c": t("I64", [3, 0, 2], [4, 4])},
      bytes(4))
write("padded_with_spaces", b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   ', b"\1")
write("metadata_only", {"__metadata__": {"format": "pt", "\u7a2e": "\n"}})

bad("empty", cut=0)
bad("length_cut", cut=7)
bad("length_0", b"", claimed=0)
bad("length_past_end", claimed=1000)
bad("length_one_past_end", claimed=3)
bad("length_over_100_mb", claimed=100_000_001)
bad("length_2_to_63", claimed=2**63)
bad("length_all_ones", claimed=HUGE)
bad("header_not_an_object", "[]")
bad("header_begins_with_space", " {}")
bad("header_cut", '{"a":{"dtype":"U8"')
bad("header_text_behind", "{} x")
bad("header_not_utf8", b'{"a\xff":{}}')
bad("header_surrogate", '{"\\ud800":{}}')
bad("header_name_with_zero", '{"a\\u0000b":{}}')
bad("header_deep", '{"a":' + "[" * 5000)
bad("header_name_empty", {"": t()}, bytes(1))
bad("header_name_twice", '{"a":%s,"a":%s}' % (json.dumps(t()), json.dumps(t("U8", [1], [1, 2]))), bytes(2))
bad("header_metadata_twice", '{"__metadata__":{},"__metadata__":{}}')
bad("header_metadata_number", {"__metadata__": {"a": 1}})
bad("header_metadata_key_twice", '{"__metadata__":{"a":"1","a":"2"}}')
bad("entry_not_an_object", {"a": 1})
bad("entry_member_missing", {"a": {"dtype": "U8", "shape": [1]}}, bytes(1))
bad("entry_member_twice", '{"a":{"dtype":"U8","dtype":"U8"}}')
bad("entry_member_unknown", {"a": {**t(), "colour": 1}}, bytes(1))
bad("dtype_unknown", {"a": t("F33")}, bytes(1))
bad("dtype_f8_e4m3", {"a": t("F8_E4M3")}, bytes(1))
bad("dtype_f4", {"a": t("F4", [2], [0, 1])}, bytes(1))
bad("dtype_u64", {"a": t("U64", [1], [0, 8])}, bytes(8))
bad("dtype_number", {"a": t(7)}, bytes(1))
bad("shape_negative", {"a": t("U8", [-1], [0, 0])})
bad("shape_fraction", '{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}', bytes(1))
bad("shape_2_to_63", {"a": t("U8", [2**63], [0, 0])})
bad("shape_wraps_to_0", {"a": t("U8", [2**32, 2**32], [0, 0])})
bad("shape_bytes_wrap", {"a": t("F32", [2**62], [0, 0])})
bad("shape_of_9", {"a": t("U8", [1] * 9)}, bytes(1))
bad("shape_scalar_of_2", {"a": t("U8", [], [0, 2])}, bytes(2))
bad("shape_empty_of_1", {"a": t("U8", [0], [0, 1])}, bytes(1))
bad("offsets_backwards", {"a": t("U8", [1], [1, 0])}, bytes(1))
bad("offsets_negative", {"a": t("U8", [1], [-1, 0])}, bytes(1))
bad("offsets_past_end", {"a": t("U8", [9], [0, 9])}, bytes(8))
bad("offsets_three", {"a": t("U8", [1], [0, 1, 2])}, bytes(1))
bad("offsets_one", {"a": t("U8", [1], [0])}, bytes(1))
bad("offsets_not_the_shape", {"a": t("U8", [2, 3], [0, 5])}, bytes(5))
bad("data_hole", {"a": t(), "b": t("U8", [1], [2, 3])}, bytes(3))
bad("data_hole_in_front", {"a": t("U8", [1], [1, 2])}, bytes(2))
bad("data_overlap", {"a": t("U8", [3], [0, 3]), "b": t("U8", [3], [2, 5])}, bytes(5))
bad("data_shared", {"a": t("U8", [3], [0, 3]), "b": t("U8", [3], [0, 3])}, bytes(3))
bad("data_behind", {"a": t()}, bytes(2))
bad("data_without_tensors", "{}", bytes(3))
