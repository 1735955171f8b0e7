#!/usr/bin/env python3
"""Write golden models as GGUF, with the names and conventions of llama.cpp. usage: make.py GOLDEN OUT

Weights stay 32-bit floats, so that the logits of a model that is read back are those of the golden case.
"""
import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, MODEL_ARCH, TokenType, get_tensor_name_map
from safetensors.numpy import load_file

CASES = {  # case: architecture of llama.cpp
    "llama3-rope": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
    "gemma2": "gemma2", "gemma3_text": "gemma3", "phi3": "phi3", "phi3-longrope": "phi3",
    "mistral": "mistral",
}
# llama.cpp writes mistral as `llama`; some writers use the name of the model for the same layout.
LLAMAS = ("llama", "mistral")
ARCHITECTURES = {arch.name.lower(): arch for arch in MODEL_ARCH} | {"mistral": MODEL_ARCH.LLAMA}


def permute(rows, heads):
    """Interleaves the halves of each head, because llama.cpp rotates neighbours."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def settings(writer, config, arch, head_dim):
    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(0)
    # llama.cpp's converter leaves the width of a head out where it is the usual one.
    if arch in ("qwen3", "gemma2", "gemma3") or head_dim * heads != config["hidden_size"]:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if arch in (*LLAMAS, "phi3"):
        writer.add_rope_dimension_count(int(head_dim * config.get("partial_rotary_factor", 1)))
        writer.add_vocab_size(config["vocab_size"])
    if arch != "gemma2":
        writer.add_rope_freq_base(config["rope_theta"])
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if arch in ("gemma2", "gemma3", "mistral"):
        writer.add_sliding_window(config.get("sliding_window", 4096))
    if config.get("sliding_window_pattern"):
        writer.add_sliding_window_pattern(config["sliding_window_pattern"])
    if config.get("rope_local_base_freq"):
        writer.add_float32(f"{arch}.rope.freq_base_swa", config["rope_local_base_freq"])
    if arch == "phi3" and config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])


def factors(config, head_dim):
    """Returns the tensors that llama.cpp has for a scaling of the rotation."""
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "longrope":
        return {f"rope_factors_{part}.weight": np.array(scaling[f"{part}_factor"], np.float32) for part in ("long", "short")}
    if kind != "llama3":
        return {}
    frequencies = 1.0 / config["rope_theta"] ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    original, divisors = scaling["original_max_position_embeddings"], []
    for frequency in frequencies:
        wave = 2 * np.pi / frequency
        if wave < original / scaling["high_freq_factor"]:
            divisors.append(1)
        elif wave > original / scaling["low_freq_factor"]:
            divisors.append(scaling["factor"])
        else:
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            smooth = (original / wave - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return {"rope_freqs.weight": np.array(divisors, np.float32)}


def tokens(writer, folder, config):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    options = json.loads((folder / "tokenizer_config.json").read_text())
    model = tokenizer["model"]
    texts = {id: text for text, id in model["vocab"].items()}
    kinds = {id: TokenType.NORMAL for id in texts}
    for token in tokenizer["added_tokens"]:
        texts[token["id"]] = token["content"]
        kinds[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    for id in range(config["vocab_size"]):
        if id not in texts:
            texts[id], kinds[id] = f"[PAD{id}]", TokenType.UNUSED
        elif model["byte_fallback"] and texts[id].startswith("<0x"):
            kinds[id] = TokenType.BYTE
        elif texts[id] == model.get("unk_token"):
            kinds[id] = TokenType.UNKNOWN
    order = sorted(texts)
    if model["byte_fallback"]:
        merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        rank = {}
        for index, (left, right) in enumerate(merges):
            rank.setdefault(left + right, index)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([float(-rank.get(texts[id], len(merges) + 1)) for id in order])
        writer.add_add_space_prefix("Prepend" in json.dumps(tokenizer["normalizer"]))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_token_list([texts[id] for id in order])
    writer.add_token_types([kinds[id] for id in order])
    ends = config["eos_token_id"]
    ends = ends if isinstance(ends, list) else [ends]
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(ends[0])
    if len(ends) > 1:
        writer.add_eot_token_id(ends[1])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(tokenizer["post_processor"] is not None)
    if options.get("chat_template"):
        writer.add_chat_template(options["chat_template"])


def write(folder, arch, out):
    config = json.loads((folder / "config.json").read_text())
    heads = config["num_attention_heads"]
    keys = config.get("num_key_value_heads", heads)
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer = GGUFWriter(out, arch)
    settings(writer, config, arch, head_dim)
    tokens(writer, folder, config)
    names = get_tensor_name_map(ARCHITECTURES[arch], config["num_hidden_layers"])
    for name, values in sorted(load_file(folder / "model.safetensors").items()):
        values = values.astype(np.float32)
        if arch in LLAMAS and name.split(".")[-2] in ("q_proj", "k_proj"):
            values = permute(values, heads if "q_proj" in name else keys)
        if arch in ("gemma2", "gemma3") and name.endswith("norm.weight"):
            values = values + np.float32(1)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), values)
    for name, values in factors(config, head_dim).items():
        writer.add_tensor(name, values)
    if any(name.startswith("rope_factors") for name in factors(config, head_dim)):
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


for case, arch in CASES.items():
    write(Path(sys.argv[1]) / case, arch, Path(sys.argv[2]) / f"{case}.gguf")
