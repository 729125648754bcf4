//! How a store goes on with its replica as it opens.
//!
//! Three witnesses are heard: the replica (its newest transaction), the spool (its position, its newest file), and the
//! database file with its log. Where they do not provably go on from one another, opening fails and says so, or the next
//! file is a full one, which is told as well. An empty volume that was mounted by mistake must not become the newest
//! state of a replica.
//!
//! | file | spool | replica | then |
//! |---|---|---|---|
//! | none | none | empty | the database is created; transaction 1 has every page |
//! | none | none | has data | [`Error::Diverged`], or a restore if the options say so; without an owner only to take over |
//! | none | there | ends at the position or before it | the same; what the spool has beyond the replica is added |
//! | none | there | ends behind the position | [`Error::Diverged`] |
//! | there | none | empty | transaction 1 has every page |
//! | there | none | has data | as `on_divergence` says: [`Error::Diverged`], a full file, or a restore (`aside.rs`) |
//! | there | its log goes on | ends at the position or before it | from frame to frame |
//! | there | its log does not go on | the same | a full file: the database was changed while it was closed |
//! | there | its log has the newest files | ends behind the position, or has data | from frame to frame (`daemon.rs`) |
//! | there | there | ends behind the position | as `on_divergence` says |
//! | any | there | has another number than the position | [`Error::Diverged`], whatever `on_divergence` says |
//!
//! The number of a replica stays as long as it is not emptied, and a branch has one of its own. So a database that was
//! replicated under another number was given another database's URL: neither of the two may take the other's place.
//!
//! The log goes on if it holds the frame of the position, by its running checksum; or if all of it had been moved into
//! the database, and
//!
//! - it was begun again once, and shows that nothing had been appended before (after a shared store), or
//! - it was begun again once, or cut to nothing (after an exclusive store), or
//! - the database file has the size and the times with which closing left it: what is in the log came later.
//!
//! The second case is not one if there is a `-shm`. An exclusive store has none, so another process may have had the file
//! open since, and appended to the log before it was begun again. One thing is assumed: that no process with an index on its
//! heap wrote to the file while no store had it open, emptied the log, and was killed itself.
//!
//! If the storage does not answer, and there is a position, the store opens without it and asks later (`enter.rs`).
//!
//! A replica has one owner (`fence.rs`). One that has closed it is followed without a word. One that has not may still
//! write, or be gone: opening fails with [`Error::ReplicaInUse`], which names it, and only `take_over` claims the replica.
//! If it was this spool's own store, which was killed, opening claims by itself: a copy of the volume may still run as
//! that store. The claim is the first upload; for a database that goes on from its position it is page 1 once more.
//!
//! A replica without an owner was written by another program, which no fence stops, and whether that still runs cannot be
//! known: the daemon of Litestream leaves no word as it ends, and the time of its last upload says nothing of an idle
//! database. The same holds if such a program wrote its newest transaction, after an owner. So a store that has not
//! written it restores or replaces it only to take over, and goes on from it with a file that was restored or followed. A
//! file whose log has what the daemon copied shows itself that the daemon has been where it is (`daemon.rs`).
//!
//! [`prepare`] runs before SQLite opens the file, because opening may create it; [`Prepared::attach`] runs after that.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

use super::aside;
use super::capture::{Capture, CaptureError, Committed, log_of};
use super::clock::StorageClock;
use super::daemon;
use super::fence::{Entry, Fence, Seen};
use super::ltx::{Decoder, Header};
use super::options::{OnDivergence, ReplicaOptions};
use super::position::{LogPosition, Position, Stamps};
use super::replication::{Ownership, Replication, Start};
use super::restore::plan::Target;
use super::restore::progress::{ReplicaRestoreProgress, RestoreReporter};
use super::restore::restore;
use super::restore::time;
use super::runtime;
use super::spool::{Sealed, Spool, SpoolError};
use super::storage::{self, FailureKind, FileInfo, Storage, StorageError, Txids, all_files, request};
use super::wal::{HEADER_SIZE, WalHeader, WalScan};
use crate::connection::file::must_exist;
use crate::connection::{file, file_lock, open_files};
use crate::error::{Error, Result};
use crate::options::{Access, Settings};
use crate::runtime::sync::Arc;
use crate::runtime::{date, random};
use crate::telemetry::Telemetry;
use crate::telemetry::event::event;
use crate::telemetry::replica::ReplicaOpened;
use crate::write::Shared;

/// How often an opening looks again because another process changed the owner meanwhile.
const ENTRIES: u32 = 16;

/// What was found before the file is opened.
pub(crate) struct Prepared {
    replica: ReplicaOptions,
    storage: Storage,
    spool: Arc<Spool>,
    fence: Fence,
    position: Option<Position>,
    /// The replica, or why it cannot be asked.
    there: std::result::Result<There, String>,
    /// Whether this store is the owner of the replica.
    ownership: Ownership,
    lineage: u64,
    /// Whether the newest transaction there is not this database's, although its number is.
    is_anothers: bool,
    /// Whether the database was a follower's, which has no transaction of its own.
    was_follower: bool,
    /// The database file.
    stamps: Option<Stamps>,
    /// Whether there was a log without a byte before the file was opened.
    had_empty_log: bool,
    /// Whether there was a `-shm` then, which an exclusive store does not have.
    had_index: bool,
    /// The new name of the database in whose place the replica was restored.
    set_aside: Option<PathBuf>,
}

