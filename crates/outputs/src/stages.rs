//! Names: the stages and what each of them makes.

/// `model`: a folder in Hugging Face layout.
pub const MODEL: &str = "model";
/// `tokenizer`: the files that make a tokenizer.
pub const TOKENIZER: &str = "tokenizer";
/// `import.json`: see [`Import`](crate::Import).
pub const IMPORT: &str = "import.json";
/// `rows`: the rows of each split as JSON lines.
pub const ROWS: &str = "rows";
/// `tokens`: the tokens of each split, memory-mapped.
pub const TOKENS: &str = "tokens";
/// `stats.json`: see [`Stats`](crate::Stats).
pub const STATS: &str = "stats.json";
/// `checkpoints`: `STEP/adapters` for each checkpoint; see [`checkpoint_adapters`](crate::checkpoint_adapters).
pub const CHECKPOINTS: &str = "checkpoints";
/// `metrics.jsonl`: see [`MetricsLine`](crate::MetricsLine).
pub const METRICS: &str = "metrics.jsonl";
/// `state`: the newest resume state.
pub const STATE: &str = "state";
/// `summary.json`: see [`Summary`](crate::Summary).
pub const SUMMARY: &str = "summary.json";
/// `losses.json`: see [`Losses`](crate::Losses).
pub const LOSSES: &str = "losses.json";
/// `changes.json`: see [`Changes`](crate::Changes).
pub const CHANGES: &str = "changes.json";
/// `answers.jsonl`: see [`CheckpointAnswers`](crate::CheckpointAnswers); only with `answered_rows` above 0.
pub const ANSWERS: &str = "answers.jsonl";
/// `adapters`: an adapter in mlx-lm's format.
pub const ADAPTERS: &str = "adapters";
/// `choice.json`: see [`Choice`](crate::Choice).
pub const CHOICE: &str = "choice.json";
/// `fuse.json`: see [`FusionCost`](crate::FusionCost).
pub const FUSION_COST: &str = "fuse.json";
/// `quantized`: a folder in Hugging Face layout, packed for MLX; only with `fuse.quantize`.
pub const QUANTIZED: &str = "quantized";
/// `gguf`: a GGUF file and what runs it; only with `fuse.gguf`.
pub const GGUF: &str = "gguf";
/// `peft`: adapters in PEFT's format; only with `fuse.peft`.
pub const PEFT: &str = "peft";
/// `predictions.jsonl`: see [`Prediction`](crate::Prediction).
pub const PREDICTIONS: &str = "predictions.jsonl";
/// `metrics.json`: see [`Scores`](crate::Scores).
pub const SCORES: &str = "metrics.json";
/// `token_losses.jsonl`: see [`TokenLosses`](crate::TokenLosses); only with `token_losses = true`.
pub const TOKEN_LOSSES: &str = "token_losses.jsonl";
/// `report.html`: the report as one page.
pub const REPORT: &str = "report.html";
/// `report.md`: the report as Markdown.
pub const REPORT_MARKDOWN: &str = "report.md";
/// `results.csv`: every score of every model.
pub const RESULTS: &str = "results.csv";
/// `run.json`: see [`RunRecord`](crate::RunRecord).
pub const RUN: &str = "run.json";
/// `timing.jsonl` in the telemetry of train: see [`TimingLine`](crate::TimingLine).
pub const TIMING: &str = "timing.jsonl";
/// `times.json` in the telemetry of report: see [`Times`](crate::Times).
pub const TIMES: &str = "times.json";
/// `summary.txt`: the headline and the score table of the report, for a terminal.
pub const SUMMARY_TEXT: &str = "summary.txt";

/// `sweep.json` in the folder of a sweep: see [`SweepRecord`](crate::SweepRecord).
pub const SWEEP: &str = "sweep.json";

/// A stage and the outputs that it always makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// Name of the stage: its program, its folder and its table in settings files.
    pub name: &'static str,
    /// Names of those outputs.
    pub outputs: &'static [&'static str],
}

/// All stages, in the order of the pipeline.
pub const STAGES: [Stage; 8] = [
    Stage { name: "import-model", outputs: &[MODEL, TOKENIZER, IMPORT] },
    Stage { name: "prepare-data", outputs: &[ROWS, TOKENS, TOKENIZER, STATS] },
    Stage { name: "train", outputs: &[CHECKPOINTS, METRICS, STATE, SUMMARY] },
    Stage { name: "validate", outputs: &[LOSSES, CHANGES] },
    Stage { name: "select-best", outputs: &[ADAPTERS, CHOICE] },
    Stage { name: "fuse", outputs: &[MODEL, FUSION_COST] },
    Stage { name: "evaluate", outputs: &[PREDICTIONS, SCORES] },
    Stage { name: "report", outputs: &[REPORT, REPORT_MARKDOWN, RESULTS, RUN, SUMMARY_TEXT] },
];

/// Names of the splits, in the order in which they are shown.
pub const SPLITS: [&str; 3] = ["train", "validation", "test"];
