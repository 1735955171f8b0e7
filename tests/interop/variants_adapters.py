"""Variants of PEFT adapters: name → (whether it must load, the family of its base, a function that makes it)."""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file


def randomize(model) -> None:
    """Gives every trained tensor numbers, because a fresh adapter changes nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
            elif "lora_" in name:
                parameter.normal_(0, 0.2)
            elif "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))


def lora(change=None, prepare=None, **settings):
    """Returns a function that makes an adapter of `settings` and then changes its files."""

    def make(base, out: Path) -> None:
        model = base()
        if prepare:
            prepare(model)
        defaults = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
        tuned = get_peft_model(model, LoraConfig(**(defaults | settings)))
        randomize(tuned)
        tuned.save_pretrained(out)
        if change:
            change(out)

    return make


def config(**values):
    def change(out: Path) -> None:
        path = out / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def renamed(function):
    """Renames tensors. The reference is the adapter under its first names, since PEFT passes over names that it does not know."""

    def change(out: Path) -> None:
        path = out / "adapter_model.safetensors"
        shutil.copytree(out, out / "original")
        tensors = load_file(path)
        save_file({function(name): tensor for name, tensor in tensors.items()}, path)

    return change


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ADAPTERS = {
    "plain": (True, "llama", lora()),
    "all-targets": (True, "llama", lora(target_modules=ALL)),
    "all-linear": (True, "llama", lora(target_modules="all-linear")),
    "pattern-of-targets": (True, "llama", lora(target_modules=r".*\.(q|down)_proj")),
    "whole-paths": (True, "llama", lora(target_modules=["model.layers.1.self_attn.q_proj", "layers.2.mlp.up_proj"])),
    "some-layers": (True, "llama", lora(layers_to_transform=[0, 2])),
    "one-layer": (True, "llama", lora(layers_to_transform=1)),
    "layers-pattern": (True, "llama", lora(layers_to_transform=[1], layers_pattern="layers")),
    "excluded": (True, "llama", lora(target_modules=ALL, exclude_modules=["down_proj"])),
    "excluded-by-pattern": (True, "llama", lora(target_modules="all-linear", exclude_modules=r".*mlp.*")),
    "rank-stabilized": (True, "llama", lora(use_rslora=True)),
    "dora": (True, "llama", lora(use_dora=True)),
    "dora-rank-stabilized": (True, "qwen3", lora(use_dora=True, use_rslora=True, target_modules=ALL)),
    "alpha-pattern": (True, "llama", lora(alpha_pattern={"v_proj": 2, "layers.1.self_attn.q_proj": 32})),
    "rank-pattern": (True, "llama", lora(rank_pattern={"q_proj": 2, r"layers\.2.*v_proj": 6})),
    "both-patterns": (True, "llama", lora(use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"^model.layers.0.*": 3})),
    "head": (True, "llama", lora(target_modules=["q_proj", "lm_head"])),
    "saved-head": (True, "llama", lora(modules_to_save=["lm_head"])),
    "saved-head-and-embedding": (True, "llama", lora(modules_to_save=["lm_head", "embed_tokens"])),
    "saved-norms": (True, "llama", lora(modules_to_save=["input_layernorm", "norm"])),
    "gaussian": (True, "llama", lora(init_lora_weights="gaussian")),
    "biases": (True, "qwen2", lora(bias="all")),
    "biases-of-adapted": (True, "qwen2", lora(bias="lora_only")),
    "fan-in-fan-out": (True, "llama", lora(config(fan_in_fan_out=True))),
    "unused-new-settings": (True, "llama", lora(config(next_idea=None, other_idea=False, third={}))),
    "adapter-name-in-names": (True, "llama", lora(renamed(lambda name: name.replace(".weight", ".default.weight")))),
    "multimodal-names": (True, "gemma3_text", lora(renamed(lambda name: name.replace("model.model.", "model.model.language_model.", 1)))),
    "phi3-fused-names": (True, "phi3", lora(target_modules=["qkv_proj", "gate_up_proj", "down_proj"])),
    "gemma3": (True, "gemma3_text", lora(target_modules="all-linear")),
    "cohere": (True, "cohere", lora(target_modules="all-linear")),
    "pissa": (False, "llama", lora(init_lora_weights="pissa")),
    "pissa-iterations": (False, "llama", lora(init_lora_weights="pissa_niter_4")),
    "olora": (False, "llama", lora(init_lora_weights="olora")),
    "lora-bias": (False, "qwen2", lora(lora_bias=True)),
    "embedding": (False, "llama", lora(target_modules=["embed_tokens", "q_proj"])),
    "tied-head-saved": (False, "qwen2", lora(modules_to_save=["lm_head"])),
    "tied-head": (False, "qwen2", lora(target_modules=["q_proj", "lm_head"])),
    "token-indices": (False, "llama", lora(trainable_token_indices={"embed_tokens": [5, 6]})),
    "replicated-layers": (False, "llama", lora(layer_replication=[[0, 2], [1, 3]])),
    "new-setting": (False, "llama", lora(config(next_idea=3))),
}
