//! The schema of a store, read by PRAGMAs, and its statements for PostgreSQL.

use rusqlite::Connection;

use super::comments::Comments;
use super::expression::translated;
use super::sql::{Deferral, TableText, Token, index_parts};
use crate::connection::sql_text::quoted;
use crate::postgres::types::PgType;

pub(super) struct Table {
    pub(super) name: String,
    /// Its name at the server.
    pub(super) target: String,
    pub(super) columns: Vec<Column>,
    /// Positions in `columns`, in the order of the key. Empty for a table without a declared key.
    pub(super) key: Vec<usize>,
    /// The collation of each column of the key, in its index.
    pub(super) key_collations: Vec<String>,
    /// Whether its key is an `INTEGER PRIMARY KEY`.
    pub(super) has_identity: bool,
    pub(super) has_rowid: bool,
    pub(super) indexes: Vec<Index>,
    pub(super) foreign_keys: Vec<ForeignKey>,
    pub(super) checks: Vec<Vec<Token>>,
    /// What ON CONFLICT says.
    pub(super) conflicts: Vec<String>,
    /// Whether the scan found values that do not fit.
    pub(super) has_misfits: bool,
    /// The number of rows that the scan found.
    pub(super) rows: u64,
    /// The sum of [`Table::key_hash`] over all rows, as the scan found them.
    pub(super) key_sum: u64,
    /// Whether both sides have one order of text, that of the bytes of UTF-8.
    pub(super) orders_text: bool,
    pub(super) comments: Comments,
}

#[derive(Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) target: String,
    pub(super) declared: String,
    pub(super) not_null: bool,
    pub(super) default: Option<String>,
    pub(super) is_generated: bool,
    /// What makes it, for the server. `None` for a column that is an ordinary one there.
    pub(super) generated: Option<String>,
    /// The expression that makes it, as it is in the store.
    pub(super) expression: Vec<Token>,
    /// Its collation in the store, unless that is BINARY.
    pub(super) collation: Option<String>,
    /// Chosen once the values are known.
    pub(super) kind: PgType,
    /// Whether numbers are written as their digits, because not all values are text.
    pub(super) as_text: bool,
    /// Whether values that do not fit become NULL.
    pub(super) misfits_are_null: bool,
    /// Whether it has both text and blobs. As UUIDs, the server has one order for them.
    pub(super) is_mixed: bool,
}

pub(super) struct Index {
    pub(super) name: String,
    pub(super) is_unique: bool,
    pub(super) is_constraint: bool,
    /// The columns with their order and collation; `None` for an expression.
    pub(super) columns: Vec<(Option<usize>, bool, String)>,
    /// The keys as they are written, if it is no constraint.
    keys: Vec<Vec<Token>>,
    predicate: Option<Vec<Token>>,
}

pub(super) struct ForeignKey {
    pub(super) parent: String,
    /// Pairs of a column and the parent's; `None` for its primary key.
    pub(super) columns: Vec<(String, Option<String>)>,
    pub(super) on_update: String,
    pub(super) on_delete: String,
    pub(super) deferral: Deferral,
}

/// What is not a table of rows: its kind, its name and its SQL.
pub(super) struct Other {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) sql: String,
    /// The rows of a virtual table that can be counted.
    pub(super) rows: Option<u64>,
}

