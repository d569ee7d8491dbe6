"""Writes the damaged GGUF files of tests/corpus/gguf/bad_*.gguf; tests/test_gguf.c says what each must be told. Made
with nothing but struct. Run from the repository's root; the results are committed.
"""
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
HUGE = 2**64 - 1
u32 = lambda x: struct.pack("<I", x)
u64 = lambda x: struct.pack("<Q", x)


def text(t, claimed=None):
    t = t if isinstance(t, bytes) else t.encode()
    return u64(len(t) if claimed is None else claimed) + t


def key(name, kind, value):
    return text(name) + u32(kind) + value


def array(name, element, n, values=b""):
    return key(name, ARRAY, u32(element) + u64(n) + values)


def tensor(name="w", dims=(8,), kind=0, offset=0, rank=None):
    return text(name) + u32(len(dims) if rank is None else rank) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def write(name, keys=(), tensors=(), data=b"", n_keys=None, n_tensors=None, version=u32(3), magic=b"GGUF", pad=32,
          cut=None):
    out = magic + version + u64(len(tensors) if n_tensors is None else n_tensors)
    out += u64(len(keys) if n_keys is None else n_keys) + b"".join(keys) + b"".join(tensors)
    if data:
        out += bytes(-len(out) % pad) + data
    with open(f"tests/corpus/gguf/{name}.gguf", "wb") as f:
        f.write(out[:cut])


def bad(name, *args, **more):
    write("bad_" + name, *args, **more)


ARCH = key("general.architecture", STRING, text("llama"))
D = bytes(32)  # the data of one tensor of 8 fp32

write("no_keys_no_tensors")
write("one_tensor", [ARCH], [tensor()], D)
write("version_2", [ARCH], [tensor()], D, version=u32(2))
write("alignment_64", [key("general.alignment", U32, u32(64))], [tensor(), tensor("v", offset=64)], D + bytes(32) + D,
      pad=64)
write("last_tensor_unpadded", [ARCH], [tensor(dims=(3,))], bytes(12))

