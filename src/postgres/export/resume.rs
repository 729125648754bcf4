//! An export that goes on where it was broken off: [`ExportToPostgres::resumable`].
//!
//! The tables are made in a schema of the export's own, the staging schema, each in a transaction of its own with its rows and
//! keys. Its comment says what it was made of. At the end, one transaction makes the rest, with the table of the rows that are
//! set aside, compares all tables, and moves them to their schema. So there are two kinds of states at the server: the staging
//! schema with complete tables alone, or the target with all of them.
//!
//! A table that is complete from an earlier run is kept if the store still has the same rows, by their SHA-256, and if its
//! statement is the same. All are compared at the end, whatever run has made them.
//!
//! The connection that exports holds an advisory lock of that name, so two exports never fill the same schema.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, Transaction};
use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::compare::Compared;
use super::copy::Sent;
use super::schema::{Schema, Table, shortened};
use super::session::commit;
use super::{ExportNote, ExportReport, ExportStage, ExportToPostgres, quarantine};
use crate::connection::sql_text::{quoted, string};
use crate::error::{Error, Outcome, Result};
use crate::postgres::url::Server;
use crate::runtime::hex::hex;

/// The comment of a staging schema.
const MARK: &str = "larder: an export that is not complete";

/// How long an export waits for the server to end the session of one that was killed.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// How often it looks.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// What the comment of a complete table says.
#[derive(PartialEq, Eq)]
struct Made {
    /// SHA-256 of the statement that makes it.
    create: String,
    /// SHA-256 of the rows that were sent.
    sha256: String,
}

impl Made {
    const PREFIX: &str = "larder export 2: ";

    fn to_comment(&self) -> String {
        format!("{}{} {}", Self::PREFIX, self.create, self.sha256)
    }

    fn of_comment(comment: &str) -> Option<Self> {
        let mut parts = comment.strip_prefix(Self::PREFIX)?.split(' ');
        Some(Self {
            create: parts.next()?.to_owned(),
            sha256: parts.next()?.to_owned(),
        })
    }
}

/// The staging schema of an export to a schema.
pub(super) fn staging(schema: &str) -> String {
    shortened(&format!("larder_export_{schema}"))
}