pub(super) struct Schema {
    pub(super) tables: Vec<Table>,
    pub(super) others: Vec<Other>,
    /// Numbers in the header of the file that programs set, unless they are 0.
    pub(super) marks: Vec<(&'static str, i64)>,
}

impl Schema {
    pub(super) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let mut list = conn.prepare(
            "SELECT l.name, l.type, l.wr, coalesce(s.sql, '') FROM pragma_table_list l
             JOIN sqlite_schema s ON s.name = l.name AND s.type IN ('table', 'view')
             WHERE l.schema = 'main' AND l.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY l.name",
        )?;
        let rows = list.query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, bool>(2)?,
                row.get::<_, String>(3)?,
            ))
        })?;
        let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let virtuals: Vec<(String, String)> = rows
            .iter()
            .filter(|(_, kind, ..)| kind == "virtual")
            .map(|(name, .., sql)| (name.clone(), sql.clone()))
            .collect();
        let (mut tables, mut others) = (Vec::new(), Vec::new());
        for (name, kind, without_rowid, sql) in rows {
            match kind.as_str() {
                // A table of the program that has the name of one: full-text search of `content='docs_content'`.
                "shadow" if is_content(&name, &virtuals) => {
                    tables.push(Table::read(conn, name, !without_rowid, &sql)?);
                }
                "table" => tables.push(Table::read(conn, name, !without_rowid, &sql)?),
                // Tables in which a virtual table keeps its data are listed too: SQLite knows them by their names alone.
                "shadow" | "virtual" => {
                    let count = format!("SELECT count(*) FROM main.{}", quoted(&name));
                    // Its module may not be there, or may want an argument.
                    let rows = conn.query_row(&count, [], |row| row.get::<_, i64>(0)).ok();
                    let rows = rows.map(i64::unsigned_abs);
                    others.push(Other { kind, name, sql, rows });
                }
                _ => others.push(Other {
                    kind,
                    name,
                    sql,
                    rows: None,
                }),
            }
        }
        let mut triggers = conn.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY name")?;
        let triggers = triggers.query_map([], |row| {
            Ok(Other {
                kind: "trigger".into(),
                name: row.get(0)?,
                sql: row.get(1)?,
                rows: None,
            })
        })?;
        others.extend(triggers.collect::<rusqlite::Result<Vec<_>>>()?);
        // BINARY compares the bytes of the text as the file has them.
        let encoding: String = conn.query_row("PRAGMA main.encoding", [], |row| row.get(0))?;
        for table in &mut tables {
            table.orders_text = encoding == "UTF-8";
        }
        let mut marks = Vec::new();
        for name in ["user_version", "application_id"] {
            let number: i64 = conn.query_row(&format!("PRAGMA main.{name}"), [], |row| row.get(0))?;
            marks.extend((number != 0).then_some((name, number)));
        }
        Ok(Self { tables, others, marks })
    }
}

/// Whether a table is what a full-text table has as its content, by the name of the table that FTS would make otherwise.
fn is_content(name: &str, virtuals: &[(String, String)]) -> bool {
    let lower = name.to_ascii_lowercase();
    let Some(full_text) = lower.strip_suffix("_content") else {
        return false;
    };
    let of_name = virtuals.iter().find(|(name, _)| name.eq_ignore_ascii_case(full_text));
    of_name.is_some_and(|(_, sql)| {
        let sql: String = sql.chars().filter(|c| !c.is_whitespace()).collect();
        let sql = sql.to_ascii_lowercase();
        let content = sql.split_once("content=").map(|(_, content)| content);
        content.is_some_and(|content| !["''", "\"\""].iter().any(|none| content.starts_with(none)))
    })
}

impl Column {
    /// A column that no store has.
    pub(super) fn plain(name: &str, kind: PgType) -> Self {
        Self {
            name: name.to_owned(),
            target: name.to_owned(),
            declared: String::new(),
            not_null: false,
            default: None,
            is_generated: false,
            generated: None,
            expression: Vec::new(),
            collation: None,
            kind,
            as_text: false,
            misfits_are_null: false,
            is_mixed: false,
        }
    }
}

impl Table {
    /// A table that no store has.
    pub(super) fn plain(name: &str, columns: Vec<Column>) -> Self {
        Self {
            name: name.to_owned(),
            target: name.to_owned(),
            columns,
            key: Vec::new(),
            key_collations: Vec::new(),
            has_identity: false,
            has_rowid: false,
            indexes: Vec::new(),
            foreign_keys: Vec::new(),
            checks: Vec::new(),
            conflicts: Vec::new(),
            has_misfits: false,
            rows: 0,
            key_sum: 0,
            orders_text: true,
            comments: Comments::default(),
        }
    }

