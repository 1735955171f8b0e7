"""Logits of one GGUF file by three ways, which separate what a file holds from how llama.cpp multiplies with it.

llama.cpp's processor kernels round the inputs of a product with a quantized matrix to 8 bits: blocks of 32 values (`q8_0`, `q8_1`), or of
256 for the K types (`q8_K`). A copy of the file with the same values in F32 has no such rounding.
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


def float_copy(file: Path, copy: Path) -> None:
    """Writes `copy` with the metadata of `file` and the values of its tensors in F32, dequantized by the `gguf` package."""
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(copy, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_logits(file: Path, rows: list[Row]) -> np.ndarray:
    """Returns llama.cpp's logits before each token of the answers (tokens × vocabulary), with a cache in F32."""
    f32 = int(gguf.GGMLQuantizationType.F32)
    model = llama_cpp.Llama(str(file), n_ctx=512, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False, type_k=f32, type_v=f32)
    found = []
    for prompt, answer in rows:
        model.reset()
        model.eval(prompt + answer)
        found.append(model.scores[len(prompt) - 1 : len(prompt) + len(answer) - 1].copy())
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