impl ExportToPostgres<'_> {
    /// Exports table by table.
    pub(super) fn write_by_table(
        &self,
        conn: &Connection,
        server: &Server,
        client: &mut Client,
        schema: &mut Schema,
        report: &mut ExportReport,
    ) -> Result<()> {
        self.lock(server, client)?;
        self.refuse_what_is_there(server, client, schema)?;
        self.refuse_names_beside(server, client, schema)?;
        let made = self.staged(server, client, schema)?;
        let (mut copied, mut sent) = (0, Vec::new());
        self.enter(ExportStage::Copy)?;
        for (table, exported) in schema.tables.iter_mut().zip(&mut report.tables) {
            let complete = match made.get(&table.target) {
                Some(known) => self.complete_rows(conn, server, table, known, &mut copied, &mut report.notes)?,
                None => None,
            };
            exported.resumed = complete.is_some();
            let of_table = match complete {
                Some(complete) => complete,
                None => self.make(conn, server, client, table, &mut copied, &mut report.notes)?,
            };
            exported.quarantined = of_table.set_aside;
            sent.push(of_table);
        }
        loop {
            let notes = report.notes.len();
            let Some((at, what)) = self.complete(conn, server, client, schema, &sent, report)? else {
                return Ok(());
            };
            let (table, exported) = (&mut schema.tables[at], &mut report.tables[at]);
            if !exported.resumed {
                return Err(self.differs(server, table, &what));
            }
            // Another program has changed it at the server since the earlier run.
            report.notes.truncate(notes);
            exported.resumed = false;
            sent[at] = self.make(conn, server, client, table, &mut copied, &mut report.notes)?;
        }
    }

    /// Takes the advisory lock of the staging schema. The server may not have noticed yet that an earlier run is gone.
    fn lock(&self, server: &Server, client: &mut Client) -> Result<()> {
        let digest = Sha256::digest(self.working_schema());
        let key = digest
            .iter()
            .take(8)
            .fold(0_i64, |key, byte| key << 8 | i64::from(*byte));
        let began = Instant::now();
        loop {
            let row = client.query_one("SELECT pg_try_advisory_lock($1)", &[&key]);
            let row = row.map_err(|error| server.error("the lock of the export", error, Outcome::NotStarted))?;
            if row.get(0) {
                return Ok(());
            }
            self.poll()?;
            if began.elapsed() > LOCK_TIMEOUT {
                return Err(Error::Postgres {
                    what: format!(
                        "another export fills the schema {}, or the server has not noticed yet that it is gone: try again \
                         later",
                        self.working_schema()
                    ),
                    server: server.to_string(),
                    outcome: Outcome::NotStarted,
                    retryable: true,
                    source: None,
                });
            }
            thread::sleep(LOCK_INTERVAL);
        }
    }

    /// Refuses a target that has one of the tables, before hours of work rather than after.
    pub(super) fn refuse_what_is_there(&self, server: &Server, client: &mut Client, schema: &Schema) -> Result<()> {
        let failed = |error| server.error("the tables of the target", error, Outcome::NotStarted);
        let mut names: Vec<String> = schema.tables.iter().map(|table| table.target.clone()).collect();
        if self.sets_any_aside(schema) {
            names.push(quarantine::NAME.to_owned());
        }
        let found = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname::text = $1 AND c.relname::text = ANY($2) ORDER BY 1 LIMIT 1";
        let found = client.query_opt(found, &[&self.schema, &names]);
        found
            .map_err(failed)?
            .map_or(Ok(()), |row| Err(self.is_taken(server, row.get(0))))
    }

    /// Refuses a target that has a name which the tables bring along: that of an index, a sequence or a type. The server
    /// chooses some of them, so this makes all tables without rows, in a schema that is rolled back.
    fn refuse_names_beside(&self, server: &Server, client: &mut Client, schema: &Schema) -> Result<()> {
        let trial = format!("larder_trial_{:016x}", crate::runtime::random::number());
        let what = "the trial of the names, in a schema of its own";
        let failed = |error| server.error(what, error, Outcome::RolledBack);
        let mut tx = client.transaction().map_err(failed)?;
        self.execute(server, &mut tx, what, &format!("CREATE SCHEMA {}", quoted(&trial)))?;
        for table in &schema.tables {
            let is_taken = "SELECT to_regclass($1) IS NOT NULL";
            let is_taken = tx.query_one(is_taken, &[&table.qualified(&trial)]).map_err(failed)?;
            if is_taken.get(0) {
                return Err(server.failed(&format!(
                    "table {} has the name that the server gives to a key or a sequence of a table before it: rename the \
                     table, or export without resumable",
                    table.name
                )));
            }
            self.create_in(server, &mut tx, table, &trial)?;
            // In the order of the export: the server chooses a name that is free then.
            for statement in table.keys(&trial) {
                // The export says what the server refuses.
                let _ = self.in_savepoint(server, &mut tx, what, &statement)?;
            }
        }
        if self.sets_any_aside(schema) {
            self.execute(server, &mut tx, what, &quarantine::create(&trial))?;
        }
        for table in &schema.tables {
            let indexes = self.indexes(table, &trial).into_iter().filter_map(|(_, sql)| sql);
            for statement in indexes {
                let _ = self.in_savepoint(server, &mut tx, what, &statement)?;
            }
        }
        // An index and a type may have the same name.
        let found = "SELECT name FROM (SELECT 'relation', relnamespace, relname::text FROM pg_class
                 UNION ALL SELECT 'type', typnamespace, typname::text FROM pg_type) named(kind, schema, name)
             JOIN pg_namespace n ON n.oid = named.schema WHERE n.nspname::text IN ($1, $2)
             GROUP BY kind, name HAVING count(DISTINCT n.oid) = 2 ORDER BY name LIKE '\\_%', name LIMIT 1";
        let found = tx.query_opt(found, &[&trial, &self.schema]).map_err(failed)?;
        tx.rollback().map_err(failed)?;
        found.map_or(Ok(()), |row| Err(self.is_taken(server, row.get(0))))
    }

    /// The error of a name that the target has.
    fn is_taken(&self, server: &Server, name: &str) -> Error {
        let earlier = match self.resumes {
            true => {
                "if an earlier run ended with an unknown outcome, these are its tables, complete and compared; otherwise "
            }
            false => "",
        };
        server.failed(&format!(
            "the schema {} has {name} already: {earlier}export to another schema, or drop what is there",
            self.schema
        ))
    }

    /// Makes the staging schema, or reads which tables it has. Those that are no longer in the store are dropped.
    fn staged(&self, server: &Server, client: &mut Client, schema: &Schema) -> Result<BTreeMap<String, Made>> {
        let staging = self.working_schema();
        let failed = |error| server.error(&format!("the schema {staging}"), error, Outcome::RolledBack);
        let mut tx = client.transaction().map_err(failed)?;
        let mark = "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname::text = $1";
        match tx.query_opt(mark, &[&staging]).map_err(failed)? {
            None => {
                let create = format!(
                    "CREATE SCHEMA {0}; COMMENT ON SCHEMA {0} IS {1}",
                    quoted(staging),
                    string(MARK)
                );
                self.execute(server, &mut tx, &format!("the schema {staging}"), &create)?;
            }
            Some(row) if row.get::<_, Option<&str>>(0) == Some(MARK) => {}
            Some(_) => {
                return Err(server.failed(&format!(
                    "the schema {staging}, in which the tables are made, is there and no export has made it: rename it"
                )));
            }
        }
        let tables = "SELECT c.relname::text, coalesce(obj_description(c.oid, 'pg_class'), '') FROM pg_class c
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname::text = $1 AND c.relkind = 'r'";
        let mut made = BTreeMap::new();
        let wanted: BTreeSet<&str> = schema.tables.iter().map(|table| table.target.as_str()).collect();
        for row in tx.query(tables, &[&staging]).map_err(failed)? {
            let name: String = row.get(0);
            if !wanted.contains(name.as_str()) {
                let drop = format!("DROP TABLE {}.{}", quoted(staging), quoted(&name));
                self.execute(server, &mut tx, &format!("table {name}"), &drop)?;
            } else if let Some(found) = Made::of_comment(row.get(1)) {
                made.insert(name, found);
            }
        }
        tx.commit().map_err(failed)?;
        Ok(made)
    }

    /// The rows of a table of an earlier run, if it is what this one would make.
    fn complete_rows(
        &self,
        conn: &Connection,
        server: &Server,
        table: &mut Table,
        made: &Made,
        copied: &mut u64,
        notes: &mut Vec<ExportNote>,
    ) -> Result<Option<Sent>> {
        if made.create != self.statement_hash(table, true) {
            if made.create != self.statement_hash(table, false) {
                return Ok(None);
            }
            // The server has refused its generated columns.
            table.ungenerate("", notes);
        }
        let now = self.hash(conn, server, table, copied)?;
        Ok((made.sha256 == now.stream.sha256).then_some(now))
    }

    /// SHA-256 of what makes a table and its keys.
    fn statement_hash(&self, table: &Table, generates: bool) -> String {
        let create = table.create_as(self.working_schema(), generates);
        let keys = table.keys(self.working_schema()).join(";");
        hex(&Sha256::digest(format!("{create};{keys}")))
    }

    /// Makes a table with its rows and keys, in the place of what an earlier run has left.
    fn make(
        &self,
        conn: &Connection,
        server: &Server,
        client: &mut Client,
        table: &mut Table,
        copied: &mut u64,
        notes: &mut Vec<ExportNote>,
    ) -> Result<Sent> {
        let what = format!("table {}", table.name);
        let failed = |error| server.error(&what, error, Outcome::RolledBack);
        let qualified = table.qualified(self.working_schema());
        let mut tx = client.transaction().map_err(failed)?;
        let drop = format!("DROP TABLE IF EXISTS {qualified}");
        self.execute(server, &mut tx, &what, &drop)?;
        self.create(server, &mut tx, table, self.working_schema(), notes)?;
        let sent = self.copy(conn, server, &mut tx, table, copied)?;
        self.keys(server, &mut tx, table)?;
        // Without the comment, the next run makes it again.
        if sent.is_stored() {
            let made = Made {
                create: self.statement_hash(table, true),
                sha256: sent.stream.sha256.clone(),
            };
            let comment = format!("COMMENT ON TABLE {qualified} IS {}", string(&made.to_comment()));
            tx.batch_execute(&comment).map_err(failed)?;
        }
        // Only the staging schema may have it or not.
        tx.commit().map_err(failed)?;
        Ok(sent)
    }

    /// Makes the rest, compares all tables, and moves them to their schema. All is rolled back if one differs: returns its
    /// position, and what differs.
    fn complete(
        &self,
        conn: &Connection,
        server: &Server,
        client: &mut Client,
        schema: &Schema,
        sent: &[Sent],
        report: &mut ExportReport,
    ) -> Result<Option<(usize, String)>> {
        let mut tx = client
            .transaction()
            .map_err(|error| server.error("BEGIN", error, Outcome::RolledBack))?;
        self.lock_tables(server, &mut tx, schema)?;
        self.make_quarantine(server, &mut tx, schema)?;
        self.set_aside(conn, server, &mut tx, schema)?;
        self.enter(ExportStage::Index)?;
        self.finish(conn, server, &mut tx, schema, &mut report.notes)?;
        let mut compared = 0;
        self.enter(ExportStage::Compare)?;
        self.compare_aside(conn, server, &mut tx, schema, &mut compared)?;
        for (at, (table, sent)) in schema.tables.iter().zip(sent).enumerate() {
            match self.compare(conn, server, &mut tx, table, sent, &mut compared)? {
                Compared::Same(sha256) => report.tables[at].sha256 = Some(sha256),
                Compared::Differs(what) => return Ok(Some((at, what))),
            }
        }
        self.move_tables(server, &mut tx, schema)?;
        commit(server, tx)?;
        Ok(None)
    }

    /// Keeps others from writing to the tables until the end.
    fn lock_tables(&self, server: &Server, tx: &mut Transaction<'_>, schema: &Schema) -> Result<()> {
        for table in &schema.tables {
            let lock = format!(
                "LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE",
                table.qualified(self.working_schema())
            );
            self.execute(server, tx, &format!("table {}", table.name), &lock)?;
        }
        Ok(())
    }

    fn move_tables(&self, server: &Server, tx: &mut Transaction<'_>, schema: &Schema) -> Result<()> {
        let (staging, target) = (quoted(self.working_schema()), quoted(&self.schema));
        let mut statements = Vec::new();
        if self.schema != "public" {
            statements.push(format!("CREATE SCHEMA IF NOT EXISTS {target}"));
        }
        for table in &schema.tables {
            let qualified = table.qualified(self.working_schema());
            statements.push(format!("COMMENT ON TABLE {qualified} IS NULL"));
            statements.push(format!("ALTER TABLE {qualified} SET SCHEMA {target}"));
        }
        if self.sets_any_aside(schema) {
            statements.push(format!(
                "ALTER TABLE {staging}.{} SET SCHEMA {target}",
                quarantine::NAME
            ));
        }
        statements.push(format!("DROP SCHEMA {staging}"));
        for statement in statements {
            let what = format!("moving the tables to the schema {}", self.schema);
            self.execute(server, tx, &what, &statement)?;
        }
        Ok(())
    }
}
