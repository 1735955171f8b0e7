"""Logits of one GGUF file by two ways, which separate what the file holds from how llama.cpp multiplies with it.

llama.cpp hands products of `FEWEST_ROWS` rows or more to OpenBLAS, which multiplies the values of the file in float32. Its own kernels round
the inputs of a product with a quantized matrix to 8 bits: blocks of 32 values (`q8_0`, `q8_1`), or of 256 for the K types (`q8_K`).
"""

from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import torch
from transformers import AutoModelForCausalLM

# A prompt and the tokens that follow it.
Row = tuple[list[int], list[int]]
FLOATS = {"F32", "F16", "BF16"}
FEWEST_ROWS = 32
CONTEXT = 512


def llama_logits(file: Path, rows: list[Row], *, rounded: bool) -> np.ndarray:
    """Returns llama.cpp's logits before each token of the answers (tokens × vocabulary), with a cache in F32.

    Products are those of OpenBLAS, or those of llama.cpp with rounded inputs.
    """
    f32 = int(gguf.GGMLQuantizationType.F32)
    at_once = FEWEST_ROWS // 2 if rounded else CONTEXT
    model = llama_cpp.Llama(str(file), n_ctx=CONTEXT, n_ubatch=at_once, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False,
                            type_k=f32, type_v=f32)
    found = []
    for prompt, answer in rows:
        model.reset()
        tokens = prompt + answer
        # What follows a token does not change its logits.
        model.eval(tokens + tokens[-1:] * (FEWEST_ROWS - len(tokens)))
        found.append(model.scores[len(prompt) - 1 : len(tokens) - 1].copy())
    return np.concatenate(found)


def rounded(inputs: torch.Tensor, block: int) -> torch.Tensor:
    """Rounds `inputs` to 8 bits in blocks, as llama.cpp does: scales are f16 for blocks of 32, f32 with the sign of the peak for 256."""
    blocks = inputs.reshape(-1, block)
    peak = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    if block == 256:
        inverse = torch.where(peak != 0, -127 / peak, 0.0)
        scale = torch.where(peak != 0, 1 / inverse, 0.0)
    else:
        inverse = torch.where(peak != 0, 127 / peak.abs(), 0.0)
        scale = (peak.abs() / 127).half().float()
    return (torch.round(blocks * inverse).clamp(-127, 127) * scale).reshape(inputs.shape)


def rounded_logits(folder: Path, file: Path, rows: list[Row]) -> np.ndarray:
    """Returns transformers' logits for `folder`, which holds the values of `file`, with the inputs of its products rounded."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    reader = gguf.GGUFReader(file)
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    architecture = reader.get_field("general.architecture").contents()
    names = gguf.get_tensor_name_map(kinds[architecture], model.config.num_hidden_layers)
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            # A tied head has no tensor of its own.
            kind = types.get(f"{names.get_name(name)}.weight", types["token_embd.weight"])
            if kind not in FLOATS:
                block = 256 if "_K" in kind else 32
                module.register_forward_pre_hook(lambda _, inputs, block=block: (rounded(inputs[0], block),))
    found = []
    with torch.no_grad():
        for prompt, answer in rows:
            logits = model(torch.tensor([prompt + answer])).logits[0]
            found.append(logits[len(prompt) - 1 : -1].numpy())
    return np.concatenate(found)


def distance(left: np.ndarray, right: np.ndarray) -> float:
    """Returns the root of the mean squared difference of the logits."""
    return float(np.sqrt(np.mean((left - right) ** 2)))
