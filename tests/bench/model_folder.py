"""Writes a model folder with random weights at the shape of a real model. usage: model_folder.py JOB.json

The job names `shape`, `dtype`, `bits` (or null), `seed`, `corpus` (a text that the tokenizer is trained on) and `out`. The weights
mean nothing: the folder serves to measure speed and memory. One tensor at a time is in memory.
"""

import json
import sys
from pathlib import Path

import numpy as np
from shapes import is_gemma, layout, shape
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

GROUP = 64
# Standard deviation of matrices; vectors vary by as much around the value that changes nothing.
SPREAD = 0.02
SPECIAL = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' }}"
    "{% if m['role'] == 'assistant' %}{{ 'model' }}{% else %}{{ m['role'] }}{% endif %}"
    "{{ '\\n' + (m['content'] | trim) + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


class Writer:
    """Draws the tensors and writes them as safetensors, in two passes: the header first, then the data."""

    def __init__(self, config: dict, dtype: str, bits: int | None, seed: int):
        self.dtype, self.bits = dtype, bits
        self.centre = 0.0 if is_gemma(config) else 1.0
        self.seed = seed
        self.tensors: list[tuple[str, str, tuple[int, ...]]] = []
        for name, size in layout(config):
            if bits and len(size) == 2:
                stem = name.removesuffix(".weight")
                small = (size[0], size[1] // GROUP)
                self.tensors += [
                    (f"{stem}.biases", dtype, small),
                    (f"{stem}.scales", dtype, small),
                    (name, "uint32", (size[0], size[1] * bits // 32)),
                ]
            else:
                self.tensors.append((name, dtype, size))

    def draw(self, index: int, rows: slice) -> np.ndarray:
        """Returns rows of one tensor; the same seed gives the same numbers."""
        name, dtype, size = self.tensors[index]
        size = (len(range(*rows.indices(size[0]))), *size[1:])
        random = np.random.Generator(np.random.SFC64([self.seed, index, rows.start]))
        if dtype == "uint32":
            return random.integers(0, 1 << 32, size, dtype=np.uint32)
        if name.endswith((".scales", ".biases")):
            # Uniform codes around zero with the spread of the other weights.
            top = (1 << self.bits) - 1
            scale = SPREAD * 12**0.5 / top
            return self.rounded(np.full(size, scale if name.endswith("scales") else -scale * top / 2, np.float32))
        drawn = random.standard_normal(size, dtype=np.float32)
        drawn *= SPREAD
        return self.rounded(drawn + np.float32(self.centre) if len(size) == 1 else drawn)

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """Returns `values` in the stored type; bfloat16 as its upper half words."""
        if self.dtype == "float32":
            return values
        words = values.view(np.uint32)
        return ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype(np.uint16)

    def write(self, path: Path) -> int:
        """Writes all tensors and returns the number of bytes of their data."""
        widths = {"float32": ("F32", 4), "bfloat16": ("BF16", 2), "uint32": ("U32", 4)}
        header, end = {"__metadata__": {"format": "mlx" if self.bits else "pt"}}, 0
        for name, dtype, size in self.tensors:
            code, width = widths[dtype]
            start, end = end, end + width * int(np.prod(size))
            header[name] = {"dtype": code, "shape": size, "data_offsets": [start, end]}
        head = json.dumps(header, separators=(",", ":")).encode()
        head += b" " * (-len(head) % 8)
        with path.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for index, (_, _, size) in enumerate(self.tensors):
                step = max(1, (1 << 25) // int(np.prod(size[1:], initial=1)))
                for start in range(0, size[0], step):
                    self.draw(index, slice(start, min(start + step, size[0]))).tofile(file)
        return end


def write_tokenizer(out: Path, corpus: Path, config: dict) -> None:
    """Trains a byte-level BPE on `corpus`; the embedding keeps the vocabulary of the shape."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = min(config["vocab_size"], 8192)
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train([str(corpus)], trainer)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "bos_token": "<bos>",
        "chat_template": TEMPLATE,
        "eos_token": "<eos>",
        "model_max_length": config["max_position_embeddings"],
        "pad_token": "<pad>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    config, out = shape(job["shape"]), Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    write_tokenizer(out, Path(job["corpus"]), config)
    Writer(config, job["dtype"], job["bits"], job["seed"]).write(out / "model.safetensors")
    architecture = {"gemma3_text": "Gemma3", "llama": "Llama", "qwen3": "Qwen3"}[config["model_type"]]
    config |= {
        "architectures": [f"{architecture}ForCausalLM"],
        "bos_token_id": 2,
        "eos_token_id": [1, 4],
        "pad_token_id": 0,
        "torch_dtype": job["dtype"],
    }
    if job["bits"]:
        config["quantization"] = {"bits": job["bits"], "group_size": GROUP}
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
