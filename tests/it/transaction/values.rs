//! Rows into values: numbers, texts, tuples, structs.

use larder::rusqlite::types::{FromSql, FromSqlResult, ValueRef};
use larder::rusqlite::{self, Row, params};
use larder::{Error, Result, Store, WriteOptions};

const PEOPLE: &str = "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT NOT NULL, age INTEGER, note BLOB) STRICT;
    INSERT INTO people VALUES (1, 'Ada', 36, NULL), (2, 'Grace', NULL, x'00ff')";

#[derive(Debug, PartialEq)]
struct Person {
    id: i64,
    name: String,
}

impl TryFrom<&Row<'_>> for Person {
    type Error = rusqlite::Error;

    fn try_from(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            name: row.get("name")?,
        })
    }
}

fn store_with(schema: &'static str) -> Store {
    let store = Store::open_temp().unwrap();
    store.write(move |tx| tx.execute_batch(schema)).unwrap();
    store
}

fn person(id: i64, name: &str) -> Person {
    Person { id, name: name.into() }
}

fn read_error<T>(store: &Store, read: impl FnOnce(&larder::ReadTx<'_>) -> Result<T>) -> String {
    match store.read(read) {
        Ok(_) => panic!("the read succeeded"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn scalars_are_first_columns() {
    let store = store_with(PEOPLE);
    store
        .read(|tx| {
            assert_eq!(tx.scalar::<i64>("SELECT count(*), 'ignored' FROM people", [])?, 2);
            assert_eq!(
                tx.scalars::<String>("SELECT name FROM people ORDER BY id", [])?,
                ["Ada", "Grace"]
            );
            let ages: Vec<Option<i64>> = tx.scalars("SELECT age FROM people ORDER BY id", [])?;
            assert_eq!(ages, [Some(36), None]);
            let id = |name: &str| tx.optional_scalar::<i64>("SELECT id FROM people WHERE name = ?1", [name]);
            assert_eq!((id("Grace")?, id("Bob")?), (Some(2), None));
            let age: Option<Option<i64>> = tx.optional_scalar("SELECT age FROM people WHERE id = 2", [])?;
            assert_eq!(age, Some(None));
            Ok(())
        })
        .unwrap();
}

#[test]
fn rows_become_tuples_and_structs() {
    let store = store_with(PEOPLE);
    store
        .read(|tx| {
            let sql = "SELECT id, name FROM people WHERE id >= ?1 AND name <> ?2 ORDER BY id";
            let pair: (i64, String) = tx.one(sql, params![1, "x"])?;
            assert_eq!(pair, (1, "Ada".to_owned()));
            assert_eq!(tx.one::<Person>(sql, params![2, ""])?, person(2, "Grace"));
            assert_eq!(
                tx.all::<Person>(sql, params![1, ""])?,
                [person(1, "Ada"), person(2, "Grace")]
            );
            assert_eq!(tx.all::<(i64,)>(sql, params![9, ""])?, []);
            assert_eq!(tx.optional::<Person>(sql, params![2, ""])?, Some(person(2, "Grace")));
            assert_eq!(tx.optional::<Person>(sql, params![9, ""])?, None);
            let blobs: Vec<(i64, Option<Vec<u8>>)> = tx.all("SELECT id, note FROM people ORDER BY id", [])?;
            assert_eq!(blobs, [(1, None), (2, Some(vec![0, 255]))]);
            Ok(())
        })
        .unwrap();
}

#[test]
fn returning_gives_values_of_a_write() {
    let store = store_with(PEOPLE);
    let sql = "INSERT INTO people(name) SELECT value FROM json_each(?1) RETURNING id, name";
    let new: Vec<Person> = store.write(move |tx| tx.all(sql, [r#"["Bob","Eve"]"#])).unwrap();
    assert_eq!(new, [person(3, "Bob"), person(4, "Eve")]);
    // One value of several rows is asked for, and all are inserted.
    let first: i64 = store.write(move |tx| tx.scalar(sql, [r#"["Mia","Tom"]"#])).unwrap();
    assert_eq!(first, 5);
    let count: i64 = store.read(|tx| tx.scalar("SELECT count(*) FROM people", [])).unwrap();
    assert_eq!(count, 6);
}

#[test]
fn no_row_is_an_error_of_one_alone() {
    let store = store_with(PEOPLE);
    let none = "SELECT id, name FROM people WHERE id = 9";
    for error in [
        store.read(|tx| tx.one::<Person>(none, [])).map(drop).unwrap_err(),
        store.read(|tx| tx.scalar::<i64>(none, [])).map(drop).unwrap_err(),
    ] {
        let Error::Sqlite { source, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*source, rusqlite::Error::QueryReturnedNoRows);
    }
}

#[test]
fn values_of_other_types_are_named() {
    let store = store_with(PEOPLE);
    let null = read_error(&store, |tx| tx.scalar::<i64>("SELECT age FROM people WHERE id = 2", []));
    assert!(
        null.contains("column `age` is NULL, but it is read as `i64`: use `Option<i64>`"),
        "{null}"
    );
    let text = read_error(&store, |tx| tx.scalars::<i64>("SELECT name FROM people", []));
    assert!(
        text.contains("column `name` is TEXT, but it is read as `i64`"),
        "{text}"
    );
    let range = read_error(&store, |tx| tx.scalar::<u8>("SELECT 300 AS n", []));
    assert!(
        range.contains("column `n` has a number that does not fit: it is read as `u8`"),
        "{range}"
    );
    let tuple = read_error(&store, |tx| tx.all::<(i64, i64)>("SELECT id, name FROM people", []));
    assert!(
        tuple.contains("column `name` is TEXT, but the row is read as `(i64, i64)`"),
        "{tuple}"
    );
    let short = read_error(&store, |tx| tx.one::<(i64, i64)>("SELECT 1", []));
    assert!(
        short.contains("the result has 1 column, and `(i64, i64)` takes more"),
        "{short}"
    );
    let missing = read_error(&store, |tx| tx.one::<Person>("SELECT id FROM people", []));
    assert!(missing.contains("name"), "{missing}");
}

#[test]
fn wrong_value_in_a_later_row_returns_nothing() {
    let store = store_with("CREATE TABLE t(n); INSERT INTO t VALUES (1), (2), ('three')");
    let error = read_error(&store, |tx| tx.all::<(i64,)>("SELECT n FROM t", []));
    assert!(error.contains("column `n` is TEXT"), "{error}");
    // In a write, the error undoes what its closure has done.
    let error = store
        .write(|tx| {
            tx.execute("INSERT INTO t VALUES (4)", [])?;
            tx.all::<(i64,)>("SELECT n FROM t", [])
        })
        .unwrap_err();
    assert_eq!(error.outcome(), larder::Outcome::RolledBack);
    let count: i64 = store.read(|tx| tx.scalar("SELECT count(*) FROM t", [])).unwrap();
    assert_eq!(count, 3);
}

/// A type of the application's, with an error of its own.
#[derive(Debug, PartialEq)]
struct Even(i64);

impl FromSql for Even {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        match number % 2 {
            0 => Ok(Self(number)),
            _ => Err(rusqlite::types::FromSqlError::Other("the number is odd".into())),
        }
    }
}

#[test]
fn errors_of_own_types_are_kept() {
    let store = store_with("");
    assert_eq!(store.read(|tx| tx.scalar::<Even>("SELECT 4", [])).unwrap(), Even(4));
    let error = store.read(|tx| tx.scalar::<Even>("SELECT 5 AS n", [])).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("column `n` cannot be converted: it is read as `Even`: the number is odd"),
        "{text}"
    );
}

#[test]
fn columns_are_those_after_a_change_of_the_schema() {
    let store = store_with("CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    let all = "SELECT * FROM t";
    let pair = |tx: &larder::ReadTx<'_>| tx.all::<(i64, i64)>(all, []);
    assert_eq!(store.read(|tx| tx.all::<(i64,)>(all, [])).unwrap(), [(1,)]);
    store
        .write(|tx| tx.execute_batch("ALTER TABLE t ADD COLUMN b DEFAULT 2"))
        .unwrap();
    assert_eq!(store.read(pair).unwrap(), [(1, 2)]);
    store
        .write(move |tx| tx.execute("INSERT INTO t VALUES (3, 4)", []))
        .unwrap();
    let both = store
        .write_with(WriteOptions::new(), move |tx| tx.all::<(i64, i64)>(all, []))
        .unwrap();
    assert_eq!(both, [(1, 2), (3, 4)]);
}

#[cfg(feature = "derive")]
mod derived {
    use std::collections::BTreeMap;

    use larder::{FromRow, Id};

    use super::*;

    #[derive(Id, Debug, Clone, Copy, PartialEq, Eq, Hash)]
    struct PersonId(i64);

    #[derive(Id, Debug, Clone, PartialEq)]
    struct Code(String);

    #[derive(FromRow, Debug, PartialEq)]
    struct Human {
        // In another order than the columns.
        name: String,
        id: PersonId,
        age: Option<u8>,
    }

    #[derive(FromRow, Debug, PartialEq)]
    #[larder(rename_all = "camelCase")]
    struct Order {
        order_id: i64,
        #[larder(rename = "who")]
        customer: String,
        #[larder(json)]
        lines: Vec<Line>,
        #[larder(json)]
        labels: Option<BTreeMap<String, i64>>,
        #[larder(default)]
        discount: i64,
        #[larder(skip)]
        cached: bool,
        #[larder(flatten)]
        address: Address,
        r#type: i64,
    }

    #[derive(serde::Deserialize, Debug, PartialEq)]
    struct Line {
        article: String,
        count: u32,
    }

    #[derive(FromRow, Debug, PartialEq)]
    struct Address {
        street: String,
        #[larder(flatten)]
        city: City,
    }

    #[derive(FromRow, Debug, PartialEq)]
    struct City {
        zip: Code,
    }

    #[derive(FromRow, Debug, PartialEq)]
    struct Counted<T> {
        key: T,
        n: i64,
    }

    #[derive(FromRow, Debug, PartialEq)]
    struct Nothing {}

    #[test]
    fn columns_are_found_by_name() {
        let store = store_with(PEOPLE);
        let grace = Human {
            name: "Grace".into(),
            id: PersonId(2),
            age: None,
        };
        let humans: Vec<Human> = store
            .read(|tx| tx.all("SELECT note, * FROM people ORDER BY people.id", []))
            .unwrap();
        assert_eq!((humans.len(), &humans[1], humans[0].age), (2, &grace, Some(36)));
        let sql = "SELECT AGE, Name, iD FROM people WHERE id = ?1";
        assert_eq!(store.read(|tx| tx.one::<Human>(sql, [grace.id])).unwrap(), grace);
        assert_eq!(store.read(|tx| tx.optional::<Human>(sql, [PersonId(9)])).unwrap(), None);
        // With the methods that take a closure.
        let mapped = store.read(|tx| tx.query_map(sql, [2], Human::from_row)).unwrap();
        assert_eq!(mapped, [grace]);
        assert_eq!(Human::COLUMNS, ["name", "id", "age"]);
        let counted: Counted<String> = store.read(|tx| tx.one("SELECT 'k' AS key, 3 AS n", [])).unwrap();
        assert_eq!(counted, Counted { key: "k".into(), n: 3 });
        assert_eq!(
            store.read(|tx| tx.all::<Nothing>("SELECT 1", [])).unwrap(),
            [Nothing {}]
        );
    }

    #[test]
    fn attributes_say_where_a_field_comes_from() {
        let store = store_with("");
        let sql = r#"SELECT 7 AS orderId, 'Ada' AS who, '[{"article":"tea","count":2}]' AS lines, NULL AS labels,
                            'Main' AS street, '12345' AS zip, 1 AS type"#;
        let order: Order = store.read(|tx| tx.one(sql, [])).unwrap();
        let expected = Order {
            order_id: 7,
            customer: "Ada".into(),
            lines: vec![Line {
                article: "tea".into(),
                count: 2,
            }],
            labels: None,
            discount: 0,
            cached: false,
            address: Address {
                street: "Main".into(),
                city: City {
                    zip: Code("12345".into()),
                },
            },
            r#type: 1,
        };
        assert_eq!(order, expected);
        let sql = format!("SELECT *, 5 AS discount FROM ({sql})");
        let order: Order = store.read(|tx| tx.one(&sql, [])).unwrap();
        assert_eq!(order.discount, 5);
        let columns = ["orderId", "who", "lines", "labels", "discount", "street", "zip", "type"];
        assert_eq!(Order::COLUMNS, columns);
    }

    #[test]
    fn columns_are_quoted_where_sql_needs_it() {
        #[derive(FromRow, Debug, PartialEq)]
        struct Odd {
            id: i64,
            order: i64,
            #[larder(rename = "Group")]
            group: i64,
            r#match: i64,
            current_time: i64,
            #[larder(rename = "two words")]
            spaced: i64,
            #[larder(rename = "a, b")]
            listed: i64,
            #[larder(rename = "say \"hi\"")]
            said: i64,
            #[larder(rename = "1st")]
            first: i64,
            größe: i64,
            #[larder(flatten)]
            kebab: Kebab,
        }

        #[derive(FromRow, Debug, PartialEq)]
        #[larder(rename_all = "kebab-case")]
        struct Kebab {
            zip_code: i64,
            default: i64,
        }

        let store = store_with("");
        let columns = Odd::COLUMNS.join(", ");
        let sql = format!(
            "CREATE TABLE odd({columns}); INSERT INTO odd({columns}) VALUES (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)"
        );
        store.write(move |tx| tx.execute_batch(&sql)).unwrap();
        let sql = format!("SELECT {columns} FROM odd");
        let odd: Odd = store.read(|tx| tx.one(&sql, [])).unwrap();
        let kebab = Kebab {
            zip_code: 11,
            default: 12,
        };
        assert_eq!((odd.id, odd.order, odd.current_time, odd.listed), (1, 2, 5, 7));
        assert_eq!((odd.said, odd.größe, odd.kebab), (8, 10, kebab));
        assert_eq!(Kebab::COLUMNS, [r#""zip-code""#, r#""default""#]);
        assert_eq!((Odd::COLUMNS[0], Odd::COLUMNS[1]), ("id", r#""order""#));
    }

    #[test]
    fn columns_are_found_again_after_a_change_of_the_schema() {
        const SQL: &str = "SELECT * FROM pair";

        #[derive(FromRow, Debug, PartialEq)]
        struct Pair {
            left: i64,
            right: i64,
        }

        #[derive(FromRow, Debug, PartialEq)]
        struct Left {
            left: i64,
        }

        let expected = || Pair { left: 1, right: 2 };
        let table = |columns: &str| {
            format!(
                "DROP TABLE IF EXISTS pair; CREATE TABLE pair({columns}); INSERT INTO pair(left, right) VALUES (1, 2)"
            )
        };
        let orders = ["left, right", "right, left", "other, right, left", "left, other, right"].map(table);
        let store = larder::Options::new().readers(1).open_temp().unwrap();
        let path = store.path().to_owned();
        let same = |store: &Store| {
            for _ in 0..3 {
                assert_eq!(store.read(|tx| tx.one::<Pair>(SQL, [])).unwrap(), expected());
                assert_eq!(store.read(|tx| tx.one::<Left>(SQL, [])).unwrap().left, 1);
                assert_eq!(store.read(|tx| tx.all::<Pair>(SQL, [])).unwrap(), [expected()]);
                assert_eq!(store.write(|tx| tx.one::<Pair>(SQL, [])).unwrap(), expected());
            }
        };
        for order in &orders {
            let order = order.clone();
            store.write(move |tx| tx.execute_batch(&order)).unwrap();
            same(&store);
        }
        // By another connection, as another process would.
        let other = larder::rusqlite::Connection::open(&path).unwrap();
        for order in &orders {
            other.execute_batch(order).unwrap();
            same(&store);
        }
        // In the midst of a write, that is then rolled back; by the connection itself; without the authorizer.
        for how in 0..3 {
            let orders = orders.clone();
            let undone = store.write(move |tx| -> larder::Result<()> {
                for order in &orders {
                    let before: Option<Pair> = tx.optional(SQL, [])?;
                    assert_eq!(before, Some(expected()));
                    match how {
                        0 => tx.execute_batch(order)?,
                        1 => larder::rusqlite::Connection::execute_batch(tx, order)?,
                        _ => {
                            tx.authorizer(
                                None::<
                                    fn(
                                        larder::rusqlite::hooks::AuthContext<'_>,
                                    ) -> larder::rusqlite::hooks::Authorization,
                                >,
                            )?;
                            tx.execute_batch(order)?;
                        }
                    }
                    for _ in 0..2 {
                        assert_eq!(tx.one::<Pair>(SQL, [])?, expected(), "{order}");
                    }
                }
                Err(Error::app("undo"))
            });
            assert!(matches!(undone, Err(Error::App(_))), "{undone:?}");
            same(&store);
        }
        let missing = store.write(|tx| {
            tx.execute_batch("ALTER TABLE pair RENAME COLUMN left TO first")?;
            tx.one::<Pair>(SQL, [])
        });
        assert!(missing.unwrap_err().to_string().contains("`left`"));
        same(&store);
    }

    #[test]
    fn every_keyword_is_quoted() {
        let store = store_with("");
        /// Fields named as keywords, whose `COLUMNS` make a table and a SELECT of it.
        macro_rules! keywords {
            ($($name:literal)*) => {
                $({
                    #[derive(FromRow)]
                    struct One {
                        #[larder(rename = $name)]
                        value: i64,
                    }
                    let [column] = One::COLUMNS else { panic!("it has one") };
                    let table = format!("CREATE TABLE one({column}); INSERT INTO one VALUES (7)");
                    store.write(move |tx| tx.execute_batch(&table)).unwrap();
                    let sql = format!("SELECT {column} FROM one");
                    assert_eq!(store.read(|tx| tx.one::<One>(&sql, [])).unwrap().value, 7, "{column}");
                    store.write(|tx| tx.execute_batch("DROP TABLE one")).unwrap();
                })*
            };
        }
        keywords!("add" "all" "alter" "and" "as" "between" "case" "check" "collate" "commit" "constraint" "create"
            "current_date" "current_timestamp" "deferrable" "delete" "distinct" "drop" "else" "escape" "exists" "foreign"
            "from" "having" "in" "index" "insert" "intersect" "into" "is" "isnull" "join" "limit" "not" "notnull" "null"
            "on" "or" "primary" "raise" "references" "returning" "select" "set" "table" "then" "to" "transaction" "true"
            "union" "unique" "update" "using" "values" "when" "where" "window" "key" "filter" "over");
    }

    #[test]
    fn wrong_columns_are_named() {
        let store = store_with(PEOPLE);
        let error = |sql: &str| read_error(&store, |tx| tx.all::<Human>(sql, []));
        let null = error("SELECT 1 AS id, NULL AS name, 3 AS age");
        assert!(
            null.contains("column `name` is NULL, but `Human::name` is of type `String`: use `Option<String>`"),
            "{null}"
        );
        let range = read_error(&store, |tx| {
            tx.one::<Human>("SELECT 1 AS id, 'x' AS name, ?1 AS age", [300])
        });
        assert!(
            range.contains("column `age` has a number that does not fit: `Human::age` is of type `Option<u8>`"),
            "{range}"
        );
        assert!(!range.contains("300"), "an error has no value: {range}");
        // Also while there is no row.
        for end in ["", " WHERE 0"] {
            let missing = error(&format!("SELECT id, age FROM people{end}"));
            let expected = "`name`, which `Human::name` needs; the result has `id`, `age`";
            assert!(missing.contains(expected), "{missing}");
            let twice = error(&format!(
                "SELECT a.id, b.id, a.name, a.age FROM people a, people b{end}"
            ));
            assert!(twice.contains("`id` is ambiguous") && twice.contains("AS"), "{twice}");
        }
        let no_column = store
            .write(|tx| tx.one::<Human>("DELETE FROM people", []))
            .unwrap_err()
            .to_string();
        assert!(no_column.contains("the result has no column"), "{no_column}");
        assert_eq!(
            store
                .read(|tx| tx.scalar::<i64>("SELECT count(*) FROM people", []))
                .unwrap(),
            2
        );
    }

    #[derive(FromRow, Debug)]
    struct Tags {
        #[larder(json)]
        _tags: Vec<String>,
    }

    #[test]
    fn wrong_json_is_named_without_values() {
        let store = store_with("");
        let error = |value: &str| read_error(&store, |tx| tx.one::<Tags>("SELECT ?1 AS _tags", [value]));
        let of = |sql: &str| read_error(&store, |tx| tx.one::<Tags>(sql, []));
        let shape = error(r#"["a", {"secret":1}]"#);
        assert!(
            shape.contains("column `_tags`") && shape.contains("another shape at line 1"),
            "{shape}"
        );
        assert!(
            shape.contains("`Tags::_tags` is of type `Vec<String>`") && !shape.contains("secret"),
            "{shape}"
        );
        let text = error("secret");
        assert!(
            text.contains("no JSON at line 1, column 1") && !text.contains("secret"),
            "{text}"
        );
        let binary = of("SELECT jsonb('[\"a\"]') AS _tags");
        assert!(binary.contains("select json(..) of it"), "{binary}");
        let null = of("SELECT NULL AS _tags");
        assert!(
            null.contains("column `_tags` is NULL") && null.contains("use `Option<Vec<String>>`"),
            "{null}"
        );
        let debug = format!(
            "{:?}",
            store.read(|tx| tx.one::<Tags>("SELECT ?1 AS _tags", [r#"[{"secret":1}, 2]"#]))
        );
        assert!(debug.contains("column: ") && !debug.contains("secret"), "{debug}");
        let infinite = of("SELECT 9e999 AS _tags");
        assert!(
            infinite.contains("column `_tags` has a number that does not fit"),
            "{infinite}"
        );
        let number = of("SELECT 5 AS _tags");
        assert!(number.contains("column `_tags` is an INTEGER"), "{number}");
    }

    #[test]
    fn ids_are_values_of_sql() {
        let store = store_with("");
        let sql = "SELECT ?1, ?2";
        let back: (PersonId, Code) = store
            .read(|tx| tx.one(sql, (PersonId(-3), Code("x-1".into()))))
            .unwrap();
        assert_eq!(back, (PersonId(-3), Code("x-1".into())));
        assert_eq!(
            (PersonId::from(4).to_string(), i64::from(PersonId(4))),
            ("4".to_owned(), 4)
        );
        assert_eq!("-12".parse(), Ok(PersonId(-12)));
        assert!("twelve".parse::<PersonId>().is_err());
        let wrong = read_error(&store, |tx| tx.scalar::<PersonId>("SELECT 'x' AS id", []));
        assert!(
            wrong.contains("column `id` is TEXT, but it is read as `PersonId`"),
            "{wrong}"
        );
    }

    mod private {
        use super::FromRow;

        /// It flattens a type that others cannot name, and has fields with the names of the derived code's own variables.
        #[derive(FromRow, Debug)]
        #[allow(
            unreachable_pub,
            reason = "the derived code may not name the hidden type in a public place"
        )]
        pub struct Shown {
            row: i64,
            columns: i64,
            found: i64,
            #[larder(flatten)]
            hidden: Hidden,
        }

        #[derive(FromRow, Debug)]
        struct Hidden {
            names: Option<String>,
        }

        impl Shown {
            pub(super) fn sum(&self) -> (i64, Option<&str>) {
                (self.row + self.columns + self.found, self.hidden.names.as_deref())
            }
        }
    }

    #[test]
    fn private_types_are_flattened() {
        let store = store_with("");
        let sql = "SELECT 1 AS row, 2 AS columns, 3 AS found, 'x' AS names";
        let shown: private::Shown = store.read(|tx| tx.one(sql, [])).unwrap();
        assert_eq!(shown.sum(), (6, Some("x")));
    }
}
