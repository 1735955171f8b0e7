# A pipeline as derivations, one per stage, built by the stage's program. Plain Nix, without nixpkgs or a shell.
{ system
, programs # stage -> { exe = "/nix/store/…"; args = [ … ]; }
, linkFarm # name -> { "path/in/it" = store path; } -> derivation
, contentAddressed ? false # early cutoff; needs the experimental feature ca-derivations
, hub ? "https://huggingface.co" # address of the models
, pypi ? "https://files.pythonhosted.org" # address of the wheels
, backend ? "cpu" # backend of the programs: cpu, metal or cuda
}:
let
  inherit (builtins)
    attrNames attrValues concatMap concatStringsSep elem filter foldl' functionArgs head isAttrs isList isPath isString
    toString;
  kinds = import ./stages.nix;
  settingsOf = import ./settings.nix { stages = kinds; };
  models = import ./models.nix { inherit system linkFarm hub pypi; };
  list = concatStringsSep ", ";

  # The scratch folder, where interrupted builds keep their resume state if it exists (docs/nix.md).
  scratch = "/var/tmp/ashlar-scratch";

  # The macOS sandbox hides the Metal device; CUDA needs a machine with that feature.
  device = {
    cpu = { };
    metal.__noChroot = true;
    cuda.requiredSystemFeatures = [ "cuda" ];
  }.${backend} or (throw "there is no backend `${backend}`; there are cpu, metal, cuda");

  floating = {
    __contentAddressed = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  };

  run = { name, stage, args, env }:
    let
      program = programs.${stage} or (throw "there is no program `${stage}`; there are ${list (attrNames programs)}");
    in
    derivation ({
      inherit name system;
      builder = program.exe;
      args = program.args ++ args ++ [ "--out" (placeholder "out") ];
      ASHLAR_SCRATCH = scratch;
      ASHLAR_PROGRESS = "lines";
      LC_ALL = "C";
      # Leaves times out of the artifact, so that two builds have the same bytes.
      SOURCE_DATE_EPOCH = "1";
    }
    // env
    // (if kinds.${stage}.mlx or false then device else { })
    // (if contentAddressed then floating else { }));

  # Wrong wiring fails here: an input must have the output that the stage reads.
  checked = stage: flag: given:
    let
      inherit (kinds.${stage}) takes;
      wanted = takes.${flag} or (throw "${stage} has no input `${flag}`; it has ${list (attrNames takes)}");
    in
    if !(isAttrs given && given ? makes) then throw "${stage}: the input `${flag}` is neither a stage nor a source"
    else if elem wanted given.makes then given
    else throw "${stage}: `${flag}` needs ${wanted}, but ${given.stage} makes ${list given.makes}";

  # One input, or a list of named ones: `[ { base = import-model; } { fused = fuse; } ]`.
  inputFlags = stage: flag: given:
    let
      one = prefix: from: (checked stage flag from).flags or [ "--${flag}" "${prefix}${from}" ];
      named = from: let name = head (attrNames from); in one "${name}=" from.${name};
    in
    if isList given then concatMap named given else one "" given;

  mkStage = { tables, segments }: stage: inputs:
    let
      kind = kinds.${stage} or (throw "there is no stage `${stage}`; there are ${list (attrNames kinds)}");
      missing = filter (flag: !(inputs ? ${flag} || elem flag (kind.optional or [ ]))) (attrNames kind.takes);
      # A base model or an encoder brings the settings of its import.
      table = (inputs.model-dir or { }).table or tables.${stage} or { };
      args = settingsOf.flags stage table ++ concatMap (flag: inputFlags stage flag inputs.${flag}) (attrNames inputs);
      env = foldl' (all: input: all // input.env or { }) { } (attrValues inputs);
      # Segment i of n resumes from the one before; the last one is the whole run.
      segment = i: n: run {
        inherit stage env;
        name = if i == n then stage else "${stage}-${toString i}-of-${toString n}";
        args = args
          ++ (if i == 1 then [ ] else [ "--resume-from" "${segment (i - 1) n}" ])
          ++ (if i == n then [ ] else [ "--stop-at" "${toString i}/${toString n}" ]);
      };
      count = if kind.segmented or false then segments else 1;
    in
    if missing != [ ] then throw "${stage}: the input `${head missing}` is missing"
    else segment count count // { inherit stage; inherit (kind) makes; };

  # Only the files that the settings name are part of the input.
  dataFolder = path: table:
    let
      named = settingsOf.dataFiles table;
      root = toString path;
      relative = file: builtins.substring (builtins.stringLength root + 1) (builtins.stringLength file) file;
      filter = file: type: named == [ ] || type == "directory" || elem (relative file) named;
    in
    {
      outPath = if isPath path then builtins.path { inherit path filter; name = "data"; } else path;
      stage = "the data folder";
      makes = [ "data folder" ];
    };
in
{
  # Returns all stages of a pipeline, and `run`, which keeps all their results. `settings` are TOML files, later ones
  # taking precedence; `model` is a preset (a name or a TOML file), a folder, or `{ name, sha256 }` of a folder that was
  # added to the store once; `encoder` is the same of a sentence encoder, or null, and as with Make every preset but the demo
  # has one; `data` is a folder.
  mkPipeline =
    { name
    , settings
    , data
    , model ? "demo"
    , encoder ? if isString model && model != "demo" then "minilm" else null
    , overrides ? { }
    , segments ? null
    , wiring ? import ../pipelines/pipeline.nix
    }:
    let
      read = settingsOf.read { files = settings ++ models.presetFiles model; inherit overrides; };
      imported = preset: tables: models.base preset (tables.import-model or { });
      stages = wiring ({
        stage = mkStage {
          tables = read;
          segments = if segments == null then read.pipeline.segments or 1 else segments;
        };
        model = imported model read;
        data = dataFolder data (read.prepare-data or { });
      } // (if !(functionArgs wiring ? encoder) then { } else {
        encoder = if encoder == null then null else imported encoder (settingsOf.read { files = models.presetFiles encoder; });
      }));
    in
    stages // { run = linkFarm "run-${name}" stages; };
}
