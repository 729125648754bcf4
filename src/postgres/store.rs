//! The calls of [`Store`].

use super::export::ExportToPostgres;
use crate::Store;

/// # PostgreSQL
impl Store {
    /// Exports the tables of one snapshot to an empty PostgreSQL database or schema, and compares both sides before it
    /// commits. The URL is as libpq takes it, or `key=value` pairs; the password is best left to `PGPASSWORD` or
    /// `~/.pgpass`. Nothing happens before [`ExportToPostgres::run`] or [`dry_run`](ExportToPostgres::dry_run).
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, age INTEGER)"))?;
    /// # store.write(|tx| tx.execute("INSERT INTO users(age) VALUES ('forty')", []))?;
    /// let plan = store.export_to_postgres("postgres://app@db.example/app").dry_run()?;
    /// println!("{plan}");
    /// assert_eq!(plan.misfits[0].to_string(), "users.age: 1 values do not fit bigint: text, first in row 1");
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn export_to_postgres(&self, url: &str) -> ExportToPostgres<'_> {
        ExportToPostgres::new(self.engine(), url)
    }
}
