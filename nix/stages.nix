# Inputs and outputs of every stage: `takes` maps a flag to the output that the input must have, `optional` lists the flags that may
# be left out; `makes` equals the list in `outputs::STAGES`, as tests/layout.rs checks.
#
# `mlx` marks stages that compute on the device, `segmented` those that can be cut into segments.
{
  import-model = {
    takes.model-dir = "model folder";
    makes = [ "model" "tokenizer" "import.json" ];
    mlx = true;
  };
  prepare-data = {
    takes = { tokenizer = "tokenizer"; data = "data folder"; };
    makes = [ "rows" "tokens" "tokenizer" "stats.json" ];
  };
  train = {
    takes = { model = "model"; dataset = "tokens"; };
    makes = [ "checkpoints" "metrics.jsonl" "state" "summary.json" ];
    mlx = true;
    segmented = true;
  };
  validate = {
    takes = { model = "model"; dataset = "tokens"; train = "checkpoints"; };
    makes = [ "losses.json" "changes.json" ];
    mlx = true;
  };
  select-best = {
    takes = { model = "import.json"; train = "checkpoints"; validate = "losses.json"; };
    makes = [ "adapters" "choice.json" ];
  };
  fuse = {
    takes = { model = "model"; adapters = "adapters"; dataset = "tokens"; };
    makes = [ "model" "fuse.json" ];
    mlx = true;
  };
  evaluate = {
    takes = { model = "model"; dataset = "tokens"; encoder = "model"; };
    optional = [ "encoder" ];
    makes = [ "predictions.jsonl" "metrics.json" ];
    mlx = true;
  };
  report = {
    takes = {
      import-model = "import.json";
      prepare-data = "stats.json";
      train = "checkpoints";
      validate = "losses.json";
      select-best = "choice.json";
      fuse = "fuse.json";
      evaluate = "metrics.json";
    };
    makes = [ "report.html" "report.md" "results.csv" "run.json" "summary.txt" ];
  };
}
