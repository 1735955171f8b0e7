# The source of one package: its folder, those of the packages it needs, and the files of the workspace. Other changes
# do not rebuild it.
{ root }:
let
  inherit (builtins) any attrNames concatMap elem filter fromTOML head listToAttrs map match pathExists readDir readFile tail;

  manifest = folder: fromTOML (readFile (root + "/${folder}/Cargo.toml"));
  folders = concatMap
    (above: filter (folder: pathExists (root + "/${folder}/Cargo.toml")) (map (name: "${above}/${name}") (attrNames (readDir (root + "/${above}")))))
    [ "crates" "stages" "tools" ];
  folderOf = listToAttrs (map (folder: { name = (manifest folder).package.name; value = folder; }) folders);

  # Packages of the workspace that a package names, for its tests too: cargo requires all of them.
  needs = name:
    let
      read = manifest folderOf.${name};
      tables = [ read ] ++ map (target: read.target.${target}) (attrNames (read.target or { }));
      named = table: concatMap (kind: attrNames (table.${kind} or { })) [ "dependencies" "dev-dependencies" "build-dependencies" ];
    in
    filter (dependency: folderOf ? ${dependency}) (concatMap named tables);

  closure = found: open:
    if open == [ ] then found
    else if elem (head open) found then closure found (tail open)
    else closure (found ++ [ (head open) ]) (tail open ++ needs (head open));

  below = folder: path: path == folder || match "${folder}/.*" path != null;
in
name:
let
  # `mlx-sys` patches the published crate for the whole workspace, so cargo always requires it.
  kept = map (package: folderOf.${package}) (closure [ ] [ name "mlx-sys" ])
    ++ [ "Cargo.toml" "Cargo.lock" "rust-toolchain.toml" ];
  base = toString root;
in
builtins.path {
  path = root;
  name = "${name}-source";
  filter = file: _:
    let path = builtins.substring (builtins.stringLength base + 1) (builtins.stringLength file) file; in
    any (folder: below folder path || below path folder) kept;
}
