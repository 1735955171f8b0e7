"""GGUF files read by the `gguf` package, and by llama.cpp if it is installed."""

import importlib.util
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file


def compare(folder: Path, file: Path) -> int:
    """Compares every tensor with that of the model folder and returns their number; raises at the first difference."""
    config = json.loads((folder / "config.json").read_text())
    config |= config.get("text_config") or {}
    reader = gguf.GGUFReader(file)
    architecture = reader.get_field("general.architecture").contents()
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], config["num_hidden_layers"])
    found = {tensor.name: tensor for tensor in reader.tensors}
    found.pop("rope_freqs.weight", None)
    count = 0
    for name, stored in load_file(folder / "model.safetensors").items():
        values = stored.to(torch.float32).numpy()
        short, part = name.rsplit(".", 1)
        if architecture == "gemma3" and short.endswith("norm"):
            values = values + 1
        if architecture == "llama" and short.endswith(("q_proj", "k_proj")):
            heads = config["num_attention_heads" if short.endswith("q_proj") else "num_key_value_heads"]
            pairs = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        tensor = found.pop(f"{names.get_name(short)}.{part}")
        written = gguf.quants.quantize(np.ascontiguousarray(values), tensor.tensor_type)
        if tensor.shape.tolist() != list(reversed(values.shape)) or not np.array_equal(
            written.view(np.uint8).ravel(), np.asarray(tensor.data).view(np.uint8).ravel()
        ):
            raise RuntimeError(f"`{name}` differs in `{file.name}`")
        count += 1
    if found:
        raise RuntimeError(f"`{file.name}` has more tensors: {', '.join(found)}")
    return count


def has_llama_cpp() -> bool:
    return importlib.util.find_spec("llama_cpp") is not None


def open_model(file: Path):
    import llama_cpp

    return llama_cpp.Llama(str(file), n_ctx=512, n_threads=1, logits_all=True, verbose=False)


def greedy(file: Path, prompt: list[int], count: int) -> list[int]:
    """Returns the greedy tokens after a prompt, without stop tokens."""
    model = open_model(file)
    tokens, written = prompt, []
    for _ in range(count):
        model.eval(tokens)
        written.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        tokens = written[-1:]
    return written


def tokenize(file: Path, text: str) -> list[int]:
    return open_model(file).tokenize(text.encode(), add_bos=False, special=True)
