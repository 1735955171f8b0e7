{
  description = "A fine-tuning pipeline on your data";

  # A git address, or a folder on this machine.
  inputs.ashlar.url = "git+file:///path/to/ashlar";

  outputs = { ashlar, ... }:
    let
      pipeline = system: ashlar.lib.mkPipeline {
        inherit system;
        name = "mine";
        settings = [ ./settings.toml ];
        data = ./data;
        # A pinned preset from Ashlar's pipelines/models, or a folder.
        model = "demo";
      };
      systems = [ "x86_64-linux" "aarch64-linux" "aarch64-darwin" ];
    in
    {
      # `nix build .#run` keeps all stages, `nix build .#train` builds one.
      packages = builtins.listToAttrs (map (system: { name = system; value = pipeline system // { default = (pipeline system).run; }; }) systems);
    };
}
