# The pipelines with programs that cargo built outside Nix, for continuous integration and for development: without
# nixpkgs or network. `tools` is a folder made by nix/host-tools.sh.
#
#   nix/host-tools.sh build/host-tools target/release
#   nix-build nix/host.nix --arg tools ./build/host-tools -A haw-eng.run
#   nix-build nix/host.nix --arg tools ./build/host-tools --arg members ./lr-rank.nix -A sweep
{ tools
, model ? "demo"
, members ? null # file that `sweep --nix` wrote
, contentAddressed ? false
, hub ? "https://huggingface.co"
, pypi ? "https://files.pythonhosted.org"
}:
let
  inherit (builtins) attrNames attrValues concatStringsSep filter head mapAttrs match readDir;
  system = builtins.currentSystem;
  folder = part: name: builtins.path { path = tools + "/${part}"; inherit name; };
  libraries = folder "lib" "host-libraries";

  # The loader runs the programs, so that they find their libraries whatever their rpath.
  loader = head (filter (name: match "ld-linux.*" name != null) (attrNames (readDir (tools + "/lib"))));
  load = folder: name: {
    exe = "${libraries}/${loader}";
    args = [ "--library-path" "${libraries}" "${folder}/bin/${name}" ];
  };
  programs = mapAttrs (name: _: load (folder "programs/${name}" name) name) (readDir (tools + "/programs"));

  linkFarm = name: entries:
    let
      shell = folder "shell" "host-shell";
      run = program: concatStringsSep " " ([ "${libraries}/${loader}" ] ++ (load shell program).args);
      link = path: target: ''
        ${run "mkdir"} -p "$out/${dirOf path}"
        ${run "ln"} -s ${target} "$out/${path}"
      '';
      sh = load shell "sh";
    in
    derivation {
      inherit name system;
      builder = sh.exe;
      args = sh.args ++ [ "-euc" (concatStringsSep "" (attrValues (mapAttrs link entries))) ];
    };

  inherit (import ./pipeline.nix { inherit system programs linkFarm contentAddressed hub pypi; }) mkPipeline;
in
import ../pipelines { inherit mkPipeline model; } // {
  inherit mkPipeline;
  sweep = import ./sweep.nix { inherit mkPipeline members; };
}
