{
  description = "Replaces nixpkgs where there is no network: names that evaluate, and programs built by cargo";

  # `tools` beside this file was made by nix/host-tools.sh and has a static busybox in `tools/busybox`. Nothing is built: a
  # Rust package is the program of its name in `tools`, everything else is empty.
  outputs = _:
    let
      systems = [ "x86_64-linux" "aarch64-linux" "aarch64-darwin" ];
      inherit (builtins) attrNames attrValues concatStringsSep filter head listToAttrs map mapAttrs match pathExists readDir toString;
      tool = part: name: builtins.path { path = ./tools + "/${part}"; inherit name; };

      packagesOf = system:
        let
          shell = tool "busybox" "busybox";
          libraries = tool "lib" "host-libraries";
          loader = head (filter (name: match "ld-linux.*" name != null) (attrNames (readDir ./tools/lib)));

          run = name: script: attributes: derivation ({
            inherit name system;
            builder = "${shell}/sh";
            args = [ "-euc" script ];
            PATH = "${shell}";
          } // attributes);
          empty = name: run name "mkdir -p $out" { };

          # A script that runs the program with its loader and libraries.
          program = name: run name ''
            mkdir -p $out/bin
            printf '#!%s\nexec %s --library-path %s %s "$@"\n' \
              ${shell}/sh ${libraries}/${loader} ${libraries} ${tool "programs/${name}" name}/bin/${name} >$out/bin/${name}
            chmod +x $out/bin/${name}
          '';
        in
        {
          lib = {
            genAttrs = names: make: listToAttrs (map (name: { inherit name; value = make name; }) names);
            licenses.mit = "MIT";
            optional = wanted: value: if wanted then [ value ] else [ ];
            optionalString = wanted: text: if wanted then text else "";
            sourceTypes.binaryNativeCode = "binary";
          };
          stdenv = {
            cc.cc.lib = empty "libstdc++";
            hostPlatform = {
              inherit system;
              isDarwin = system == "aarch64-darwin";
              isLinux = system != "aarch64-darwin";
            };
            mkDerivation = attributes: run "${attributes.pname}-${attributes.version}" "mkdir -p $out" { inherit (attributes) src; };
          };
          rustPlatform.buildRustPackage = { pname, src, version, ... }:
            if pathExists (./tools + "/programs/${pname}") then program pname { inherit src; }
            else run "${pname}-${version}" "mkdir -p $out" { inherit src; };
          runCommand = name: _: _: empty name;
          linkFarm = name: entries: run name
            (concatStringsSep "\n" (attrValues (mapAttrs (path: target: "mkdir -p $out/$(dirname ${path}); ln -s ${target} $out/${path}") entries)))
            { };
          symlinkJoin = { name, paths }: run name "mkdir -p $out; for path in ${toString paths}; do cp -rs $path/* $out/; done" { };
          mkShell = { packages, shellHook, ... }: run "shell" "mkdir -p $out" { inherit packages shellHook; };
          fetchPypi = { pname, version, ... }: empty "${pname}-${version}";
          fetchCrate = { pname, version, ... }: empty "${pname}-${version}";
        } // listToAttrs (map (name: { inherit name; value = empty name; }) [
          "autoPatchelfHook"
          "cargo"
          "clippy"
          "deadnix"
          "gnumake"
          "nixpkgs-fmt"
          "python3"
          "rustc"
          "rustfmt"
          "statix"
          "unzip"
        ]);
    in
    { legacyPackages = listToAttrs (map (system: { name = system; value = packagesOf system; }) systems); };
}
