"""Writes tests/golden/rows_*.parquet with pyarrow 26.0 (any version does: test_rows.c only counts on the rows). Run from
the repository's root; the results are committed.
"""
import pyarrow as pa
import pyarrow.parquet as pq

pq.write_table(pa.table({"prompt": ["1+1=", "2+2="], "completion": ["2", "4\n"]}), "tests/golden/rows_pairs.parquet")
# Several chunks of text in a small file, and a row that is longer than a chunk.
texts = ["a" * 100_000] * 60 + ["b" * 5_000_000] + ["c"] * 3
pq.write_table(pa.table({"text": texts}), "tests/golden/rows_long.parquet", compression="zstd", row_group_size=50)
pq.write_table(pa.table({"text": pa.array([], pa.string())}), "tests/golden/rows_none.parquet")
# A column that has no text beside one that is wanted.
images = pa.array([b"\x89PNG\xff", b"\x00\xfe"], pa.binary())
pq.write_table(pa.table({"image": images, "text": ["a", "b"]}), "tests/golden/rows_images.parquet")
