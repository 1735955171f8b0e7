"""Models quantized or dequantized by `import-model`, scored by us and by mlx-lm. usage: conversions.py PROGRAMS [CASE…]

A case is a golden folder or `demo`. Prints one line a model, then how many passed; exits with 1 when one failed.
"""

import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
from mlx.utils import tree_flatten
from ours import Programs, read_json
from safetensors.numpy import load_file
from texts import write_text

mx.set_default_device(mx.cpu)

ROOT = Path(__file__).resolve().parents[2]
CASES = ["demo", "gemma3_text-q4", "llama-q4", "qwen3-q8"]
# The largest difference of two losses, in nats per target.
LOSS = 1e-3
MODES = [("affine", bits, 32) for bits in (2, 3, 4, 5, 6, 8)] + [
    ("affine", 8, 64),
    ("mxfp4", 4, 32),
    ("mxfp8", 8, 32),
    ("nvfp4", 4, 16),
]


def loss(model, dataset: Path) -> float:
    tensors = load_file(dataset / "data/tokens/test.safetensors")
    cuts = tensors["offsets"][1:-1].astype(np.int64)
    total, count = 0.0, 0.0
    for tokens, trained in zip(np.split(tensors["tokens"].astype(np.int32), cuts), np.split(tensors["trained"], cuts)):
        tokens, counts = mx.array(tokens), mx.array(trained[1:]).astype(mx.float32)
        losses = nn.losses.cross_entropy(model(tokens[None, :-1])[0].astype(mx.float32), tokens[1:])
        total, count = total + (losses * counts).sum().item(), count + counts.sum().item()
    return total / count


def conversions(programs: Programs, folder: Path) -> dict[str, Path]:
    """Dequantizes a quantized model; quantizes a plain one in every mode and dequantizes the last."""
    if "quantization" in read_json(folder / "config.json"):
        plain = programs.run("import-model", {"dequantize": True}, model_dir=folder)
        return {"unpacked": plain} | conversions(programs, plain / "data/model")
    models = {}
    for mode, bits, size in MODES:
        settings = {"quantize.mode": mode, "quantize.bits": bits, "quantize.group_size": size}
        model = programs.run("import-model", settings, model_dir=folder)
        models[f"packed {mode} {bits} in groups of {size}"] = model
    return models


def check(name: str, programs: Programs, text: Path) -> list[bool]:
    folder = ROOT / ("data/models/demo" if name == "demo" else f"tests/golden/{name}")
    base = programs.run("import-model", model_dir=folder)
    settings = {"max_tokens": 400, "on_leak": "allow", "split.validation": 0.2, "split.test": 0.2}
    dataset = programs.run("prepare-data", settings, tokenizer=base, data=text)
    models = {"base": base} | conversions(programs, folder)
    flags = [f"m{number}={model}/data/model" for number, model in enumerate(models.values())]
    scored = programs.run("evaluate", {"generated_rows": 0}, model=flags, dataset=dataset)
    scores = read_json(scored / "data/metrics.json")["models"]
    passed = []
    for number, (what, model) in enumerate(models.items()):
        loaded, _ = mlx_lm.load(str(model / "data/model"))
        loaded.set_dtype(mx.float32)
        packed = any(key.endswith("scales") for key, _ in tree_flatten(loaded.parameters()))
        ours, theirs = scores[f"m{number}"]["loss"], loss(loaded, dataset)
        fine = abs(ours - theirs) <= LOSS and (what == "base" or packed == what.startswith("packed"))
        passed.append(fine)
        print(f"{name:16} {what:36} {ours:9.6f} {theirs:9.6f} {abs(ours - theirs):8.1e} {'ok' if fine else 'FAIL'}", flush=True)
    return passed


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="conversions-") as scratch:
        work = Path(scratch)
        write_text(work / "rows.jsonl")
        programs = Programs(Path(sys.argv[1]), work / "store")
        passed = [fine for name in sys.argv[2:] or CASES for fine in check(name, programs, work / "rows.jsonl")]
    print(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
