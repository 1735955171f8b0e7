# The shell of `nix develop`: everything that `make` needs, with MLX from the store instead of pip.
{ pkgs, native }:
pkgs.mkShell {
  packages = [
    pkgs.cargo
    pkgs.clippy
    pkgs.deadnix
    pkgs.gnumake
    pkgs.nixpkgs-fmt
    pkgs.python3
    pkgs.rustc
    pkgs.rustfmt
    pkgs.statix
  ];
  shellHook = ''
    [ -e .native ] || ln -s ${native} .native
  '';
}
