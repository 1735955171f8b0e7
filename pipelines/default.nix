# The pipelines of this repository, on a model of pipelines/models.
{ mkPipeline, model ? "demo" }:
{
  haw-eng = mkPipeline {
    name = "haw-eng";
    settings = [ ./haw-eng.toml ];
    data = ../data/haw-eng;
    inherit model;
  };
}
