{
  description = "A fine-tuning pipeline on data of one's own";

  # Where you have it: a git address, or a folder on this machine.
  inputs.ashlar.url = "git+file:///path/to/ashlar";

  outputs = { ashlar, ... }:
    let
      pipeline = system: ashlar.lib.mkPipeline {
        inherit system;
        name = "mine";
        settings = [ ./settings.toml ];
        data = ./data;
        # A preset of Ashlar's pipelines/models that is pinned, or a folder.
        model = "demo";
      };
      systems = [ "x86_64-linux" "aarch64-linux" "aarch64-darwin" ];
    in
    {
      # `nix build .#run` keeps all stages, `nix build .#train` makes one.
      packages = builtins.listToAttrs (map (system: { name = system; value = pipeline system // { default = (pipeline system).run; }; }) systems);
    };
}
