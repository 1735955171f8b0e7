"""mlx-lm's side: its loader, trainer, fusing and generation on our tokens."""

import contextlib
import io
import json
import types
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import mlx_lm.fuse
import mlx_lm.lora
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.generate import generate_step
from safetensors.numpy import load_file

mx.set_default_device(mx.cpu)

# What our programs trim from an answer: white space as Unicode has it. Python's own `strip` takes more.
WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


class Split:
    """A split of our dataset: rows of tokens and the mask of targets."""

    def __init__(self, dataset: Path, name: str):
        tensors = load_file(dataset / "data/tokens" / f"{name}.safetensors")
        cuts = tensors["offsets"][1:-1].astype(np.int64)
        self.tokens = np.split(tensors["tokens"].astype(np.int32), cuts)
        self.trained = np.split(tensors["trained"], cuts)
        self.prompts = [row[:n] for row, n in zip(self.tokens, tensors["prompt_lengths"]) if n > 0]


def load(model: Path, adapters: Path | None = None):
    """Loads with mlx-lm; computes in float32, as our programs do on a CPU."""
    loaded, _ = mlx_lm.load(str(model), adapter_path=adapters and str(adapters))
    loaded.set_dtype(mx.float32)
    loaded.eval()
    return loaded


def stored_type(model: Path) -> mx.Dtype:
    """Returns the type of a model's weights, or of their scales if they are packed."""
    loaded, _ = mlx_lm.load(str(model), lazy=True)
    types = (array.dtype for _, array in tree_flatten(loaded.parameters()))
    return next(dtype for dtype in types if mx.issubdtype(dtype, mx.floating))


class Losses:
    """Losses of the rows of a split: sums in nats, and numbers of targets."""

    def __init__(self, sums, counts):
        self.sums, self.counts = np.array(sums, float), np.array(counts, float)

    def mean(self) -> float:
        """Returns the mean over targets."""
        return float(self.sums.sum() / self.counts.sum())

    def rows(self) -> np.ndarray:
        return self.sums / np.maximum(self.counts, 1)


def losses(model, split: Split) -> Losses:
    """Returns the cross-entropy of all targets."""
    sums, counts = [], []
    for tokens, trained in zip(split.tokens, split.trained):
        tokens, counted = mx.array(tokens), mx.array(trained[1:]).astype(mx.float32)
        logits = model(tokens[None, :-1])[0].astype(mx.float32)
        each = nn.losses.cross_entropy(logits, tokens[1:])
        sums.append((each * counted).sum().item())
        counts.append(counted.sum().item())
    return Losses(sums, counts)


def answers(model, prompts, decode, stop: list[int], max_tokens: int) -> list[str]:
    """Returns the greedy answer to each prompt, computed with mlx-lm's key-value cache."""
    texts = []
    for prompt in prompts:
        tokens = []
        for token, _ in generate_step(mx.array(prompt), model, max_tokens=max_tokens):
            if int(token) in stop:
                break
            tokens.append(int(token))
        texts.append(decode(tokens).strip(WHITE_SPACE))
    return texts


def train(model: Path, data: Path, adapters: Path, settings: dict) -> None:
    """Trains with mlx-lm and its defaults, for a few steps."""
    changed = {
        "adapter_path": str(adapters),
        "batch_size": 2,
        "data": str(data),
        "iters": 3,
        "learning_rate": 1e-2,
        "model": str(model),
        "num_layers": -1,
        "train": True,
        "val_batches": 1,
    }
    arguments = types.SimpleNamespace(**(mlx_lm.lora.CONFIG_DEFAULTS | changed | settings))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        mlx_lm.lora.run(arguments)


def write_chats(dataset: Path, out: Path) -> None:
    """Writes the rows of our dataset in the format of mlx-lm's trainer."""
    out.mkdir(parents=True)
    for ours, name in [("train", "train"), ("validation", "valid"), ("test", "test")]:
        rows = (dataset / f"data/rows/{ours}.jsonl").read_text().splitlines()
        chats = [{"messages": json.loads(row)["messages"]} for row in rows]
        (out / f"{name}.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))


def fuse(model: Path, adapters: Path, out: Path) -> None:
    """Fuses like `mlx_lm.fuse`."""
    loaded, tokenizer, config = mlx_lm.load(str(model), adapter_path=str(adapters), return_config=True)
    fused = [(name, module.fuse()) for name, module in loaded.named_modules() if hasattr(module, "fuse")]
    loaded.update_modules(tree_unflatten(fused))
    mlx_lm.utils.save(out, str(model), loaded, tokenizer, config, donate_model=False)


def work_in(model, dtype: mx.Dtype) -> None:
    """Fuses the adapters of a loaded model into its weights, dequantizes it, and rounds everything to `dtype`."""
    fused = [(name, module.fuse(dequantize=True)) for name, module in model.named_modules() if hasattr(module, "fuse")]
    model.update_modules(tree_unflatten(fused))
    mlx_lm.utils.dequantize_model(model)
    model.set_dtype(dtype)
    model.set_dtype(mx.float32)
