# A pipeline for tests that takes seconds: few rows, few steps, a model of a few thousand weights.
{ tools
, overrides ? { }
, segments ? 1
, contentAddressed ? false
, hub ? "https://huggingface.co"
, pypi ? "https://files.pythonhosted.org"
, model ? ../golden/gemma3_text
, encoder ? null
}:
(import ../../nix/host.nix { inherit tools contentAddressed hub pypi; }).mkPipeline {
  name = "small";
  settings = [ ../fixtures/small.toml ];
  data = ../../data/haw-eng;
  inherit model encoder overrides segments;
}
