//! Queries whose rows become values by their types: numbers, texts, tuples, structs.

use rusqlite::types::FromSql;
use rusqlite::{Params, Statement};

use super::ReadTx;
use super::from_row::{FoundColumns, FromRow, column};
use crate::error::Result;

/// # Values
///
/// Rows that become values by their types. A query with parameters of several types takes
/// [`params!`](rusqlite::params).
///
/// | | rows | value |
/// |---|---|---|
/// | [`scalar`](Self::scalar), [`scalars`](Self::scalars), [`optional_scalar`](Self::optional_scalar) | one, all, one or none | the first column |
/// | [`one`](Self::one), [`all`](Self::all), [`optional`](Self::optional) | one, all, one or none | [`FromRow`]: a tuple, a struct |
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
            let first = self.first(statement, params)?;
            first.ok_or(rusqlite::Error::QueryReturnedNoRows)
        })
    }

    /// As [`one`](Self::one), but returns `None` if there is no row.
    ///
    /// # Errors
    ///
    /// The error of SQLite, or one that names the column and the type if a column is missing or has another type.
    pub fn optional<T: FromRow>(&self, sql: &str, params: impl Params) -> Result<Option<T>> {
        self.with_statement(sql, |statement| self.first(statement, params))
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
            let columns = FoundColumns::of::<T>(row.as_ref())?;
            self.count_row();
            let mut all = vec![T::read(row, &mut columns.iter())?];
            while let Some(row) = rows.next()? {
                self.count_row();
                all.push(T::read(row, &mut columns.iter())?);
            }
            Ok(all)
        })
    }

    fn first<T: FromRow>(&self, statement: &mut Statement<'_>, params: impl Params) -> rusqlite::Result<Option<T>> {
        let mut rows = statement.query(params)?;
        let Some(row) = rows.next()? else {
            drop(rows);
            return check_names::<T>(statement).map(|()| None);
        };
        self.count_row();
        T::from_row(row).map(Some)
    }
}

/// A missing column is an error also while the table is empty.
fn check_names<T: FromRow>(statement: &Statement<'_>) -> rusqlite::Result<()> {
    FoundColumns::of::<T>(statement).map(drop)
}
