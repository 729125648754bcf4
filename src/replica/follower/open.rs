//! How a follower begins: the database is restored, or shown to be as the follower left it, and brought to the newest
//! state before anybody reads.
//!
//! | file | folder beside it | then |
//! |---|---|---|
//! | none | none, or a follower's | it is restored |
//! | none | a store's | [`Error::Diverged`]: the folder may have what the replica lacks |
//! | there | none | [`Error::Diverged`]: it is another database |
//! | there | a follower's | it goes on from its position (`local.rs`), or is compared with the replica (`resync.rs`) |
//! | there, as a restore has left it | a follower's, without a position | it is restored again, if the replica has files: the process was killed in between |
//! | there, another | the same | [`Error::Diverged`]: it is another database |
//! | there, changed perhaps | a follower's, and the replica has what came since in a snapshot alone | it is set aside, and restored |
//! | there | a store's, which closed with everything uploaded; a restore's | the same, if nothing was changed since |
//!
//! In each case the replica has to be the one that was followed. A follower whose machine has failed opens again by itself,
//! whatever SQLite has left beside its database. What may be of another program is renamed and kept (`set_aside`), three times
//! at most.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::local::{Local, open_log};
use super::options::FollowerOptions;
use super::poll::{Poll, is_unreadable, other_lineage, unreadable};
use super::trouble::Trouble;
use super::{Follower, Following, Inner};
use crate::backup::{Build, Failure};
use crate::connection::in_use::is_in_use;
use crate::connection::{file, open_files, raw_pages};
use crate::engine::{Engine, KeepLog};
use crate::error::{Error, Result};
use crate::options::{Access, Settings};
use crate::replica::aside;
use crate::replica::fence::Fence;
use crate::replica::open::{cannot_read, cannot_spool};
use crate::replica::position::Position;
use crate::replica::restore::plan::Target;
use crate::replica::restore::progress::silent;
use crate::replica::restore::{LEAVING, restore_build};
use crate::replica::runtime;
use crate::replica::spool::Spool;
use crate::replica::storage::{FailureKind, Storage, StorageError, all_files, request};
use crate::runtime::sync::Arc;
use crate::telemetry::event::event;

/// The database, its WAL and its folder.
pub(super) const MOVE_AWAY: &str = "move the file away, with all files whose names begin with its own";

/// How the name of a database goes on that is not a state of the replica for certain.
const BEFORE_FOLLOWING: &str = ".before-following";

/// So many of these are kept. None is deleted, since it may have the only rows of another program.
const MOST_ASIDE: u32 = 3;

/// What was found before the file is opened.
struct Prepared {
    storage: Storage,
    spool: Spool,
    position: Position,
    local: Local,
}

pub(crate) fn open(settings: Settings, options: &FollowerOptions, path: &Path) -> Result<Follower> {
    options.validate()?;
    let settings = Settings {
        // Other processes may read the file, and SQLite's index shows what they have written.
        access: Access::Shared,
        follows: true,
        // A follower that is new makes its file.
        create: true,
        ..settings
    };
    let path = file::absolute(path)?;
    if !raw_pages::are_writable() {
        return Err(cannot_write_pages(&path));
    }
    // What was begun is closed by then.
    let begun = match begin(settings.clone(), options, &path, None) {
        Err(Stop::Doubtful(reason)) => begin(settings, options, &path, Some(&reason)),
        begun => begun,
    };
    begun.map_err(|stop| match stop {
        Stop::Error(error) => error,
        Stop::Doubtful(reason) => diverged(
            &path,
            &Storage::shown(&options.url),
            Trouble::Doubtful(reason).describe(),
        ),
    })
}

