# The wiring for Nix: which stage feeds which, as in pipeline.mk.
{ stage, model, data, encoder ? null }:
let
  import-model = stage "import-model" { model-dir = model; };
  prepare-data = stage "prepare-data" { tokenizer = import-model; inherit data; };
  train = stage "train" { model = import-model; dataset = prepare-data; };
  validate = stage "validate" { model = import-model; dataset = prepare-data; inherit train; };
  select-best = stage "select-best" { model = import-model; inherit train validate; };
  fuse = stage "fuse" { model = import-model; adapters = select-best; dataset = prepare-data; };
  # The encoder is a model of its own, with its own preset.
  scoring = if encoder == null then { } else { encoder = stage "import-model" { model-dir = encoder; }; };
  evaluate = stage "evaluate" ({ model = [{ base = import-model; } { fused = fuse; }]; dataset = prepare-data; } // scoring);
  report = stage "report" { inherit import-model prepare-data train validate select-best fuse evaluate; };
in
{ inherit import-model prepare-data train validate select-best fuse evaluate report; } // scoring
