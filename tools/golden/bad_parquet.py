"""Writes the damaged Parquet files of tests/corpus/parquet/bad_*.parquet (tests/test_parquet.c says what each must be
told), some whole ones to begin fuzzing with, and files in the older shapes of lists, which pyarrow reads but does not
write. The format by hand, with nothing but the standard library and, for two files, the zstd command. Run from the
repository's root; the results are committed.
"""
import gzip
import os
import struct
import subprocess
import zlib

FOLDER = "tests/corpus/parquet"
BOOL, INT32, INT64, INT96, FLOAT, DOUBLE, BYTES, FIXED = range(8)
REQUIRED, OPTIONAL, REPEATED = range(3)
NONE, SNAPPY, GZIP, LZO, BROTLI, LZ4, ZSTD, LZ4_RAW = range(8)
PLAIN, PLAIN_DICT, RLE, BIT_PACKED, DELTA, DELTA_LENGTH, DELTA_BYTES, RLE_DICT, SPLIT = 0, 2, 3, 4, 5, 6, 7, 8, 9
UTF8, MAP, MAP_KEY_VALUE, LIST, ENUM, DECIMAL, DATE, TIME_MILLIS = range(8)

# ---- Thrift's compact protocol: a dict is a structure (field number -> value)


class Long(int):
    pass


class Raw(bytes):
    """Bytes that stand for a whole structure."""


def varint(x):
    out = b""
    while x > 127:
        out, x = out + bytes([x & 127 | 128]), x >> 7
    return out + bytes([x])


def zigzag(x):
    return varint(x << 1 if x >= 0 else (-x << 1) - 1)


def kind(v):
    if isinstance(v, bool):
        return 1 if v else 2
    for t, code in ((Long, 6), (int, 5), (Raw, 12), (bytes, 8), (str, 8), (list, 9), (dict, 12)):
        if isinstance(v, t):
            return code
    raise TypeError(v)


def value(v):
    if isinstance(v, bool):
        return b""
    if isinstance(v, int):
        return zigzag(v)
    if isinstance(v, Raw):
        return bytes(v)
    if isinstance(v, str):
        v = v.encode()
    if isinstance(v, bytes):
        return varint(len(v)) + v
    if isinstance(v, list):
        code = kind(v[0]) if v else 12
        head = bytes([len(v) << 4 | code]) if len(v) < 15 else bytes([0xF0 | code]) + varint(len(v))
        return head + b"".join(map(value, v))
    out, last = b"", 0
    for i in sorted(v):
        if v[i] is None:
            continue
        short = 0 < i - last < 16
        out += bytes([(i - last if short else 0) << 4 | kind(v[i])]) + (b"" if short else zigzag(i)) + value(v[i])
        last = i
    return out + b"\0"


# ---- Parquet