bad("empty", cut=0)
bad("magic_cut", cut=3)
bad("magic_only", cut=4)
bad("magic_wrong", magic=b"GGUE")
bad("version_cut", cut=6)
bad("version_0", version=u32(0))
bad("version_1", version=u32(1))
bad("version_4", version=u32(4))
bad("version_big_endian", version=struct.pack(">I", 3))
bad("counts_cut", cut=20)
bad("keys_claimed_2_to_63", n_keys=2**63)
bad("keys_claimed_all_ones", n_keys=HUGE)
bad("keys_claimed_one_more", [ARCH], n_keys=2)
bad("tensors_claimed_2_to_63", n_tensors=2**63)
bad("tensors_claimed_all_ones", [ARCH], n_tensors=HUGE)
bad("tensors_claimed_size_wraps", [ARCH], [tensor()], D, n_tensors=2**64 // 72 + 1)
bad("tensors_claimed_one_more", [ARCH], [tensor()], n_tensors=2)

bad("key_longer_than_file", [text("a", 1000) + u32(U8) + b"\1" * 20])
bad("key_length_wraps", [text("a", HUGE) + u32(U8) + b"\1" * 20])
bad("key_empty", [key("", U8, b"\1"), ARCH])
bad("key_with_zero_byte", [key("a\0b", U8, b"\1")])
bad("key_too_long", [key("k" * 1025, U8, b"\1")])
bad("key_twice", [key("a", U8, b"\1"), ARCH, key("a", U8, b"\2")])
bad("key_unknown_type", [key("a", 13, b"\1" * 8)])
bad("key_type_all_ones", [key("a", 2**32 - 1, b"\1" * 8)])
bad("key_value_cut", [key("a", U64, b"\1" * 4)])
bad("key_bool_2", [key("a", BOOL, b"\2")])
bad("text_longer_than_file", [key("a", STRING, text("abc", 4))])
bad("text_length_2_to_63", [key("a", STRING, text("abc", 2**63))])
bad("text_length_all_ones", [key("a", STRING, text("abc", HUGE))])
bad("array_2_to_63_elements", [text("ab") + u32(ARRAY) + u32(U8) + u64(2**63)])
bad("array_size_wraps", [array("a", U64, 2**61, b"\1" * 8)])
bad("array_one_more_than_file", [array("a", U32, 3, b"\1" * 8)])
bad("array_header_cut", [key("a", ARRAY, u32(U8))], cut=45)
bad("array_unknown_type", [array("a", 13, 1, b"\1" * 8)])
bad("array_of_arrays", [array("a", ARRAY, 1, u32(U8) + u64(1) + b"\1")])
bad("array_of_bools_7", [array("a", BOOL, 3, b"\0\1\7")])
bad("array_of_texts_claimed", [array("a", STRING, 2**60, text("b"))])
bad("array_of_texts_one_more", [array("a", STRING, 2, text("abcdefgh"))])
bad("array_of_texts_too_long", [array("a", STRING, 2, text("b") + text("c", 99))])

bad("alignment_0", [key("general.alignment", U32, u32(0))], [tensor()], D)
bad("alignment_1", [key("general.alignment", U32, u32(1))], [tensor()], D)
bad("alignment_48", [key("general.alignment", U32, u32(48))], [tensor()], D)
bad("alignment_huge", [key("general.alignment", U32, u32(2**31))], [tensor()], D)
bad("alignment_2_to_63", [key("general.alignment", U64, u64(2**63))], [tensor()], D)
bad("alignment_text", [key("general.alignment", STRING, text("32"))], [tensor()], D)

bad("tensor_name_empty", [ARCH], [tensor("")], D)
bad("tensor_name_longer_than_file", [ARCH], [text("w", 10**6) + bytes(40)], D)
bad("tensor_name_twice", [ARCH], [tensor(), tensor(offset=32)], D + D)
bad("tensor_header_cut", [ARCH], [tensor()[:-4]])
bad("tensor_rank_0", [ARCH], [tensor(dims=(), rank=0) + bytes(8)], D)
bad("tensor_rank_5", [ARCH], [tensor(dims=(1, 1, 1, 1, 8))], D)
bad("tensor_rank_all_ones", [ARCH], [tensor(rank=2**32 - 1)], D)
bad("tensor_size_0", [ARCH], [tensor(dims=(8, 0))], D)
bad("tensor_size_negative", [ARCH], [tensor(dims=(HUGE,))], D)
bad("tensor_size_min", [ARCH], [tensor(dims=(2**63,))], D)
bad("tensor_shape_wraps_to_0", [ARCH], [tensor(dims=(2**32, 2**32))], D)
bad("tensor_shape_wraps_to_8", [ARCH], [tensor(dims=(2**61 + 1, 8))], D)
bad("tensor_bytes_wrap", [ARCH], [tensor(dims=(2**62,))], D)
bad("tensor_sum_wraps", [ARCH], [tensor(dims=(2**60,)), tensor("v", dims=(2**60,), offset=2**62),
                                 tensor("u", dims=(2**60,), offset=2**63), tensor("t", dims=(2**60,), offset=3 * 2**62),
                                 tensor("s", offset=0)], D)
bad("tensor_row_of_33", [ARCH], [tensor(dims=(33,), kind=8)], bytes(68))
bad("tensor_row_of_32_q4_k", [ARCH], [tensor(dims=(32, 8), kind=12)], bytes(144))
bad("tensor_type_removed", [ARCH], [tensor(kind=4)], D)
bad("tensor_type_unknown", [ARCH], [tensor(kind=999)], D)
bad("tensor_type_all_ones", [ARCH], [tensor(kind=2**32 - 1)], D)
bad("tensor_type_iq2_xs", [ARCH], [tensor(dims=(256,), kind=17)], bytes(74))
bad("tensor_type_q2_k", [ARCH], [tensor(dims=(256,), kind=10)], bytes(84))
bad("offset_unaligned", [ARCH], [tensor(offset=4)], D + D)
bad("offset_hole", [ARCH], [tensor(offset=32)], D + D)
bad("offset_overlap", [ARCH], [tensor(), tensor("v", offset=0)], D + D)
bad("offset_backwards", [ARCH], [tensor(offset=32), tensor("v", offset=0)], D + D)
bad("offset_past_end", [ARCH], [tensor(), tensor("v", offset=1 << 40)], D + D)
bad("offset_all_ones", [ARCH], [tensor(offset=2**64 - 32)], D)
bad("data_missing", [ARCH], [tensor()])
bad("data_one_byte_short", [ARCH], [tensor()], bytes(31))
bad("data_second_tensor_short", [ARCH], [tensor(), tensor("v", offset=32)], D + bytes(8))
bad("data_behind_the_last", [ARCH], [tensor()], D + bytes(33))
bad("data_without_tensors", [ARCH], [], bytes(64))

SPLIT = lambda no, count: [ARCH, key("split.no", U16, struct.pack("<H", no)),
                           key("split.count", U16, struct.pack("<H", count))]
bad("split_second_part", SPLIT(1, 3), [tensor()], D)
bad("split_name", SPLIT(0, 3), [tensor()], D)
bad("split_count_negative", [ARCH, key("split.count", I32, u32(2**32 - 1))], [tensor()], D)
bad("split_tensors_count", [ARCH, key("split.tensors.count", I32, u32(7))], [tensor()], D)
