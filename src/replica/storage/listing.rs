//! Which files a replica has.
//!
//! A list may be out of date, and lack what was written last. So a transaction that it does not show is missing only if
//! the storage has no file of its name, either. The names of merged files are not known: what is still missing is looked
//! for in one more list. `tests/model-check` includes this file.

use std::collections::BTreeSet;

use super::{FileInfo, Result, Storage, Txids};

/// The levels that Litestream may write, from the finest to the snapshots.
const LEVELS: std::ops::RangeInclusive<u8> = 0..=9;

/// The files of all levels, in no order.
pub(crate) async fn all_files(storage: &Storage) -> Result<Vec<FileInfo>> {
    let mut files = listed(storage).await?;
    add_unlisted(storage, &mut files).await?;
    Ok(files)
}

/// What is moved up meanwhile is found above, since a level is listed after those below it.
async fn listed(storage: &Storage) -> Result<Vec<FileInfo>> {
    let mut files = Vec::new();
    for level in LEVELS {
        files.extend(storage.list(level).await?);
    }
    Ok(files)
}

/// Adds the files between these and behind them that a list has left out.
pub(crate) async fn add_unlisted(storage: &Storage, files: &mut Vec<FileInfo>) -> Result<()> {
    add_by_name(storage, files).await?;
    if !gaps(files).is_empty() {
        let known: BTreeSet<_> = files.iter().map(|file| (file.level, file.txids)).collect();
        let listed = listed(storage).await?.into_iter();
        files.extend(listed.filter(|file| !known.contains(&(file.level, file.txids))));
        add_by_name(storage, files).await?;
    }
    Ok(())
}

async fn add_by_name(storage: &Storage, files: &mut Vec<FileInfo>) -> Result<()> {
    let newest = newest_of(files);
    add_in_turn(storage, files, (newest..u64::MAX).map(|txid| txid + 1)).await?;
    for Txids { min, max } in gaps(files) {
        if let Some(missing) = add_in_turn(storage, files, min..=max).await? {
            // Retention deletes the oldest first.
            add_in_turn(storage, files, (missing + 1..=max).rev()).await?;
        }
    }
    Ok(())
}

/// Adds the files of these transactions up to the first that is not there, and returns that one.
async fn add_in_turn(
    storage: &Storage,
    files: &mut Vec<FileInfo>,
    txids: impl Iterator<Item = u64> + Send,
) -> Result<Option<u64>> {
    for txid in txids {
        match by_name(storage, txid).await? {
            Some(file) => files.push(file),
            None => return Ok(Some(txid)),
        }
    }
    Ok(None)
}

async fn by_name(storage: &Storage, txid: u64) -> Result<Option<FileInfo>> {
    storage.find(0, Txids::one(txid)).await
}

/// The newest transaction. Besides those of these files it is the one that may be there, or those that come next.
pub(crate) async fn newest(storage: &Storage, files: &[FileInfo], known: u64) -> Result<u64> {
    let mut newest = newest_of(files);
    if known > newest && by_name(storage, known).await?.is_some() {
        newest = known;
    }
    while by_name(storage, newest + 1).await?.is_some() {
        newest += 1;
    }
    Ok(newest)
}

fn newest_of(files: &[FileInfo]) -> u64 {
    files.iter().map(|file| file.txids.max).max().unwrap_or(0)
}

/// The transactions that no file has, up to the newest that some file has.
pub(crate) fn gaps(files: &[FileInfo]) -> Vec<Txids> {
    let mut all: Vec<Txids> = files.iter().map(|file| file.txids).collect();
    all.sort_unstable();
    let (mut reached, mut gaps) = (0u64, Vec::new());
    for txids in all {
        if txids.min > reached + 1 {
            gaps.push(Txids {
                min: reached + 1,
                max: txids.min - 1,
            });
        }
        reached = reached.max(txids.max);
    }
    gaps
}