/// What the storage says of the replica.
struct There {
    owner: Option<Seen>,
    /// The newest transaction; 0 if there is none.
    tip: u64,
    /// When it was written.
    at: SystemTime,
    /// The time by the storage's clock.
    now: SystemTime,
}

/// Looks at the replica, the spool and the file, and enters this store as the owner of the replica.
pub(crate) fn prepare(path: &Path, replica: &ReplicaOptions, settings: &Settings) -> Result<Prepared> {
    replica.validate()?;
    let storage = Storage::connect(&replica.url)?;
    let storage = if replica.unconditional {
        storage.unconditional()
    } else {
        storage
    };
    let path = file::absolute(path)?;
    refuse_own_files(&path, &storage)?;
    open_files::refuse_open(&path)?;
    // Before anything is looked at: a store of this file may be closing, and still change all of it.
    let open_spool = || Spool::open_within(&path, settings.busy_timeout).map_err(|error| cannot_spool(&path, error));
    let spool = Spool::folder_of(&path).exists().then(open_spool).transpose()?;
    if let Some(spool) = &spool {
        aside::go_on(&path, spool)?;
    }
    let file = fs::metadata(&path).ok().filter(|file| file.len() > 0);
    let had_spool = Spool::is_there(&path);
    let position = match &spool {
        Some(spool) => last_position(spool, &path).map_err(|error| cannot_spool(&path, error.into()))?,
        None => None,
    };
    let known = spool.as_ref().and_then(Spool::node);
    let known = known.or_else(|| position.map(|position| position.node));
    let node = known.unwrap_or_else(random::number);
    let fence = Fence::new(storage.clone(), node);
    let known = spool.as_ref().and_then(|spool| spool.first_from(1));
    let known = known.map_or(0, |oldest| oldest.txid);
    let there = match ask(&storage, &fence, known, !replica.unconditional) {
        Ok(there) => Ok(there),
        // The fence does not depend on opening, and the position says how to go on.
        Err(error) if error.kind() == FailureKind::Transient && had_spool && file.is_some() => {
            event!(
                warn,
                "larder::replica",
                path,
                { replica = %storage, %error },
                "the replica cannot be reached, so the store opens without it, and uploads later"
            );
            Err(error.to_string())
        }
        Err(error) => return Err(error.into()),
    };
    let tip = there.as_ref().map_or(0, |there| there.tip);
    let is_missing = file.is_none() && (tip > 0 || had_spool);
    let restores = replica.restore_if_missing || replica.on_divergence == OnDivergence::Restore;
    if is_missing && !restores {
        return Err(missing(&path, &storage, tip));
    }
    if !is_missing && !settings.create {
        must_exist(&path, &path, settings)?;
    }
    let spool = spool.map_or_else(open_spool, Ok)?;
    let was_follower = spool.follows();
    let mut prepared = Prepared {
        replica: replica.clone(),
        fence,
        storage,
        spool: Arc::new(spool),
        position,
        there,
        ownership: Ownership::ToEnter,
        lineage: 0,
        is_anothers: false,
        was_follower,
        stamps: file.as_ref().map(Stamps::of),
        had_empty_log: fs::metadata(log_of(&path)).is_ok_and(|log| log.len() == 0),
        had_index: file::beside(&path, "-shm").exists(),
        set_aside: None,
    };
    prepared.refuse_others(&path)?;
    prepared.go_on_or_restore(&path, settings, is_missing)?;
    // On the disk before the replica has it as its owner: the store that opens after a power cut is the same. And not if
    // this opening is refused: what was a follower's stays one.
    prepared
        .spool
        .keep_node(node)
        .map_err(|error| cannot_spool(&path, error.into()))?;
    for _ in 0..ENTRIES {
        if prepared.enter()? {
            return Ok(prepared);
        }
        // A late request of an earlier store, or another process: what was found may have changed.
        prepared.there = Ok(ask(&prepared.storage, &prepared.fence, known, !replica.unconditional)?);
        prepared.refuse_others(&path)?;
        prepared.go_on_or_restore(&path, settings, false)?;
    }
    Err(prepared.storage.contended().into())
}

/// Refuses a folder of the database's own files: it would be moved, copied and lost with them.
fn refuse_own_files(path: &Path, storage: &Storage) -> Result<()> {
    let spool = Spool::folder_of(path);
    let problem = if storage.is_within(path) {
        format!("{storage} is the path of the database: give the replica a folder of its own")
    } else if storage.is_within(&spool) {
        format!(
            "{storage} is in {}, where the store keeps what is not uploaded yet: give the replica a folder of its own",
            spool.display()
        )
    } else {
        return Ok(());
    };
    Err(Error::Options {
        option: "replicate_to",
        problem: format!("{problem}, on another disk"),
    })
}

impl Prepared {
    /// Restores a database whose file does not exist, and refuses one that does not go on from the replica, or restores the
    /// replica in its place.
    fn go_on_or_restore(&mut self, path: &Path, settings: &Settings, is_missing: bool) -> Result<()> {
        let restores = self.replica.on_divergence == OnDivergence::Restore && self.tip() > 0;
        match self.go_on_from_replica(path, settings, is_missing) {
            Err(Error::Diverged { problem, .. }) if restores => {
                self.refuse_unowned()?;
                self.set_aside(path, &problem)?;
                self.restore(path, settings)
            }
            other => other,
        }
    }

