//! `larder import`.
//!
//! ```text
//! source.rs  a file or stdin: its header, its lines
//! table.rs   the table: its columns and their types, found or created
//! values.rs  a field as a value of its column
//! ```

mod source;
mod table;
mod values;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use larder::rusqlite::{ErrorCode, params_from_iter};
use larder::{Error, Store, WriteTx};
use serde::Serialize;

use self::source::{Source, display};
use self::table::{Declared, Target};
use self::values::{Nulls, value};
use crate::args::{ImportArgs, OnConflict};
use crate::failure::{Failure, Result, Verdict};
use crate::output::{Output, plain};
use crate::progress::Progress;

/// So many bad lines are named.
const MAX_NAMED: usize = 100;

/// So many are printed.
const MAX_PRINTED: usize = 20;

/// Of a batch so many lines are read before the database is locked.
const AHEAD: u64 = 10_000;

/// So many lines are read between two looks at the progress line.
const LINES: u64 = 256;

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
        let sum = |number: fn(&ImportedFile) -> u64| self.files.iter().map(number).sum();
        (self.rows, self.skipped, self.bad) = (sum(|file| file.rows), sum(|file| file.skipped), sum(|file| file.bad));
        self.ok = ok;
        self
    }
}

#[derive(Clone, Debug, Default, Serialize)]
struct ImportedFile {
    file: String,
    table: String,
    created: bool,
    lines: u64,
    /// Rows that are in the database now.
    rows: u64,
    skipped: u64,
    bad: u64,
    /// The first 100.
    bad_lines: Vec<BadLine>,
    /// Rows that were inserted, in a transaction that may be rolled back.
    #[serde(skip)]
    inserted: u64,
    /// Whether that transaction creates the table.
    #[serde(skip)]
    creates: bool,
}

impl ImportedFile {
    fn commit(&mut self) {
        self.rows = self.inserted;
        self.created = self.creates;
    }
}

#[derive(Clone, Debug, Serialize)]
struct BadLine {
    line: u64,
    problem: String,
}

