//! `larder import`: the library's bulk loads of CSV files, with the options of the command line.
//!
//! ```text
//! postgres.rs  a database of PostgreSQL, or its dump
//! source.rs    a file or stdin, and how much of it is read
//! table.rs     tables that are created
//! ```

#[cfg(feature = "postgres")]
mod postgres;
mod source;
mod table;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder::{Bulk, BulkCsv, BulkProgress, BulkReport, Error, OnViolation, Store, Violation};
use serde::Serialize;

use self::source::{Reader, Source, display};
use self::table::Declared;
use crate::args::{ImportArgs, OnConflict};
use crate::failure::{Failure, Result, Verdict, with_flags};
use crate::output::{Output, plain, size};
use crate::progress::Progress;
use crate::store::LABEL;

/// So many bad lines are named.
const MAX_NAMED: usize = 100;

/// So many are printed.
const MAX_PRINTED: usize = 20;

/// The time of a slice, and the pause after it, in which other processes write.
const SLICE: Duration = Duration::from_millis(5);

#[derive(Clone, Debug, Default, Serialize)]
struct Imported {
    ok: bool,
    /// Rows that are in the database now.
    rows: u64,
    /// Lines whose key was there already.
    skipped: u64,
    /// Bad lines.
    bad: u64,
    files: Vec<ImportedFile>,
}

impl Imported {
    /// Adds the files up.
    fn total(mut self, ok: bool) -> Self {
        self.rows = self.sum(|file| file.rows);
        self.skipped = self.sum(|file| file.skipped);
        self.bad = self.sum(|file| file.bad);
        self.ok = ok;
        self
    }

    /// A number of all files so far.
    fn sum(&self, number: fn(&ImportedFile) -> u64) -> u64 {
        self.files.iter().map(number).sum()
    }
}

#[derive(Clone, Debug, Default, Serialize)]
struct ImportedFile {
    file: String,
    table: String,
    created: bool,
    /// Lines that an earlier run with --resumable has imported.
    resumed_from: u64,
    lines: u64,
    /// Rows that are in the database now.
    rows: u64,
    skipped: u64,
    bad: u64,
    /// The first 100.
    bad_lines: Vec<BadLine>,
}

impl ImportedFile {
    fn take(&mut self, report: &BulkReport) {
        self.resumed_from = report.resumed_from;
        self.count(report.rows, report.unchanged, report.skipped);
    }

    fn count(&mut self, lines: u64, unchanged: u64, bad: u64) {
        (self.lines, self.skipped, self.bad) = (lines, unchanged, bad);
        self.rows = lines - unchanged - bad;
    }

    fn name(&mut self, line: u64, problem: &str) {
        if self.bad_lines.len() < MAX_NAMED {
            // The statement is the import's own.
            let problem = problem
                .rsplit_once(" (in INSERT ")
                .map_or(problem, |(problem, _)| problem);
            let problem = with_flags(problem.to_owned());
            self.bad_lines.push(BadLine { line, problem });
        }
    }
}

#[derive(Clone, Debug, Serialize)]
struct BadLine {
    line: u64,
    problem: String,
}