    fn go_on_from_replica(&mut self, path: &Path, settings: &Settings, is_missing: bool) -> Result<()> {
        self.refuse_other_history(path, is_missing)?;
        if is_missing {
            self.refuse_unowned()?;
            return self.restore(path, settings);
        }
        let is_behind = self.follow_other_program(path)?;
        self.refuse_divergence(path)?;
        // A file that was restored or followed has the newest transaction, and was never where its writer is.
        let is_copy = self.was_follower || self.position.is_some_and(|position| position.lineage == 0);
        if is_copy && !is_behind {
            self.refuse_unowned()?;
        }
        self.refuse_page_size(path)
    }

    /// Goes on behind the daemon of Litestream, if it has replicated this database since. Returns whether it has.
    fn follow_other_program(&mut self, path: &Path) -> Result<bool> {
        let known = self.position.map_or(0, |position| position.txid);
        if self.tip() <= known {
            return Ok(false);
        }
        let Some(found) = daemon::position_behind(&self.storage, known, path)? else {
            return Ok(false);
        };
        let position = Position {
            lineage: self.lineage_there(),
            node: self.fence.node(),
            ..found
        };
        // In this order: the newest sealed file would be taken for a position that was lost.
        self.spool
            .write_position(&position, true)
            .and_then(|()| self.spool.delete_after(0))
            .map_err(|error| cannot_spool(path, error.into()))?;
        event!(
            info,
            "larder::replica",
            path,
            { replica = %self.storage, txid = position.txid },
            "the replica's newest files were read from the log of this database, so the store goes on behind them"
        );
        self.position = Some(position);
        Ok(true)
    }

    /// The number of the replica; zero if no larder has ever owned it.
    fn lineage_there(&self) -> u64 {
        let owner = self.there.as_ref().ok().and_then(|there| there.owner.as_ref());
        owner.map_or(0, |seen| seen.owner.lineage)
    }

    /// Makes room for the replica's state.
    fn set_aside(&mut self, path: &Path, reason: &str) -> Result<()> {
        let to = aside::set_aside(path, &self.spool)?;
        // Without the ways out, which it is one of.
        let reason = reason.split(". ").next().unwrap_or_default();
        event!(
            warn,
            "larder::replica",
            path,
            { replica = %self.storage, reason, aside = %to.display() },
            "the database does not go on from its replica, so it was set aside, and the replica is restored"
        );
        self.position = None;
        self.is_anothers = false;
        self.set_aside = Some(to);
        Ok(())
    }

    /// Restores the database, whose file does not exist: the replica's newest state, and what the spool has beyond it.
    fn restore(&mut self, path: &Path, settings: &Settings) -> Result<()> {
        let tip = self.tip();
        if let Some(position) = &self.position
            && tip > position.txid
        {
            return Err(Error::Diverged {
                path: path.into(),
                url: self.storage.to_string(),
                problem: format!(
                    "the database file does not exist, its folder {} ends with transaction {}, and the replica with \
                     transaction {tip}, so another process has gone on with it. Move the folder away to restore what the \
                     replica has",
                    self.spool.folder().display(),
                    position.txid
                ),
            });
        }
        // A file that SQLite has never written to.
        if fs::metadata(path).is_ok_and(|file| file.len() == 0) {
            fs::remove_file(path).map_err(|error| cannot_read(path, error))?;
        }
        let report = restore(
            &self.storage,
            Target::Newest,
            &self.spool.paths(),
            Some(settings),
            path,
            &RestoreReporter::new(ReplicaRestoreProgress::NOTHING),
        )?;
        let position = Position {
            lineage: self.lineage_there(),
            node: self.fence.node(),
            ..report.position()?
        };
        self.spool
            .write_position(&position, true)
            .map_err(|error| cannot_spool(path, error.into()))?;
        self.stamps = position.file;
        self.position = Some(position);
        // The owner that is taken over has perhaps gone on since the replica was asked.
        if !self.spool_goes_on(tip)
            && let Ok(there) = &mut self.there
        {
            there.tip = there.tip.max(position.txid);
        }
        Ok(())
    }

    /// Refuses a replica that does not end where the spool says, or before that.
    fn refuse_divergence(&self, path: &Path) -> Result<()> {
        let Ok(there) = &self.there else { return Ok(()) };
        let tip = there.tip;
        let local = match &self.position {
            None if tip == 0 => return Ok(()),
            None => "the database has never been replicated to it".to_owned(),
            Some(position) if tip > position.txid => {
                format!("the database was replicated up to transaction {}", position.txid)
            }
            // Nothing of it was ever uploaded, or nothing of it is missing.
            Some(position) if tip > 0 || position.txid == 0 || self.spool_goes_on(0) => return Ok(()),
            Some(position) => format!(
                "the replica has been emptied, or its URL is not the one of before: the database was replicated up to \
                 transaction {}",
                position.txid
            ),
        };
        if self.replica.on_divergence == OnDivergence::Rebase {
            return self.refuse_unowned();
        }
        Err(Error::Diverged {
            path: path.into(),
            url: self.storage.to_string(),
            problem: format!(
                "{local}, and the replica ends with transaction {tip}. {}",
                ways_out(path, self.replica.on_divergence, tip)
            ),
        })
    }

