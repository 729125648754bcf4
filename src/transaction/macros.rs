//! The macros of `larder-derive`, with their documentation.

/// Derives the trait [`FromRow`](trait@crate::FromRow): each field is the column of its name.
///
/// ```
/// use larder::{FromRow, Id, Store, rusqlite::params};
///
/// #[derive(Id, Debug, Clone, Copy, PartialEq)]
/// struct UserId(i64);
///
/// #[derive(FromRow)]
/// struct User {
///     id: UserId,
///     name: String,
///     #[larder(json)]
///     tags: Vec<String>,
///     #[larder(flatten)]
///     address: Address,
/// }
///
/// #[derive(FromRow)]
/// struct Address {
///     street: Option<String>,
///     city: String,
/// }
///
/// let store = Store::open_temp()?;
/// let sql = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT, tags TEXT, street TEXT, city TEXT) STRICT;
///            INSERT INTO users VALUES (7, 'Ada', '[\"poet\"]', NULL, 'London')";
/// store.write(|tx| tx.execute_batch(sql))?;
///
/// let columns = User::COLUMNS.join(", ");
/// let sql = format!("SELECT {columns} FROM users WHERE id = ?1");
/// let user: User = store.read(|tx| tx.one(&sql, [UserId(7)]))?;
/// assert_eq!(columns, "id, name, tags, street, city");
/// assert_eq!((user.id, user.tags, user.address.city), (UserId(7), vec!["poet".to_owned()], "London".to_owned()));
/// # Ok::<_, larder::Error>(())
/// ```
///
/// Columns that no field has are ignored. A column that is missing, or that is there twice, is an error, which names
/// it; so is a value of another type, and NULL where the field is no `Option`. As in SQL, ASCII letters match in both
/// cases.
///
/// # Attributes
///
/// | | |
/// |---|---|
/// | `#[larder(rename_all = "camelCase")]` | on the struct: the rule for the names of its columns, as serde's |
/// | `#[larder(rename = "userName")]` | the name of the field's column |
/// | `#[larder(json)]` | the column has JSON, text or a number, and the field is what serde makes of it; NULL is `null` |
/// | `#[larder(default)]` | if the result has no such column, the field is the default of its type |
/// | `#[larder(flatten)]` | the field is a struct that derives `FromRow` too, of columns of the same result |
/// | `#[larder(skip)]` | no column: the field is the default of its type |
///
/// # `COLUMNS`
///
/// The struct gets a constant, `COLUMNS: &'static [&'static str]`, with the names of all columns that are read, also those
/// with `default`, for the SELECT of the example above. A name that is a word of SQL, or has other signs than ASCII letters,
/// digits and `_`, is in quotes there: `"order"`, `"zip code"`. `flatten` takes only types that have the constant.
pub use larder_derive::FromRow;

/// Makes a struct of one unnamed field a value of SQL, so that the key of one table is not taken for that of another.
///
/// It gets `ToSql`, `FromSql`, `Display`, `FromStr`, and `From` in both directions; the field may be an integer, a
/// `String`, or another type that has the first four. Derive `Clone`, `Copy`, `PartialEq`, serde's traits and so on
/// beside it.
///
/// ```
/// use larder::{Id, Store};
///
/// #[derive(Id, Debug, Clone, Copy, PartialEq, Eq, Hash)]
/// struct OrderId(i64);
///
/// let store = Store::open_temp()?;
/// let id: OrderId = store.read(|tx| tx.scalar("SELECT ?1", [OrderId(7)]))?;
/// assert_eq!(id, OrderId(7));
/// assert_eq!(id.to_string().parse(), Ok(id));
/// # Ok::<_, larder::Error>(())
/// ```
pub use larder_derive::Id;