pub(crate) fn import(args: ImportArgs, output: &Output) -> Result<Verdict> {
    #[cfg(feature = "postgres")]
    if postgres::is_source(&args.database.database) {
        return postgres::import(&args, output);
    }
    #[cfg(feature = "postgres")]
    postgres::refuse_options(&args)?;
    let from_stdin = args.files.iter().filter(|file| source::is_stdin(file)).count();
    if from_stdin > 1 {
        return Err(Failure::Usage("stdin can be read once: give - once".into()));
    }
    if from_stdin > 0 && args.infer {
        return Err(Failure::Usage(
            "--infer reads each file twice, which stdin does not allow".into(),
        ));
    }
    if from_stdin > 0 && args.resumable {
        return Err(Failure::Usage(
            "--resumable finds a file again by its path, and stdin has none".into(),
        ));
    }
    let tables = args.files.iter().map(|file| table_of(file, args.table.as_deref()));
    let tables = tables.collect::<Result<Vec<_>>>()?;
    // All files are opened first: a misspelled name keeps all of them from being imported.
    let sources = args.files.iter().map(|file| Source::open(file));
    let sources = sources.collect::<Result<Vec<_>>>()?;
    if let Some(pipe) = sources.iter().find(|source| args.infer && !source.is_file()) {
        return Err(Failure::Usage(format!(
            "--infer reads each file twice, and {} is no regular file",
            display(pipe.path())
        )));
    }
    let declared = Declared::of(&args)?;
    let path = &args.database.database;
    if args.create_database && !path.exists() && !args.create_table {
        return Err(Failure::Usage(format!(
            "{} has no tables yet: give --create-table, too",
            path.display()
        )));
    }
    // From now on, Ctrl-C ends the import with its own message.
    let progress = output.progress()?;
    let may_create = args.create_database;
    let store = args
        .database
        .open_to_write(|options| options.create(may_create), output)?;
    let max_bad = args.max_bad;
    let import = Import {
        args,
        store: store.clone(),
        progress: Arc::new(Mutex::new(progress)),
        declared,
    };
    let imported = import.run(sources.into_iter().zip(tables).collect());
    let closed = store.close();
    let imported = imported?;
    closed?;
    print(&imported, max_bad, output)?;
    Ok(Verdict::of(imported.ok))
}

/// The table of a file.
fn table_of(file: &Path, given: Option<&str>) -> Result<String> {
    if let Some(table) = given {
        return Ok(table.to_owned());
    }
    if source::is_stdin(file) {
        return Err(Failure::Usage("stdin has no name for a table: give --table".into()));
    }
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    let stem =
        stem.ok_or_else(|| Failure::Usage(format!("{} has no name for a table: give --table", file.display())))?;
    Ok(stem.to_owned())
}

fn print(imported: &Imported, max_bad: u64, output: &Output) -> Result<()> {
    for file in &imported.files {
        for bad in file.bad_lines.iter().take(MAX_PRINTED) {
            output.note(&format!("{}:{}: {}", file.file, bad.line, plain(&bad.problem)));
        }
        let more = file.bad.saturating_sub(MAX_PRINTED as u64);
        if more > 0 {
            output.note(&format!("{}: and {more} more bad lines", file.file));
        }
    }
    output.result(imported, |to| {
        for file in &imported.files {
            let created = if file.created { ", created" } else { "" };
            write!(to, "{} -> {}{created}: ", file.file, plain(&file.table))?;
            match file.skipped {
                0 => write!(to, "{} lines, {} bad", file.lines, file.bad)?,
                skipped => write!(to, "{} lines, {skipped} skipped, {} bad", file.lines, file.bad)?,
            }
            match file.resumed_from {
                0 => writeln!(to)?,
                lines => writeln!(to, ", after {lines} of earlier runs")?,
            }
        }
        match imported.ok {
            true => writeln!(to, "{} rows imported", imported.rows),
            false if imported.rows == 0 => writeln!(
                to,
                "nothing was imported: {} bad lines, and --max-bad allows {max_bad}",
                imported.bad
            ),
            false => writeln!(
                to,
                "stopped after {} rows, which are committed: {} bad lines, and --max-bad allows {max_bad}",
                imported.rows, imported.bad
            ),
        }
    })
}

struct Import {
    args: ImportArgs,
    store: Store,
    progress: Arc<Mutex<Progress>>,
    declared: Option<Declared>,
}

/// What the callbacks of a load have told.
#[derive(Default)]
struct Told {
    lines: u64,
    unchanged: u64,
    bad: u64,
    bad_lines: Vec<(u64, String)>,
}

/// A load of a file that is ready to run.
struct Load {
    csv: BulkCsv<Reader>,
    report: ImportedFile,
    /// Whether it creates the table.
    creates: bool,
    told: Arc<Mutex<Told>>,
}

