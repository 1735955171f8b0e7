//! Writes a report of a made-up run, to look at while working on the page: `cargo run -p report --example sample OUT`.

#[path = "../tests/fixture/mod.rs"]
mod fixture;

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "sample-report".to_owned()));
    let mut rows = fixture::translations();
    let long = "He nui loa ka poe i hele mai e makaikai ia ia, no ka mea, ua kaulana kona ikaika ma na mokupuni a pau. ".repeat(14);
    let long: &'static str = Box::leak(long.into_boxed_str());
    rows.push(["f6-1191", "Translate to English: He moolelo loihi.", long, "Ka Ka Ka Ka Ka Ka", long]);
    rows.push([
        "rtl-0001",
        "Translate to Arabic: Aloha kākou",
        "مرحبا بالعالم، كيف حالكم اليوم؟",
        "Aloha",
        "مرحبا بكم جميعا",
    ]);
    rows.push([
        "long-word",
        "Translate: 東京",
        "a".repeat(180).leak(),
        "東京は夜の七時です。".repeat(8).leak(),
        "aaaa",
    ]);
    rows.push([
        "f4-0090",
        "Translate to English: Aloha oe, e ka wahine.",
        "Greetings to you, O woman.",
        "Oe, e",
        "Love to you, O woman.",
    ]);
    let run = fixture::Run { steps: 600, save_every: 50, rows };
    let artifacts = tempfile::tempdir()?;
    let inputs = fixture::write(artifacts.path(), &run);
    let summary = report::write(&inputs, &report::Config::default(), &out)?;
    std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("{}\n{}", summary.headline, summary.table).as_bytes(),
    )?;
    Ok(())
}
