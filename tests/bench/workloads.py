"""The workloads: what is trained, generated or scored, at which shape, and how much of it."""

from dataclasses import dataclass, replace

# Programs in the order of the table. `floor` is arithmetic, not a program.
ASHLAR, STOCK, OPENBLAS, TORCH, GATHERED, FLOOR = (
    "ashlar",
    "mlx-lm",
    "mlx-lm+openblas",
    "torch",
    "torch+gathered-head",
    "floor",
)
MLX_LM = (STOCK, OPENBLAS)
PYTORCH = (TORCH, GATHERED)


@dataclass(frozen=True)
class Model:
    """A model folder with random weights."""

    shape: str
    dtype: str = "float32"
    bits: int | None = None

    @property
    def name(self) -> str:
        return f"{self.shape}-{self.dtype}" + (f"-{self.bits}bit" if self.bits else "")


@dataclass(frozen=True)
class Training:
    """Training steps on the same rows, from the same adapters."""

    title: str
    model: Model
    steps: int
    # Number of blocks to train, counted from the last.
    layers: int
    lora: bool = True
    batch: int = 1
    # Longest text of a row in words, for conversations.
    words: int = 120
    # Tokens per row, for concatenated texts; 0 for conversations.
    tokens: int = 0
    checkpointing: bool = False
    # Whether the process may have only `MEMORY_LIMIT` bytes; then only our program runs, as `ashlar` and `ashlar-resident`.
    limited: bool = False
    # Steps of programs that are too slow for all of them; 0 leaves one out.
    fewer: tuple[tuple[str, int], ...] = ()

    def steps_of(self, program: str) -> int:
        return min(dict(self.fewer).get(program, self.steps), self.steps)


@dataclass(frozen=True)
class Generation:
    """Answers of a fixed length to prompts of 64 tokens, greedy and with top-p."""

    title: str
    model: Model
    prompts: int
    tokens: int
    fewer: tuple[tuple[str, int], ...] = ()

    def steps_of(self, program: str) -> int:
        """Returns the number of answers' tokens that `program` makes."""
        return min(dict(self.fewer).get(program, self.tokens), self.tokens)


@dataclass(frozen=True)
class Start:
    """Cold start of every stage, a pipeline with nothing to do, and the time until the first step."""

    title: str
    # The training whose first step is timed.
    first_step: str
    repeats: int


@dataclass(frozen=True)
class Stage:
    """A stage that holds a whole model: `fuse`, `validate` or `evaluate`."""

    title: str
    stage: str
    model: Model
    rows: int
    # Longest text of a row in words.
    words: int
    # Answers, and tokens of each.
    answers: int = 0
    tokens: int = 0


PROMPT_TOKENS = 64
TOP_P = 0.9
MEMORY_LIMIT = 8_000_000_000
# Our program with the packed base unpacked once, which needs several times the memory.
RESIDENT = "ashlar-resident"

GEMMA = Model("gemma3-270m")
GEMMA_4BIT = Model("gemma3-270m", bits=4)
GEMMA_4B = Model("gemma3-4b", bits=4)
LLAMA = Model("llama-110m")

FULL = {
    "W1": Training("LoRA r8, last 16 layers, Gemma-3-270M shape, f32, batch 1", GEMMA, 12, 16, fewer=((STOCK, 1),)),
    # mlx-lm multiplies packed weights without a BLAS, so its two forms differ little; PyTorch has no such product on a CPU.
    "W2": Training(
        "as W1 on a 4-bit base, f32 activations",
        GEMMA_4BIT,
        6,
        16,
        words=60,
        fewer=((STOCK, 0), (OPENBLAS, 1), (TORCH, 0), (GATHERED, 0)),
    ),
    "W3": Training("full fine-tune, last 4 layers, Gemma-3-270M shape", GEMMA, 8, 4, lora=False, fewer=((STOCK, 0),)),
    "W4": Training(
        "full fine-tune, Llama-110M shape, batch 4", LLAMA, 8, 12, lora=False, batch=4, words=80, fewer=((STOCK, 0),)
    ),
    "W5": Training("as W1, rows of 2,048 tokens, all of them targets", GEMMA, 2, 16, tokens=2048, fewer=((STOCK, 0),)),
    "W6a": Generation("generation, Gemma-3-270M shape, f32, one prompt", GEMMA, 1, 64, fewer=((STOCK, 8),)),
    "W6b": Generation("generation, Gemma-3-270M shape, f32, eight prompts", GEMMA, 8, 64, fewer=((STOCK, 2),)),
    "W7": Start("cold start", "W1", 5),
    "W8": Training(
        "LoRA r8, last 16 layers, Gemma-3-4B shape, 4-bit, gradient checkpointing, batch 1, within 8 GB",
        GEMMA_4B,
        2,
        16,
        checkpointing=True,
        limited=True,
    ),
    "W9-fuse": Stage("`fuse` with a model of 1 GB", "fuse", GEMMA, 2, 20),
    "W9-validate": Stage("`validate` with a model of 1 GB", "validate", GEMMA, 16, 60),
    "W9-evaluate": Stage("`evaluate` with a model of 1 GB", "evaluate", GEMMA, 8, 60, answers=8, tokens=32),
}

# Fewer steps and shorter rows, for all programs alike.
QUICK = {
    "W1": replace(FULL["W1"], steps=6, words=25),
    "W2": replace(FULL["W2"], steps=2, words=20),
    "W3": replace(FULL["W3"], steps=2, words=25, fewer=((STOCK, 0), (TORCH, 0))),
    "W4": replace(FULL["W4"], steps=2, words=25, fewer=((STOCK, 0), (TORCH, 0))),
    "W5": replace(
        FULL["W5"],
        title="as W1, rows of 256 tokens, all of them targets",
        tokens=256,
        fewer=((STOCK, 0), (TORCH, 0)),
    ),
    "W6a": replace(FULL["W6a"], tokens=16, fewer=((STOCK, 2),)),
    "W6b": replace(FULL["W6b"], tokens=16, fewer=((STOCK, 1),)),
    "W7": replace(FULL["W7"], repeats=3),
    "W8": replace(FULL["W8"], steps=1, words=40),
    "W9-fuse": FULL["W9-fuse"],
    "W9-validate": replace(FULL["W9-validate"], rows=4, words=30),
    "W9-evaluate": replace(FULL["W9-evaluate"], rows=2, words=30, answers=2, tokens=8),
}


def on_gpu(steps: int) -> dict[str, Training]:
    """Returns the workloads of a GPU: LoRA on four shapes, in bfloat16 and on a 4-bit base."""
    found = {}
    for shape in ("gemma3-1b", "gemma3-4b", "llama3-8b", "qwen3-0.6b"):
        for bits in (None, 4):
            title = f"LoRA r8, last 16 layers, {shape} shape, {'4-bit base' if bits else 'bfloat16'}, batch 8"
            # PyTorch would need other files for a packed base.
            fewer = ((TORCH, 0), (GATHERED, 0)) if bits else ()
            model = Model(shape, "bfloat16", bits)
            found[shape + ("-4bit" if bits else "")] = Training(title, model, steps, 16, batch=8, fewer=fewer)
    return found
