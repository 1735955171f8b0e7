# The checks of `nix flake check`.
{ pkgs, ashlar }:
let
  # What runs leave behind at the root is no source.
  leftovers = map (name: "${toString ../.}/${name}") [ ".git" ".native" "artifacts" "build" "target" ];
  source = builtins.path {
    path = ../.;
    name = "ashlar-source";
    filter = path: _: !(builtins.elem path leftovers);
  };
  cargo = name: command: ashlar.rustPackage {
    pname = "check-${name}";
    src = source;
    nativeBuildInputs = [ pkgs.clippy pkgs.rustfmt ];
    buildPhase = command;
    installPhase = "touch $out";
    doCheck = false;
  };
  lint = name: package: command: pkgs.runCommand name { nativeBuildInputs = [ package ]; } ''
    cd ${source}
    ${command}
    touch $out
  '';
in
{
  format = cargo "format" "cargo fmt --all --check";
  clippy = cargo "clippy" "cargo clippy --locked --offline --workspace --all-targets -- -D warnings";
  test = cargo "test" ''
    cargo build --locked --offline --workspace --bins
    RUST_TEST_THREADS=1 cargo test --locked --offline --workspace
  '';
  nix-format = lint "nix-format" pkgs.nixpkgs-fmt "nixpkgs-fmt --check flake.nix nix pipelines";
  nix-unused = lint "nix-unused" pkgs.deadnix "deadnix --fail flake.nix nix pipelines";
  nix-lint = lint "nix-lint" pkgs.statix "statix check .";

  # All stages on a model of a few thousand weights; takes seconds.
  small = (ashlar.mkPipeline {
    name = "small";
    settings = [ ../tests/fixtures/small.toml ];
    model = ../tests/golden/gemma3_text;
    data = ../data/haw-eng;
  }).run;
}
