# The contents of the flake for one system: programs, pipelines, and `mkPipeline` for custom pipelines.
{ pkgs, backend ? if pkgs.stdenv.hostPlatform.isDarwin then "metal" else "cpu" }:
let
  inherit (pkgs) lib stdenv;
  inherit (stdenv.hostPlatform) system;
  version = (builtins.fromTOML (builtins.readFile ../Cargo.toml)).workspace.package.version;
  slice = import ./slice.nix { root = ../.; };
  native = import ./mlx.nix { inherit pkgs backend; };

  rustPackage = arguments: pkgs.rustPlatform.buildRustPackage ({
    inherit version;
    cargoLock.lockFile = ../Cargo.lock;
    ASHLAR_NATIVE = native;
    ASHLAR_BACKEND = backend;
    # Replaces the folders in .cargo/config.toml. CUDA libraries come from the machine that runs the program.
    RUSTFLAGS = "-C link-arg=-Wl,-rpath,${native}/mlx-${backend}/mlx/lib"
      + lib.optionalString (backend == "cuda") " -C link-arg=-Wl,--allow-shlib-undefined";
    meta.license = lib.licenses.mit;
  } // arguments);

  # What a program is built from, for the provenance of its artifacts: the hash of its slice, since a commit that does not
  # touch the slice must not rebuild the program and all that it made.
  revision = name: "source-" + builtins.substring 0 32 (baseNameOf (builtins.unsafeDiscardStringContext "${slice name}"));

  program = name: rustPackage {
    pname = name;
    src = slice name;
    ASHLAR_REVISION = revision name;
    postPatch = builtins.readFile ./slice-members.sh;
    cargoBuildFlags = [ "--package" name ];
    # checks.test runs all tests.
    doCheck = false;
    meta = {
      description = "Part of Ashlar, a fine-tuning pipeline on MLX";
      license = lib.licenses.mit;
      mainProgram = name;
    };
  };

  programs = lib.genAttrs (builtins.attrNames (builtins.readDir ../stages // builtins.readDir ../tools)) program;

  engine = { contentAddressed ? false, hub ? "https://huggingface.co", pypi ? "https://files.pythonhosted.org" }: import ./pipeline.nix {
    inherit system backend contentAddressed hub pypi;
    inherit (pkgs) linkFarm;
    programs = builtins.mapAttrs (name: package: { exe = "${package}/bin/${name}"; args = [ ]; }) programs;
  };
in
rec {
  inherit native programs rustPackage;

  # The revisions that programs of this checkout write into provenance.json.
  revisions = builtins.mapAttrs (name: _: revision name) programs;

  # All programs in one folder.
  ashlar = pkgs.symlinkJoin {
    name = "ashlar-${version}";
    paths = builtins.attrValues programs;
  };

  # Makes a custom pipeline; see nix/pipeline.nix for its arguments.
  mkPipeline = { contentAddressed ? false, hub ? "https://huggingface.co", pypi ? "https://files.pythonhosted.org", ... }@arguments:
    (engine { inherit contentAddressed hub pypi; }).mkPipeline (removeAttrs arguments [ "contentAddressed" "hub" "pypi" ]);

  # The pipelines of this repository with the preset `model`.
  pipelinesFor = { model ? "demo", contentAddressed ? false }:
    import ../pipelines { inherit model; mkPipeline = arguments: mkPipeline (arguments // { inherit contentAddressed; }); };

  # The runs of a sweep, from a file that `sweep --nix` wrote.
  sweepOf = members: import ./sweep.nix { inherit mkPipeline members; };
}
