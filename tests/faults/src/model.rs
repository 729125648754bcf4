//! The contents of the tables after a number of commits, expected or found.

use std::collections::BTreeMap;

use larder::rusqlite::Connection;

use crate::job::{ACCOUNTS, Job, data};

/// The contents of all tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    entries: BTreeMap<i64, (i64, i64)>,
    /// The job that wrote each part, and the number of its bytes.
    parts: BTreeMap<(i64, i64), (i64, usize)>,
    accounts: BTreeMap<i64, i64>,
}

impl Model {
    pub fn new() -> Self {
        Self {
            accounts: (0..ACCOUNTS).map(|id| (id, 0)).collect(),
            ..Self::default()
        }
    }

    /// The contents after these commits, the first of which has the number 1.
    pub fn after<'a>(jobs: impl IntoIterator<Item = &'a Job>) -> Self {
        let mut model = Self::new();
        jobs.into_iter().for_each(|job| model.commit(job));
        model
    }

    pub fn commits(&self) -> usize {
        self.entries.len()
    }

    fn commit(&mut self, job: &Job) {
        let n = self.entries.len() as i64 + 1;
        self.entries.insert(n, (job.id, job.parts.len() as i64));
        for (i, length) in job.parts.iter().enumerate() {
            self.parts.insert((n, i as i64), (job.id, *length));
        }
        if let Some(entry) = job.rewrite {
            for (_, part) in self.parts.range_mut((entry, 0)..(entry + 1, 0)) {
                part.0 = job.id;
            }
        }
        if let Some(cleared) = job.clear {
            self.parts.retain(|(entry, _), _| *entry != cleared);
        }
        let (from, to, amount) = job.transfer;
        *self.accounts.entry(from).or_default() -= amount;
        *self.accounts.entry(to).or_default() += amount;
    }

    /// Reads the tables.
    ///
    /// # Errors
    ///
    /// SQLite's error, or the place of the wrong bytes.
    pub fn read(conn: &Connection) -> Result<Self, String> {
        let mut model = Self::default();
        model.read_rows(conn).map_err(|error| format!("reading: {error}"))?;
        model.read_parts(conn).map_err(|error| format!("reading: {error}"))??;
        Ok(model)
    }

    fn read_rows(&mut self, conn: &Connection) -> larder::rusqlite::Result<()> {
        let mut entries = conn.prepare("SELECT n, job, parts FROM entry")?;
        let mut rows = entries.query([])?;
        while let Some(row) = rows.next()? {
            self.entries.insert(row.get(0)?, (row.get(1)?, row.get(2)?));
        }
        let mut accounts = conn.prepare("SELECT id, amount FROM account")?;
        let mut rows = accounts.query([])?;
        while let Some(row) = rows.next()? {
            self.accounts.insert(row.get(0)?, row.get(1)?);
        }
        Ok(())
    }

    fn read_parts(&mut self, conn: &Connection) -> larder::rusqlite::Result<Result<(), String>> {
        let mut parts = conn.prepare("SELECT entry, i, job, data FROM part")?;
        let mut rows = parts.query([])?;
        while let Some(row) = rows.next()? {
            let (entry, i, job): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let bytes = row.get_ref(3)?.as_blob()?;
            if bytes != data(job, i, bytes.len()) {
                return Ok(Err(format!("part {i} of commit {entry} is not what job {job} wrote")));
            }
            self.parts.insert((entry, i), (job, bytes.len()));
        }
        Ok(Ok(()))
    }

    /// The first difference to `found`.
    pub fn difference(&self, found: &Self) -> Option<String> {
        fn first<K: Ord + Copy + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
            what: &str,
            wanted: &BTreeMap<K, V>,
            found: &BTreeMap<K, V>,
        ) -> Option<String> {
            let key = wanted
                .keys()
                .chain(found.keys())
                .find(|k| wanted.get(k) != found.get(k))?;
            let (wanted, found) = (wanted.get(key), found.get(key));
            Some(format!("{what} {key:?}: wanted {wanted:?}, found {found:?}"))
        }
        first("entry", &self.entries, &found.entries)
            .or_else(|| first("part", &self.parts, &found.parts))
            .or_else(|| first("account", &self.accounts, &found.accounts))
    }
}
