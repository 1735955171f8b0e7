# Settings of a pipeline, from the TOML files that Make reads too: files and overrides in, one table per stage out.
{ stages }:
let
  inherit (builtins)
    attrNames baseNameOf concatMap concatStringsSep elem filter foldl' fromTOML hasAttr head isAttrs isBool isInt
    isList isString mapAttrs match readFile toJSON toString typeOf
    ;

  # Other names at the top level of a settings file.
  others = [ "pipeline" "name" "description" "include" ];

  # Nix would round fractions to six digits, so they are refused.
  checked = place: value:
    if isAttrs value then mapAttrs (key: checked "${place}.${key}") value
    else if isList value then map (checked place) value
    else if isString value || isInt value || isBool value then value
    else if typeOf value == "float" then
      throw "${place}: Nix would round this number; write it in quotes, such as \"2e-3\""
    else throw "${place}: a ${typeOf value} is not a setting";

  tables = place: settings:
    let unknown = filter (name: !(hasAttr name stages || elem name others)) (attrNames settings); in
    if unknown == [ ] then mapAttrs (name: checked "${place}: ${name}") settings
    else throw "${place}: there is no stage `${head unknown}`; there are ${concatStringsSep ", " (attrNames stages)}";

  # Later settings take precedence; tables are merged, lists replaced.
  merge = old: new:
    old // mapAttrs
      (key: value: if isAttrs value && isAttrs (old.${key} or null) then merge old.${key} value else value)
      new;

  key = name: if match "[A-Za-z0-9_-]+" name == null then toJSON name else name;

  # A value as TOML on one line; strings are written as in JSON.
  inline = value:
    if isAttrs value then "{ ${concatStringsSep ", " (map (name: "${key name} = ${inline value.${name}}") (attrNames value))} }"
    else if isList value then "[ ${concatStringsSep ", " (map inline value)} ]"
    else if isString value then toJSON value
    else if isBool value then (if value then "true" else "false")
    else toString value;
in
{
  # Merges `files`, each after the file that it includes, and `overrides` (stage -> setting -> value).
  read = { files, overrides ? { } }:
    let
      content = file: fromTOML (readFile file);
      withIncluded = file:
        let included = (content file).include or null; in
        if included == null then [ file ] else [ (dirOf file + "/${included}") file ];
      table = file: tables (baseNameOf file) (removeAttrs (content file) [ "include" ]);
    in
    foldl' merge { } (map table (concatMap withIncluded files) ++ [ (tables "overrides" overrides) ]);

  # Flags that pass a stage its own table only, so that other stages' settings do not affect it.
  flags = stage: table:
    let line = name: "${key name} = ${inline table.${name}}\n"; in
    if table == { } then [ ]
    else [ "--config" (builtins.toFile "${stage}.toml" (concatStringsSep "" ([ "[${stage}]\n" ] ++ map line (attrNames table)))) ];

  # The data files that the settings of prepare-data name.
  dataFiles = table:
    concatMap (name: table.${name} or [ ]) [ "source" "train" "validation" "test" ]
    ++ concatMap (component: component.files or [ ]) (builtins.attrValues (table.mixture or { }));
}