    /// Refuses a replica whose newest transaction has the number of one of this database, and is another's: a primary that
    /// has gone on meanwhile may have fewer transactions than wait here.
    fn refuse_other_history(&mut self, path: &Path, is_missing: bool) -> Result<()> {
        let tip = self.tip();
        let Some(position) = self.position.filter(|position| tip > 0 && tip <= position.txid) else {
            return Ok(());
        };
        let (fence, spooled) = (self.fence.clone(), self.spool.body(tip));
        let timestamp = position.time_of(tip);
        let is_ours = request(&self.storage, async move { fence.is_at(tip, spooled, timestamp).await })?;
        self.is_anothers = !is_ours;
        let on_divergence = self.replica.on_divergence;
        if is_ours {
            return Ok(());
        }
        if !is_missing && on_divergence == OnDivergence::Rebase {
            return self.refuse_unowned();
        }
        let ways_out = match is_missing {
            true => format!(
                "Its file does not exist: if the replica is the one to keep, move the folder {} away, and restore it",
                self.spool.folder().display()
            ),
            false => ways_out(path, on_divergence, tip),
        };
        Err(Error::Diverged {
            path: path.into(),
            url: self.storage.to_string(),
            problem: format!(
                "its newest transaction, {tip}, was written by another process, and this database has gone on without it, \
                 up to {}. {ways_out}",
                position.txid
            ),
        })
    }

    fn tip(&self) -> u64 {
        self.there.as_ref().map_or(0, |there| there.tip)
    }

    /// Whether the spool has the transaction after that.
    fn spool_goes_on(&self, txid: u64) -> bool {
        self.spool
            .first_from(txid + 1)
            .is_some_and(|next| next.txid == txid + 1)
    }

    /// Refuses the replica of another database, and one that another owner has not closed.
    fn refuse_others(&mut self, path: &Path) -> Result<()> {
        let known = self.position.map_or(0, |position| position.lineage);
        if is_other_replica(known, self.lineage_there()) {
            return Err(Error::Diverged {
                path: path.into(),
                url: self.storage.to_string(),
                problem: other_replica(path, known, self.lineage_there()),
            });
        }
        self.refuse_owner(path)
    }

    /// Refuses a replica that another owner has not closed, unless it is to be taken over.
    fn refuse_owner(&mut self, path: &Path) -> Result<()> {
        let Ok(There {
            owner: Some(seen), at, ..
        }) = &self.there
        else {
            return Ok(());
        };
        let owner = &seen.owner;
        // If this spool's own store was killed, entering takes a claim: a copy of the volume may go on as that store, or
        // one of its requests be late.
        if !self.fence.is_rival(owner) {
            return Ok(());
        }
        if self.replica.take_over {
            self.ownership = Ownership::ToClaim;
            return Ok(());
        }
        Err(Error::ReplicaInUse {
            path: path.into(),
            url: self.storage.to_string(),
            owner: format!("{}, since {}", owner.host, date::utc(owner.since())),
            last_seen: match *at {
                UNIX_EPOCH => "it has not uploaded anything yet".to_owned(),
                at => format!("its last upload was at {}", date::utc(at)),
            },
        })
    }

    /// Refuses to restore or to replace a replica that another program may still write, unless it is to be taken over.
    fn refuse_unowned(&self) -> Result<()> {
        let Ok(There {
            owner,
            tip: tip @ 1..,
            at,
            ..
        }) = &self.there
        else {
            return Ok(());
        };
        if self.replica.take_over {
            return Ok(());
        }
        let Some(why) = unfenced(&self.storage, owner.is_some(), *tip)? else {
            return Ok(());
        };
        if self.has_written_it()? {
            return Ok(());
        }
        Err(Error::Replica {
            what: format!(
                "{why}. Its last upload was at {}. Stop that program for good, and then start once with \
                 ReplicaOptions::take_over(true)",
                date::utc(*at)
            ),
            url: self.storage.to_string(),
            retryable: false,
            source: None,
        })
    }

    /// Whether the replica has a transaction of this database, as a store has uploaded it: the newest that both may have.
    /// The number of the position alone may be that of the replica at another URL.
    fn has_written_it(&self) -> Result<bool> {
        let own = self.position.filter(|position| position.lineage != 0);
        let Some(position) = own.filter(|_| !self.was_follower) else {
            return Ok(false);
        };
        let txid = position.txid.min(self.tip());
        let (storage, fence) = (self.storage.clone(), self.fence.clone());
        let (spooled, timestamp) = (self.spool.body(txid), position.time_of(txid));
        let is_ours = request(&self.storage, async move {
            Ok(storage.has(0, Txids::one(txid)).await? && fence.is_at(txid, spooled, timestamp).await?)
        });
        Ok(is_ours?)
    }

