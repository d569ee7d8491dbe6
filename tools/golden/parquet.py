"""Parquet files of pyarrow and what is in them: tests/golden/parquet/NAME.*.parquet, and NAME.jsonl with the lines that
tane must make of each of them, from pyarrow's own to_pylist(). One file, of list shapes that pyarrow only reads, is
bad_parquet.py's. Run from the repository's root with pyarrow (26.0.1) and
numpy (2.4); the results are committed.

    python tools/golden/parquet.py                                    writes them
    python tools/golden/parquet.py --random 200 build/bench/parquet   compares random files with what that program prints
"""
import datetime as dt
import decimal
import json
import math
import random
import subprocess
import sys
import tempfile
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import bad_parquet

FOLDER = "tests/golden/parquet"

# ---- what a value is as JSON; numbers as C's %g prints them with as few digits as come back the same


def real(x, digits, same):
    if not math.isfinite(x):
        return "null"
    text = next(t for t in ("%.*g" % (n, x) for n in digits) if same(float(t)))
    return text if "." in text or "e" in text else text + ".0"


def fraction(ticks, digits):
    return "" if ticks == 0 else ".%0*d" % (digits, ticks)


DIGITS = {"s": 3, "ms": 3, "us": 6, "ns": 9}


def clock(ticks, digits):
    seconds, rest = divmod(ticks, 10**digits)
    return "%02d:%02d:%02d" % (seconds // 3600, seconds // 60 % 60, seconds % 60) + fraction(rest, digits)


def timestamp(ticks, digits, utc):
    days, of_day = divmod(ticks, 86400 * 10**digits)
    return str(np.datetime64(int(days), "D")) + "T" + clock(of_day, digits) + ("Z" if utc else "")


def quoted(text):
    return json.dumps(text, ensure_ascii=False)


def dump(value, t):
    """A value of to_pylist(), whose times were made integers before."""
    if value is None:
        return "null"
    if pa.types.is_map(t):
        pairs = [(dump(k, t.key_type), dump(v, t.item_type)) for k, v in value]
        if pa.types.is_string(t.key_type):
            return "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + "}"
        return "[" + ", ".join(f"[{k}, {v}]" for k, v in pairs) + "]"
    if pa.types.is_struct(t):
        return "{" + ", ".join(f"{quoted(f.name)}: {dump(value[f.name], f.type)}" for f in t) + "}"
    if pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t):
        return "[" + ", ".join(dump(v, t.value_type) for v in value) + "]"
    if pa.types.is_dictionary(t):
        return dump(value, t.value_type)
    if pa.types.is_boolean(t):
        return "true" if value else "false"
    if pa.types.is_float64(t):
        return real(value, (15, 16, 17), lambda y: y == value)
    if pa.types.is_floating(t):
        return real(float(value), (6, 7, 8, 9), lambda y: np.float32(y) == np.float32(value))
    if pa.types.is_decimal(t):
        return quoted(format(value, "f"))
    if pa.types.is_date(t):
        return quoted(str(value))
    if pa.types.is_integer(t):
        return str(value)
    if isinstance(value, uuid.UUID):
        return quoted(str(value))
    return quoted(value.decode() if isinstance(value, bytes) else value)


class Time:
    """A column of times, of which pyarrow's Python objects cannot show all."""

    def __init__(self, values, t):
        self.array = pa.array(values, pa.int32() if t.bit_width == 32 else pa.int64()).cast(t)
        self.t, self.values = t, values

    def dump(self, i, int96):
        x, t = self.values[i], self.t
        if x is None:
            return "null"
        scale = 1000 if t.unit == "s" else 1
        if pa.types.is_time(t):
            return quoted(clock(x * scale, DIGITS[t.unit]))
        if int96:
            return quoted(timestamp(x * scale * 10 ** (9 - DIGITS[t.unit]), 9, False))
        return quoted(timestamp(x * scale, DIGITS[t.unit], t.tz is not None))


