//! What a replica has, by its lists. `tests/model-check` includes this file.

use super::{FileInfo, Result, Storage, Txids};

/// The levels that Litestream may write, from the finest to the snapshots.
const LEVELS: std::ops::RangeInclusive<u8> = 0..=9;

/// Lists the files of all levels. What is moved up meanwhile is found above, since a level is listed after those below it.
pub(crate) async fn all_files(storage: &Storage) -> Result<Vec<FileInfo>> {
    let mut files = Vec::new();
    for level in LEVELS {
        files.extend(storage.list(level).await?);
    }
    Ok(files)
}

/// The newest transaction. A list may be out of date, so the storage is also asked for files that these files do not
/// show: that of a transaction which may be there, and those that come next.
pub(crate) async fn newest(storage: &Storage, files: &[FileInfo], known: u64) -> Result<u64> {
    let mut newest = files.iter().map(|file| file.txids.max).max().unwrap_or(0);
    if known > newest && storage.has(0, Txids::one(known)).await? {
        newest = known;
    }
    while storage.has(0, Txids::one(newest + 1)).await? {
        newest += 1;
    }
    Ok(newest)
}
