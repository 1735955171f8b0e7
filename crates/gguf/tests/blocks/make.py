#!/usr/bin/env python3
"""Write random blocks of every storage and their values, and random values with their blocks. usage: make.py FOLDER"""
import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

BLOCKS = 5
NAMES = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K".split()
# Offsets of half floats in a block: random bits there could be NaN or infinity.
HALVES = {"F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82],
          "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}

random = np.random.default_rng(7)
for name in NAMES:
    kind = Type[name]
    values, size = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for offset in HALVES.get(name, []):
        scales = (random.standard_normal(BLOCKS) * 10.0 ** random.integers(-6, 2, BLOCKS)).astype(np.float16)
        blocks[:, offset:offset + 2] = scales.view(np.uint8).reshape(BLOCKS, 2)
    if name in ("F32", "BF16"):
        numbers = random.standard_normal(BLOCKS).astype(np.float32)
        blocks = numbers.view(np.uint8).reshape(BLOCKS, 4)[:, 4 - size:].copy()
    found = dequantize(blocks.reshape(-1), kind).astype(np.float32)
    (Path(sys.argv[1]) / f"{name}.bin").write_bytes(blocks.tobytes() + found.tobytes())

# Values of many sizes, with equal extremes, zeros, one sign, and values between two numbers.
for name in "F16 Q4_0 Q4_1 Q5_0 Q8_0".split():
    values = random.standard_normal((64, 32)) * 10.0 ** random.integers(-5, 3, (64, 1))
    values[0] = 0
    values[1, 3:] = 0
    values[2] = np.abs(values[2])
    values[3] = -np.abs(values[3])
    values[4, :2] = [values[4].max() * 2, -values[4].max() * 2]
    values[5] = np.arange(32) / 4 - 4
    values[6] = np.arange(32) / 2
    values = values.astype(np.float32)
    (Path(sys.argv[1]) / f"{name}.values").write_bytes(values.tobytes() + quantize(values, Type[name]).tobytes())