    /// Enters this store as the owner, if that takes no claim. Returns `false` if the owner was changed meanwhile.
    fn enter(&mut self) -> Result<bool> {
        let Ok(there) = &self.there else { return Ok(true) };
        if self.ownership == Ownership::ToClaim {
            // The first upload enters it.
            self.lineage = there.owner.as_ref().map_or(0, |seen| seen.owner.lineage);
            return Ok(true);
        }
        let lineage = match self.position.as_ref().map_or(0, |position| position.lineage) {
            0 => random::number(),
            lineage => lineage,
        };
        let (fence, seen) = (self.fence.clone(), there.owner.clone());
        let entered = request(&self.storage, async move {
            fence.enter(seen.as_ref(), lineage, SystemTime::now()).await
        });
        self.ownership = match entered? {
            // The store whose files wait may live, if this is a copy of its volume.
            Entry::Entered if self.spool_goes_on(self.tip()) => Ownership::ToClaimOwn,
            Entry::Entered => Ownership::Owner,
            // A store with this spool was killed, or has a copy of it and lives. The first upload enters this one.
            Entry::NotClosed => Ownership::ToClaim,
            Entry::Changed => return Ok(false),
        };
        let lineage = there.owner.as_ref().map_or(lineage, |seen| seen.owner.lineage);
        if let Some(position) = &mut self.position {
            position.lineage = lineage;
        }
        self.lineage = lineage;
        Ok(true)
    }

    /// Begins to replicate the store whose database has just been opened.
    pub(crate) fn attach(
        mut self,
        shared: &Arc<Shared>,
        conn: &Connection,
        telemetry: &Arc<Telemetry>,
        settings: &Settings,
    ) -> Result<Arc<Replication>> {
        let path = &shared.path;
        let failed = |error: io::Error| cannot_read(path, error);
        let page_size: u32 = conn
            .query_row("PRAGMA main.page_size", [], |row| row.get(0))
            .map_err(Error::not_started)?;
        let log_path = log_of(path);
        let log = File::open(&log_path).map_err(failed)?;
        let database = shared.file.database_file().ok_or_else(|| {
            failed(io::Error::new(
                io::ErrorKind::Unsupported,
                "the system has no open-file-description locks",
            ))
        })?;
        sync_folder_of(path).map_err(failed)?;
        let committed = committed_at_open(shared, &log, settings.access).map_err(failed)?;
        // After the number of frames: if the file is as it was before, none was moved that is not counted.
        self.stamps = Some(Stamps::of(&database.metadata().map_err(failed)?));
        let (position, start, resumed) = self.go_on(&log, page_size, committed).map_err(failed)?;
        let alone = settings.access == Access::Exclusive;
        let position = Position { alone, ..position };
        let clock = Arc::new(StorageClock::new());
        if let Ok(there) = &self.there {
            clock.set(there.now);
        }
        let is_log_empty = header_of(&log).map_err(failed)?.is_none();
        let spool = (Arc::clone(&self.spool), clock);
        let opened = (position, self.fence.opening());
        let mut capture = Capture::new((log_path, log), database, spool, opened);
        if let Some((scan, commits)) = resumed {
            capture.resume(scan, commits);
        }
        if !matches!(start, Start::Goes) {
            // A process that is killed before the full file is there begins with one as well.
            capture.fall_back(position.txid).map_err(failed)?;
        }
        if alone && self.had_index {
            // Only now: the position on the disk does without it. By it the next opening would take this store for a shared
            // one; if it stays, that begins with a full file.
            let _ = fs::remove_file(file::beside(path, "-shm"));
        }
        // What may be sealed beyond it belongs to no history, and none of it belongs to another's.
        let is_foreign = self.is_anothers || self.position.is_some_and(|own| self.tip() > own.txid);
        let own = if is_foreign { 0 } else { position.txid };
        self.spool.delete_after(own).map_err(failed)?;
        // If the replica cannot be asked, the spool says what is to be uploaded.
        let uploaded = match &self.there {
            Ok(there) => there.tip,
            Err(_) => self.spool.first_from(1).map_or(position.txid, |sealed| sealed.txid - 1),
        };
        let is_captured = capture.commits() == committed.commits;
        let goes_on = matches!(start, Start::Goes) && is_captured;
        if alone && goes_on && is_log_empty && (position.file.is_none() || position.file != self.stamps) {
            // A log that begins after one that was cut to nothing has other salts: the next opening knows it by these.
            capture
                .stamp()
                .map_err(|error| cannot_spool(path, io::Error::other(error).into()))?;
        }
        if matches!(self.ownership, Ownership::ToClaim | Ownership::ToClaimOwn) && goes_on {
            touch(shared, conn, &mut capture, committed).map_err(|error| cannot_touch(path, &error))?;
        }
        let opened = ReplicaOpened {
            unconditional: self.replica.unconditional,
            snapshot_every: self.replica.times.snapshot_every,
            // Opening has taken a while, so it is at least as much.
            clock_behind: self
                .there
                .as_ref()
                .map_or(0, |there| time::millis(there.now) - time::millis(SystemTime::now())),
            set_aside: self.set_aside,
        };
        let replication = Replication::new(
            (shared, telemetry),
            settings.access,
            self.replica,
            (self.fence, self.ownership, position.txid),
            (self.storage, self.spool),
            (capture, committed, uploaded),
            start,
        );
        telemetry.replica.opened(opened);
        if let Err(reason) = self.there {
            replication.is_away(reason);
        }
        let begun = runtime::spawn(Arc::clone(&replication).seal_until_closed())
            .and_then(|()| runtime::spawn(Arc::clone(&replication).upload_until_closed()))
            .and_then(|()| runtime::spawn(Arc::clone(&replication).acknowledge_until_ended()))
            .and_then(|()| runtime::spawn(Arc::clone(&replication).compact_until_closed()));
        begun.map_err(|error| Error::no_thread(path, "its replica", error))?;
        Ok(replication)
    }

