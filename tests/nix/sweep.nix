# The runs of a sweep with the small pipeline.
{ tools, members }:
import ../../nix/sweep.nix {
  inherit (import ../../nix/host.nix { inherit tools; }) mkPipeline;
  inherit members;
  settings = [ ../fixtures/small.toml ];
  data = ../../data/haw-eng;
  model = ../golden/gemma3_text;
}
