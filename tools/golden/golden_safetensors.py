"""Writes tests/golden/reference.safetensors with the reference implementation: one tensor of each dtype tane knows,
a scalar, empty ones, odd sizes and names. Run once, from the repository's root; the result is committed.

Made with safetensors 0.8.0 and torch 2.15.
"""
import torch
from safetensors.torch import save_file


def ramp(dtype, *shape):
    return torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape).to(dtype)


tensors = {
    "wte.weight": ramp(torch.float32, 2, 3),
    "half": ramp(torch.float16, 3),
    "brain": ramp(torch.bfloat16, 5),
    "double": ramp(torch.float64, 1, 2),
    "i64": torch.tensor([-1, 2**62]),
    "i32": ramp(torch.int32, 1),
    "i16": ramp(torch.int16, 3, 1),
    "i8": ramp(torch.int8, 3),
    "u8": ramp(torch.uint8, 5),
    "mask": torch.tensor([True, False, True]),
    "scalar": torch.tensor(7.5),
    "empty": torch.zeros(0),
    "empty.matrix": torch.zeros(4, 0, dtype=torch.float64),
    '種 "quoted"': torch.tensor([-0.25]),
}
save_file(tensors, "tests/golden/reference.safetensors", {"format": "pt"})
