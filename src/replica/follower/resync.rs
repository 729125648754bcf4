//! Brings the database to the newest state of the replica where files do not lead on from it: the state is restored to a
//! file without a name, and the pages that differ are applied as one transaction.
//!
//! It is done for two reasons. A gap may be bridged by a snapshot alone: then any page may differ. Or the database cannot
//! be shown to be as the follower left it. Then a page may differ only if the files since the follower's position have
//! it; any other was changed by another program, and the follower stops instead of replacing it.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::Connection;

use super::Following;
use super::apply::{Size, Written};
use super::local::CHANGED_BEHIND;
use super::trouble::Trouble;
use crate::backup::Build;
use crate::connection::raw_pages;
use crate::error::Error;
use crate::replica::ltx::lock_page;
use crate::replica::restore::apply::ApplyError;
use crate::replica::restore::fetch::Fetch;
use crate::replica::restore::plan::{Target, plan_after};
use crate::replica::restore::progress::silent;
use crate::replica::restore::rebuild::{Rebuilt, rebuild};
use crate::replica::restore::{apply::decoder, plan::Txid};
use crate::replica::runtime;
use crate::replica::storage::{all_files, request};
use crate::runtime::sync::Arc;
use crate::telemetry::event::event;

/// The files change while they are listed and read: so often it is begun again.
const ATTEMPTS: u32 = 4;

/// The state to which the database is brought.
struct Newest {
    build: Build,
    rebuilt: Rebuilt,
    /// The pages that may differ. `None`: any.
    may_differ: Option<BTreeSet<u32>>,
}

impl Following {
    /// `changed` says why the database may not be as the follower left it, if that is the reason.
    pub(super) async fn resync(self: &Arc<Self>, changed: Option<String>) -> Result<(), Trouble> {
        let (this, reason) = (Arc::clone(self), changed.clone());
        let newest = runtime::blocking(move || this.newest(reason.as_deref()))
            .await
            .map_err(|error| self.storage.no_thread(error))??;
        let this = Arc::clone(self);
        self.job(move |writer| {
            let (from, to) = (this.position().txid, newest.rebuilt.header.max_txid);
            let reason = changed.as_deref().unwrap_or("files that lead on to it are missing");
            let mut replaced = 0;
            // Before anybody can see what is reached.
            this.figures().resynced();
            this.transaction(writer, |conn| {
                // Any page is replaced, so none may have been changed.
                if newest.may_differ.is_none() && !this.beyond()?.is_empty() {
                    return Err(Trouble::Changed(CHANGED_BEHIND.into()));
                }
                let written = this.write_newest(conn, &newest, reason)?;
                replaced = written.pages;
                Ok(written)
            })?;
            event!(
                warn,
                "larder::follow",
                this.path,
                { replica = %this.storage, reason, from = %Txid(from), to = %Txid(to), replaced },
                "the database was compared with the newest state of the replica, and its pages that differed were replaced"
            );
            Ok(())
        })
        .await
    }