    /// Refuses a database whose pages have another size than those in the replica: a restore takes all files of one size.
    fn refuse_page_size(&self, path: &Path) -> Result<()> {
        let page_size = file_lock::page_size(path).map_err(|error| cannot_read(path, error))?;
        let there = page_size.and_then(|here| Some((here, self.page_size_there().transpose()?)));
        let Some((page_size, there)) = there else {
            return Ok(());
        };
        let there = there?;
        if there == page_size {
            return Ok(());
        }
        Err(Error::Diverged {
            path: path.into(),
            url: self.storage.to_string(),
            problem: format!(
                "its pages have {page_size} bytes, and those in the replica {there}: a replica has pages of one size. If the \
                 database is the one to keep, choose another URL, to which all of it is uploaded; or close every program that \
                 has it open, and run PRAGMA journal_mode = DELETE, PRAGMA page_size = {there} and VACUUM. If the replica is, \
                 call ReplicaOptions::on_divergence(OnDivergence::Restore), which sets the database aside"
            ),
        })
    }

    /// The size of the pages in the replica; `None` if it has none yet.
    fn page_size_there(&self) -> Result<Option<u32>> {
        let tip = self.tip();
        if tip == 0 && self.there.is_ok() {
            return Ok(None);
        }
        if let Some(position) = self.position.filter(|position| position.txid > 0 && !self.is_anothers) {
            return Ok(Some(position.page_size));
        }
        if tip == 0 {
            return Ok(None);
        }
        let storage = self.storage.clone();
        let page_size = request(&self.storage, async move {
            let newest = match storage.find(0, Txids::one(tip)).await? {
                Some(file) => Some(file),
                // It is in higher levels alone.
                None => all_files(&storage).await?.into_iter().max_by_key(|file| file.txids.max),
            };
            let Some(FileInfo { level, txids, .. }) = newest else {
                return Ok(None);
            };
            let there = storage.reader(level, txids).await?;
            let read = runtime::blocking(move || {
                let decoder = Decoder::new(there).map_err(io::Error::other)?;
                Ok(Some(decoder.header().page_size))
            });
            let read = read.await.and_then(|read| read);
            read.map_err(|error| storage.unread_object(txids, &error))
        });
        Ok(page_size?)
    }

    /// Where captures go on, and how.
    fn go_on(&self, log: &File, page_size: u32, committed: Committed) -> io::Result<(Position, Start, Resumed)> {
        let new = Position {
            lineage: self.lineage,
            node: self.fence.node(),
            txid: 0,
            timestamp: 0,
            page_size,
            pages: 0,
            base: None,
            log: None,
            emptied: false,
            alone: false,
            file: None,
        };
        let tip = self.tip();
        let Some(position) = self.position else {
            let newest = self.spool.newest().map_or(0, |sealed| sealed.txid);
            let txid = tip.max(newest);
            let start = match txid {
                0 => Start::New,
                _ => Start::Rebase("where the database was captured last is not known".into()),
            };
            return Ok((Position { txid, ..new }, start, None));
        };
        let rebase = |txid, reason: String| {
            let position = Position {
                txid,
                page_size,
                log: None,
                emptied: false,
                file: None,
                ..position
            };
            // A process that was killed before its first file has left a position, and nothing that a replica had.
            let start = match txid {
                0 => Start::New,
                _ => Start::Rebase(reason),
            };
            Ok((position, start, None))
        };
        if tip > position.txid {
            return rebase(tip, "the replica was newer than the database".into());
        }
        if self.is_anothers {
            return rebase(tip, "another process has gone on with the replica".into());
        }
        // If the replica cannot be asked, it has what came before the spool.
        let oldest = || self.spool.first_from(1).map_or(position.txid, |oldest| oldest.txid - 1);
        let there = self.there.as_ref().map_or_else(|_| oldest(), |there| there.tip);
        if there < position.txid && !self.spool.has_all(there + 1..=position.txid) {
            let missing = "transactions that are not in the replica are not in the spool, either";
            let newest = self.spool.newest().map_or(there, |newest| newest.txid);
            return rebase(if self.there.is_ok() { tip } else { newest }, missing.into());
        }
        // The replica has none of the size before.
        if position.page_size != page_size {
            return rebase(position.txid, "the size of the pages has changed".into());
        }
        let resumed = self.find_in_log(&position, log, committed)?;
        match (resumed, position.log) {
            (Some(resumed), _) => Ok((position, Start::Goes, Some(resumed))),
            (None, None) if !position.emptied => rebase(
                position.txid,
                "the last store ended before it had captured the whole database".into(),
            ),
            (None, _) => rebase(
                position.txid,
                "the database was changed while no store replicated it".into(),
            ),
        }
    }