pub(crate) fn import(args: ImportArgs, output: &Output) -> Result<Verdict> {
    let from_stdin = args.files.iter().filter(|file| source::is_stdin(file)).count();
    if from_stdin > 1 {
        return Err(Failure::Usage("stdin can be read once: give - once".into()));
    }
    if from_stdin > 0 && args.infer {
        return Err(Failure::Usage(
            "--infer reads each file twice, which stdin does not allow".into(),
        ));
    }
    let tables = args.files.iter().map(|file| table_of(file, args.table.as_deref()));
    let tables = tables.collect::<Result<Vec<_>>>()?;
    // All files are opened first: a misspelled name keeps all of them from being imported.
    let sources = args.files.iter().map(|file| Source::open(file, &args));
    let sources = sources.collect::<Result<Vec<_>>>()?;
    let declared = Declared::of(&args, &tables)?;
    let path = &args.database.database;
    if args.create_database && !path.exists() && !args.create_table {
        return Err(Failure::Usage(format!(
            "{} has no tables yet: give --create-table, too",
            path.display()
        )));
    }
    // From the first lock on, Ctrl-C ends the import with its own message.
    let progress = output.progress()?;
    let create = args.create_database;
    let store = args.database.open_to_write(|options| options.create(create), output)?;
    let work = Work::new(&args, sources.into_iter().zip(tables).collect(), declared, progress);
    let imported = work.run(&store);
    let closed = store.close();
    let imported = imported?;
    closed?;
    print(&imported, args.max_bad, output)?;
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
                0 => writeln!(to, "{} lines, {} bad", file.lines, file.bad)?,
                skipped => writeln!(to, "{} lines, {skipped} skipped, {} bad", file.lines, file.bad)?,
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

/// An import under way. The writer's closures take it, one after the other.
struct Work {
    /// Those that are left, the next one last.
    left: Vec<(Source, String)>,
    current: Option<Current>,
    declared: Option<Declared>,
    nulls: Nulls,
    on_conflict: OnConflict,
    max_bad: u64,
    batch: Option<u64>,
    map: Vec<(String, String)>,
    skip: Vec<String>,
    progress: Progress,
    done: Imported,
}

/// The file that is being read.
struct Current {
    source: Source,
    target: Target,
    insert: String,
    report: ImportedFile,
}

/// Why a transaction is rolled back, with the counts until then.
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

impl Work {
    fn new(
        args: &ImportArgs,
        mut sources: Vec<(Source, String)>,
        declared: Option<Declared>,
        progress: Progress,
    ) -> Self {
        sources.reverse();
        Self {
            left: sources,
            current: None,
            declared,
            nulls: Nulls::new(&args.null),
            on_conflict: args.on_conflict,
            max_bad: args.max_bad,
            batch: args.batch,
            map: args.map.clone(),
            skip: args.skip.clone(),
            progress,
            done: Imported::default(),
        }
    }

    /// One write, or one for each batch.
    fn run(self, store: &Store) -> Result<Imported> {
        let mut work = self;
        loop {
            let committed = work.committed();
            if let Some(lines) = work.batch {
                work.read_ahead(lines.min(AHEAD))
                    .map_err(|failure| after(committed, failure))?;
            }
            let place = Arc::new(Mutex::new(None));
            let keep = Arc::clone(&place);
            let ended = store.transact(move |tx| -> Result<bool, Stop> {
                let mut work = work;
                let ended = work.step(tx);
                *keep.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
                ended
            });
            let kept = place.lock().unwrap_or_else(PoisonError::into_inner).take();
            match (ended, kept) {
                (Ok(false), Some(mut kept)) => {
                    kept.files().for_each(ImportedFile::commit);
                    work = kept;
                }
                (Ok(true), Some(mut kept)) => {
                    kept.files().for_each(ImportedFile::commit);
                    return Ok(kept.done.total(true));
                }
                (Err(Stop::TooManyBad(counts)), _) => return Ok(counts.total(false)),
                (Err(Stop::Failed(failure)), _) => return Err(after(committed, failure)),
                (Ok(_), None) => return Err(Failure::Other("the write lost its work".into())),
            }
        }
    }

    fn files(&mut self) -> impl Iterator<Item = &mut ImportedFile> {
        let current = self.current.as_mut().map(|current| &mut current.report);
        self.done.files.iter_mut().chain(current)
    }

    /// Rows that are committed.
    fn committed(&mut self) -> u64 {
        self.files().map(|file| file.rows).sum()
    }

    /// Reads the lines of the next batch, so that no other process waits for a slow source.
    fn read_ahead(&mut self, mut lines: u64) -> Result<()> {
        let current = self.current.as_mut().map(|current| &mut current.source);
        for source in current
            .into_iter()
            .chain(self.left.iter_mut().rev().map(|(source, _)| source))
        {
            lines -= source.read_ahead(lines, || self.progress.is_interrupted())?;
            if lines == 0 || self.progress.is_interrupted() {
                break;
            }
        }
        self.heed_interrupt()
    }

    /// A read that was blocked tells of no signal: this is asked after each one, and so before each commit.
    fn heed_interrupt(&self) -> Result<()> {
        match self.progress.is_interrupted() {
            true => Err(Failure::Interrupted(
                "interrupted: the lines of this transaction were rolled back, and nothing was imported".into(),
            )),
            false => Ok(()),
        }
    }

    /// Reads lines until the batch is full or none is left. Returns whether all are read.
    fn step(&mut self, tx: &WriteTx<'_>) -> Result<bool, Stop> {
        let mut room = self.batch.unwrap_or(u64::MAX);
        while room > 0 {
            if self.current.is_none() {
                let Some((source, table)) = self.left.pop() else {
                    return self.verdict().map(|()| true);
                };
                self.current = Some(self.begin(tx, source, table)?);
            }
            if !self.line(tx)? {
                self.end_file();
                continue;
            }
            room -= 1;
        }
        self.verdict().map(|()| false)
    }

    /// Whether the transaction is to be committed.
    fn verdict(&mut self) -> Result<(), Stop> {
        self.heed_interrupt()?;
        let bad: u64 = self.files().map(|file| file.bad).sum();
        if bad <= self.max_bad {
            return Ok(());
        }
        self.end_file();
        Err(Stop::TooManyBad(self.done.clone()))
    }

    fn begin(&mut self, tx: &WriteTx<'_>, source: Source, table: String) -> Result<Current> {
        let header = source.mapped(&self.map, &self.skip)?;
        let creates = match &self.declared {
            Some(declared) => declared.create(tx, &table, &header)?,
            None => false,
        };
        let target = Target::find(tx, &table, &header, source.name())?;
        let report = ImportedFile {
            file: display(source.name()),
            table,
            creates,
            ..ImportedFile::default()
        };
        let insert = target.insert(self.on_conflict, source.name())?;
        Ok(Current {
            source,
            target,
            insert,
            report,
        })
    }

    /// Imports a line. Returns `false` at the end of the file.
    fn line(&mut self, tx: &WriteTx<'_>) -> Result<bool, Stop> {
        self.heed_interrupt()?;
        let Some(current) = &mut self.current else {
            return Ok(false);
        };
        if !current.source.next()? {
            return Ok(false);
        }
        current.report.lines += 1;
        if current.report.lines.is_multiple_of(LINES) {
            let (file, lines) = (&current.report.file, current.report.lines);
            let _ = self.progress.show(|| format!("importing {file}: {lines} lines"));
        }
        match current.import(tx, &self.nulls)? {
            Ok(0) => current.report.skipped += 1,
            Ok(_) => current.report.inserted += 1,
            Err(problem) => {
                current.report.bad += 1;
                if current.report.bad_lines.len() < MAX_NAMED {
                    let line = current.source.line();
                    current.report.bad_lines.push(BadLine { line, problem });
                }
            }
        }
        Ok(true)
    }

    fn end_file(&mut self) {
        if let Some(Current { report, .. }) = self.current.take() {
            self.done.files.push(report);
        }
    }
}

impl Current {
    /// Inserts the line that was read. The number of rows, or what is wrong with the line.
    fn import(&mut self, tx: &WriteTx<'_>, nulls: &Nulls) -> Result<std::result::Result<usize, String>, Error> {
        let values = match self.source.fields() {
            Ok(fields) => self
                .target
                .columns
                .iter()
                .map(|column| value(fields.get(column.field), column, nulls))
                .collect::<std::result::Result<Vec<_>, _>>(),
            Err(problem) => Err(problem),
        };
        let values = match values {
            Ok(values) => values,
            Err(problem) => return Ok(Err(problem)),
        };
        match tx.execute(&self.insert, params_from_iter(values)) {
            Ok(rows) => Ok(Ok(rows)),
            Err(error) => match of_the_line(&error) {
                Some(problem) => Ok(Err(problem)),
                None => Err(error),
            },
        }
    }
}

/// SQLite's message, if the line is the cause of an error.
fn of_the_line(error: &Error) -> Option<String> {
    let Error::Sqlite { source, .. } = error else {
        return None;
    };
    match source.sqlite_error_code()? {
        ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig => Some(source.to_string()),
        _ => None,
    }
}

/// Adds what stays.
fn after(committed: u64, failure: Failure) -> Failure {
    if committed == 0 {
        return failure;
    }
    match failure {
        Failure::Interrupted(_) => Failure::Interrupted(format!(
            "interrupted: the last batch was rolled back, and the {committed} rows before it are committed"
        )),
        failure => Failure::After {
            committed,
            source: Box::new(failure),
        },
    }
}