/// Why a follower does not begin.
enum Stop {
    /// See [`Trouble::Doubtful`].
    Doubtful(String),
    Error(Error),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// Opens the database, and brings it to the newest state. `doubt` says why it has to be restored, if it has.
fn begin(settings: Settings, options: &FollowerOptions, path: &Path, doubt: Option<&str>) -> Result<Follower, Stop> {
    let Prepared {
        storage,
        spool,
        position,
        local,
    } = prepare(path, options, &settings, doubt)?;
    let mut following = None;
    let begun = &mut following;
    let keep_log: KeepLog<'_> = Box::new(move |shared, _, telemetry| {
        let places = (storage, spool);
        let made = Following::new((shared, telemetry), places, options.interval, (position, local));
        *begun = Some(Arc::clone(&made));
        Ok(made)
    });
    let patience = settings.busy_timeout;
    let engine = Engine::open(settings, path, None, patience, Some(keep_log)).map_err(|error| match error {
        // Any other error is of `on_connect`, which may read other databases.
        error @ Error::Open { .. } if is_unreadable(&error) => {
            diverged(path, &Storage::shown(&options.url), unreadable(&error))
        }
        error => error,
    })?;
    let following: Arc<Following> = following.expect("the keeper of the log is made as the engine opens");
    let poll = catch_up(&following)?;
    following.reach(|reached| reached.ended = false);
    let begun = runtime::spawn(Arc::clone(&following).follow_until_closed(poll));
    if let Err(error) = begun {
        following.reach(|reached| reached.ended = true);
        return Err(Error::no_thread(path, "its replica", error).into());
    }
    Ok(Follower {
        inner: Arc::new(Inner {
            engine,
            following,
            options: options.clone(),
        }),
    })
}

/// Brings the database to the newest state, before anybody reads.
fn catch_up(following: &Arc<Following>) -> Result<Poll, Stop> {
    let this = Arc::clone(following);
    let looked = runtime::wait(async move {
        let mut poll = Poll::new();
        let looked = poll.look(&this).await;
        let looked = match looked {
            // The database is a state of the primary, if nothing is behind its position.
            Err(Trouble::Storage(error)) if error.kind() == FailureKind::Transient => this
                .run(super::apply::Source::Planned(Vec::new()))
                .await
                .map_err(|_| Trouble::Storage(error)),
            other => other,
        };
        (looked, poll)
    });
    let (looked, poll) = looked.map_err(|error| following.storage.no_thread(error))?;
    let problem = match looked {
        Ok(()) => return Ok(poll),
        Err(Trouble::Local(error)) if is_unreadable(&error) => {
            return Err(following.diverged(unreadable(&error)).into());
        }
        Err(Trouble::Local(error)) => return Err(error.into()),
        Err(Trouble::Storage(error)) => return Err(error.into()),
        Err(Trouble::Diverged(problem)) => return Err(following.diverged(problem).into()),
        Err(Trouble::Doubtful(reason)) => return Err(Stop::Doubtful(reason)),
        Err(other) => (other.describe(), matches!(other, Trouble::NoRoom(_))),
    };
    Err(Error::Replica {
        what: problem.0,
        url: following.storage.to_string(),
        retryable: problem.1,
        source: None,
    }
    .into())
}

fn prepare(path: &Path, options: &FollowerOptions, settings: &Settings, doubt: Option<&str>) -> Result<Prepared> {
    let storage = Storage::connect(&options.url)?;
    // It has the lock of the spool.
    open_files::refuse_open(path)?;
    let spool = Spool::open_within(path, settings.busy_timeout).map_err(|error| cannot_spool(path, error))?;
    aside::go_on(path, &spool)?;
    let failed = |error: io::Error| cannot_spool(path, error.into());
    let file = fs::metadata(path).ok().filter(|file| file.len() > 0);
    let position = spool.position().map_err(failed)?;
    // Killed between the restore and its note.
    let is_half_restored = position.is_none() && file.is_some() && is_as_restored(path, &spool).map_err(failed)?;
    let file = file.filter(|_| !is_half_restored);
    let (position, local) = match (file, position) {
        (None, position) => {
            if (position.is_some() || spool.newest().is_some()) && !spool.follows() {
                return Err(in_the_way(path, &storage, &spool));
            }
            // Before anything is restored, which begins a position of its own.
            if let Some(position) = position {
                refuse_other(path, &storage, &position, lineage(&storage)?)?;
            }
            spool.keep_following().map_err(failed)?;
            restored(
                path,
                &storage,
                &spool,
                settings,
                "its place in the replica is not known",
            )?
        }
        (Some(_), None) => return Err(of_another(path, &storage, &spool)),
        (Some(_), Some(position)) => (
            position,
            Local::look(path, &position).map_err(|error| cannot_read(path, error))?,
        ),
    };
    let lineage = match lineage(&storage) {
        Ok(lineage) => lineage,
        Err(error) if error.kind() == FailureKind::Transient => {
            event!(
                warn,
                "larder::follow",
                path,
                { replica = %storage, %error },
                "the replica cannot be reached, so the follower opens with what it has"
            );
            position.lineage
        }
        Err(error) => return Err(error.into()),
    };
    refuse_other(path, &storage, &position, lineage)?;
    let (position, local) = match doubt {
        Some(reason) => restored(path, &storage, &spool, settings, reason)?,
        None => (position, local),
    };
    let position = Position { lineage, ..position };
    if !spool.follows() {
        refuse_own_history(path, &storage, &spool, &position, &local)?;
        spool.keep_following().map_err(failed)?;
    }
    spool.write_position(&position, true).map_err(failed)?;
    Ok(Prepared {
        storage,
        spool,
        position,
        local,
    })
}

