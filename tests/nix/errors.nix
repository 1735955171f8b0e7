# Mistakes that evaluation must find; evaluation.sh has the expected message of each.
{ tools }:
let
  host = import ../../nix/host.nix { inherit tools; };
  settings = text: builtins.toFile "mine.toml" text;
  pipeline = arguments: (host.mkPipeline ({
    name = "wrong";
    settings = [ ../fixtures/small.toml ];
    data = ../../data/haw-eng;
  } // arguments)).run;
  wired = wiring: pipeline { inherit wiring; };
  both = stage: model: data: rec {
    import-model = stage "import-model" { model-dir = model; };
    prepare-data = stage "prepare-data" { tokenizer = import-model; inherit data; };
  };
in
{
  float = pipeline { settings = [ (settings "[train]\nrank = 4\nlearning_rate = 1e-3\n") ]; };
  nested-float = pipeline { settings = [ (settings "[prepare-data]\nwhere = [ { field = \"a\", at_least = 0.5 } ]\n") ]; };
  float-override = pipeline { overrides.train.learning_rate = 1.0e-3; };
  function-override = pipeline { overrides.train.rank = x: x; };
  unknown-table = pipeline { settings = [ (settings "[trian]\nrank = 4\n") ]; };
  unknown-override = pipeline { overrides.trian.rank = 4; };
  unknown-preset = pipeline { model = "gemma-9"; };
  unpinned-preset = pipeline { model = "gemma-3-4b"; };
  wrong-output = wired ({ stage, model, data }:
    let begin = both stage model data; in begin // { train = stage "train" { model = begin.prepare-data; dataset = begin.prepare-data; }; });
  wrong-named-output = wired ({ stage, model, data }:
    let begin = both stage model data; in begin // { evaluate = stage "evaluate" { model = [{ base = begin.prepare-data; }]; dataset = begin.prepare-data; }; });
  missing-input = wired ({ stage, model, data }: { train = stage "train" { model = (both stage model data).import-model; }; });
  unknown-input = wired ({ stage, model, data }: { begin = stage "import-model" { model-dir = model; date = data; }; });
  unknown-stage = wired ({ stage, model, data }: { train = stage "trian" { inherit model data; }; });
  no-stage = wired ({ stage, ... }: { train = stage "import-model" { model-dir = "/somewhere"; }; });
}
