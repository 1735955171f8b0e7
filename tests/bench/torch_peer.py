"""PyTorch's side, with transformers and PEFT: one task in a process of its own. usage: torch_peer.py JOB.json

The job names a `task` and an `out` file for the result. Rows, targets, batches and initial adapters are given. With
`gathered_head`, only hidden states whose next token counts reach the head; otherwise the model gets plain `labels`.
"""

import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

IGNORED = -100


def device(job: dict) -> str:
    return {"metal": "mps"}.get(job["backend"], job["backend"])


def load(job: dict):
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job.get("dtype", "float32")))
    return model.to(device(job))


def prepare(model, job: dict):
    """Freezes the model but for what is trained; returns the model to call."""
    if job["adapters"]:
        from peft import PeftModel

        return PeftModel.from_pretrained(model, job["adapters"], is_trainable=True)
    model.requires_grad_(False)
    for layer in model.model.layers[-job["layers"] :]:
        layer.requires_grad_(True)
    return model


def padded(rows: list[dict]) -> dict:
    """Returns a batch, padded to its longest row."""
    width = max(len(row["tokens"]) for row in rows)
    tokens = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for index, row in enumerate(rows):
        count = len(row["tokens"])
        tokens[index, :count] = torch.tensor(row["tokens"])
        mask[index, :count] = 1
        labels[index, row["first"] : row["last"] + 1] = tokens[index, row["first"] : row["last"] + 1]
    batch = {"input_ids": tokens, "labels": labels}
    return batch if len(rows) == 1 else batch | {"attention_mask": mask}


def loss_of(model, batch: dict, gathered_head: bool):
    if not gathered_head:
        return model(**batch, use_cache=False).loss
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    labels = batch.pop("labels")
    hidden = causal.model(**batch, use_cache=False).last_hidden_state
    targets = labels[:, 1:]
    counted = targets != IGNORED
    logits = causal.lm_head(hidden[:, :-1][counted])
    return torch.nn.functional.cross_entropy(logits.float(), targets[counted])


def train(job: dict) -> dict:
    model = prepare(load(job), job)
    model.train()
    loaded = time.monotonic()
    data = json.loads(Path(job["rows"]).read_text(encoding="utf-8"))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=job["learning_rate"])
    losses, seconds, padded_tokens = [], [], 0
    first = time.monotonic()
    for step in range(job["steps"]):
        started = time.monotonic()
        batch = padded([data["rows"][index] for index in data["batches"][step % len(data["batches"])]])
        padded_tokens += batch["input_ids"].numel()
        batch = {name: tensor.to(device(job)) for name, tensor in batch.items()}
        loss = loss_of(model, batch, job["gathered_head"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.monotonic() - started)
    out = Path(job["out"]).with_suffix("")
    if job["adapters"]:
        model.save_pretrained(out)
    else:
        from safetensors.torch import save_file

        named = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
        save_file(named, str(Path(job["out"]).with_suffix(".safetensors")))
    return {
        "first_step_seconds": first - loaded,
        "losses": losses,
        "padded_tokens": padded_tokens,
        "peak_device_bytes": torch.cuda.max_memory_allocated() if job["backend"] == "cuda" else 0,
        "start_to_first_step_seconds": first - job["started"],
        "step_seconds": seconds,
    }


def generate(job: dict) -> dict:
    model = load(job).eval()
    prompts = torch.tensor(job["prompts"]).to(device(job))
    model.generation_config.eos_token_id = None
    sampling = {"do_sample": True, "top_p": job["top_p"], "top_k": 0} if job["top_p"] else {"do_sample": False}
    torch.manual_seed(0)
    started = time.monotonic()
    with torch.inference_mode():
        answer = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=job["tokens"],
            pad_token_id=0,
            **sampling,
        )
    tokens = answer[:, prompts.shape[1] :].tolist()
    return {"seconds": time.monotonic() - started, "tokens": tokens}


def fuse(job: dict) -> dict:
    from peft import PeftModel

    model = PeftModel.from_pretrained(load(job), job["adapters"])
    model.merge_and_unload().save_pretrained(job["folder"])
    return {}


def mean_loss(model, rows: list[dict], gathered_head: bool) -> float:
    """Returns the mean loss over all targets, in batches of four."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for at in range(0, len(rows), 4):
            batch = padded(rows[at : at + 4])
            counted = int((batch["labels"] != IGNORED).sum())
            total += loss_of(model, batch, gathered_head).item() * counted
            count += counted
    return total / count


def validate(job: dict) -> dict:
    from peft import PeftModel

    rows = json.loads(Path(job["rows"]).read_text(encoding="utf-8"))["rows"]
    model = load(job).eval()
    base = mean_loss(model, rows, job["gathered_head"])
    tuned = PeftModel.from_pretrained(model, job["adapters"]).eval()
    return {"losses": [base, mean_loss(tuned, rows, job["gathered_head"])]}


def evaluate(job: dict) -> dict:
    rows = json.loads(Path(job["rows"]).read_text(encoding="utf-8"))["rows"]
    model = load(job).eval()
    loss = mean_loss(model, rows, job["gathered_head"])
    prompts = [row["tokens"][: row["first"]] for row in rows[: job["answers"]]]
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        answer = model.generate(tokens, attention_mask=mask, max_new_tokens=job["tokens"], pad_token_id=0, do_sample=False)
    return {"losses": [loss], "answers": answer[:, width:].tolist()}


def speed(job: dict) -> dict:
    """Returns the speed of the matrix product."""
    size = job["size"]
    a, b = (torch.randn(size, size).to(device(job), getattr(torch, job["dtype"])) for _ in range(2))
    best = float("inf")
    for _ in range(job["repeats"]):
        started = time.monotonic()
        (a @ b)[0, 0].item()
        best = min(best, time.monotonic() - started)
    return {"gflops": 2 * size**3 / best / 1e9, "libraries": [torch.__config__.show().split("BLAS_INFO=")[-1].split(",")[0]]}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    tasks = {task.__name__: task for task in (train, generate, fuse, validate, evaluate, speed)}
    Path(job["out"]).write_text(json.dumps(tasks[job["task"]](job)), encoding="utf-8")


if __name__ == "__main__":
    main()
