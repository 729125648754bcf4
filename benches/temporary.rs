//! What a test pays for its store: `cargo bench --bench temporary`, or with `cargo test --bench temporary` as a debug build,
//! which tests are.
//!
//! Stores of four kinds, on the disk (in `LARDER_BENCH_DIR`; default: the target folder) and where `open_temp` puts them
//! (in memory, unless `TMPDIR` is set): empty; with 20 migrations; from a template with those; the same with
//! `Durability::Full`. The kinds take turns. The output is the median time to open, and that to close and
//! delete, each with the shortest one.

use std::path::Path;
use std::time::{Duration, Instant};

use larder::{Durability, Migration, Migrations, Options, Result, Store, Template};

const MIGRATIONS: u64 = 20;

fn main() -> Result<()> {
    let rounds = if std::env::args().any(|arg| arg == "--bench") {
        101
    } else {
        15
    };
    let parent = std::env::var("LARDER_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let disk = tempfile::tempdir_in(parent).expect("LARDER_BENCH_DIR can be written");
    let template = migrated().template()?;
    let (on_disk, temporary) = (Place::Disk(disk.path()), Place::Temporary);
    let mut kinds = [
        Kind::new("empty, on the disk", Make::Options(on_disk, Options::new())),
        Kind::new("empty", Make::Options(temporary, Options::new())),
        Kind::new("20 migrations, on the disk", Make::Options(on_disk, migrated())),
        Kind::new("20 migrations", Make::Options(temporary, migrated())),
        Kind::new("20 migrations, Full, on the disk", Make::Options(on_disk, full())),
        Kind::new("20 migrations, Full", Make::Options(temporary, full())),
        Kind::new("template of 20 migrations", Make::Template(template)),
        Kind::new("template of 20 migrations, Full", Make::Template(full().template()?)),
    ];
    println!("temporary stores are at {}", Store::open_temp()?.path().display());
    println!("the disk: {}", disk.path().display());
    for _ in 0..rounds {
        for kind in &mut kinds {
            kind.round()?;
        }
    }
    println!("\n{:<34}{:>21}{:>25}", "", "open", "close and delete");
    for kind in kinds {
        println!("{:<34}{}{:>4}{}", kind.name, shown(kind.open), "", shown(kind.close));
    }
    Ok(())
}

fn migrated() -> Options {
    let table = |version| {
        let sql = format!(
            "CREATE TABLE t{version}(id INTEGER PRIMARY KEY, name TEXT NOT NULL, at INTEGER NOT NULL) STRICT;
             CREATE INDEX t{version}_by_name ON t{version}(name)"
        );
        Migration::new(version, format!("table {version}"), sql)
    };
    Options::new().migrations(Migrations::new((1..=MIGRATIONS).map(table)))
}

fn full() -> Options {
    migrated().durability(Durability::Full)
}

#[derive(Clone, Copy)]
enum Place<'p> {
    Disk(&'p Path),
    Temporary,
}

enum Make<'p> {
    Options(Place<'p>, Options),
    Template(Template),
}

struct Kind<'p> {
    name: &'static str,
    make: Make<'p>,
    open: Vec<Duration>,
    close: Vec<Duration>,
}

impl<'p> Kind<'p> {
    fn new(name: &'static str, make: Make<'p>) -> Self {
        let (open, close) = (Vec::new(), Vec::new());
        Self {
            name,
            make,
            open,
            close,
        }
    }

    fn round(&mut self) -> Result<()> {
        let began = Instant::now();
        // Created and deleted with the store, as `open_temp` does.
        let folder;
        let store = match &self.make {
            Make::Options(Place::Disk(parent), options) => {
                folder = Some(tempfile::tempdir_in(parent).expect("a folder can be created"));
                options
                    .clone()
                    .open(folder.as_ref().map_or(*parent, |folder| folder.path()).join("temp.db"))?
            }
            Make::Options(Place::Temporary, options) => {
                folder = None;
                options.clone().open_temp()?
            }
            Make::Template(template) => {
                folder = None;
                template.open_temp()?
            }
        };
        self.open.push(began.elapsed());
        let began = Instant::now();
        drop((store, folder));
        self.close.push(began.elapsed());
        Ok(())
    }
}

/// The median, and the shortest, which others on the machine disturb least.
fn shown(mut times: Vec<Duration>) -> String {
    times.sort();
    format!("{:>10.2?} ({:>8.2?})", times[times.len() / 2], times[0])
}
