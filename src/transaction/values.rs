//! Queries whose rows become values by their types: numbers, texts, tuples, structs.

use std::ops::{ControlFlow, Deref};

use rusqlite::types::{FromSql, ValueRef};
use rusqlite::{Params, Row, Statement};

use super::ReadTx;
use super::flow::Flow;
use super::from_row::{FoundColumns, FromRow, NextColumn, column};
use crate::connection::known_columns::Columns;
use crate::error::{Error, Result};

/// # Values
///
/// Rows that become values by their types. A query with parameters of several types takes
/// [`params!`](rusqlite::params).
///
/// | | rows | value |
/// |---|---|---|
/// | [`scalar`](Self::scalar), [`scalars`](Self::scalars), [`optional_scalar`](Self::optional_scalar) | one, all, one or none | the first column |
/// | [`one`](Self::one), [`all`](Self::all), [`optional`](Self::optional) | one, all, one or none | [`FromRow`]: a tuple, a struct |
/// | [`each`](Self::each) | all, one by one | [`FromRow`] |
///
/// On a [`WriteTx`](crate::WriteTx) they take `INSERT .. RETURNING` too.
impl ReadTx<'_> {
    /// The first column of the first row. Further rows and columns are ignored.
    ///
    /// # Errors
    ///
    /// `QueryReturnedNoRows` if there is no row; an error that names the column if `T` does not take its value.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let tables = store.read(|tx| tx.scalar::<i64>("SELECT count(*) FROM sqlite_schema", []))?;
    /// assert_eq!(tables, 0);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn scalar<T: FromSql>(&self, sql: &str, params: impl Params) -> Result<T> {
        self.query_row(sql, params, |row| column(row, 0, None))
    }

    /// As [`scalar`](Self::scalar), but returns `None` if there is no row. A value that is NULL is an error unless `T`
    /// is an `Option`.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let sql = "SELECT value FROM json_each(?1) WHERE key = 'ant'";
    /// let legs = |json: &str| store.read(|tx| tx.optional_scalar::<i64>(sql, [json]));
    /// assert_eq!((legs(r#"{"ant":6}"#)?, legs("{}")?), (Some(6), None));
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error of SQLite, or one that names the column if `T` does not take its value.
    pub fn optional_scalar<T: FromSql>(&self, sql: &str, params: impl Params) -> Result<Option<T>> {
        self.query_optional(sql, params, |row| column(row, 0, None))
    }

    /// The first column of each row.
    ///
    /// # Errors
    ///
    /// The error of SQLite, or one that names the column if `T` does not take its value.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let sql = "SELECT value FROM json_each(?1)";
    /// let names: Vec<String> = store.read(|tx| tx.scalars(sql, [r#"["ant","bee"]"#]))?;
    /// assert_eq!(names, ["ant", "bee"]);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn scalars<T: FromSql>(&self, sql: &str, params: impl Params) -> Result<Vec<T>> {
        self.query_map(sql, params, |row| column(row, 0, None))
    }

    /// The first row. Further rows are ignored.
    ///
    /// # Errors
    ///
    /// `QueryReturnedNoRows` if there is no row; an error that names the column and the type if a column is missing or
    /// has another type.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let (id, name): (i64, String) = store.read(|tx| tx.one("SELECT 7, 'Ada'", []))?;
    /// assert_eq!((id, name.as_str()), (7, "Ada"));
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn one<T: FromRow>(&self, sql: &str, params: impl Params) -> Result<T> {
        self.with_statement(sql, |statement| {
            let first = self.first(sql, statement, params)?;
            first.ok_or(rusqlite::Error::QueryReturnedNoRows)
        })
    }

    /// As [`one`](Self::one), but returns `None` if there is no row.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
    /// let sql = "SELECT id, name FROM users WHERE id = ?1";
    /// let user: Option<(i64, String)> = store.read(|tx| tx.optional(sql, [7]))?;
    /// assert_eq!(user, None);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error of SQLite, or one that names the column and the type if a column is missing or has another type.
    pub fn optional<T: FromRow>(&self, sql: &str, params: impl Params) -> Result<Option<T>> {
        self.with_statement(sql, |statement| self.first(sql, statement, params))
    }

    /// All rows.
    ///
    /// # Errors
    ///
    /// The error of SQLite, or one that names the column and the type if a column is missing or has another type.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let sql = "SELECT key, value FROM json_each(?1)";
    /// let pairs: Vec<(String, i64)> = store.read(|tx| tx.all(sql, [r#"{"ant":6,"spider":8}"#]))?;
    /// assert_eq!(pairs, [("ant".to_owned(), 6), ("spider".to_owned(), 8)]);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn all<T: FromRow>(&self, sql: &str, params: impl Params) -> Result<Vec<T>> {
        self.with_statement(sql, |statement| {
            let mut rows = statement.query(params)?;
            let Some(row) = rows.next()? else {
                drop(rows);
                return check_names::<T>(statement).map(|()| Vec::new());
            };
            // Found after the first step, which compiles the statement again if the schema has changed.
            let columns = self.columns::<T>(sql, row)?;
            self.count_row();
            let mut all = vec![T::read(row, &mut NextColumn::of(&columns))?];
            while let Some(row) = rows.next()? {
                self.count_row();
                all.push(T::read(row, &mut NextColumn::of(&columns))?);
            }
            Ok(all)
        })
    }

    /// Calls `f` with the value of each row, without collecting them.
    ///
    /// `f` returns `()`, or a [`ControlFlow`] to stop early (see [`Flow`]), or an error of any type that is
    /// `From<larder::Error>`. The closure has to say the type of its error.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// # let store = larder::Store::open_temp()?;
    /// let sql = "SELECT key, value FROM json_each(?1)";
    /// let found = store.read(|tx| {
    ///     let animals = [r#"{"ant":6,"spider":8,"crab":10}"#];
    ///     tx.each(sql, animals, |(name, legs): (String, i64)| -> larder::Result<_> {
    ///         Ok(if legs == 8 { ControlFlow::Break(name) } else { ControlFlow::Continue(()) })
    ///     })
    /// })?;
    /// assert_eq!(found, ControlFlow::Break("spider".to_owned()));
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error of SQLite, one that names the column and the type if a column is missing or has another type, or the
    /// first error of `f`, which ends the query. On a [`WriteTx`](crate::WriteTx) it rolls back only if the closure of the
    /// transaction returns it.
    pub fn each<T, R, E>(&self, sql: &str, params: impl Params, mut f: impl FnMut(T) -> Result<R, E>) -> Result<R, E>
    where
        T: FromRow,
        R: Flow,
        E: From<Error>,
    {
        let mut last = Ok(R::CONTINUE);
        self.visit::<T, _>(sql, params, |row, columns| {
            last = f(T::read(row, &mut NextColumn::of(columns))?);
            let goes_on = last.as_ref().is_ok_and(|flow| !flow.is_break());
            Ok(if goes_on {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
        last
    }

    /// As [`each`](Self::each), for a stream: passes on each value with the bytes that it takes, at most.
    pub(crate) fn pass_on<T: FromRow>(
        &self,
        sql: &str,
        params: impl Params,
        mut pass: impl FnMut(T, usize) -> ControlFlow<()>,
    ) -> Result<()> {
        self.visit::<T, _>(sql, params, |row, columns| {
            let value = T::read(row, &mut NextColumn::of(columns))?;
            Ok(pass(value, size_of::<T>() + bytes(row)?))
        })
    }

    /// Calls `f` with each row, and where the columns of `T` are in it, until it stops.
    fn visit<T, F>(&self, sql: &str, params: impl Params, mut f: F) -> Result<()>
    where
        T: FromRow,
        F: FnMut(&Row<'_>, &[Option<usize>]) -> rusqlite::Result<ControlFlow<()>>,
    {
        self.with_statement(sql, |statement| {
            let mut rows = statement.query(params)?;
            let mut columns = None;
            while let Some(row) = rows.next()? {
                self.count_row();
                // Found after the first step, as in `all`.
                let columns = match &mut columns {
                    Some(columns) => columns,
                    unknown => unknown.insert(self.columns::<T>(sql, row)?),
                };
                if f(row, columns)?.is_break() {
                    return Ok(());
                }
            }
            drop(rows);
            if columns.is_none() {
                check_names::<T>(statement)?;
            }
            Ok(())
        })
    }

    fn first<T: FromRow>(
        &self,
        sql: &str,
        statement: &mut Statement<'_>,
        params: impl Params,
    ) -> rusqlite::Result<Option<T>> {
        let mut rows = statement.query(params)?;
        let Some(row) = rows.next()? else {
            drop(rows);
            return check_names::<T>(statement).map(|()| None);
        };
        self.count_row();
        let columns = self.columns::<T>(sql, row)?;
        T::read(row, &mut NextColumn::of(&columns)).map(Some)
    }

    /// Where the columns of `T` are in the first row of a query.
    fn columns<T: FromRow>(&self, sql: &str, row: &Row<'_>) -> rusqlite::Result<FoundIn> {
        if !T::HAS_NAMES {
            return Ok(FoundIn::default());
        }
        // The authorizer may have been taken away, which says when what is known is over.
        if self.had_raw_access() {
            return FoundColumns::of::<T>(row.as_ref()).map(FoundIn::Query);
        }
        FoundColumns::known::<T>(row, sql, self.guard.known_columns()).map(FoundIn::Earlier)
    }
}

/// Where columns are: found in this query, or known from an earlier one.
enum FoundIn {
    Query(FoundColumns),
    Earlier(Columns),
}

impl Default for FoundIn {
    fn default() -> Self {
        Self::Query(FoundColumns::default())
    }
}

impl Deref for FoundIn {
    type Target = [Option<usize>];

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Query(found) => found.as_slice(),
            Self::Earlier(columns) => columns,
        }
    }
}

/// The bytes of a row's texts and blobs.
fn bytes(row: &Row<'_>) -> rusqlite::Result<usize> {
    let mut bytes = 0;
    for index in 0..row.as_ref().column_count() {
        if let ValueRef::Text(value) | ValueRef::Blob(value) = row.get_ref(index)? {
            bytes += value.len();
        }
    }
    Ok(bytes)
}

/// A missing column is an error also while the table is empty.
fn check_names<T: FromRow>(statement: &Statement<'_>) -> rusqlite::Result<()> {
    FoundColumns::of::<T>(statement).map(drop)
}