    /// Restores the newest state. `changed` says why pages may have been changed by another program. Blocks its thread.
    fn newest(&self, changed: Option<&str>) -> Result<Newest, Trouble> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        for _ in 0..ATTEMPTS {
            if changed.is_some() && !self.leads_on()? {
                break;
            }
            let build = Build::temporary(&self.storage.to_string(), folder)?;
            let rebuilt = rebuild(&self.storage, Target::Newest, &build, &silent())?;
            self.check_page_size(rebuilt.header.page_size)?;
            let to = rebuilt.header.max_txid;
            if to < self.position().txid {
                let problem = "the files that are left do not lead to where the follower is";
                return Err(Trouble::Incomplete(problem.into()));
            }
            let may_differ = match changed {
                Some(_) => self.changed_up_to(to)?,
                None => None,
            };
            if changed.is_none() || may_differ.is_some() {
                return Ok(Newest {
                    build,
                    rebuilt,
                    may_differ,
                });
            }
        }
        Err(Trouble::Doubtful(changed.unwrap_or_default().to_owned()))
    }

    /// Whether files that are no snapshots lead from the position to the newest state.
    fn leads_on(&self) -> Result<bool, Trouble> {
        let (storage, from) = (self.storage.clone(), self.position().txid);
        let files = request(&self.storage, async move { all_files(&storage).await })?;
        let tip = files.iter().map(|file| file.txids.max).max().unwrap_or(0);
        Ok(tip <= plan_after(&files, from).last().map_or(from, |file| file.txids.max))
    }

    fn check_page_size(&self, there: u32) -> Result<(), Trouble> {
        let here = self.position().page_size;
        if here == there {
            return Ok(());
        }
        Err(Trouble::Diverged(format!(
            "its pages have {here} bytes, and those of the replica have {there} now. {WAY_OUT}"
        )))
    }

    /// The pages that the transactions from the position to that one have changed. `None` if no files have exactly these.
    fn changed_up_to(&self, to: u64) -> Result<Option<BTreeSet<u32>>, Trouble> {
        let (storage, from) = (self.storage.clone(), self.position().txid);
        let mut files = request(&self.storage, async move { all_files(&storage).await })?;
        files.retain(|file| file.txids.max <= to);
        let planned = plan_after(&files, from);
        if planned.last().map_or(from, |file| file.txids.max) != to {
            return Ok(None);
        }
        let mut pages = BTreeSet::new();
        let mut fetch = Fetch::new(&self.storage, &planned);
        while let Some((file, opened)) = fetch.next() {
            let failed = |error| Trouble::of(file, error, &self.storage);
            let opened = opened.map_err(|error| failed(ApplyError::Storage(error)))?;
            let mut decoder = decoder(opened, file).map_err(failed)?;
            let mut contents = vec![0; decoder.header().page_size as usize];
            while let Some(page) = decoder.next_page(&mut contents).map_err(|error| failed(error.into()))? {
                pages.insert(page);
            }
        }
        Ok(Some(pages))
    }

    /// Writes the pages that differ.
    fn write_newest(&self, conn: &Connection, newest: &Newest, reason: &str) -> Result<Written, Trouble> {
        let header = newest.rebuilt.header;
        let mut written = Written {
            last: Some(header),
            pages: 0,
            was_cut: false,
            bytes: newest.rebuilt.bytes,
        };
        let file = newest.build.written().map_err(|error| self.unread(error))?;
        let mut size = Size::of(conn)?;
        let mut contents = vec![0; header.page_size as usize];
        raw_pages::with_pages::<_, Trouble>(conn, |pages| {
            for number in (1..=header.commit).filter(|number| *number != lock_page(header.page_size)) {
                let offset = u64::from(number - 1) * u64::from(header.page_size);
                let read = file.read_exact_at(&mut contents, offset);
                read.map_err(|error| self.unread(error))?;
                if pages.is(number, &contents)? {
                    continue;
                }
                if newest.may_differ.as_ref().is_some_and(|may| !may.contains(&number)) {
                    return Err(Trouble::Diverged(format!(
                        "{reason}: its page {number} is none that the replica has had since transaction {}. {WAY_OUT}",
                        Txid(self.position().txid)
                    )));
                }
                pages.write(number, &mut contents)?;
                size.has(number);
                written.pages += 1;
            }
            size.set(header.commit);
            written.was_cut = size.cut(pages);
            Ok(())
        })?;
        Ok(written)
    }

    fn unread(&self, error: std::io::Error) -> Trouble {
        Trouble::Local(Error::Open {
            path: self.path.clone(),
            problem: format!("what was restored beside it cannot be read: {error}"),
            source: Some(Box::new(error)),
        })
    }
}

pub(super) const WAY_OUT: &str = "Move the file away, with all files whose names begin with its own, and open the follower again, \
                       which restores it. Changes are made on the primary alone";