    /// The place in the log that is the position, and the number of commits up to it. `None` if the log does not go on
    /// from the position.
    fn find_in_log(
        &self,
        position: &Position,
        log: &File,
        committed: Committed,
    ) -> io::Result<Option<(Option<WalScan>, u32)>> {
        let header = header_of(log)?;
        let was_alone = position.alone && !self.had_index;
        let scan = match (&position.log, header) {
            (Some(at), Some(header)) if header.salts == at.salts => {
                let mut scan = WalScan::new(header, header.start());
                let is_there = scan.read_to(&mut &*log, at.frames).is_ok() && scan.position() == at.place();
                if !is_there {
                    return Ok(None);
                }
                scan.clear();
                Some(scan)
            }
            (Some(at), Some(header))
                if position.emptied
                    && at.is_followed_by(&header)
                    && (was_alone || at.was_the_end(log, &header, committed.frames)?) =>
            {
                None
            }
            (_, None) if position.emptied && was_alone && self.had_empty_log => None,
            // Whatever is in the log was committed after closing, or after the restore.
            _ if position.emptied && position.file.is_some() && self.stamps == position.file => None,
            _ => return Ok(None),
        };
        // The commits behind the position, which were made before this opening.
        let mut rest = match (&scan, header) {
            (Some(scan), _) => WalScan::new(*scan.header(), scan.position()),
            (None, Some(header)) => WalScan::new(header, header.start()),
            (None, None) if committed.frames == 0 => return Ok(Some((None, committed.commits))),
            (None, None) => return Ok(None),
        };
        if rest.position().frames > committed.frames || rest.read_to(&mut &*log, committed.frames).is_err() {
            return Ok(None);
        }
        Ok(Some((scan, committed.commits.wrapping_sub(rest.commits()))))
    }
}

/// The position; or the end of the newest sealed file, if there is no position of it: a power cut may have taken it, or a kill
/// come before it.
fn last_position(spool: &Spool, path: &Path) -> io::Result<Option<Position>> {
    let position = spool.position()?;
    let is_newer = |newest: &Sealed| position.is_none_or(|position| position.txid < newest.txid);
    let Some(newest) = spool.newest().filter(is_newer) else {
        return Ok(position);
    };
    let Ok(decoder) = Decoder::new(File::open(spool.path(newest.txid))?) else {
        return Ok(position);
    };
    let file = decoder.header();
    if let Some(position) = position.filter(|position| position.txid + 1 == newest.txid)
        && (file.wal_salts, file.wal_size) == ([0, 0], 0)
    {
        // It was read while the log was empty: page 1 once more, after which all is as before, or a full file, before
        // which the database file had these stamps.
        return Ok(Some(Position {
            txid: newest.txid,
            timestamp: file.timestamp,
            pages: file.commit,
            base: position.next_base(),
            emptied: position.emptied || position.file.is_some(),
            ..position
        }));
    }
    Ok(Some(Position {
        // Zero if it is not known. The replica says it.
        lineage: position.map_or(0, |position| position.lineage),
        node: position.map_or(0, |position| position.node),
        txid: newest.txid,
        timestamp: file.timestamp,
        page_size: file.page_size,
        pages: file.commit,
        base: position.as_ref().and_then(Position::next_base),
        log: end_in_log(file, &log_of(path))?,
        emptied: false,
        alone: false,
        file: None,
    }))
}

/// Where a sealed file ends in the log, if the log has not begun again since.
fn end_in_log(file: &Header, log: &Path) -> io::Result<Option<LogPosition>> {
    let log = match File::open(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        log => log?,
    };
    let Some(header) = header_of(&log)?.filter(|header| header.salts == file.wal_salts) else {
        return Ok(None);
    };
    let bytes = (file.wal_offset + file.wal_size).saturating_sub(header.offset(0));
    let frames = u32::try_from(bytes / (header.offset(1) - header.offset(0))).unwrap_or(u32::MAX);
    let mut scan = WalScan::new(header, header.start());
    let is_there = scan.read_to(&mut &log, frames).is_ok();
    Ok(is_there.then(|| LogPosition::of(&header, scan.position())))
}

/// A place in the log, and the number of commits up to it.
type Resumed = Option<(Option<WalScan>, u32)>;

/// What is committed to the log that SQLite has just opened.
fn committed_at_open(shared: &Shared, log: &File, access: Access) -> io::Result<Committed> {
    if access == Access::Shared
        && let Some(index) = shared.file.wal_index()
    {
        return Ok(Committed::of(index));
    }
    // The first connection has recovered the log, which ends with its last valid commit.
    let frames = match header_of(log)? {
        None => 0,
        Some(header) => {
            let mut scan = WalScan::new(header, header.start());
            scan.read_to_last_commit(&mut &*log)?;
            scan.position().frames
        }
    };
    Ok(Committed {
        frames,
        commits: 0,
        salts: None,
    })
}

pub(super) fn header_of(log: &File) -> io::Result<Option<WalHeader>> {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; HEADER_SIZE];
    match log.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        // A log that SQLite does not take for one is empty to it.
        other => other.map(|()| WalHeader::parse(&bytes).ok()),
    }
}

/// Asks the storage for the owner first: what is written after that changes its version. `known` is a transaction that
/// the replica may have.
fn ask(storage: &Storage, fence: &Fence, known: u64, probe: bool) -> std::result::Result<There, StorageError> {
    let (asked, fence) = (storage.clone(), fence.clone());
    request(storage, async move {
        let now = if probe {
            asked.probe().await?
        } else {
            asked.time().await?
        };
        let owner = fence.owner().await?;
        let files = all_files(&asked).await?;
        let newest = files.iter().max_by_key(|file| file.txids.max);
        Ok(There {
            owner,
            tip: storage::newest(&asked, &files, known).await?,
            at: newest.map_or(UNIX_EPOCH, |file| file.modified),
            now,
        })
    })
}