    fn read(conn: &Connection, name: String, has_rowid: bool, sql: &str) -> rusqlite::Result<Self> {
        let text = TableText::parse(sql);
        let mut info =
            conn.prepare("SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1)")?;
        let mut key = Vec::new();
        let mut columns = Vec::new();
        let mut rows = info.query([&name])?;
        while let Some(row) = rows.next()? {
            let hidden: i64 = row.get(5)?;
            if hidden == 1 {
                continue;
            }
            let place: i64 = row.get(4)?;
            if place > 0 {
                key.push((place, columns.len()));
            }
            let name: String = row.get(0)?;
            let of_name = |known: &str| known.eq_ignore_ascii_case(&name);
            let collation = text.collations.iter().find(|(column, _)| of_name(column));
            let expression = text.generated.iter().find(|(column, _)| of_name(column));
            columns.push(Column {
                target: column_name(&name),
                generated: None,
                expression: expression.map(|(_, made)| made.clone()).unwrap_or_default(),
                collation: collation.map(|(_, name)| name.clone()).filter(|name| name != "BINARY"),
                name,
                declared: row.get(1)?,
                not_null: row.get(2)?,
                default: row.get(3)?,
                is_generated: hidden > 1,
                kind: PgType::Text,
                as_text: false,
                misfits_are_null: false,
                is_mixed: false,
            });
        }
        key.sort_unstable();
        let key: Vec<usize> = key.into_iter().map(|(_, at)| at).collect();
        let has_identity = has_rowid && key.len() == 1 && columns[key[0]].declared.eq_ignore_ascii_case("INTEGER");
        Ok(Self {
            target: shortened(&name),
            key_collations: key_collations(conn, &name)?,
            indexes: indexes(conn, &name, &columns)?,
            foreign_keys: foreign_keys(conn, &name, &text.deferrals)?,
            checks: text.checks,
            conflicts: text.conflicts,
            has_misfits: false,
            rows: 0,
            key_sum: 0,
            orders_text: true,
            comments: Comments::parse(sql),
            has_identity,
            has_rowid,
            name,
            columns,
            key,
        })
    }

    /// Whether both sides can read its rows in the same order: that of its key.
    pub(super) fn is_ordered(&self) -> bool {
        let is_ordered = |at: &usize| {
            let column = &self.columns[*at];
            let is_one_order = match column.kind {
                PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Float8 | PgType::Bytea => true,
                PgType::Text => self.orders_text,
                PgType::Uuid => !column.is_mixed,
                _ => false,
            };
            is_one_order && !column.as_text
        };
        !self.key.is_empty() && self.key.iter().all(is_ordered)
    }

    /// The statement that reads its rows: the rowid, then the columns. In the order of the key, if it has one and that is
    /// asked for, and otherwise as they are stored.
    pub(super) fn select(&self, by_key: bool) -> String {
        let is_free = |name: &&str| !self.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        // A column may have one of these names.
        let rowid = ["rowid", "_rowid_", "oid"].into_iter().find(is_free);
        let rowid = rowid.filter(|_| self.has_rowid);
        let columns: String = self
            .columns
            .iter()
            .map(|column| format!(", {}", quoted(&column.name)))
            .collect();
        let key = self
            .key
            .iter()
            .map(|at| format!("{} COLLATE BINARY", quoted(&self.columns[*at].name)));
        let key: Vec<String> = key.collect();
        let order = match rowid {
            _ if by_key && !key.is_empty() => format!(" ORDER BY {}", key.join(", ")),
            Some(rowid) => format!(" ORDER BY {rowid}"),
            None => String::new(),
        };
        let rowid = rowid.unwrap_or("NULL");
        format!("SELECT {rowid}{columns} FROM main.{}{order}", quoted(&self.name))
    }

    /// The columns that are sent: the server makes the others.
    pub(super) fn sent(&self) -> Vec<usize> {
        let columns = self.columns.iter().enumerate();
        columns
            .filter(|(_, column)| column.generated.is_none())
            .map(|(at, _)| at)
            .collect()
    }

    /// The statement that reads its rows at the server, in the same order.
    pub(super) fn copy_out(&self, schema: &str) -> String {
        let order = |at: &usize| {
            let column = &self.columns[*at];
            let collation = if column.kind == PgType::Text {
                " COLLATE \"C\""
            } else {
                ""
            };
            format!("{}{collation} NULLS FIRST", quoted(&column.target))
        };
        let order: Vec<String> = self.key.iter().map(order).collect();
        let order = if order.is_empty() {
            String::new()
        } else {
            format!(" ORDER BY {}", order.join(", "))
        };
        let from = self.qualified(schema);
        format!(
            "COPY (SELECT {} FROM {from}{order}) TO STDOUT (FORMAT binary)",
            self.column_list(|_| true)
        )
    }

    /// The statement that reads its rows at the server as they lie in the table, without the columns that the server makes.
    pub(super) fn copy_out_as_stored(&self, schema: &str) -> String {
        format!(
            "COPY {} ({}) TO STDOUT (FORMAT binary)",
            self.qualified(schema),
            self.column_list(|_| true)
        )
    }

    /// Whether the server makes columns of it.
    pub(super) fn has_made_columns(&self) -> bool {
        self.columns.iter().any(|column| column.generated.is_some())
    }

    /// The statement that writes its rows. The same transaction has made the table, so nothing reads them before it commits,
    /// and they need no vacuum later.
    pub(super) fn copy_in(&self, schema: &str) -> String {
        format!(
            "COPY {} ({}) FROM STDIN (FORMAT binary, FREEZE)",
            self.qualified(schema),
            self.column_list(|column| column.generated.is_none())
        )
    }

