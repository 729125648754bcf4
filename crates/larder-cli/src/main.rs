//! The command `larder`: see its guide, `docs/guide/command-line.md`.

mod args;
mod check;
mod copies;
#[cfg(feature = "postgres")]
mod export;
mod failure;
mod import;
mod migrate;
mod output;
mod progress;
#[cfg(feature = "replicate")]
mod replicate;
mod sql;
mod statistics;
mod store;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Verb};
use self::failure::{Result, Verdict};
use self::output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json, cli.quiet);
    match run(cli.verb, &output) {
        Ok(Verdict::Sound) => ExitCode::SUCCESS,
        Ok(Verdict::Problem) => ExitCode::from(failure::PROBLEM),
        Err(failure) => output.failed(&failure),
    }
}

fn run(verb: Verb, output: &Output) -> Result<Verdict> {
    match verb {
        Verb::Check(args) => check::check(&args, output),
        Verb::Backup(args) => copies::backup(&args, output),
        Verb::Restore(args) => copies::restore(&args, output),
        Verb::Vacuum(args) => copies::vacuum(&args, output),
        Verb::Stats(args) => statistics::stats(&args, output),
        Verb::Advice(args) => statistics::advice(&args, output),
        Verb::Migrate(verb) => migrate::run(verb, output),
        Verb::Import(args) => import::import(args, output),
        #[cfg(feature = "postgres")]
        Verb::Export(args) => export::export(&args, output),
        Verb::Sql(args) => sql::sql(&args, output),
        #[cfg(feature = "replicate")]
        Verb::Replicate(verb) => replicate::run(&verb, output),
    }
}