def runs(levels, width):
    """RLE, as runs."""
    out, i = b"", 0
    while i < len(levels):
        n = 1
        while i + n < len(levels) and levels[i + n] == levels[i]:
            n += 1
        out += varint(n << 1) + levels[i].to_bytes((width + 7) // 8, "little")
        i += n
    return out


def levels(values, top):
    if not top:
        return b""
    body = runs(values, top.bit_length())
    return struct.pack("<I", len(body)) + body


def texts(*values):
    return b"".join(struct.pack("<I", len(v)) + v for v in (v.encode() if isinstance(v, str) else v for v in values))


def page(number, fields, body, raw=None, stored=None, **more):
    """more: field1, field2, ... of the page's header."""
    head = {1: {5: 0, 7: 2, 8: 3}[number], 2: len(body) if raw is None else raw, 3: len(body) if stored is None else stored,
            number: fields}
    head.update({int(k[5:]): v for k, v in more.items()})
    return value(head) + body


def data(n, body, encoding=PLAIN, level_encoding=RLE, **more):
    return page(5, {1: n, 2: encoding, 3: level_encoding, 4: level_encoding}, body, **more)


def data_v2(n, rows, reps, defs, body, encoding=PLAIN, rep_bytes=None, def_bytes=None, **more):
    fields = {1: n, 2: 0, 3: rows, 4: encoding, 5: len(defs) if def_bytes is None else def_bytes,
              6: len(reps) if rep_bytes is None else rep_bytes, 7: False}
    return page(8, fields, reps + defs + body, **more)


def dictionary(n, body, encoding=PLAIN, **more):
    return page(7, {1: n, 2: encoding}, body, **more)


def leaf(name, kind, repetition=REQUIRED, converted=None, logical=None, width=None, scale=None, precision=None):
    return {1: kind, 2: width, 3: repetition, 4: name, 6: converted, 7: scale, 8: precision, 10: logical}


def group(name, children, repetition=OPTIONAL, converted=None, logical=None):
    return {3: repetition, 4: name, 5: children, 6: converted, 10: logical}


class Chunk:
    def __init__(self, kind, path, n, *pages, codec=NONE, meta=None, chunk=None):
        self.kind, self.path, self.n, self.bytes, self.codec = kind, path, n, b"".join(pages), codec
        self.meta, self.chunk = meta or {}, chunk or {}


TEXT = [leaf("text", BYTES, converted=UTF8)]
THREE = Chunk(BYTES, ["text"], 3, data(3, texts("a", "bb", "ccc")))


def build(schema=None, chunks=None, rows=3, total=None, footer=None, groups=None, root=None, tail=None, copies=1,
          group_fields=None):
    """A file of `copies` equal row groups, whose footer's fields `footer` replaces."""
    schema, chunks = schema or TEXT, [THREE] if chunks is None else chunks
    out, lists = b"PAR1", []
    for _ in range(copies):
        metas = []
        for c in chunks:
            at = len(out)
            out += c.bytes
            meta = {1: c.kind, 2: [RLE, PLAIN], 3: c.path, 4: c.codec, 5: Long(c.n), 6: Long(len(c.bytes)),
                    7: Long(len(c.bytes)), 9: Long(at)} | c.meta
            metas.append({2: Long(at), 3: meta} | c.chunk)
        lists.append({1: metas, 2: Long(len(out)), 3: Long(rows)} | (group_fields or {}))
    elements = [group("schema", sum(1 for _ in top_level(schema)) if root is None else root, REQUIRED)] + schema
    fields = {1: 1, 2: elements, 3: Long(rows * copies if total is None else total), 4: lists if groups is None else groups}
    meta = value(fields | (footer or {}))
    return out + meta + (struct.pack("<I", len(meta)) + b"PAR1" if tail is None else tail)


def top_level(schema):
    at = 0

    def skip(i):
        n = schema[i].get(5) or 0
        i += 1
        for _ in range(n):
            i = skip(i)
        return i

    while at < len(schema):
        yield at
        at = skip(at)


def write(name, content):
    with open(f"{FOLDER}/{name}.parquet", "wb") as f:
        f.write(content)


def bad(name, *args, **more):
    write("bad_" + name, args[0] if args and isinstance(args[0], bytes) else build(*args, **more))


def one(element, body, n=3, **more):
    """A file with one column of one page."""
    return build([element], [Chunk(element[1], [element[4]], n, data(n, body, **more))], rows=n)


def pages(element, n, *content, rows=None, **more):
    return build([element], [Chunk(element[1], [element[4]], n, *content, **more)], rows=n if rows is None else rows)


LISTED = [group("list", 1, converted=LIST), group("list", 1, REPEATED), leaf("element", INT32, OPTIONAL)]
INTS = leaf("n", INT32)
MAYBE = leaf("n", INT32, OPTIONAL)
WORD = leaf("text", BYTES, converted=UTF8)
BOTH = [group("both", 2), leaf("a", INT32), leaf("b", INT32)]


def zstd(content):
    return subprocess.run(["zstd", "-q", "-c", "-19"], input=content, capture_output=True, check=True).stdout


def ints(*values):
    return b"".join(struct.pack("<i", v) for v in values)


def bad_footers():
    whole = build()
    meta_length = struct.unpack("<I", whole[-8:-4])[0]
    bad("empty", b"")
    bad("magic_alone", b"PAR1")
    bad("other_file", b'{"text": "this is JSONL"}\n')
    bad("cut_off", whole[:60])
    bad("footer_length_huge", whole[:-8] + b"\xff\xff\xff\xff" + b"PAR1")
    bad("footer_length_one_too_much", whole[:-8] + struct.pack("<I", len(whole) - 11) + b"PAR1")
    bad("footer_length_zero", whole[:-8] + struct.pack("<I", 0) + b"PAR1")
    bad("footer_length_short", whole[:-8] + struct.pack("<I", meta_length - 9) + b"PAR1")
    bad("encrypted_file", whole[:-4] + b"PARE")
    foot = lambda meta: b"PAR1" + meta + struct.pack("<I", len(meta)) + b"PAR1"
    bad("thrift_number_endless", foot(b"\x15" + b"\xff" * 30))
    bad("thrift_number_cut", foot(b"\x15\x80"))
    bad("thrift_type_unknown", foot(b"\x1f" + bytes(20)))
    bad("thrift_field_number", foot(b"\x05" + zigzag(2**31) + bytes(20)))
    bad("thrift_deep", foot(b"\x5c" + b"\x1c" * 5000 + bytes(5001)))
    bad("thrift_lists_deep", foot(b"\x59" + b"\x19" * 5000 + bytes(99)))
    bad("thrift_list_huge", foot(b"\x29\xfc" + varint(2**60)))
    bad("thrift_text_huge", foot(value({1: 1, 2: [Raw(b"\x48" + varint(2**62))]})))
    bad("thrift_bytes_for_number", foot(value({1: 1, 3: b"three"})))
    bad("schema_missing", footer={2: None, 4: None})
    bad("schema_behind_groups", foot(value({4: []})[:-1] + value({2: [group("schema", 1)] + TEXT})[:-1] + b"\0"))
    bad("schema_twice", foot(value({2: [group("schema", 1)] + TEXT})[:-1] + b"\x09" + zigzag(2) +
                             value([group("schema", 1)] + TEXT) + b"\0"))
    bad("groups_missing", footer={4: None})
    bad("rows_missing", footer={3: None})
    bad("rows_disagree", total=4)
    bad("rows_negative", total=-1)
    bad("rows_overflow", [leaf("n", INT32, REPEATED)],
        [Chunk(INT32, ["n"], 2**63 - 1, data(1, ints(1)))], rows=2**63 - 1, copies=2, total=5)
    bad("groups_count_huge", foot(value({2: [group("schema", 1)] + TEXT, 3: Long(3)})[:-1] + b"\x19\xfc" + varint(60) +
                                  bytes(70)))


def bad_schemas():
    bad("schema_no_columns", [leaf("x", INT32)], root=0)
    bad("schema_children_lie", root=2)
    bad("schema_too_many_in_front", TEXT + [leaf("more", INT32)], root=1)
    bad("schema_huge", b"PAR1" + (m := b"\x29\xfc" + varint(20000) + bytes(20001)) + struct.pack("<I", len(m)) + b"PAR1")
    bad("schema_deep", [group("g", 1) for _ in range(80)] + [leaf("x", INT32)], root=1)
    bad("name_not_utf8", [leaf(b"caf\xe9", BYTES, converted=UTF8)])
    bad("name_zero_byte", [leaf("a\0b", BYTES, converted=UTF8)])
    bad("name_twice", TEXT * 2, [THREE, THREE])
    bad("name_twice_inside", [group("s", 2), leaf("x", INT32), leaf("x", INT32)], [THREE, THREE])
    bad("leaf_without_type", [{3: REQUIRED, 4: "text"}])
    bad("type_unknown", [leaf("text", 8)])
    bad("fixed_without_length", [leaf("text", FIXED)])
    bad("text_of_numbers", [leaf("text", INT32, converted=UTF8)])
    bad("list_of_number", [leaf("text", INT32, converted=LIST)])
    bad("decimal_too_long", [leaf("d", BYTES, converted=DECIMAL, precision=155, scale=0)])
    bad("decimal_scale", [leaf("d", INT32, converted=DECIMAL, precision=5, scale=6)])
    bad("decimal_scale_negative", [leaf("d", INT32, converted=DECIMAL, precision=5, scale=-1)])
    bad("list_without_repeated", [group("l", 1, converted=LIST), leaf("x", INT32)])
    bad("list_of_two", [group("l", 2, converted=LIST), leaf("x", INT32, REPEATED), leaf("y", INT32, REPEATED)])
    bad("list_cut", [group("l", 1, converted=LIST), group("list", 1, REPEATED)], root=1)
    bad("map_of_three", [group("m", 1, converted=MAP), group("kv", 3, REPEATED), leaf("a", INT32), leaf("b", INT32),
                         leaf("c", INT32)])
    bad("uuid_short", [leaf("u", FIXED, width=8, logical={14: {}})])
    bad("half_long", [leaf("h", FIXED, width=4, logical={15: {}})])
    bad("time_without_unit", [leaf("t", INT64, logical={8: {1: True}})])


def bad_chunks():
    bad("group_columns_missing", chunks=[], group_fields={2: Long(2**60), 5: Long(2**60)})
    bad("group_columns_too_many", chunks=[THREE, THREE])
    bad("group_without_columns", group_fields={1: None, 2: Long(2**60), 5: Long(2**60)})
    bad("group_without_rows", group_fields={3: None, 6: Long(2**60)})
    bad("group_columns_twice", groups=[Raw(value({1: [{2: Long(4), 3: {1: BYTES, 4: 0, 5: Long(3), 7: Long(9),
        9: Long(4)}}]})[:-1] + b"\x09" + zigzag(1) + value([{2: Long(4)}]) + b"\0")])
    with_meta = lambda name, meta, **more: bad(name, chunks=[Chunk(BYTES, ["text"], 3, THREE.bytes, meta=meta, **more)])
    with_meta("chunk_other_type", {1: INT64})
    with_meta("chunk_incomplete", {5: None})
    with_meta("chunk_offset_in_footer", {9: Long(200)})
    with_meta("chunk_offset_zero", {9: Long(0)})
    with_meta("chunk_offset_negative", {9: Long(-5)})
    with_meta("chunk_size_huge", {7: Long(2**63 - 1)})
    with_meta("chunk_size_one_too_much", {7: Long(len(THREE.bytes) + 1)})
    with_meta("chunk_size_zero", {7: Long(0)})
    with_meta("chunk_values_fewer", {5: Long(2)})
    with_meta("chunk_values_more", {5: Long(4)})
    with_meta("codec_brotli", {4: BROTLI})
    with_meta("codec_lz4", {4: LZ4_RAW})
    with_meta("codec_lzo", {4: LZO})
    with_meta("codec_unknown", {4: 17})
    with_meta("chunk_elsewhere", {}, chunk={1: "other.parquet"})
    with_meta("chunk_encrypted", {}, chunk={8: {1: {}}})
    bad("rows_more_than_values", pages(leaf("n", INT32, REPEATED), 3, data(3, levels([0, 0, 1], 1) + levels([1] * 3, 1) +
                                                                          ints(1, 2, 3))))
    bad("rows_fewer_than_values", pages(leaf("n", INT32, REPEATED), 4, data(4, levels([0, 0, 1, 0], 1) + levels([1] * 4, 1) +
                                                                           ints(1, 2, 3, 4)), rows=2))


def bad_pages():
    body = texts("a", "bb", "ccc")
    word = lambda name, *content, n=3, **more: bad(name, pages(WORD, n, *content, **more))
    word("page_header_cut", data(3, body)[:8])
    word("page_header_wrong_type", b"\x18\x05" + bytes(20))
    word("page_without_encoding", page(5, {1: 3}, body))
    word("page_without_values", page(5, {2: 0}, body))
    word("page_header_of_other_kind", page(5, {1: 3, 2: 0}, body, field1=3))
    word("page_kind_unknown", page(5, {1: 3, 2: 0}, body, field1=9))
    word("page_size_past_column", data(3, body, stored=len(body) + 1))
    word("page_size_huge", data(3, body, stored=2**31 - 1))
    word("page_size_negative", data(3, body, stored=-1))
    word("page_values_more_than_column", data(4, body + texts("d")))
    word("page_values_negative", data(-3, body))
    word("page_values_missing", data(2, texts("a", "bb")))
    word("page_crc", data(3, body, field4=zlib.crc32(body) % 2**31 + 1))
    word("page_raw_lies", data(3, body, raw=len(body) + 5))
    word("page_encoding_unknown", data(3, body, encoding=99))
    word("page_encoding_of_numbers", data(3, body, encoding=DELTA))
    word("page_text_past_end", data(3, body[:-1]))
    word("page_text_length_huge", data(3, texts("a") + b"\xff\xff\xff\xff" + b"xx"))
    word("page_text_cut_in_length", data(3, body[:11]))
    word("page_empty", data(3, b""))
    bad("page_numbers_end", one(INTS, ints(1, 2)))
    bad("page_booleans_end", one(leaf("b", BOOL), b"\xff", n=9))
    bad("page_rle_booleans_end", one(leaf("b", BOOL), b"\x09\0\0\0\x02\1", encoding=RLE))
    raw = b"\0" * 64 * 2**20
    tiny = zstd(raw)
    word("bomb_zstd", data(3, tiny, raw=12), codec=ZSTD)
    word("bomb_zstd_claimed", data(3, tiny, raw=2**31 - 1), codec=ZSTD)
    word("bomb_zstd_whole", data(3, tiny, raw=len(raw)), codec=ZSTD)
    word("bomb_gzip", data(3, gzip.compress(bytes(2**20), mtime=0), raw=12), codec=GZIP)
    word("bomb_snappy", data(3, varint(2**31) + b"\0a", raw=40 << 20), codec=SNAPPY)
    word("bomb_dictionary", dictionary(2**28, tiny, raw=len(raw)), codec=ZSTD)
    word("zstd_damaged", data(3, zstd(body)[:-3] + b"\0\0\0", raw=len(body)), codec=ZSTD)
    word("gzip_cut", data(3, gzip.compress(body, mtime=0)[:-2], raw=len(body)), codec=GZIP)
    word("snappy_damaged", data(3, bytes([len(body)]) + b"\xff\xff\xff", raw=len(body)), codec=SNAPPY)
    index = lambda *i: bytes([2]) + runs(list(i), 2)
    pair = dictionary(2, texts("yes", "no"))
    word("index_out_of_range", pair, data(3, index(0, 1, 2), encoding=RLE_DICT))
    word("index_bits", pair, data(3, b"\x21" + bytes(30), encoding=RLE_DICT))
    word("indices_end", pair, data(3, index(0, 1), encoding=RLE_DICT))
    word("index_run_endless", pair, data(3, b"\x02" + b"\xff" * 12, encoding=RLE_DICT))
    word("index_run_huge", pair, data(3, b"\x02" + varint(2**34 << 1) + b"\0", encoding=RLE_DICT))
    word("index_run_cut", pair, data(3, b"\x02\x06", encoding=RLE_DICT))
    word("dictionary_missing", data(3, index(0, 1, 1), encoding=PLAIN_DICT))
    word("dictionary_twice", pair, pair, data(3, index(0, 1, 1), encoding=RLE_DICT))
    word("dictionary_behind", data(2, texts("a", "b")), pair, data(1, index(0), encoding=RLE_DICT))
    word("dictionary_encoding", dictionary(2, texts("yes", "no"), encoding=DELTA), data(3, index(0, 1, 1), encoding=RLE_DICT))
    word("dictionary_count_huge", dictionary(2**31 - 1, texts("yes", "no")), data(3, index(0, 1, 1), encoding=RLE_DICT))
    word("dictionary_count_more", dictionary(3, texts("yes", "no") + b"\0"), data(3, index(0, 1, 1), encoding=RLE_DICT))
    bad("dictionary_of_numbers_short", pages(INTS, 3, dictionary(3, ints(1, 2)), data(3, index(0, 1, 1), encoding=RLE_DICT)))
    bad("dictionary_of_booleans", pages(leaf("b", BOOL), 3, dictionary(2, b"\2"), data(3, index(0, 1, 1), encoding=RLE_DICT)))


def deltas(block, minis, count, first, rest=b""):
    return varint(block) + varint(minis) + varint(count) + zigzag(first) + rest


def bad_encodings():
    number = lambda name, body: bad(name, one(INTS, body, encoding=DELTA))
    number("delta_header_cut", b"\x80\x01\x04")
    number("delta_block_zero", deltas(0, 4, 3, 1))
    number("delta_block_odd", deltas(100, 4, 3, 1))
    number("delta_minis_zero", deltas(128, 0, 3, 1))
    number("delta_minis_many", deltas(128, 8, 3, 1))
    number("delta_count_huge", deltas(128, 4, 2**40, 1))
    number("delta_count_fewer", deltas(128, 4, 2, 1, zigzag(1) + bytes(4)))
    number("delta_widths_cut", deltas(128, 4, 3, 1, zigzag(1) + b"\1\1"))
    number("delta_width_65", deltas(128, 4, 3, 1, zigzag(1) + b"\x41\0\0\0" + bytes(300)))
    number("delta_data_cut", deltas(128, 4, 3, 1, zigzag(1) + b"\x20\0\0\0" + bytes(7)))
    three = lambda *sizes: deltas(128, 4, len(sizes), sizes[0], zigzag(-64) + b"\x08\0\0\0" +
                                  bytes(b - a + 64 for a, b in zip(sizes, sizes[1:])) + bytes(33 - len(sizes)))
    bad("delta_text_negative", one(WORD, three(1, -1, 1) + b"abcdef", encoding=DELTA_LENGTH))
    bad("delta_text_past_end", one(WORD, three(1, 2, 3) + b"abccc", encoding=DELTA_LENGTH))
    bad("delta_text_lengths_cut", one(WORD, deltas(128, 4, 3, 1, zigzag(1) + b"\x20\0\0\0" + bytes(12)), encoding=DELTA_LENGTH))
    bad("delta_prefix_too_long", one(WORD, three(0, 2, 0) + three(1, 1, 1) + b"abc", encoding=DELTA_BYTES))
    bad("delta_prefix_negative", one(WORD, three(0, -1, 0) + three(1, 1, 1) + b"abc", encoding=DELTA_BYTES))
    bad("delta_fixed_length", one(leaf("f", FIXED, width=2), three(0, 1, 1) + three(2, 1, 2) + b"abcde", encoding=DELTA_BYTES))
    bad("split_not_whole", one(leaf("f", FLOAT), bytes(13), encoding=SPLIT))
    bad("split_of_text", one(WORD, bytes(12), encoding=SPLIT))
    bad("split_ends", one(leaf("f", DOUBLE), bytes(16), encoding=SPLIT))


def bad_levels():
    maybe = lambda name, body, **more: bad(name, one(MAYBE, body, **more))
    maybe("levels_length_past_end", struct.pack("<I", 50) + b"\x06\1" + ints(1, 2, 3))
    maybe("levels_length_cut", b"\2\0")
    maybe("levels_end", levels([1, 1], 1) + ints(1, 2, 3))
    maybe("levels_encoding", levels([1, 1, 1], 1) + ints(1, 2, 3), level_encoding=DELTA)
    maybe("levels_bits_cut", b"", level_encoding=BIT_PACKED)
    bad("level_too_high", one(MAYBE, struct.pack("<I", 2) + b"\x06\2" + ints(1, 2, 3)))
    bad("levels_v2_past_page", pages(MAYBE, 3, data_v2(3, 3, b"", runs([1, 1, 1], 1), ints(1, 2, 3), def_bytes=500)))
    bad("levels_v2_overflow", pages(MAYBE, 3, data_v2(3, 3, b"", runs([1, 1, 1], 1), ints(1, 2, 3), def_bytes=2**31 - 1,
                                                      rep_bytes=2**31 - 1)))
    listed = lambda name, reps, defs, values, rows: bad(name, build(LISTED, [Chunk(INT32, ["list", "list", "element"], len(reps),
        data(len(reps), levels(reps, 1) + levels(defs, 3) + ints(*values)))], rows=rows))
    listed("row_begins_in_the_middle", [1, 0, 0], [3, 3, 3], [1, 2, 3], 2)
    listed("level_above_lists", [0, 2, 0], [3, 3, 3], [1, 2, 3], 2)
    listed("values_missing", [0, 1, 0], [3, 3, 3], [1, 2], 2)
    both = lambda name, *defs: bad(name, build(BOTH, [Chunk(INT32, ["both", c], 3, data(3, levels(d, 1) +
        ints(*range(sum(d))))) for c, d in zip("ab", defs)]))
    both("structs_disagree", [1, 0, 1], [1, 1, 1])
    both("structs_disagree_otherwise", [1, 1, 1], [1, 0, 1])
    elements = [group("l", 1, converted=LIST), group("list", 1, REPEATED), group("element", 2, REQUIRED), leaf("a", INT32),
                leaf("b", INT32)]
    lists = lambda name, reps_a, reps_b, rows: bad(name, build(elements, [Chunk(INT32, ["l", "list", "element", c], len(reps),
        data(len(reps), levels(reps, 1) + levels([2] * len(reps), 2) + ints(*range(len(reps)))))
        for c, reps in (("a", reps_a), ("b", reps_b))], rows=rows))
    lists("lists_disagree", [0, 1, 0], [0, 0, 1], 2)
    lists("list_longer_beside", [0, 0], [0, 1, 0], 2)
    lists("list_longer_at_the_end", [0, 0], [0, 0, 1], 2)
    strings = [group("m", 1, converted=MAP), group("key_value", 2, REPEATED), leaf("key", BYTES, OPTIONAL, UTF8),
               leaf("value", INT32, OPTIONAL)]
    bad("map_key_null", build(strings, [
        Chunk(BYTES, ["m", "key_value", "key"], 1, data(1, levels([0], 1) + levels([2], 3))),
        Chunk(INT32, ["m", "key_value", "value"], 1, data(1, levels([0], 1) + levels([3], 3) + ints(1)))], rows=1))


def bad_values():
    bad("text_not_utf8", one(WORD, texts("fine", b"caf\xe9", "fine")))
    bad("text_surrogate", one(WORD, texts("fine", b"\xed\xa0\x80", "fine")))
    bad("text_cut_character", one(WORD, texts("fine", "種".encode()[:2], "fine")))
    bad("binary", one(leaf("image", BYTES), texts("fine", b"\x89PNG\r\n", "fine")))
    bad("time_of_day", one(leaf("t", INT32, converted=TIME_MILLIS), ints(0, 86400000, 0)))
    bad("time_negative", one(leaf("t", INT32, converted=TIME_MILLIS), ints(0, -1, 0)))
    bad("int96_time", one(leaf("t", INT96), bytes(12) + b"\xff" * 12 + bytes(12)))
    bad("decimal_of_no_bytes", one(leaf("d", BYTES, converted=DECIMAL, precision=5), texts(b"\1", b"", b"\1")))
    bad("decimal_of_many_bytes", one(leaf("d", BYTES, converted=DECIMAL, precision=5), texts(b"\1", bytes(65), b"\1")))
    n = 10**9
    rle = lambda first, rest, top: (lambda b: struct.pack("<I", len(b)) + b)(varint(2) + bytes([first]) + varint((n - 1) << 1) +
                                                                          bytes([rest]))
    bad("list_endless", build(LISTED, [Chunk(INT32, ["list", "list", "element"], n,
        data(n, rle(0, 1, 1) + struct.pack("<I", len(varint(n << 1)) + 1) + varint(n << 1) + b"\2"))], rows=1))
    repeated = [leaf("text", BYTES, REPEATED, UTF8)]
    long = "seed " * 2000
    bad("list_of_one_long_text", build(repeated, [Chunk(BYTES, ["text"], n, dictionary(1, texts(long)),
        data(n, rle(0, 1, 1) + struct.pack("<I", len(varint(n << 1)) + 1) + varint(n << 1) + b"\1" + b"\1" + varint(n << 1) +
             b"\0", encoding=RLE_DICT))], rows=1))


# ---- whole files


def shapes():
    """Lists as they were written before three levels were the rule: three rows of one or two elements each, so that all
    columns have the same levels."""
    reps, defs, opt = [0, 1, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2]
    numbers, words = ints(1, 2, 3, 4), texts("a", "b", "c", "d")
    required = lambda path, kind, body: Chunk(kind, path, 4, data(4, levels(reps, 1) + levels(defs, 1) + body))
    optional = lambda path, kind, body: Chunk(kind, path, 4, data(4, levels(reps, 1) + levels(opt, 2) + body))
    twice = Chunk(INT32, ["two", "array", "array"], 4, data(4, levels([0, 2, 0, 0], 2) + levels([3, 3, 3, 2], 3) + ints(1, 2, 3)))
    schema = [leaf("bare", INT32, REPEATED),
              group("plain", 1, converted=LIST), leaf("element", INT32, REPEATED),
              group("named", 1, converted=LIST), group("array", 1, REPEATED), leaf("a", INT32),
              group("t", 1, converted=LIST), group("t_tuple", 1, REPEATED), leaf("a", BYTES, converted=UTF8),
              group("pair", 1, converted=LIST), group("bag", 2, REPEATED), leaf("a", INT32), leaf("b", BYTES, converted=UTF8),
              group("bag", 1, converted=LIST), group("bag", 1, REPEATED), leaf("array_element", INT32),
              group("two", 1, converted=LIST), group("array", 1, REPEATED, LIST), leaf("array", INT32, REPEATED),
              group("map", 1, converted=MAP_KEY_VALUE), group("map", 2, REPEATED), leaf("key", BYTES, converted=UTF8),
              leaf("value", INT32),
              group("group", 1, REPEATED), leaf("x", INT32)]
    chunks = [required(["bare"], INT32, numbers), optional(["plain", "element"], INT32, numbers),
              optional(["named", "array", "a"], INT32, numbers), optional(["t", "t_tuple", "a"], BYTES, words),
              optional(["pair", "bag", "a"], INT32, numbers), optional(["pair", "bag", "b"], BYTES, words),
              optional(["bag", "bag", "array_element"], INT32, numbers), twice,
              optional(["map", "map", "key"], BYTES, words), optional(["map", "map", "value"], INT32, numbers),
              required(["group", "x"], INT32, numbers)]
    return build(schema, chunks)


def whole():
    write("whole", build())
    write("whole_groups", build(copies=3))
    write("whole_shapes", shapes())
    # The old BIT_PACKED levels run from the highest bit; pyarrow 26 reads them from the lowest, against the format's text.
    write("whole_bits", one(MAYBE, b"\xa0" + ints(5, 6), level_encoding=BIT_PACKED))
    empty = gzip.compress(b"", mtime=0)
    defs = runs([0, 0, 0], 1)
    write("whole_nulls", pages(MAYBE, 3, dictionary(0, empty, raw=0), page(8, {1: 3, 2: 3, 3: 3, 4: RLE_DICT, 5: len(defs), 6: 0},
          defs + empty, raw=len(defs)), codec=GZIP))
    nothing = [group("set", 1, converted=MAP), group("map", 1, REPEATED), leaf("key", BYTES, converted=UTF8)]
    write("whole_set", build(nothing, [Chunk(BYTES, ["set", "map", "key"], 3, data(3, levels([0, 1, 0], 1) +
          levels([2, 2, 0], 2) + texts("a", "b")))], rows=2))
    write("whole_reps_v2", build(LISTED, [Chunk(INT32, ["list", "list", "element"], 4, data_v2(4, 2, runs([0, 1, 1, 0], 1),
          runs([3, 2, 3, 1], 2), ints(7, 8)))], rows=2))
    old = leaf("at", INT64, converted=9)  # TIMESTAMP_MILLIS, in UTC by definition
    write("whole_old_types", build([old, leaf("n", INT32, converted=13), leaf("s", FIXED, converted=ENUM, width=3)], [
        Chunk(INT64, ["at"], 1, data(1, struct.pack("<q", -1))), Chunk(INT32, ["n"], 1, data(1, b"\xff" * 4)),
        Chunk(FIXED, ["s"], 1, data(1, b"abc"))], rows=1))
    index = bytes([2]) + runs([0, 1, 1], 2)
    write("whole_dictionary", pages(WORD, 3, dictionary(2, texts("yes", "no")), data(3, index, encoding=RLE_DICT)))
    write("whole_v2", pages(MAYBE, 3, data_v2(3, 3, b"", runs([1, 0, 1], 1), ints(1, 3))))
    write("whole_delta", one(INTS, deltas(128, 4, 3, 1, zigzag(1) + b"\1\0\0\0" + b"\2" + bytes(3)), encoding=DELTA))


if __name__ == "__main__":
    os.makedirs(FOLDER, exist_ok=True)
    for name in os.listdir(FOLDER):
        if name.startswith(("bad_", "whole")):
            os.remove(f"{FOLDER}/{name}")
    for part in (bad_footers, bad_schemas, bad_chunks, bad_pages, bad_encodings, bad_levels, bad_values, whole):
        part()
