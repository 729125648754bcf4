//! `larder migrate`.

use larder::{Adopt, DryRun, Error, MigrationError, MigrationReport, MigrationStatus, Migrations, Options, Store};
use serde::Serialize;

use crate::args::{AdoptFrom, MigrateVerb, MigrationSet};
use crate::failure::{Failure, Result, Verdict};
use crate::output::{Output, plain};
use crate::store::open;

pub(crate) fn run(verb: MigrateVerb, output: &Output) -> Result<Verdict> {
    match verb {
        MigrateVerb::Status(args) => {
            let set = args.set.read()?;
            let (store, problem) = open_to_read(args.database.to_read(), set, &args.database.database)?;
            let status = store.migrations()?;
            print_status(&status, problem.as_ref(), output)?;
            let is_behind = args.exit_code && !status.pending.is_empty();
            Ok(Verdict::of(problem.is_none() && !is_behind))
        }
        MigrateVerb::Up(args) => {
            let mut set = args.set.read()?;
            if let Some(folder) = &args.backup_to {
                set = set.backup_to(folder);
            }
            if args.dry_run {
                let (store, _) = open_to_read(args.database.to_read(), set, &args.database.database)?;
                let report = store.migrate_dry_run(DryRun::Backup)?;
                return print_report(&report, true, output);
            }
            let progress = output.progress()?;
            let set = set.stop_when(progress.stop());
            let change = |options: Options| {
                let options = options.create(args.create_database);
                options.require_strict(args.require_strict).migrations(set)
            };
            let store = args.database.open_to_write(change, output)?;
            let report = match args.version {
                Some(version) => store.migrate_up_to(version),
                None => store.migrate(),
            };
            let report = report.map_err(|error| stopped(error, &store))?;
            store.close()?;
            print_report(&report, false, output)
        }
        MigrateVerb::Down(args) => {
            let progress = output.progress()?;
            let set = args.set.read()?.stop_when(progress.stop());
            let store = args.database.open_to_write(|options| options.migrations(set), output)?;
            let version = match args.version {
                Some(version) => version,
                None => before_newest(&store)?,
            };
            let report = store.migrate_down_to(version).map_err(|error| stopped(error, &store))?;
            store.close()?;
            print_report(&report, false, output)
        }
        MigrateVerb::New(args) => {
            let path = Migrations::create(&args.folder, &args.name)?;
            let created = Created {
                path: path.display().to_string(),
            };
            output.result(&created, |to| writeln!(to, "created {}", created.path))?;
            Ok(Verdict::Sound)
        }
        MigrateVerb::Check(args) => {
            let set = args.set.read()?;
            let problems = check(&set, args.require_strict)?;
            let check = Check {
                ok: problems.is_empty(),
                migrations: set.iter().count(),
                problems,
            };
            output.result(&check, |to| {
                let mut problems = check.problems.iter();
                problems.try_for_each(|problem| writeln!(to, "problem: {}", plain(problem)))?;
                match check.ok {
                    true => writeln!(to, "ok: up, down and up again (migrations: {})", check.migrations),
                    false => Ok(()),
                }
            })?;
            Ok(Verdict::of(check.ok))
        }
    }
}

/// Where a run stands that Ctrl-C has stopped.
fn stopped(error: Error, store: &Store) -> Failure {
    let made = match &error {
        Error::Migration(found) => match **found {
            MigrationError::Stopped { made } => made,
            _ => return error.into(),
        },
        _ => return error.into(),
    };
    let stands = store.migrations().map(|status| {
        let newest = status.applied.last().map_or_else(
            || "no migration is applied".to_owned(),
            |newest| format!("{} {} is the newest that is applied", newest.version, newest.name),
        );
        format!("{newest}, pending: {}", status.pending.len())
    });
    let stands = stands.unwrap_or_else(|error| error.to_string());
    Failure::Interrupted(format!(
        "interrupted between two migrations: this run has made {made}, each of them complete; {stands}; run the command \
         again to go on"
    ))
}