    pub(super) fn qualified(&self, schema: &str) -> String {
        format!("{}.{}", quoted(schema), quoted(&self.target))
    }

    fn column_list(&self, is_meant: impl Fn(&&Column) -> bool) -> String {
        let columns = self.columns.iter().filter(is_meant);
        let names: Vec<String> = columns.map(|column| quoted(&column.target)).collect();
        names.join(", ")
    }

    /// Has the server make the generated columns whose expressions mean the same there.
    pub(super) fn generate(&mut self, is_ordinary: impl Fn(&Column) -> bool) {
        for at in 0..self.columns.len() {
            let column = &self.columns[at];
            if column.is_generated && !column.expression.is_empty() && !is_ordinary(column) {
                // The server allows no generated column in the expression of another.
                let others: Vec<&Column> = self.columns.iter().filter(|column| !column.is_generated).collect();
                self.columns[at].generated = translated(&column.expression, &others);
            }
        }
    }

    pub(super) fn create(&self, schema: &str) -> String {
        self.create_as(schema, true)
    }

    /// The statement that makes it, with generated columns or with ordinary ones in their place.
    pub(super) fn create_as(&self, schema: &str, generates: bool) -> String {
        let line = |column: &Column| {
            let null = if column.not_null && !column.is_generated {
                " NOT NULL"
            } else {
                ""
            };
            let default = column.default.as_deref().and_then(|text| default(text, column.kind));
            let default = default.map_or(String::new(), |text| format!(" DEFAULT {text}"));
            let made = match &column.generated {
                Some(expression) if generates => format!(" GENERATED ALWAYS AS ({expression}) STORED"),
                _ if self.has_identity && self.columns[self.key[0]].name == column.name => {
                    " GENERATED BY DEFAULT AS IDENTITY".to_owned()
                }
                _ => default,
            };
            // The order of the bytes, as SQLite's BINARY.
            let collation = if column.kind == PgType::Text {
                " COLLATE \"C\""
            } else {
                ""
            };
            format!(
                "  {} {}{collation}{made}{null}",
                quoted(&column.target),
                column.kind.sql()
            )
        };
        let lines: Vec<String> = self.columns.iter().map(line).collect();
        format!("CREATE TABLE {} (\n{}\n)", self.qualified(schema), lines.join(",\n"))
    }

    /// The primary key and unique constraints, once the rows are there; and what they come from.
    pub(super) fn keys(&self, schema: &str) -> Vec<String> {
        let list = |columns: &[usize]| {
            let names: Vec<String> = columns.iter().map(|at| quoted(&self.columns[*at].target)).collect();
            names.join(", ")
        };
        let alter = format!("ALTER TABLE {} ADD", self.qualified(schema));
        let mut keys = Vec::new();
        if !self.key.is_empty() {
            keys.push(format!("{alter} PRIMARY KEY ({})", list(&self.key)));
        }
        for index in self.indexes.iter().filter(|index| index.is_constraint) {
            let columns: Vec<usize> = index.columns.iter().filter_map(|(column, ..)| *column).collect();
            keys.push(format!("{alter} UNIQUE ({})", list(&columns)));
        }
        keys
    }

    /// Unique indexes for keys and constraints that do not tell case or blanks at the end apart, NOCASE and RTRIM, beside
    /// the constraint that does.
    pub(super) fn nocase_keys(&self, schema: &str) -> Vec<(String, String)> {
        let folded = |(at, collation): &(usize, String)| {
            let column = &self.columns[*at];
            match collation.as_str() {
                _ if column.kind != PgType::Text => None,
                "NOCASE" => Some(format!("lower({} COLLATE \"C\")", quoted(&column.target))),
                "RTRIM" => Some(format!("rtrim({}, ' ')", quoted(&column.target))),
                _ => None,
            }
        };
        let of_key = self
            .key
            .iter()
            .copied()
            .zip(self.key_collations.iter().cloned())
            .collect();
        let constraints = self.indexes.iter().filter(|index| index.is_constraint);
        let constraints = constraints.map(|index| {
            let columns = index.columns.iter();
            columns
                .filter_map(|(column, _, collation)| Some(((*column)?, collation.clone())))
                .collect()
        });
        let all = std::iter::once(of_key).chain(constraints);
        all.filter(|columns: &Vec<(usize, String)>| columns.iter().any(|column| folded(column).is_some()))
            .map(|columns| {
                let part =
                    |column: &(usize, String)| folded(column).unwrap_or_else(|| quoted(&self.columns[column.0].target));
                let parts: Vec<String> = columns.iter().map(part).collect();
                let names: Vec<&str> = columns.iter().map(|(at, _)| self.columns[*at].name.as_str()).collect();
                let what = format!("key of table {} with a collation: {}", self.name, names.join(", "));
                let qualified = self.qualified(schema);
                (
                    what,
                    format!("CREATE UNIQUE INDEX ON {qualified} ({})", parts.join(", ")),
                )
            })
            .collect()
    }