/// Restores the database. `reason` is why what is in its place cannot be gone on from.
fn restored(
    path: &Path,
    storage: &Storage,
    spool: &Spool,
    settings: &Settings,
    reason: &str,
) -> Result<(Position, Local)> {
    let cannot = |error| cannot_set_aside(path, error);
    // Before the whole database is downloaded.
    if look_at(path, spool, reason).map_err(cannot)?.is_kept {
        aside::free_name(path, BEFORE_FOLLOWING, Some(MOST_ASIDE)).map_err(cannot)?;
    }
    if has_bytes(path) {
        refuse_empty(path, storage)?;
    }
    let build = Build::begin_beside(&storage.to_string(), path)?;
    // What is in its place may be the last copy, and is there until this one is checked.
    let finish = |build: Build| {
        let found = look_at(path, spool, reason).map_err(cannot)?;
        let before = found.is_ours.then_some(path);
        let noted = build.written().and_then(|file| spool.keep_restored(file, before));
        noted.map_err(|error| build.failed(Failure::of(LEAVING, error)))?;
        set_aside(path, spool, &found, reason).map_err(cannot)?;
        match found {
            Found {
                is_ours: true,
                is_kept: false,
            } => build.replace(),
            _ => build.finish(),
        }
    };
    let report = restore_build(storage, Target::Newest, &[], Some(settings), build, &silent(), finish)?;
    let position = report.position()?;
    Ok((position, Local::untouched(position.file)))
}

/// Fails unless the replica can be listed, and has a file from which a database can be restored.
fn refuse_empty(path: &Path, storage: &Storage) -> Result<()> {
    let from = storage.clone();
    let files = request(storage, async move { all_files(&from).await })?;
    if !files.is_empty() {
        return Ok(());
    }
    Err(Error::Replica {
        what: format!(
            "it has no files, so nothing can be restored from it, and {} is left as it is: check the URL, and that the \
             primary replicates to it",
            path.display()
        ),
        url: storage.to_string(),
        retryable: false,
        source: None,
    })
}

/// Whether nothing has changed the database since a follower restored it, and no program has it open.
fn is_as_restored(path: &Path, spool: &Spool) -> io::Result<bool> {
    if open_files::is_open(path) || open_log(path)?.is_some() || is_in_use(path) {
        return Ok(false);
    }
    // Its descriptor is closed, and with it every lock of this process on the file: there are none.
    spool.has_restored(path)
}

/// What is in the place of the file that is to be restored.
struct Found {
    /// There is a database as a follower has restored it.
    is_ours: bool,
    /// There is what may be another program's.
    is_kept: bool,
}

/// Fails if a program may have the database open.
fn look_at(path: &Path, spool: &Spool, reason: &str) -> io::Result<Found> {
    if has_bytes(path) && (open_files::is_open(path) || is_in_use(path)) {
        let problem = format!(
            "{reason}, and a program may have it open, so it is not renamed to restore its replica: stop that program \
             (`fuser -v` names it)"
        );
        return Err(io::Error::other(problem));
    }
    let is_ours = has_bytes(path) && is_as_restored(path, spool)?;
    let may_be_others = |ending: &&str| *ending != "-shm" && !(is_ours && ending.is_empty());
    let mut others = aside::FILES.into_iter().filter(may_be_others);
    let is_kept = others.any(|ending| has_bytes(&aside::with(path, ending)));
    Ok(Found { is_ours, is_kept })
}

fn has_bytes(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|file| file.len() > 0)
}