/// Seals the file of a claim, while no other process commits: page 1 is that of the position. If one is committing, or
/// has, the task that seals sees to it.
fn touch(
    shared: &Shared,
    conn: &Connection,
    capture: &mut Capture,
    committed: Committed,
) -> std::result::Result<(), CaptureError> {
    if committed.salts.is_none() {
        // There are no others.
        return capture.touch().map(drop);
    }
    if conn.execute_batch("BEGIN IMMEDIATE").is_err() {
        return Ok(());
    }
    let now = shared.file.wal_index();
    let is_same = now.is_some_and(|index| index.changes == committed.commits);
    let touched = if is_same { capture.touch().map(drop) } else { Ok(()) };
    // Nothing was written, and the writer rolls back what is left.
    let _ = conn.execute_batch("ROLLBACK");
    touched
}

fn cannot_touch(path: &Path, error: &CaptureError) -> Error {
    Error::Open {
        path: path.into(),
        problem: format!("its replica cannot be taken over: {error}"),
        source: None,
    }
}

fn missing(path: &Path, storage: &Storage, tip: u64) -> Error {
    let replica = match tip {
        1.. => format!("the replica ends with transaction {tip}"),
        0 => format!("its folder {} has transactions of it", Spool::folder_of(path).display()),
    };
    Error::Diverged {
        path: path.into(),
        url: storage.to_string(),
        problem: format!(
            "the database file does not exist, and {replica}. If this is a new machine, restore the database first \
             (Store::restore_from), or call ReplicaOptions::restore_if_missing(true). If a volume is not mounted, mount it. If \
             the database is to begin empty, choose another URL"
        ),
    }
}

/// What can be done where a database and its replica, which ends with that transaction, do not go on from one another.
pub(super) fn ways_out(path: &Path, on_divergence: OnDivergence, tip: u64) -> String {
    if tip == 0 {
        return "The replica has nothing to restore. If the database is the one to keep, call \
                ReplicaOptions::on_divergence(OnDivergence::Rebase), or choose another URL"
            .to_owned();
    }
    let replica = match on_divergence {
        OnDivergence::Restore => {
            "If the replica is the one to keep, open the database again: OnDivergence::Restore, which is set, sets it aside \
             then, and restores the replica"
                .to_owned()
        }
        OnDivergence::Refuse | OnDivergence::Rebase => format!(
            "If the replica is the one to keep, move {} away with all files whose names begin with its own, and restore it, \
             or call ReplicaOptions::on_divergence(OnDivergence::Restore), which does both",
            path.display()
        ),
    };
    format!("{replica}. If the database is, call on_divergence(OnDivergence::Rebase), or choose another URL")
}

/// Why no fence keeps the last process that wrote to a replica from going on, if that is so: a program that is not larder
/// wrote its newest transaction.
pub(super) fn unfenced(storage: &Storage, has_owner: bool, tip: u64) -> Result<Option<String>> {
    let why = if has_owner {
        // Whose the number of the node is does not matter to what is asked.
        let fence = Fence::new(storage.clone(), 0);
        let maker = request(storage, async move { fence.maker(tip).await })?;
        if maker != Some(0) {
            return Ok(None);
        }
        "its newest transaction was written by a program that is not larder, after its owner,"
    } else {
        "it has no owner, so a program that is not larder may write to it,"
    };
    Ok(Some(format!(
        "{why} such as the daemon of Litestream, and nothing would keep it from going on: there would be two primaries"
    )))
}

/// Whether a replica with that number is another database's. Zero: not known.
pub(super) fn is_other_replica(known: u64, there: u64) -> bool {
    known != 0 && there != 0 && known != there
}

/// That it is one, and what can be done.
pub(super) fn other_replica(path: &Path, known: u64, there: u64) -> String {
    format!(
        "the database was replicated to the replica with the number {known:016x}, and this is the one of another database, \
         or a branch, with the number {there:016x}, which does not take its place, nor it the replica's. Check the URL. To \
         have what this replica has, choose another path, or move {} away with all files whose names begin with its own, \
         and restore it; to replicate this database, choose another URL",
        path.display()
    )
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

pub(super) fn cannot_spool(path: &Path, error: SpoolError) -> Error {
    let folder = Spool::folder_of(path);
    let (problem, source) = match error {
        SpoolError::InUse => (
            format!(
                "its folder {} is locked by another store that replicates this database, or by a follower: only one may",
                folder.display()
            ),
            None,
        ),
        SpoolError::Io(error) => (
            format!(
                "its folder {}, which keeps what is not uploaded yet, cannot be used: {error}{}",
                folder.display(),
                way_out_for_spool(&error)
            ),
            Some(Box::new(error) as _),
        ),
    };
    Error::Open {
        path: path.into(),
        problem,
        source,
    }
}

fn way_out_for_spool(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ". Give the user of this process the right to write there",
        io::ErrorKind::ReadOnlyFilesystem => ". Mount its file system so that it can be written",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ". Make room on its disk",
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => ". Move the file of that name away",
        _ => "",
    }
}

pub(super) fn cannot_read(path: &Path, error: io::Error) -> Error {
    Error::Open {
        path: path.into(),
        problem: format!("it cannot be read for its replica: {error}"),
        source: Some(Box::new(error)),
    }
}
