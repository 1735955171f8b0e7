"""What transformers computes for golden cases: `python generate_transformers.py OUT`; see README.md.

Makes the cases `phi3-longrope` and `phi3-longrope-long`, and writes `half.json` beside every case that is not quantized:
how far transformers' own logits in 16 bits are from those in 32.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Phi3Config, Phi3ForCausalLM

HERE = Path(__file__).parent
LONGROPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 384,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 32,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.3, 1.6], "long_factor": [1.0, 4.0, 9.0]},
    "tie_word_embeddings": True,
    "model_type": "phi3",
    "bos_token_id": 2,
    "eos_token_id": [1, 4],
    "pad_token_id": 0,
}
# Name → tokens of a row and of the prompt: within the trained context of 32 (the answer outgrows it), and beyond it.
CASES = {"phi3-longrope": (16, 20), "phi3-longrope-long": (48, 40)}
GREEDY = 24


def longrope(folder: Path, length: int, prompt_length: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(102)
    model = Phi3ForCausalLM(Phi3Config(**json.loads(json.dumps(LONGROPE)), attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else noise * parameter.shape[-1] ** -0.5)
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(LONGROPE, indent=1))
    inputs = torch.randint(6, 384, (2, length))
    with torch.no_grad():
        logits = model(inputs, use_cache=False).logits
    save_file(
        {"input_ids": inputs.to(torch.int32), "logits": logits.contiguous()}, folder / "expected.safetensors"
    )
    spans = [[0, length], [length // 4, 3 * length // 4]]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.roll(inputs, -1, 1).flatten(), reduction="none"
    ).view(2, length)
    # Targets at the steps (from 1) `first` to `last` count.
    counted = torch.cat([row[max(first, 1) - 1 : last] for row, (first, last) in zip(losses, spans)])
    prompt = torch.randint(6, 384, (prompt_length,)).tolist()
    tokens = list(prompt)
    for _ in range(GREEDY):
        # Without a cache, which does not change its keys when a row outgrows the trained context.
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
    expected = {
        "loss": float(counted.mean()),
        "loss_tokens": len(counted),
        "loss_batch": f"input_ids plus its first column again; trained targets per row: {spans[0]} and {spans[1]}",
        "greedy_prompt": prompt,
        "greedy_tokens": tokens[prompt_length:],
        "chats": json.loads((HERE / "llama/expected.json").read_text())["chats"],
        "produced_by": "transformers, CPU, float32",
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(HERE / "llama" / name, folder / name)


def half(folder: Path) -> None:
    """Writes the rounding error of transformers itself, relative to the largest logit in 32 bits."""
    config = json.loads((folder / "config.json").read_text())
    if "quantization" in config or "text_config" in config:
        return
    inputs = load_file(folder / "expected.safetensors")["input_ids"].long()

    def logits(dtype: torch.dtype) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
        with torch.no_grad():
            return model(inputs, use_cache=False).logits.double()

    exact = logits(torch.float32)
    errors = {}
    for name in ("bfloat16", "float16"):
        off = (logits(getattr(torch, name)) - exact) / exact.abs().max()
        errors[name] = {"largest": float(off.abs().max()), "mean_square_root": float(off.square().mean().sqrt())}
    (folder / "half.json").write_text(json.dumps(errors, indent=1) + "\n")


def main() -> None:
    out = Path(sys.argv[1])
    for name, (length, prompt_length) in CASES.items():
        longrope(out / name, length, prompt_length)
    for config in sorted(out.glob("*/config.json")):
        half(config.parent)


if __name__ == "__main__":
    main()
