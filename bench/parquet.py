"""Parquet to rows: tane's lines of JSON (bench/parquet.c) beside pyarrow's reading to Python lists, and to lists and then
lines by json.dumps, on one thread each, in turns in one run. Prints MB/s of decoded text (the UTF-8 of all texts; of
numbers, the lines) and tane's ratio to each.

    python bench/parquet.py build/bench/parquet [--rounds 5] [--mb 64] [--text FILE]

needs pyarrow. --text FILE: what the rows are cut from; without it, made of words.
"""
import argparse
import json
import os
import random
import subprocess
import tempfile
import time

import pyarrow as pa
import pyarrow.parquet as pq

options = argparse.ArgumentParser()
options.add_argument("program")
options.add_argument("--rounds", type=int, default=5)
options.add_argument("--mb", type=int, default=64)
options.add_argument("--text")
options = options.parse_args()
pa.set_cpu_count(1)
pa.set_io_thread_count(1)
r = random.Random(1)


def source():
    if options.text:
        with open(options.text, encoding="utf-8") as f:
            return f.read()
    words = ["".join(r.choices("etaoinshrdlu", k=r.randrange(1, 9))) for _ in range(20000)]
    return "".join(r.choice(words) + r.choice("      \n,.") for _ in range(4_000_000))


text = source()
sizes = [r.randrange(100, 4000) for _ in range(options.mb * 500)]
starts = [r.randrange(len(text) - 4000) for _ in sizes]
pieces = [text[a:a + n] for a, n in zip(starts, sizes)]


def chats():
    turns = iter(pieces)
    return [[{"role": "user", "content": u}, {"role": "assistant", "content": a}] for u, a in zip(turns, turns)]


japanese = "".join(chr(0x4E00 + r.randrange(3000)) if r.random() < 0.4 else chr(0x3041 + r.randrange(80)) for _ in range(100000))
cases = {
    "text, zstd": ({"text": pieces}, {"compression": "zstd"}),
    "text, snappy": ({"text": pieces}, {"compression": "snappy"}),
    "text, gzip": ({"text": pieces}, {"compression": "gzip"}),
    "text, none, plain": ({"text": pieces}, {"compression": "none", "use_dictionary": False}),
    "messages, zstd": ({"messages": chats()}, {"compression": "zstd"}),
    "Japanese text, zstd": ({"text": [japanese[a % 90000:][:n] for a, n in zip(starts, sizes)]}, {"compression": "zstd"}),
    "four numbers, snappy": ({"a": list(range(10**6)), "b": [i * i % 997 for i in range(10**6)],
                              "c": [i / 7 for i in range(10**6)], "d": [i % 3 == 0 for i in range(10**6)]},
                             {"compression": "snappy"}),
}

print(f"{options.rounds} rounds in turns, best of each, load {os.getloadavg()[0]:.1f}")
print(f"{'':22} {'file MB':>8} {'text MB':>8} {'tane MB/s':>10} {'to lists':>9} {'ratio':>6} {'to lines':>9} {'ratio':>6}")
for name, (columns, how) in cases.items():
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/x.parquet"
        table = pa.table(columns)
        pq.write_table(table, path, row_group_size=10000, **how)
        ours, lists, lines, run = [], [], [], {}
        for _ in range(options.rounds):
            run = json.loads(subprocess.run([options.program, "--rounds", "1", path], capture_output=True, check=True).stdout)
            ours.append(run["seconds"])
            begin = time.perf_counter()
            with pq.ParquetFile(path) as f:
                rows = sum(len(f.read_row_group(i, use_threads=False).to_pylist()) for i in range(f.num_row_groups))
            lists.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            with pq.ParquetFile(path) as f:
                for i in range(f.num_row_groups):
                    for row in f.read_row_group(i, use_threads=False).to_pylist():
                        json.dumps(row, ensure_ascii=False)
            lines.append(time.perf_counter() - begin)
            assert rows == run["rows"]
        leaf = columns.get("text") or [m["content"] for chat in columns.get("messages", []) for m in chat]
        mb = (sum(len(t.encode()) for t in leaf) or run["bytes"]) / 1e6
        print(f"{name:22} {os.path.getsize(path) / 1e6:8.1f} {mb:8.1f} {mb / min(ours):10.0f} {mb / min(lists):9.0f} "
              f"{min(lists) / min(ours):6.2f} {mb / min(lines):9.0f} {min(lines) / min(ours):6.2f}")
