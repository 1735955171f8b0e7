"""Writes the initial adapters of our trainer for the other programs. usage: adapters.py JOB.json

The job names `ours` (an adapter folder of `train` in mlx-lm's format), `mlx` and `peft` (folders to write), and `spread`: B is drawn with
this standard deviation. With 0 it becomes exactly zero: `train` writes no adapters before its first step, whose learning rate was
as good as zero.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    ours = Path(job["ours"])
    config = json.loads((ours / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(ours / "adapters.safetensors")
    random = np.random.Generator(np.random.SFC64(0))
    for name, tensor in sorted(tensors.items()):
        if name.endswith(".lora_b"):
            if np.abs(tensor).max() > 1e-20:
                raise SystemExit(f"error: `{name}` has been trained")
            tensor[:] = job["spread"] * random.standard_normal(tensor.shape)
    write_mlx(Path(job["mlx"]), config, tensors)
    write_peft(Path(job["peft"]), config, tensors)


def write_mlx(out: Path, config: dict, tensors: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(tensors, out / "adapters.safetensors")


def write_peft(out: Path, config: dict, tensors: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    renamed = {}
    for name, tensor in tensors.items():
        module, matrix = name.rsplit(".", 1)
        kind = {"lora_a": "lora_A", "lora_b": "lora_B"}[matrix]
        renamed[f"base_model.model.{module}.{kind}.weight"] = np.ascontiguousarray(tensor.T)
    save_file(renamed, out / "adapter_model.safetensors")
    rank = config["lora_parameters"]["rank"]
    settings = {
        "base_model_name_or_path": "",
        "bias": "none",
        "inference_mode": False,
        "lora_alpha": config["lora_parameters"]["scale"] * rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted({name.rsplit(".", 1)[0] for name in tensors}),
        "task_type": "CAUSAL_LM",
    }
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