impl MigrationSet {
    fn read(&self) -> Result<Migrations> {
        let set = Migrations::folder(&self.folder)?
            .at_open(false)
            .allow_gaps(self.allow_gaps)
            .plain_comments(self.plain_comments.iter().copied());
        let adopt = match self.adopt {
            None if self.adopt_versions.is_empty() => return Ok(set),
            None => Adopt::Applied(self.adopt_versions.clone()),
            Some(_) if !self.adopt_versions.is_empty() => {
                return Err(Failure::Usage("give --adopt or --adopt-versions, and not both".into()));
            }
            Some(AdoptFrom::Goose) => Adopt::Goose,
            Some(AdoptFrom::Sqlx) => Adopt::Sqlx,
            Some(AdoptFrom::Diesel) => Adopt::Diesel,
            Some(AdoptFrom::Refinery) => Adopt::Refinery,
            Some(AdoptFrom::UserVersion) => Adopt::UserVersion,
            Some(AdoptFrom::Nothing) => Adopt::Nothing,
        };
        Ok(set.adopt(adopt))
    }
}

/// Opens the database, and says what keeps the set from being applied: a newer schema, a file that has changed. What is
/// only pending is no problem.
fn open_to_read(options: Options, set: Migrations, path: &std::path::Path) -> Result<(Store, Option<Error>)> {
    let validated = open(options.clone().migrations(set.clone().at_open(true)), path);
    let problem = match validated {
        Ok(store) => return Ok((store, None)),
        Err(Error::Migration(error)) if matches!(*error, MigrationError::Pending { .. }) => None,
        Err(error @ Error::Migration(_)) => Some(error),
        Err(error) => return Err(error.into()),
    };
    Ok((open(options.migrations(set), path)?, problem))
}

#[derive(Serialize)]
struct Status<'s> {
    ok: bool,
    #[serde(flatten)]
    status: &'s MigrationStatus,
    problem: Option<String>,
}

fn print_status(status: &MigrationStatus, problem: Option<&Error>, output: &Output) -> Result<()> {
    let said = Status {
        ok: problem.is_none(),
        status,
        problem: problem.map(Error::to_string),
    };
    output.result(&said, |to| {
        writeln!(to, "{status}")?;
        match &said.problem {
            Some(problem) => writeln!(to, "problem: {}", plain(problem)),
            None => Ok(()),
        }
    })
}

#[derive(Serialize)]
struct Report<'r> {
    #[serde(flatten)]
    report: &'r MigrationReport,
    dry_run: bool,
}

fn print_report(report: &MigrationReport, dry_run: bool, output: &Output) -> Result<Verdict> {
    output.result(&Report { report, dry_run }, |to| {
        writeln!(to, "{report}")?;
        match dry_run {
            true => writeln!(to, "(on a copy; the database is as it was)"),
            false => Ok(()),
        }
    })?;
    Ok(Verdict::Sound)
}

#[derive(Serialize)]
struct Created {
    path: String,
}

/// The version to go to, so that the newest migration is undone.
fn before_newest(store: &Store) -> Result<u64> {
    match store.migrations()?.applied.as_slice() {
        [] => Err(Failure::Other(
            "no migration is applied: there is nothing to undo".into(),
        )),
        [_] => Ok(0),
        [.., before, _] => Ok(before.version),
    }
}

// ---- check ----

#[derive(Serialize)]
struct Check {
    ok: bool,
    migrations: usize,
    problems: Vec<String>,
}

/// Applies the set to a temporary database, undoes it, and applies it again. Returns what is wrong with it.
fn check(set: &Migrations, require_strict: bool) -> Result<Vec<String>> {
    let options = Options::new().migrations(set.clone()).require_strict(require_strict);
    let error = match options.check_migrations() {
        Ok(()) => return Ok(Vec::new()),
        Err(error) => error,
    };
    if let Error::Migration(found) = &error
        && let MigrationError::Check { problems } = &**found
    {
        return Ok(problems.iter().map(MigrationError::to_string).collect());
    }
    Err(error.into())
}
