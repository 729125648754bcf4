//! Retention. It lists first, then reads the claims, then deletes: a claim that was entered before a file of its number
//! could be listed is known by then. `tests/model-check` includes this file.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::{Levels, Permit, expendable};
use crate::replica::storage::{FileInfo, Result, all_files};

impl Levels {
    /// Deletes what is not needed any more: lists, then reads the claims by `claims`, then deletes. Returns the files
    /// that are gone.
    ///
    /// # Errors
    ///
    /// The storage fails. Some files may have been deleted.
    pub async fn retain(
        &mut self,
        now: SystemTime,
        claims: impl Future<Output = Result<BTreeSet<u64>>>,
        permit: &dyn Permit,
    ) -> Result<Vec<FileInfo>> {
        self.retained = now;
        let files = all_files(&self.storage).await?;
        let damaged: BTreeSet<_> = self.damaged.iter().map(|(file, _)| (file.level, file.txids)).collect();
        // Only then: another owner's files are no inputs of this one.
        let claims = claims.await?;
        self.files = files;
        let mut deleted = Vec::new();
        for file in expendable(&self.files, &claims, &self.times, now) {
            if !permit.is_given() {
                break;
            }
            self.storage.delete(file.level, file.txids).await?;
            deleted.push(file);
        }
        let gone: BTreeSet<_> = deleted.iter().map(|file| (file.level, file.txids)).collect();
        let is_left = |file: &FileInfo| {
            let key = (file.level, file.txids);
            !gone.contains(&key) && !damaged.contains(&key)
        };
        self.files.retain(is_left);
        Ok(deleted)
    }
}