def table_of(columns):
    arrays = [c.array if isinstance(c, Time) else c for c in columns.values()]
    return pa.table(arrays, names=list(columns))


def lines(columns, int96=False):
    rows = len(table_of(columns))
    texts = []
    for name, c in columns.items():
        if isinstance(c, Time):
            texts.append([c.dump(i, int96) for i in range(rows)])
        else:
            texts.append([dump(v, c.type) for v in c.to_pylist()])
    return ["{" + ", ".join(f"{quoted(n)}: {t[i]}" for n, t in zip(columns, texts)) + "}" for i in range(rows)]


# ---- the tables


def spread(values, rows):
    return (values * (rows // len(values) + 1))[:rows]


def types():
    n = 12
    text = ["", "a", 'quote " backslash \\ slash /', "line\nbreak\ttab\r\b\f", "\x00\x01\x1f\x7f", None, "種 seed", "😀 é",
            "x" * 300, "\u2028", "é" * 7 + '"', "eight by" + "te 8\\"]
    columns = {
        "bool": pa.array(spread([True, False, None, True], n)),
        "int8": pa.array(spread([-128, 127, None, 0], n), pa.int8()),
        "int16": pa.array(spread([-32768, 32767, 1], n), pa.int16()),
        "int32": pa.array(spread([-2**31, 2**31 - 1, None, 7], n), pa.int32()),
        "int64": pa.array(spread([-2**63, 2**63 - 1, None, -1], n), pa.int64()),
        "uint8": pa.array(spread([0, 255], n), pa.uint8()),
        "uint16": pa.array(spread([65535, None], n), pa.uint16()),
        "uint32": pa.array(spread([2**32 - 1, 0, None], n), pa.uint32()),
        "uint64": pa.array(spread([2**64 - 1, 2**63, None, 1], n), pa.uint64()),
        "float16": pa.array(spread([np.float16(x) for x in (0.1, -65504, 6e-8, 1)] + [None], n), pa.float16()),
        "float": pa.array(spread([0.1, -0.0, 1e30, 1.17549435e-38, None, math.nan, math.inf, 16777216, 1e-7], n),
                          pa.float32()),
        "double": pa.array(spread([0.1, 1e300, 5e-324, -math.inf, None, 1 / 3, 1e22, 123456789.125, 2.0**53], n)),
        "text": pa.array(text),
        "large": pa.array(text[::-1], pa.large_string()),
        "category": pa.array(spread(["red", "green", None, "red"], n)).dictionary_encode(),
        "bytes": pa.array(spread([b"plain", None, "種".encode()], n)),
        "fixed": pa.array(spread([b"abcd", b"wxyz", None], n), pa.binary(4)),
        "uuid": pa.array(spread([uuid.UUID(int=2**120 + 77).bytes, None], n), pa.uuid()),
        "date": pa.array(spread([dt.date(1970, 1, 1), dt.date(1969, 12, 31), dt.date(2000, 2, 29), None,
                                 dt.date(1, 1, 1), dt.date(9999, 12, 31), dt.date(1900, 3, 1)], n)),
        "nothing": pa.array([None] * n, pa.null()),
        "dec5": pa.array(spread([decimal.Decimal(x) for x in ("1.05", "-999.99", "0.00", "-0.01")] + [None], n),
                         pa.decimal128(5, 2)),
        "dec18": pa.array(spread([decimal.Decimal(x) for x in ("123456789012345678", "-1")], n), pa.decimal128(18, 0)),
        "dec76": pa.array(spread([decimal.Decimal(x) for x in ("9" * 66 + "." + "9" * 10, "-" + "1" * 40 + ".5")], n),
                          pa.decimal256(76, 10)),
        "time_s": Time(spread([0, 86399, None], n), pa.time32("s")),
        "time_ms": Time(spread([1, 86399999, None], n), pa.time32("ms")),
        "time_us": Time(spread([0, 86399999999, 5000000], n), pa.time64("us")),
        "time_ns": Time(spread([1, None, 86399999999999], n), pa.time64("ns")),
    }
    for unit, values in {"s": [0, -1, 253402300799], "ms": [1, None, -62135596800000], "us": [1600000000123456, -1],
                         "ns": [-2**63 + 1000, 2**63 - 1, None, 999999999]}.items():
        columns["at_" + unit] = Time(spread(values, n), pa.timestamp(unit))
        columns["utc_" + unit] = Time(spread(values[::-1], n), pa.timestamp(unit, "Asia/Tokyo"))
    return columns


def numbers():
    r = random.Random(5)
    short = [round(r.uniform(-1, 1) * 10.0 ** r.randrange(-5, 17), r.randrange(18)) for _ in range(120)]
    edges = [1e-4, 9.9999e-5, 1e14, 1e15, 999999999999999.0, 99999999999999.9, -0.001, 1e15 - 0.5, 4503599627370495.5, 0.3, 100.0]
    wild = [r.gauss(0, 1) * 10.0 ** r.randrange(-300, 300) for _ in range(60)]
    values = short + edges + [-x for x in edges] + wild
    return {"double": pa.array(values), "float": pa.array([max(-1e38, min(1e38, x)) for x in values], pa.float32())}


def int96():
    return {"at": Time([0, 1, -1, None, 1600000000123456789, -2**63 + 1000], pa.timestamp("ns"))}


CALL = pa.struct([("name", pa.string()), ("arguments", pa.map_(pa.string(), pa.float64()))])
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string()), ("calls", pa.list_(CALL))])


