//! The program `artifacts`: lists, explains, compares, verifies, cleans and shares the artifacts of a store.
//!
//! A store has no index, so every command lists folders and reads manifests ([`catalog`]). What a word on the command line
//! names is decided in [`locate`]. The rules of the format belong to the crate `artifact`.

mod args;
mod catalog;
mod diff;
mod error;
mod export;
mod fits;
mod gc;
mod keep;
mod leftovers;
mod lineage;
mod locate;
mod ls;
mod places;
mod remote;
mod reproduce;
mod roots;
#[cfg(test)]
mod sample;
mod show;
mod signal;
mod signing;
mod status;
mod text;
mod transfer;
mod verified;
mod verify;
mod why;

use failure::Kind;

pub use args::Args;
use args::Command;
use catalog::Catalog;

/// Runs a command.
///
/// # Errors
///
/// Fails as the command says; `verify` with [`Kind::Status`], whose code is its finding.
pub fn run(args: &Args) -> failure::Result<()> {
    let catalog = Catalog::open(&args.store)?;
    if args.command.needs_store() {
        places::check_store(&catalog)?;
    }
    match &args.command {
        Command::Ls(ls) => ls::run(&catalog, ls, ls.format.json)?,
        Command::Show(show) => show::run(&catalog, &show.artifact, show.format.json)?,
        Command::Path(path) => show::path(&catalog, &path.artifact, path.output.as_deref())?,
        Command::Status(status) => status::run(&catalog, &status.pointers.pointers, status.format.json)?,
        Command::Why(why) => why::run(&catalog, why)?,
        Command::Diff(diff) => diff::run(&catalog, diff)?,
        Command::Lineage(lineage) => {
            lineage::run(&catalog, lineage.artifact.as_deref(), lineage.format, lineage.direction)?;
        }
        Command::Gc(options) => gc::run(&catalog, options)?,
        Command::Keep(options) => keep::run(&catalog, options)?,
        Command::Push(options) => transfer::push(&catalog, options)?,
        Command::Pull(options) => transfer::pull(&catalog, options)?,
        Command::Export(options) => export::run(&catalog, options)?,
        Command::Reproduce(options) => reproduce::run(&catalog, options)?,
        Command::Verify(verify) => status_code(verify::run(&catalog, verify, verify.format.json)?)?,
    }
    Ok(())
}

/// Ends the program with an exit code that is an answer.
fn status_code(code: u8) -> failure::Result<()> {
    if code == 0 { Ok(()) } else { Err(failure::Error::new(Kind::Status(code), "")) }
}
