"""Training a byte-level BPE vocabulary: tane beside Hugging Face's BpeTrainer, in turns, with equal threads.

    python bench/bpe_train.py build/bench/bpe_train FILE... [--megabytes 100] [--vocab 32000] [--threads 1,2]

The FILEs (of .jsonl the texts in it) are put together and repeated until there are so many megabytes. Both train on the
lines of that one file (train(files) there), and both are asked for the same: 256 bytes, <|endoftext|>, pairs that occur
twice. Ratios are of best times; the vocabularies are compared. Each contestant is a process of its own; its time is
that of training, without start and without writing the result; CPU seconds are those of the whole process (tane's
splitting alone included).
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

PEER = """
import json, sys, time
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
path, vocab, out = sys.argv[1:]
tok = Tokenizer(models.BPE())
tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
trainer = trainers.BpeTrainer(vocab_size=int(vocab), min_frequency=2, special_tokens=["<|endoftext|>"],
                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
start = time.perf_counter()
tok.train([path], trainer)
seconds = time.perf_counter() - start
model = json.loads(tok.to_str())["model"]
ids = model["vocab"]
with open(out, "w") as f:
    f.writelines(t + "\\n" for t in sorted(ids, key=ids.get))
    f.writelines(f"{ids[a]} {ids[b]}\\n" for a, b in model["merges"])
print(json.dumps({"seconds": seconds, "tokens": len(ids)}))
"""


def text_of(path):
    if path.suffix != ".jsonl": return path.read_bytes()
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return "".join(v + "\n" for row in rows for v in row.values() if isinstance(v, str)).encode()


def run(command, threads):
    # GOMP_SPINCOUNT: as tane sets it for itself.
    env = dict(os.environ, GOMP_SPINCOUNT="1000", RAYON_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="true")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status: sys.exit(f"{command[0]} failed")
    return dict(json.loads(out), peak=usage.ru_maxrss / 1024, cpu=usage.ru_utime + usage.ru_stime)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = b"".join(map(text_of, args.files))
        path = folder + "/text"
        pathlib.Path(path).write_bytes(text * -(-args.megabytes * 10**6 // len(text)))
        megabytes = os.path.getsize(path) / 1e6
        print(f"{megabytes:.1f} MB, vocabulary {args.vocab}, {args.rounds} rounds, load {os.getloadavg()[0]:.1f}")
        print(f"{'threads':>7}  {'':12} {'seconds':>8} {'(slowest)':>10} {'CPU s':>7} {'MB/s':>7} {'peak MiB':>9} {'ratio':>6}")
        for threads in map(int, args.threads.split(",")):
            ours, theirs = [], []
            for _ in range(args.rounds):
                ours.append(run([args.program, path, str(args.vocab), str(threads), folder + "/a"], threads))
                theirs.append(run([sys.executable, "-c", PEER, path, str(args.vocab), folder + "/b"], threads))
                ours.append(run([args.program, path, str(args.vocab), str(threads), folder + "/a"], threads))
            best = min(o["seconds"] for o in ours)
            for name, rounds in ("tane", ours), ("tokenizers", theirs):
                times = [r["seconds"] for r in rounds]
                ratio = f"{min(times) / best:6.1f}" if name != "tane" else ""
                cpu = min(r["cpu"] for r in rounds)
                print(f"{threads:7}  {name:12} {min(times):8.2f} {max(times):10.2f} {cpu:7.2f} "
                      f"{megabytes / min(times):7.1f} {max(r['peak'] for r in rounds):9.0f} {ratio}")
            fastest = min(ours, key=lambda o: o["seconds"])
            split = min(o["split_seconds"] for o in ours)
            reading = fastest["read_seconds"]
            print(f"{'':9}reading {reading:.2f} s, merges {fastest['seconds'] - reading:.2f} s; splitting alone, one "
                  f"thread {split:.2f} s ({megabytes / split:.0f} MB/s)")
            same = pathlib.Path(folder + "/a").read_bytes() == pathlib.Path(folder + "/b").read_bytes()
            print(f"{'':9}{fastest['tokens']} tokens, {'the same' if same else 'DIFFERENT'} in both")


if __name__ == "__main__":
    main()