def messages():
    def turn(role, content, calls=None):
        return {"role": role, "content": content, "calls": calls}
    rows = [
        [turn("user", "What is a seed?"), turn("assistant", "A plant, not yet.")],
        [],
        None,
        [None],
        [turn(None, None), None, turn("user", "")],
        [turn("assistant", None, [{"name": "sum", "arguments": [("a", 1.0), ("b", 2.5)]}]), turn("tool", "3.5")],
        [turn("assistant", "x", []), turn("assistant", "y", [None, {"name": None, "arguments": None},
                                                            {"name": "f", "arguments": []},
                                                            {"name": "g", "arguments": [("k", None)]}])],
        [turn("user", f"question {i}") for i in range(40)],
    ]
    return {"id": pa.array(range(len(rows))), "messages": pa.array(rows, pa.list_(MESSAGE)),
            "source": pa.array(spread(["web", None], len(rows)))}


def nested():
    deep = pa.list_(pa.list_(pa.struct([("a", pa.int32()), ("b", pa.list_(pa.string()))])))
    rows = [[[{"a": 1, "b": ["x", None, ""]}, {"a": None, "b": []}], [], None, [None, {"a": 2, "b": None}]], [], None, [[]],
            [None, []], [[None]], [[{"a": 3, "b": ["y"]}], [{"a": 4, "b": ["z", "z"]}]]]
    tree = pa.struct([("left", pa.struct([("leaf", pa.list_(pa.int64()))])), ("right", pa.bool_())])
    trees = [{"left": {"leaf": [1, None, 2]}, "right": True}, {"left": None, "right": None}, None, {"left": {"leaf": None},
             "right": False}, {"left": {"leaf": []}, "right": True}, None, {"left": {"leaf": [3]}, "right": None}]
    numbers = [[(1, "one"), (2, None)], [], None, [(3, "three")], [], None, [(4, "four"), (5, "five")]]
    lists = [[("k", [1, None]), ("l", []), ("m", None)], None, [], [("n", [2])], [("k", [3])], None, []]
    strict = pa.list_(pa.field("element", pa.int8(), False))
    return {"deep": pa.array(rows, deep), "tree": pa.array(trees, tree),
            "by_number": pa.array(numbers, pa.map_(pa.int16(), pa.string())),
            "by_name": pa.array(lists, pa.map_(pa.string(), pa.list_(pa.int32()))),
            "fixed": pa.array([[1, 2]] * 7, pa.list_(pa.int32(), 2)),
            "strict": pa.array([[1], [], [2, 3], [4], [], [], [5]], strict)}


