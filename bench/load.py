"""Peer of bench/load.c: safetensors' load_file of a model folder, to a device. python bench/load.py FOLDER [cpu|cuda:0]"""
import glob, os, sys, time

import torch
from safetensors.torch import load_file

folder, device = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "cpu"
files = sorted(glob.glob(os.path.join(folder, "*.safetensors")))
size = sum(os.path.getsize(f) for f in files)
for _ in range(4):
    start = time.time()
    tensors = [load_file(f, device=device) for f in files]
    if device != "cpu":
        torch.cuda.synchronize()
    else:  # load_file only maps: touch every page, as a copy into the model would
        tensors = [{k: v.clone() for k, v in t.items()} for t in tensors]
    seconds = time.time() - start
    print(f"safetensors {folder} -> {device}: {size / 1e9:.2f} GB, {seconds:.3f} s, {size / seconds / 1e9:.2f} GB/s")
    del tensors
