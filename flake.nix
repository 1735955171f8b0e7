{
  description = "Fine-tunes language models on MLX as a reproducible pipeline";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs = { nixpkgs, ... }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" "aarch64-darwin" ];
      each = names: make: builtins.listToAttrs (map (name: { inherit name; value = make name; }) names);
      eachSystem = each systems;

      # Names come from folders and files, so that outputs can be listed without nixpkgs.
      programNames = builtins.attrNames (builtins.readDir ./stages // builtins.readDir ./tools);
      pipelineNames = builtins.attrNames (import ./pipelines { mkPipeline = pipeline: pipeline; });
      presetNames = map (file: builtins.head (builtins.split "\\.toml$" file)) (builtins.attrNames (builtins.readDir ./pipelines/models));

      ashlarOn = system: import ./nix/packages.nix { pkgs = nixpkgs.legacyPackages.${system}; };
      withCuda = system: import ./nix/packages.nix { pkgs = nixpkgs.legacyPackages.${system}; backend = "cuda"; };
    in
    {
      # programs, and the finished runs of the pipelines with the results of all their stages
      packages = eachSystem (system:
        let ashlar = ashlarOn system; in
        each programNames (name: ashlar.programs.${name})
        // each pipelineNames (name: (ashlar.pipelinesFor { }).${name}.run)
        // { default = ashlar.ashlar; });

      # single stages: pipelines.PIPELINE.STAGE; with other models: pipelinesFor.MODEL.PIPELINE.STAGE
      legacyPackages = eachSystem (system: {
        pipelines = (ashlarOn system).pipelinesFor { };
        pipelinesCA = (ashlarOn system).pipelinesFor { contentAddressed = true; };
        pipelinesFor = each presetNames (model: (ashlarOn system).pipelinesFor { inherit model; });
        # what provenance.json names as the revision of each program: `nix eval .#revisions.train`
        inherit (ashlarOn system) revisions;
      } // (if system == "x86_64-linux" then {
        cuda = (withCuda system).programs // { pipelinesFor = each presetNames (model: (withCuda system).pipelinesFor { inherit model; }); };
      } else { }));

      apps = eachSystem (system: each programNames (name: {
        type = "app";
        program = "${(ashlarOn system).programs.${name}}/bin/${name}";
      }));

      devShells = eachSystem (system: {
        default = import ./nix/shell.nix { pkgs = nixpkgs.legacyPackages.${system}; inherit (ashlarOn system) native; };
      });

      checks = eachSystem (system: import ./nix/checks.nix { pkgs = nixpkgs.legacyPackages.${system}; ashlar = ashlarOn system; });

      formatter = eachSystem (system: nixpkgs.legacyPackages.${system}.nixpkgs-fmt);

      overlays.default = final: _: { ashlar = import ./nix/packages.nix { pkgs = final; }; };

      # Makes a custom pipeline from the programs of this flake: `mkPipeline { system = …; name = …; settings = …; data = …; }`.
      lib.mkPipeline = { system, ... }@arguments: (ashlarOn system).mkPipeline (removeAttrs arguments [ "system" ]);

      # The runs of a sweep, from the file that `sweep --nix` wrote: `sweep { system = …; members = ./lr-rank.nix; }`.
      lib.sweep = { system, members }: (ashlarOn system).sweepOf members;

      templates.default = {
        path = ./nix/template;
        description = "A fine-tuning pipeline on your data";
      };
    };
}