ENCODED = {"i": "DELTA_BINARY_PACKED", "l": "DELTA_BINARY_PACKED", "w": "DELTA_BINARY_PACKED",
           "e": "DELTA_BINARY_PACKED", "s": "DELTA_LENGTH_BYTE_ARRAY", "o": "DELTA_BYTE_ARRAY",
           "x": "DELTA_BYTE_ARRAY", "b": "RLE", "f": "BYTE_STREAM_SPLIT", "d": "BYTE_STREAM_SPLIT",
           "g": "BYTE_STREAM_SPLIT", "h": "BYTE_STREAM_SPLIT", "y": "BYTE_STREAM_SPLIT", "z": "BYTE_STREAM_SPLIT"}


def encodings():
    n, r = 170, random.Random(3)
    gaps = lambda values: [v if i % 7 else None for i, v in enumerate(values)]
    return {
        "i": pa.array(gaps([r.randrange(-1000, 1000) for _ in range(n)]), pa.int32()),
        "l": pa.array([10**12 + 17 * i for i in range(n)]),
        "w": pa.array([r.choice([-2**63, 2**63 - 1, 0, r.randrange(-2**40, 2**40)]) for _ in range(n)]),
        "e": pa.array([5] * n, pa.int32()),
        "s": pa.array(gaps(["w%d" % r.randrange(99) * (i % 3) for i in range(n)])),
        "o": pa.array(gaps(["row/%06d" % (i * 37) for i in range(n)])),
        "x": pa.array([b"%05d" % (i // 3) for i in range(n)], pa.binary(5)),
        "b": pa.array(gaps([i // 50 % 2 == 0 or r.random() < 0.1 for i in range(n)])),
        "f": pa.array(gaps([i / 8 for i in range(n)]), pa.float32()),
        "d": pa.array([i / 3 for i in range(n)]),
        "g": pa.array([i * i for i in range(n)], pa.int32()),
        "h": pa.array(gaps([-i * 2**33 for i in range(n)])),
        "y": pa.array([b"%010d" % i for i in range(n)], pa.binary(10)),
        "z": pa.array([np.float16(i / 4) for i in range(n)], pa.float16()),
    }


def pages():
    n, r = 400, random.Random(4)
    words = ["seed", "rice", "water", "sun", "種"]
    text = [" ".join(r.choices(words, k=r.randrange(9))) for _ in range(n)]
    many = [[r.randrange(50) for _ in range(r.randrange(6))] if r.random() < 0.9 else None for _ in range(n)]
    return {"text": pa.array([t if i % 11 else None for i, t in enumerate(text)]), "many": pa.array(many, pa.list_(pa.int32())),
            "flag": pa.array([i % 3 == 0 for i in range(n)]), "id": pa.array(range(n))}


def write(name, variant, columns, **options):
    options = {"compression": "none", "write_statistics": False, "store_schema": False} | options
    pq.write_table(table_of(columns), f"{FOLDER}/{name}.{variant}.parquet", **options)


def write_all():
    tables = {"types": types(), "messages": messages(), "nested": nested(), "encodings": encodings(), "pages": pages(),
              "one_row": {"text": pa.array(["only"])}, "no_rows": {"text": pa.array([], pa.string()), "n": pa.array([], pa.int8())},
              "wide": {f"c{i:03d}": pa.array([i, None, -i], pa.int32()) for i in range(150)}, "int96": int96(), "numbers": numbers()}
    for name, columns in tables.items():
        with open(f"{FOLDER}/{name}.jsonl", "w") as f:
            f.writelines(line + "\n" for line in lines(columns, name == "int96"))
    t, m, e, p = tables["types"], tables["messages"], tables["encodings"], tables["pages"]
    write("types", "plain", t, use_dictionary=False)
    write("types", "v2_zstd", t, compression="zstd", data_page_version="2.0", write_page_checksum=True)
    write("types", "snappy_integers", t, compression="snappy", store_decimal_as_integer=True, write_page_checksum=True)
    write("types", "gzip", t, compression="gzip", row_group_size=8)
    write("int96", "plain", tables["int96"], use_deprecated_int96_timestamps=True, use_dictionary=False)
    write("int96", "dictionary", tables["int96"], use_deprecated_int96_timestamps=True)
    for codec in ("none", "snappy", "gzip", "zstd"):
        write("messages", codec, m, compression=codec, store_schema=codec == "zstd")
    write("messages", "v2_snappy", m, compression="snappy", data_page_version="2.0", write_page_index=True)
    write("messages", "items", m, use_compliant_nested_type=False, row_group_size=1)
    write("nested", "v1", tables["nested"])
    write("nested", "v2_gzip", tables["nested"], compression="gzip", data_page_version="2.0")
    write("nested", "small_groups", tables["nested"], row_group_size=2, use_dictionary=False)
    for version in ("1.0", "2.0"):
        write("encodings", f"v{version[0]}", e, use_dictionary=False, column_encoding=ENCODED, data_page_version=version,
              compression="zstd")
    write("encodings", "small_pages", e, use_dictionary=False, column_encoding=ENCODED, data_page_size=256, write_batch_size=32,
          compression="zstd")
    small = {"data_page_size": 64, "write_batch_size": 16}
    write("pages", "fallback", p, dictionary_pagesize_limit=128, row_group_size=150, **small)
    write("pages", "v2_fallback", p, dictionary_pagesize_limit=128, data_page_version="2.0", compression="snappy", **small)
    write("pages", "checksums", p, write_page_checksum=True, compression="zstd", row_group_size=60, **small)
    write("pages", "plain", p, use_dictionary=False, row_group_size=30)
    write("numbers", "plain", tables["numbers"], use_dictionary=False)
    write("one_row", "plain", tables["one_row"])
    write("no_rows", "plain", tables["no_rows"])
    write("wide", "plain", tables["wide"], compression="snappy")
    with open(f"{FOLDER}/shapes.hand.parquet", "wb") as f:
        f.write(bad_parquet.shapes())
    shapes = pq.read_table(f"{FOLDER}/shapes.hand.parquet")
    with open(f"{FOLDER}/shapes.jsonl", "w") as f:
        f.writelines(line + "\n" for line in lines(dict(zip(shapes.column_names, shapes.columns))))


# ---- random files


def random_type(r, depth):
    if depth < 4 and r.random() < 0.5:
        kind = r.randrange(4)
        if kind == 0:
            return pa.list_(pa.field("element", random_type(r, depth + 1), r.random() < 0.7))
        if kind == 1:
            return pa.map_(r.choice([pa.string(), pa.int32()]), random_type(r, depth + 1))
        return pa.struct([pa.field(f"f{i}", random_type(r, depth + 1), r.random() < 0.7) for i in range(r.randrange(1, 4))])
    return r.choice([pa.bool_(), pa.int8(), pa.int32(), pa.int64(), pa.uint32(), pa.uint64(), pa.float32(), pa.float64(),
                     pa.string(), pa.string(), pa.date32(), pa.decimal128(20, 4), pa.binary(3)])


def random_value(r, t, nullable, few):
    if nullable and r.random() < 0.15:
        return None
    if pa.types.is_map(t):
        n = r.randrange(4)
        keys = r.sample(range(100), n)
        text = pa.types.is_string(t.key_type)
        return [(f"k{k}" if text else k, random_value(r, t.item_type, True, few)) for k in keys]
    if pa.types.is_list(t):
        n = 0 if r.random() < 0.2 else r.randrange(6)
        return [random_value(r, t.value_type, t.value_field.nullable, few) for _ in range(n)]
    if pa.types.is_struct(t):
        return {f.name: random_value(r, f.type, f.nullable, few) for f in t}
    pick = r.randrange(few)
    if pa.types.is_boolean(t):
        return r.random() < 0.5
    if pa.types.is_integer(t):
        low = -2 ** (t.bit_width - 1) if pa.types.is_signed_integer(t) else 0
        return random.Random(pick).randrange(low, low + 2**t.bit_width)
    if pa.types.is_floating(t):
        return random.Random(pick).gauss(0, 10.0 ** (pick % 20))
    if pa.types.is_date(t):
        return dt.date(1970, 1, 1) + dt.timedelta(days=pick % 50000 * 37 - 9999)
    if pa.types.is_decimal(t):
        return decimal.Decimal(random.Random(pick).randrange(-10**19, 10**19)).scaleb(-4)
    if pa.types.is_fixed_size_binary(t):
        return b"%03d" % (pick % 1000)
    return "".join(random.Random(pick).choices("abc \n\"\\é種😀\x01", k=pick % 50))


def random_options(r, columns):
    options = {"compression": r.choice(["none", "snappy", "gzip", "zstd"]), "data_page_version": r.choice(["1.0", "2.0"]),
               "row_group_size": r.choice([1, 3, 50, 100000]), "data_page_size": r.choice([1, 100, 5000, 1 << 20]),
               "write_batch_size": r.choice([1, 7, 1024]), "use_dictionary": r.random() < 0.6,
               "dictionary_pagesize_limit": r.choice([10, 1000, 1 << 20]), "write_page_checksum": r.random() < 0.5,
               "use_compliant_nested_type": r.random() < 0.7, "store_decimal_as_integer": r.random() < 0.3}
    if options["use_dictionary"]:
        return options
    choices = {"INT32": ["DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"], "INT64": ["DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"],
               "FLOAT": ["BYTE_STREAM_SPLIT"], "DOUBLE": ["BYTE_STREAM_SPLIT"], "BOOLEAN": ["RLE"],
               "BYTE_ARRAY": ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"],
               "FIXED_LEN_BYTE_ARRAY": ["BYTE_STREAM_SPLIT", "DELTA_BYTE_ARRAY"]}
    sink = pa.BufferOutputStream()
    pq.write_table(table_of(columns).slice(0, 0), sink, **options)
    schema = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    options["column_encoding"] = {schema.column(i).path: r.choice(choices[schema.column(i).physical_type] + ["PLAIN"])
                                  for i in range(len(schema))}
    return options


def compare_random(count, reader):
    for seed in range(count):
        r = random.Random(seed)
        rows, few = r.choice([0, 1, 10, 300, 2000]), r.choice([1, 5, 40, 10**6])
        columns = {}
        for i in range(r.randrange(1, 5)):
            t = random_type(r, 0)
            columns[f"c{i}"] = pa.array([random_value(r, t, True, few) for _ in range(rows)], t)
        options = random_options(r, columns)
        with tempfile.NamedTemporaryFile(suffix=".parquet") as f:
            pq.write_table(table_of(columns), f.name, **options)
            out = subprocess.run([reader, "--print", f.name], capture_output=True, text=True)
        found, expected = out.stdout.split("\n")[:-1], lines(columns)
        if out.returncode or found != expected:
            wrong = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
            print(f"seed {seed}: {table_of(columns).schema}\n{options}\nrow {wrong + 1} of {rows}: {out.stderr}")
            print("found   ", found[wrong] if wrong < len(found) else "nothing")
            print("expected", expected[wrong] if wrong < len(expected) else "nothing")
            sys.exit(1)
    print(f"{count} random files: every line equal")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--random"]:
        compare_random(int(sys.argv[2]), sys.argv[3])
    else:
        write_all()