/// Makes room for the restored file. What is there may be another program's, so it gets another name; but for an empty
/// file, for a database that is as it was restored, which is replaced, and for the index of a log, which is memory.
fn set_aside(path: &Path, spool: &Spool, found: &Found, reason: &str) -> io::Result<()> {
    for ending in aside::FILES {
        let file = aside::with(path, ending);
        if ending != "-shm" && has_bytes(&file) {
            continue;
        }
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    if found.is_kept {
        let to = aside::rename_all(path, spool, BEFORE_FOLLOWING, Some(MOST_ASIDE))?;
        event!(
            warn,
            "larder::follow",
            path,
            { aside = %to.display(), reason },
            "a database that cannot be shown to be a state of the replica was renamed, and the replica is restored"
        );
    }
    Ok(())
}

fn cannot_set_aside(path: &Path, error: io::Error) -> Error {
    Error::Open {
        path: path.into(),
        problem: format!("its replica cannot be restored in its place: {error}"),
        source: Some(Box::new(error)),
    }
}

/// Refuses a replica that is not the one which was followed.
fn refuse_other(path: &Path, storage: &Storage, position: &Position, there: u64) -> Result<()> {
    if position.lineage == 0 || position.lineage == there {
        return Ok(());
    }
    Err(diverged(path, storage, other_lineage(position.lineage, there)))
}

/// The number of the replica; 0 if Litestream writes it.
fn lineage(storage: &Storage) -> Result<u64, StorageError> {
    let fence = Fence::new(storage.clone(), 0);
    let owner = request(storage, async move { fence.owner().await })?;
    Ok(owner.map_or(0, |seen| seen.owner.lineage))
}

/// Refuses a database that a store has written, if it may have what the replica lacks.
fn refuse_own_history(path: &Path, storage: &Storage, spool: &Spool, position: &Position, local: &Local) -> Result<()> {
    let is_unchanged = matches!(local, Local::Behind { pages, .. } if pages.is_empty());
    let is_sealed = spool.newest().is_none_or(|newest| newest.txid <= position.txid);
    let (txid, time) = (position.txid, position.timestamp);
    let (fence, spooled) = (Fence::new(storage.clone(), 0), spool.body(txid));
    // Litestream's snapshots have times of their own.
    let is_there =
        position.lineage == 0 || request(storage, async move { fence.is_at(txid, spooled, Some(time)).await })?;
    if is_unchanged && is_sealed && is_there {
        return Ok(());
    }
    Err(diverged(
        path,
        storage,
        format!(
            "a store has written to it up to transaction {txid}, and it may have what the replica lacks. To follow the \
             replica instead, {MOVE_AWAY}, and open the follower again, which restores it"
        ),
    ))
}

fn in_the_way(path: &Path, storage: &Storage, spool: &Spool) -> Error {
    let folder = spool.folder().display();
    diverged(
        path,
        storage,
        format!(
            "the file does not exist, and its folder {folder} is that of a store, which may have transactions that the \
             replica lacks. Move the folder away to follow the replica; or open the store with \
             ReplicaOptions::restore_if_missing, which adds them"
        ),
    )
}

fn of_another(path: &Path, storage: &Storage, spool: &Spool) -> Error {
    let folder = spool.folder().display();
    diverged(
        path,
        storage,
        format!(
            "it exists, and it is not as a follower has left it: another program has made it, has written to it since, or \
             has it open; or what its folder {folder} had is lost. Give the follower a path of its own, or {MOVE_AWAY}, and \
             open the follower again, which restores it"
        ),
    )
}

fn diverged(path: &Path, url: &impl ToString, problem: String) -> Error {
    Error::Diverged {
        path: path.into(),
        url: url.to_string(),
        problem,
    }
}

fn cannot_write_pages(path: &Path) -> Error {
    Error::Open {
        path: PathBuf::from(path),
        problem: format!(
            "a follower writes pages through SQLite's table sqlite_dbpage, and this build of SQLite {} has none. With the \
             feature `bundled`, put these two lines into .cargo/config.toml and build again:\n[env]\nLIBSQLITE3_FLAGS = \
             \"-USQLITE_ENABLE_MEMORY_MANAGEMENT -DSQLITE_ENABLE_DBPAGE_VTAB\"\nWithout it, link an SQLite that was built \
             with SQLITE_ENABLE_DBPAGE_VTAB",
            rusqlite::version()
        ),
        source: None,
    }
}
