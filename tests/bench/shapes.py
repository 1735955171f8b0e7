"""Shapes of real models, and the tensors that follow from them."""

import json
from pathlib import Path

SHAPES = Path(__file__).with_name("shapes.json")


def shape(name: str) -> dict:
    """Returns the `config.json` of a shape."""
    return json.loads(SHAPES.read_text(encoding="utf-8"))[name]


def is_gemma(config: dict) -> bool:
    return config["model_type"].startswith("gemma")


def is_tied(config: dict) -> bool:
    return config.get("tie_word_embeddings", is_gemma(config))


def matrices(config: dict) -> dict[str, tuple[int, int]]:
    """Returns the linear layers of one block by name, each as (outputs, inputs)."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    return {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def vectors(config: dict) -> dict[str, int]:
    """Returns the norms of one block by name."""
    hidden = config["hidden_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    if is_gemma(config):
        norms |= {"pre_feedforward_layernorm": hidden, "post_feedforward_layernorm": hidden}
    if is_gemma(config) or config["model_type"] == "qwen3":
        norms |= {"self_attn.q_norm": head, "self_attn.k_norm": head}
    return norms


def layout(config: dict) -> list[tuple[str, tuple[int, ...]]]:
    """Returns the name and shape of every tensor, before quantizing."""
    table = (config["vocab_size"], config["hidden_size"])
    found = [("model.embed_tokens.weight", table), ("model.norm.weight", (config["hidden_size"],))]
    if not is_tied(config):
        found.append(("lm_head.weight", table))
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        found += [(f"{block}.{name}.weight", size) for name, size in matrices(config).items()]
        found += [(f"{block}.{name}.weight", (size,)) for name, size in vectors(config).items()]
    return sorted(found)