    /// The statement of an index that is no constraint, unless an expression of it may mean something else.
    pub(super) fn index(&self, index: &Index, schema: &str) -> Option<String> {
        let all: Vec<&Column> = self.columns.iter().collect();
        let part = |(at, (column, descends, collation)): (usize, &(Option<usize>, bool, String))| {
            let folds = collation == "NOCASE";
            let name = match column {
                Some(column) => {
                    let column = &self.columns[*column];
                    match collation.as_str() {
                        // Only the letters of ASCII are folded, as SQLite does.
                        "NOCASE" if column.kind == PgType::Text => {
                            format!("lower({} COLLATE \"C\")", quoted(&column.target))
                        }
                        "BINARY" | "NOCASE" => quoted(&column.target),
                        _ => return None,
                    }
                }
                None if folds => format!("lower(({}) COLLATE \"C\")", translated(index.keys.get(at)?, &all)?),
                None if collation == "BINARY" => format!("({})", translated(index.keys.get(at)?, &all)?),
                None => return None,
            };
            Some(format!("{name}{}", if *descends { " DESC" } else { "" }))
        };
        let parts: Vec<String> = index.columns.iter().enumerate().map(part).collect::<Option<_>>()?;
        let predicate = match &index.predicate {
            Some(predicate) => format!(" WHERE {}", translated(predicate, &all)?),
            None => String::new(),
        };
        let unique = if index.is_unique { "UNIQUE " } else { "" };
        Some(format!(
            "CREATE {unique}INDEX {} ON {} ({}){predicate}",
            quoted(&shortened(&index.name)),
            self.qualified(schema),
            parts.join(", ")
        ))
    }

    pub(super) fn foreign_key(&self, key: &ForeignKey, parent: &Table, schema: &str) -> Option<String> {
        let child: Vec<String> = key
            .columns
            .iter()
            .map(|(column, _)| quoted(&column_name(column)))
            .collect();
        let parents = key.columns.iter().enumerate().map(|(at, (_, column))| match column {
            // It may be written in another case than the parent's column.
            Some(column) => {
                let found = parent
                    .columns
                    .iter()
                    .find(|known| known.name.eq_ignore_ascii_case(column))?;
                Some(quoted(&found.target))
            }
            None => parent.key.get(at).map(|at| quoted(&parent.columns[*at].target)),
        });
        let parents: Vec<String> = parents.collect::<Option<_>>()?;
        let deferrable = match key.deferral {
            Deferral::Immediate => "",
            Deferral::Deferrable => " DEFERRABLE",
            Deferral::Deferred => " DEFERRABLE INITIALLY DEFERRED",
        };
        Some(format!(
            "ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} ({}) ON UPDATE {} ON DELETE {}{deferrable}",
            self.qualified(schema),
            child.join(", "),
            parent.qualified(schema),
            parents.join(", "),
            key.on_update,
            key.on_delete,
        ))
    }
}

fn indexes(conn: &Connection, table: &str, columns: &[Column]) -> rusqlite::Result<Vec<Index>> {
    let mut list = conn.prepare(
        "SELECT l.name, l.\"unique\", l.origin, s.sql FROM pragma_index_list(?1) l
         LEFT JOIN sqlite_schema s ON s.type = 'index' AND s.name = l.name
         WHERE l.origin <> 'pk' ORDER BY l.seq DESC",
    )?;
    let rows = list.query_map([table], |row| {
        let sql: Option<String> = row.get(3)?;
        let (keys, predicate) = sql.as_deref().map(index_parts).unwrap_or_default();
        Ok(Index {
            name: row.get(0)?,
            is_unique: row.get(1)?,
            is_constraint: row.get::<_, String>(2)? == "u",
            columns: Vec::new(),
            keys,
            predicate,
        })
    })?;
    let mut indexes = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut info = conn.prepare("SELECT name, \"desc\", coll FROM pragma_index_xinfo(?1) WHERE key ORDER BY seqno")?;
    for index in &mut indexes {
        let parts = info.query_map([&index.name], |row| {
            let name: Option<String> = row.get(0)?;
            let at = name.and_then(|name| columns.iter().position(|column| column.name == name));
            // It is as it was written.
            let collation = row.get::<_, String>(2)?.to_ascii_uppercase();
            Ok((at, row.get(1)?, collation))
        })?;
        index.columns = parts.collect::<rusqlite::Result<_>>()?;
    }
    Ok(indexes)
}

