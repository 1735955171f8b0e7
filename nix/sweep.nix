# The runs of a sweep as one attribute set, from a file that `sweep --nix` wrote. With remote builders, Nix spreads them over
# machines; stages with the same settings and inputs are built once.
{ mkPipeline
, members # the file
, settings ? null # settings files, instead of those of the pipeline that the file names
, data ? null # data folder, instead of that of the pipeline
, model ? null # preset or folder, instead of the one that the file names
}:
let
  sweep = import members;
  given = value: default: if value == null then default else value;
  run = name: overrides: (mkPipeline {
    name = "${sweep.name}-${name}";
    settings = given settings [ (../pipelines + "/${sweep.pipeline}.toml") ];
    data = given data (../data + "/${sweep.pipeline}");
    model = given model sweep.model;
    inherit overrides;
  }).run;
in
builtins.mapAttrs run sweep.runs
