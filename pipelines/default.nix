# The pipelines of this repository, with a model preset from pipelines/models.
{ mkPipeline, model ? "demo" }:
{
  haw-eng = mkPipeline {
    name = "haw-eng";
    settings = [ ./haw-eng.toml ];
    data = ../data/haw-eng;
    inherit model;
  };
}