/// The collations of the index of a primary key. None for an `INTEGER PRIMARY KEY`.
fn key_collations(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut info = conn.prepare(
        "SELECT upper(x.coll) FROM pragma_index_list(?1) l, pragma_index_xinfo(l.name) x
         WHERE l.origin = 'pk' AND x.key ORDER BY x.seqno",
    )?;
    let collations = info.query_map([table], |row| row.get(0))?;
    collations.collect()
}

fn foreign_keys(conn: &Connection, table: &str, deferrals: &[Deferral]) -> rusqlite::Result<Vec<ForeignKey>> {
    let mut list = conn.prepare(
        "SELECT id, \"table\", \"from\", \"to\", on_update, on_delete FROM pragma_foreign_key_list(?1) ORDER BY id, seq",
    )?;
    let mut rows = list.query([table])?;
    let mut keys: Vec<(i64, ForeignKey)> = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, pair) = (row.get(0)?, (row.get(2)?, row.get(3)?));
        match keys.last_mut().filter(|(last, _)| *last == id) {
            Some((_, key)) => key.columns.push(pair),
            None => keys.push((
                id,
                ForeignKey {
                    parent: row.get(1)?,
                    columns: vec![pair],
                    on_update: row.get(4)?,
                    on_delete: row.get(5)?,
                    deferral: Deferral::default(),
                },
            )),
        }
    }
    // The PRAGMA has the last one first.
    for ((_, key), deferral) in keys.iter_mut().rev().zip(deferrals) {
        key.deferral = *deferral;
    }
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}

/// A default that means the same at the server.
pub(super) fn default(text: &str, kind: PgType) -> Option<String> {
    let text = text.trim();
    let is_string = text.len() > 1
        && text.starts_with('\'')
        && text.ends_with('\'')
        && !text[1..text.len() - 1].replace("''", "").contains('\'');
    let is_number = text.parse::<f64>().is_ok() && text.bytes().any(|byte| byte.is_ascii_digit());
    let utc = |form: &str| Some(format!("to_char(now() AT TIME ZONE 'UTC', '{form}')"));
    match text.to_ascii_uppercase().as_str() {
        "NULL" => Some("NULL".into()),
        "CURRENT_TIMESTAMP" if kind == PgType::Text => utc("YYYY-MM-DD HH24:MI:SS"),
        "CURRENT_DATE" if kind == PgType::Text => utc("YYYY-MM-DD"),
        "CURRENT_TIME" if kind == PgType::Text => utc("HH24:MI:SS"),
        "CURRENT_TIMESTAMP" if kind == PgType::Timestamptz => Some("now()".into()),
        "TRUE" | "1" if kind == PgType::Bool => Some("true".into()),
        "FALSE" | "0" if kind == PgType::Bool => Some("false".into()),
        _ if is_string && kind == PgType::Text => Some(text.to_owned()),
        // The server would round a fraction.
        _ if matches!(kind, PgType::Int8 | PgType::Int4 | PgType::Int2) => {
            text.parse::<i64>().ok().map(|number| number.to_string())
        }
        _ if is_number && matches!(kind, PgType::Float8 | PgType::Numeric) => Some(text.to_owned()),
        _ => None,
    }
}

/// The name of a column at the server, which has columns of its own in each table.
fn column_name(name: &str) -> String {
    const SYSTEM: [&str; 6] = ["cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"];
    match SYSTEM.contains(&name) {
        true => format!("{name}_column"),
        false => shortened(name),
    }
}

/// Bytes of the longest name that the server does not cut.
const MAX_NAME: usize = 63;

/// The name, or its beginning with a number that is made of the whole name: PostgreSQL cuts names to 63 bytes.
pub(super) fn shortened(name: &str) -> String {
    use sha2::{Digest, Sha256};
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let digest = crate::runtime::hex::hex(&Sha256::digest(name)[..4]);
    let end = (0..=54).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    format!("{}_{digest}", &name[..end])
}