/// The resumable job of a file.
struct Job {
    name: String,
    table: String,
}

/// Why the one transaction is rolled back, with the counts until then.
enum Stop {
    Failed(Failure),
    TooManyBad(Imported),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Import {
    fn run(mut self, sources: Vec<(Source, String)>) -> Result<Imported> {
        self.look_ahead(&sources)
            .map_err(|failure| self.interrupted(0).unwrap_or(failure))?;
        match self.args.slices {
            true => self.in_slices(sources),
            false => self.in_one(sources),
        }
    }

    /// Reads the headers of all files, and all lines of those whose types are to be found.
    fn look_ahead(&mut self, sources: &[(Source, String)]) -> Result<()> {
        for (source, table) in sources.iter().filter(|(source, _)| source.is_file()) {
            let of_file = |error: Error| in_file(source.path(), error.into());
            let (reader, _) = Source::open(source.path())?.into_reader(lock(&self.progress).stop());
            let mut csv = self.described(self.store.bulk(), reader);
            csv.header().map_err(of_file)?;
            if let Some(declared) = self.declared.as_mut().filter(|_| self.args.infer) {
                let types = csv.infer().map_err(of_file)?;
                declared.inferred.entry(table.clone()).or_default().merge(types);
            }
        }
        Ok(())
    }

    /// The file as the arguments describe it.
    fn described(&self, bulk: Bulk, reader: Reader) -> BulkCsv<Reader> {
        let args = &self.args;
        let mut csv = bulk
            .csv(reader)
            .delimiter(args.delimiter)
            .ignore(args.skip.iter().map(String::as_str))
            .on_bad_line(OnViolation::Skip);
        if !args.header.is_empty() {
            csv = csv.has_header(false).columns(args.header.iter().map(String::as_str));
        }
        for (name, column) in &args.map {
            csv = csv.rename(name, column);
        }
        if !args.null.is_empty() {
            csv = csv.nulls(args.null.iter().map(String::as_str));
        }
        match args.on_conflict {
            OnConflict::Fail => csv,
            OnConflict::Skip => csv.keep_existing(),
            OnConflict::Replace => csv.upsert(),
        }
    }

    /// A load of a file. Its header is read.
    fn load(&mut self, source: Source, table: String, bulk: Bulk) -> Result<Load> {
        let path = source.path().to_owned();
        let (name, length) = (display(&path), source.size());
        let told = Arc::new(Mutex::new(Told::default()));
        let (reader, read) = source.into_reader(lock(&self.progress).stop());
        let bulk = bulk
            .label(LABEL)
            .on_violation(OnViolation::Skip)
            .progress(shown(name.clone(), length, read, &self.progress, &told))
            .on_skip(named(&told));
        let mut csv = self.described(bulk, reader).into(&table);
        if let Some(length) = length {
            csv = csv.size(length);
        }
        let header = csv.header().map_err(|error| in_file(&path, error.into()))?;
        let create = match &mut self.declared {
            Some(declared) => declared.statement(&table, &header)?,
            None => None,
        };
        let creates = create.is_some();
        if let Some(statement) = create {
            csv = csv.create_table(statement);
        }
        Ok(Load {
            csv,
            report: ImportedFile {
                file: name,
                table,
                ..ImportedFile::default()
            },
            creates,
            told,
        })
    }

    /// All files in one transaction.
    fn in_one(mut self, sources: Vec<(Source, String)>) -> Result<Imported> {
        let mut loads = Vec::new();
        for (source, table) in sources {
            let path = source.path().to_owned();
            let bulk = self.store.bulk();
            let load = self.load(source, table, bulk);
            loads.push((path, load.map_err(|failure| self.interrupted(0).unwrap_or(failure))?));
        }
        let max_bad = self.args.max_bad;
        let stop = lock(&self.progress).stop();
        let ended = self.store.transact(move |tx| -> Result<Imported, Stop> {
            let mut done = Imported::default();
            for (path, load) in loads {
                let Load {
                    csv,
                    mut report,
                    creates,
                    told,
                } = load;
                let loaded = csv.run_in(tx).map_err(|error| in_file(&path, failure_of(error)))?;
                report.take(&loaded);
                report.created = creates;
                for (line, problem) in &lock(&told).bad_lines {
                    report.name(*line, problem);
                }
                done.files.push(report);
            }
            // A signal after the last line rolls back, too.
            if stop() {
                return Err(Failure::Interrupted(String::new()).into());
            }
            match done.sum(|file| file.bad) > max_bad {
                true => Err(Stop::TooManyBad(done)),
                false => Ok(done),
            }
        });
        match ended {
            Ok(done) => Ok(done.total(true)),
            Err(Stop::TooManyBad(mut done)) => {
                for file in &mut done.files {
                    (file.rows, file.created) = (0, false);
                }
                Ok(done.total(false))
            }
            Err(Stop::Failed(failure)) => Err(self.interrupted(0).unwrap_or(failure)),
        }
    }

    /// Each file in slices, one file after the other.
    fn in_slices(mut self, sources: Vec<(Source, String)>) -> Result<Imported> {
        let mut done = Imported::default();
        let jobs = self.jobs(&sources)?;
        for (at, (source, table)) in sources.into_iter().enumerate() {
            let committed = done.sum(|file| file.rows);
            let path = source.path().to_owned();
            let mut bulk = self.store.bulk();
            bulk = bulk
                .slice(SLICE)
                .pause(SLICE)
                .max_skipped(self.args.max_bad - done.sum(|file| file.bad));
            if let Some(job) = jobs.get(at) {
                bulk = bulk.resumable(&job.name);
            }
            let load = self.load(source, table, bulk);
            let load =
                load.map_err(|failure| self.interrupted(committed).unwrap_or_else(|| after(committed, failure)))?;
            let Load {
                csv,
                mut report,
                creates,
                told,
            } = load;
            // An earlier run with --resumable may have created it.
            let exists = creates
                && self
                    .has_table(&report.table)
                    .map_err(|error| after(committed, error.into()))?;
            report.created = creates && !exists;
            if report.created {
                self.forget(&jobs, &report.table)
                    .map_err(|error| after(committed, error.into()))?;
            }
            let ended = csv.run();
            let told = lock(&told);
            for (line, problem) in &told.bad_lines {
                report.name(*line, problem);
            }
            match ended {
                Ok(loaded) => {
                    report.take(&loaded);
                    if loaded.cancelled {
                        return Err(self.stopped(committed, &report));
                    }
                    done.files.push(report);
                }
                Err(error) => {
                    if let Error::Bulk { resumed_from, .. } = &error {
                        report.resumed_from = *resumed_from;
                    }
                    report.count(told.lines, told.unchanged, told.bad);
                    if self.is_interrupted() {
                        return Err(self.stopped(committed, &report));
                    }
                    if let Error::Bulk {
                        line: Some(line),
                        source,
                        ..
                    } = &error
                    {
                        report.lines += 1;
                        report.bad += 1;
                        report.name(*line, &source.to_string());
                        done.files.push(report);
                        return Ok(done.total(false));
                    }
                    let failure = in_file(&path, failure_of(error));
                    return Err(after(committed + report.rows, failure));
                }
            }
        }
        Ok(done.total(true))
    }

    /// The job of each file with --resumable; without it there are none.
    fn jobs(&self, sources: &[(Source, String)]) -> Result<Vec<Job>> {
        let resumable = sources.iter().filter(|_| self.args.resumable);
        let job = |(source, table): &(Source, String)| {
            // The same file from another folder.
            let place = source.path().canonicalize();
            let place = place.map_err(|error| Failure::io(format!("{} has no path", display(source.path())), error))?;
            Ok(Job {
                name: format!("larder import of {} into {table}", place.display()),
                table: table.clone(),
            })
        };
        resumable.map(job).collect()
    }

    /// Forgets what earlier commands have imported into the table that is created now: the rows are gone with the old one.
    fn forget(&self, jobs: &[Job], table: &str) -> larder::Result<()> {
        for job in jobs.iter().filter(|job| job.table == table) {
            self.store.bulk().forget(&job.name)?;
        }
        Ok(())
    }

    fn has_table(&self, table: &str) -> larder::Result<bool> {
        let look = "SELECT 1 FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
        self.store.read(|tx| tx.exists(look, [table]))
    }

    fn is_interrupted(&self) -> bool {
        lock(&self.progress).is_interrupted()
    }

    /// The failure by Ctrl-C, if there was one.
    fn interrupted(&self, committed: u64) -> Option<Failure> {
        let said = match committed {
            0 => "interrupted: nothing was imported".to_owned(),
            rows => format!("interrupted: the {rows} rows of the files before are committed"),
        };
        self.is_interrupted().then_some(Failure::Interrupted(said))
    }

    /// Ctrl-C, in the midst of a file.
    fn stopped(&self, committed: u64, report: &ImportedFile) -> Failure {
        let go_on = match self.args.resumable {
            true => "the same command goes on behind them",
            false if self.args.create_table => {
                "to go on, import again with --on-conflict skip and without --create-table; with --resumable the same command \
                 would go on by itself"
            }
            false => {
                "to go on, import again with --on-conflict skip; with --resumable the command would go on by itself"
            }
        };
        Failure::Interrupted(format!(
            "interrupted at a slice: the first {} lines of {} are done, and {} rows are committed; {go_on}",
            report.resumed_from + report.lines,
            report.file,
            committed + report.rows
        ))
    }
}

/// The callback that shows the progress of a load, and heeds Ctrl-C.
fn shown(
    file: String,
    length: Option<u64>,
    read: Arc<AtomicU64>,
    progress: &Arc<Mutex<Progress>>,
    told: &Arc<Mutex<Told>>,
) -> impl FnMut(&BulkProgress) -> std::ops::ControlFlow<()> + Send + 'static {
    let (progress, told) = (Arc::clone(progress), Arc::clone(told));
    move |now| {
        {
            let mut told = lock(&told);
            (told.lines, told.unchanged, told.bad) = (now.rows, now.unchanged, now.skipped);
        }
        lock(&progress).show(|| {
            let read = size(read.load(Relaxed));
            let of = length.map_or(String::new(), |length| format!(" of {}", size(length)));
            let left = now.eta.map(|eta| Duration::from_secs(eta.as_secs()));
            let left = left.map_or(String::new(), |left| {
                format!(", {} left", humantime::format_duration(left))
            });
            let rate = now.rows_per_second;
            format!(
                "importing {file}: {} lines ({rate:.0} a second), {read}{of}{left}",
                now.rows
            )
        })
    }
}

/// The callback that takes the names of bad lines.
fn named(told: &Arc<Mutex<Told>>) -> impl FnMut(&Violation) + Send + 'static {
    let told = Arc::clone(told);
    move |bad| {
        let mut told = lock(&told);
        if told.bad_lines.len() < MAX_NAMED {
            told.bad_lines.push((bad.line.unwrap_or(bad.row), bad.error.clone()));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What stopped a load.
fn failure_of(error: Error) -> Failure {
    match error {
        Error::Bulk { source, .. } => failure_of(*source),
        error => error.into(),
    }
}

fn in_file(path: &Path, failure: Failure) -> Failure {
    Failure::InFile {
        file: display(path),
        source: Box::new(failure),
    }
}

/// Adds what stays.
fn after(committed: u64, failure: Failure) -> Failure {
    match committed {
        0 => failure,
        committed => Failure::After {
            committed,
            source: Box::new(failure),
        },
    }
}
