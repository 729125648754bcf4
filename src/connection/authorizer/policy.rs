//! What SQL in a closure may do.

use std::sync::atomic::Ordering::Relaxed;

use rusqlite::ffi;

use super::{Privilege, SqlGuard};
use crate::connection::c_api::{self, Action, Authorizer, Permission};
use crate::options::Role;

/// PRAGMAs that only read, with or without an argument.
const READS: &[&str] = &[
    "collation_list",
    "compile_options",
    "data_version",
    "database_list",
    "foreign_key_check",
    "foreign_key_list",
    "freelist_count",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "module_list",
    "page_count",
    "pragma_list",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// PRAGMAs that only read when they have no value.
const READS_WITHOUT_VALUE: &[&str] = &[
    "application_id",
    "auto_vacuum",
    "busy_timeout",
    "cache_size",
    "encoding",
    "foreign_keys",
    "journal_mode",
    "journal_size_limit",
    "max_page_count",
    "mmap_size",
    "page_size",
    "query_only",
    "recursive_triggers",
    "schema_version",
    "synchronous",
    "temp_store",
    "trusted_schema",
    "user_version",
    "wal_autocheckpoint",
];

/// Two numbers in the file header. They are application data, and a rollback undoes them.
pub(in crate::connection) const HEADER_VALUES: &[&str] = &["application_id", "user_version"];

const KEEP_INSTEAD: &str = "all closures on this connection share the object: delete its rows, or create a temporary object \
                            with another name";

const RETURN_ERR: &str = "larder controls the transaction: return Ok to commit or Err to roll back, and nest with \
                          tx.savepoint(|tx| ..)";
const ATTACH_INSTEAD: &str = "open another Store for the other file";
pub(super) const WRITE_INSTEAD: &str = "a read cannot write: use store.write(|tx| ..)";

/// PRAGMAs of the table rebuild that SQLite's manual describes. Migrations written for other tools use them often.
/// Inside a transaction the first two have no lasting effect: "this pragma is a no-op within a transaction",
/// <https://sqlite.org/pragma.html#pragma_foreign_keys>. The writer restores the first and the last after a migration;
/// the second ends with the transaction.
const OF_MIGRATIONS: &[&str] = &["foreign_keys", "defer_foreign_keys", "legacy_alter_table"];

/// PRAGMAs that are a reason to run a migration outside a transaction.
const OUTSIDE_A_TRANSACTION: &[&str] = &["auto_vacuum", "incremental_vacuum", "optimize"];

const RETURN_NOTHING: &str = "larder runs each migration in a transaction of its own: remove this statement, or mark the \
                              migration to run outside a transaction";

impl SqlGuard {
    fn authorize_savepoint(&self, operation: &str, action: &Action<'_>) -> Permission {
        let name = action.second.as_deref().unwrap_or_default();
        let with_sessions = self.role == Role::Writer && c_api::has_sessions();
        if !self.is_outside_transaction()
            && self
                .savepoints
                .allows(operation, name, with_sessions, || action.progress())
        {
            return Permission::Allow;
        }
        self.authorize_transaction(savepoint_verb(operation))
    }

    fn authorize_transaction(&self, verb: &str) -> Permission {
        if self.is_outside_transaction() {
            Permission::Allow
        } else if self.has_privilege(Privilege::Migration) {
            self.refuse(verb, RETURN_NOTHING)
        } else {
            self.refuse(verb, RETURN_ERR)
        }
    }

    fn authorize_pragma(&self, name: &str, value: Option<&str>, of_temporary: bool) -> Permission {
        let name = name.to_ascii_lowercase();
        if of_temporary && value.is_some() && HEADER_VALUES.contains(&name.as_str()) {
            return self.refuse(
                format!("PRAGMA temp.{name}"),
                "its effect would outlast the transaction: set the PRAGMA of `main`",
            );
        }
        let allowed = READS.contains(&name.as_str())
            || (value.is_none() && READS_WITHOUT_VALUE.contains(&name.as_str()))
            || (self.role == Role::Writer && HEADER_VALUES.contains(&name.as_str()))
            || (name == "defer_foreign_keys" && self.savepoints.applies_changeset())
            || self.migration_may(&name, value);
        if allowed {
            return Permission::Allow;
        }
        let instead = match name.as_str() {
            name if HEADER_VALUES.contains(&name) => WRITE_INSTEAD,
            "wal_checkpoint" | "optimize" => "larder runs it, between writes and when the store closes",
            "defer_foreign_keys" => {
                "declare the constraint DEFERRABLE INITIALLY DEFERRED; it is then checked when the closure returns"
            }
            _ => {
                "its effect would outlast the transaction: set it in Options, or for every connection in Options::on_connect"
            }
        };
        self.refuse(format!("PRAGMA {name}"), instead)
    }

    fn migration_may(&self, pragma: &str, value: Option<&str>) -> bool {
        if self.has_privilege(Privilege::Closure) {
            return false;
        }
        OF_MIGRATIONS.contains(&pragma)
            || (self.has_privilege(Privilege::NoTransaction) && OUTSIDE_A_TRANSACTION.contains(&pragma))
            // The file is in WAL mode already, so this is a no-op.
            || (pragma == "journal_mode" && value.is_some_and(|mode| mode.eq_ignore_ascii_case("wal")))
    }

    /// A write may use temporary objects; they are dropped after it.
    fn authorize_temporary(&self) -> Permission {
        match self.role {
            Role::Writer => {
                self.may_make_temporary.store(true, Relaxed);
                Permission::Allow
            }
            Role::Reader | Role::Copy => self.refuse(
                "CREATE TEMP",
                "a reading connection is shared and read-only: use a common table expression, or a write",
            ),
        }
    }
}

impl Authorizer for SqlGuard {
    fn authorize(&self, action: &Action<'_>) -> Permission {
        self.known_columns.compiles();
        if changes_schema(action.code) {
            self.schema_change.store(true, Relaxed);
            self.schema_change_is_open.store(true, Relaxed);
            self.stale.store(true, Relaxed);
            if changes_columns_of_main(action) {
                self.new_columns.store(true, Relaxed);
            }
        }
        if action.code == ffi::SQLITE_ANALYZE {
            self.analyzed.store(true, Relaxed);
        }
        if self.internal.load(Relaxed) {
            return Permission::Allow;
        }
        if matches!(
            action.code,
            ffi::SQLITE_INSERT | ffi::SQLITE_UPDATE | ffi::SQLITE_DELETE
        ) {
            self.prepared_write.store(true, Relaxed);
        }
        if self.watched.load(Relaxed) {
            self.note_change(action);
        }
        if !self.has_privilege(Privilege::Closure) {
            self.note_touched(action);
        }
        let Action {
            code, first, second, ..
        } = action;
        let first = first.as_deref();
        let is_temporary = action.database.as_deref() == Some("temp");
        match (*code, first) {
            (ffi::SQLITE_TRANSACTION, Some(verb)) => self.authorize_transaction(verb),
            (ffi::SQLITE_SAVEPOINT, Some(operation)) => self.authorize_savepoint(operation, action),
            // The temporary database that `VACUUM` copies into.
            (ffi::SQLITE_ATTACH, Some("")) if self.has_privilege(Privilege::Vacuum) => self.note_vacuum(),
            // SQLite passes no name if the name is not a literal.
            (ffi::SQLITE_ATTACH, _) => self.refuse("ATTACH", ATTACH_INSTEAD),
            (ffi::SQLITE_DETACH, _) => self.refuse("DETACH", "a store has one file"),
            (ffi::SQLITE_PRAGMA, Some(name)) => self.authorize_pragma(name, second.as_deref(), is_temporary),
            (
                ffi::SQLITE_DROP_TEMP_INDEX
                | ffi::SQLITE_DROP_TEMP_TABLE
                | ffi::SQLITE_DROP_TEMP_TRIGGER
                | ffi::SQLITE_DROP_TEMP_VIEW,
                Some(name),
            ) if self.keeps(name) => self.refuse("DROP of a temporary object of on_connect", KEEP_INSTEAD),
            (ffi::SQLITE_ALTER_TABLE, Some("temp")) if second.as_deref().is_some_and(|name| self.keeps(name)) => {
                self.refuse("ALTER of a temporary table of on_connect", KEEP_INSTEAD)
            }
            // `sqlite_sequence` or `sqlite_stat1`. SQLite does not allow dropping them, and they would shadow those of
            // main.
            (ffi::SQLITE_CREATE_TABLE | ffi::SQLITE_CREATE_TEMP_TABLE, Some(table))
                if is_temporary && table.starts_with("sqlite_") =>
            {
                self.refuse(
                    "AUTOINCREMENT or ANALYZE in a temporary table",
                    "it creates a table that would outlast the transaction: use INTEGER PRIMARY KEY alone",
                )
            }
            // Each temporary object has a row in sqlite_temp_schema. That includes objects created by a qualified name
            // (`CREATE TABLE temp.t`), which the authorizer does not see as CREATE TEMP.
            (ffi::SQLITE_INSERT, Some(table)) if is_temporary && table.starts_with("sqlite_") => {
                self.authorize_temporary()
            }
            (ffi::SQLITE_CREATE_VIEW | ffi::SQLITE_CREATE_TRIGGER, Some(name))
                if !self.has_privilege(Privilege::Closure) =>
            {
                self.made_code.lock().push(name.to_owned());
                Permission::Allow
            }
            _ => Permission::Allow,
        }
    }
}

pub(in crate::connection) fn changes_schema(code: i32) -> bool {
    matches!(
        code,
        ffi::SQLITE_CREATE_INDEX..=ffi::SQLITE_CREATE_VIEW
            | ffi::SQLITE_DROP_INDEX..=ffi::SQLITE_DROP_VIEW
            | ffi::SQLITE_ALTER_TABLE
            | ffi::SQLITE_REINDEX
            | ffi::SQLITE_ANALYZE
            | ffi::SQLITE_CREATE_VTABLE
            | ffi::SQLITE_DROP_VTABLE
    )
}

/// Whether the action creates, alters or drops a table or a view of the file.
fn changes_columns_of_main(action: &Action<'_>) -> bool {
    match action.code {
        ffi::SQLITE_ALTER_TABLE => action.first.as_deref() == Some("main"),
        ffi::SQLITE_CREATE_TABLE
        | ffi::SQLITE_CREATE_VIEW
        | ffi::SQLITE_CREATE_VTABLE
        | ffi::SQLITE_DROP_TABLE
        | ffi::SQLITE_DROP_VIEW
        | ffi::SQLITE_DROP_VTABLE => action.database.as_deref() == Some("main"),
        _ => false,
    }
}

/// Maps SQLite's `operation` (`BEGIN`, `RELEASE` or `ROLLBACK`) to the SQL verb.
fn savepoint_verb(operation: &str) -> &'static str {
    match operation {
        "BEGIN" => "SAVEPOINT",
        "RELEASE" => "RELEASE",
        _ => "ROLLBACK TO",
    }
}
