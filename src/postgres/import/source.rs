//! The schema and the rows of a dump or of a server.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use postgres::Client;

use super::catalog;
use super::dump::{Dump, fields};
use super::failed;
use super::model::{Cursor, Model, Name, names, split};
use super::schema::{Plan, Target, primary_key};
use super::sql::{Token, tokens};
use crate::connection::sql_text::quoted;
use crate::error::{Outcome, Result};
use crate::postgres::url::Server;

/// Where rows come from.
pub(super) struct Source {
    name: String,
    from: From,
}

enum From {
    Dump(PathBuf),
    Server { server: Box<Server>, client: Box<Client> },
}

/// Rows of a table.
pub(super) struct Rows<'r> {
    /// The place of the table in the plan.
    pub(super) table: usize,
    /// The columns of the fields.
    pub(super) columns: &'r [usize],
}

pub(super) type Each<'e> = dyn FnMut(&Rows<'_>, &[Option<&[u8]>]) -> Result<(), String> + 'e;

impl Source {
    pub(super) fn dump(path: &Path) -> Self {
        Self {
            name: path.display().to_string(),
            from: From::Dump(path.to_owned()),
        }
    }

    /// Connects, and begins the snapshot.
    pub(super) fn server(url: &str) -> Result<Self> {
        let server = Server::parse(url)?;
        let mut client = server.connect()?;
        let begun = client.batch_execute(catalog::BEGIN);
        begun.map_err(|error| server.error("the snapshot cannot be begun", error, Outcome::NotStarted))?;
        Ok(Self {
            name: server.to_string(),
            from: From::Server {
                server: Box::new(server),
                client: Box::new(client),
            },
        })
    }

    /// What is shown of it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn schema(&mut self) -> Result<Model> {
        let mut model = Model::default();
        match &mut self.from {
            From::Dump(path) => {
                let read = read_schema(path, &mut model);
                read.map_err(|problem| failed(&self.name, problem))?;
            }
            From::Server { server, client } => {
                for query in catalog::QUERIES {
                    let rows = client.query(*query, &[]);
                    let rows =
                        rows.map_err(|error| server.error("the schema cannot be read", error, Outcome::NotStarted))?;
                    for row in rows {
                        let statement: Option<String> = row.get(0);
                        if let Some(statement) = statement {
                            model.apply(&statement).map_err(|problem| failed(&self.name, problem))?;
                        }
                    }
                }
            }
        }
        Ok(model)
    }

    /// Calls `each` with every row: of a server in the order of the key, of a dump as they stand there.
    pub(super) fn rows(&mut self, model: &Model, plan: &Plan, each: &mut Each<'_>) -> Result<()> {
        let name = &self.name;
        match &mut self.from {
            From::Dump(path) => {
                let read = rows_of_dump(path, model, plan, each);
                read.map_err(|problem| failed(name, problem))
            }
            From::Server { server, client } => {
                for (at, target) in plan.tables.iter().enumerate() {
                    let table = model.tables.iter().find(|table| table.name == target.source);
                    let key = table.and_then(primary_key).unwrap_or_default();
                    rows_of_table(name, server, client, at, target, key, each)?;
                }
                Ok(())
            }
        }
    }
}

fn read_schema(path: &Path, model: &mut Model) -> Result<(), String> {
    let mut dump = Dump::open(path)?;
    while let Some(statement) = dump.statement()? {
        match Kind::of(&statement.sql) {
            Kind::Copy => while dump.row()?.is_some() {},
            Kind::Insert if statement.has_changed_text => {
                return Err(format!(
                    "line {}: the lines of the dump end with CR LF, and a value has several lines, whose line ends may have \
                     been LF before: copy the dump as it is, or make it with COPY, without --inserts",
                    statement.line
                ));
            }
            Kind::Insert => {}
            Kind::Schema => {
                let applied = model.apply(&statement.sql);
                applied.map_err(|problem| format!("line {}: {problem}", statement.line))?;
            }
        }
    }
    if model.tables.is_empty() {
        return Err("the dump makes no table: make it by pg_dump, without --data-only".into());
    }
    Ok(())
}

/// The kind of a statement.
#[derive(PartialEq)]
enum Kind {
    Copy,
    Insert,
    Schema,
}

impl Kind {
    fn of(sql: &str) -> Self {
        let begins = |word: &str| {
            sql.get(..word.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(word))
        };
        let end = sql
            .get(sql.len().saturating_sub(10)..)
            .unwrap_or_default()
            .to_ascii_lowercase();
        match () {
            () if begins("COPY ") && end == "from stdin" => Self::Copy,
            () if begins("INSERT INTO ") => Self::Insert,
            () => Self::Schema,
        }
    }
}

fn rows_of_dump(path: &Path, model: &Model, plan: &Plan, each: &mut Each<'_>) -> Result<(), String> {
    let mut dump = Dump::open(path)?;
    let (mut buffer, mut ends) = (Vec::new(), Vec::new());
    while let Some(statement) = dump.statement()? {
        let at_line = |line: u64| move |problem: String| format!("line {line}: {problem}");
        match Kind::of(&statement.sql) {
            Kind::Schema => {}
            Kind::Insert => insert(&statement.sql, model, plan, each).map_err(at_line(statement.line))?,
            Kind::Copy => {
                let tokens = tokens(&statement.sql)?;
                let mut cursor = Cursor::new(&tokens[1..]);
                let name = cursor.name().ok_or("COPY without a table")?;
                let given = cursor.parenthesised().map(names);
                let Some((table, columns)) = place(&name, given, model, plan).map_err(at_line(statement.line))? else {
                    while dump.row()?.is_some() {}
                    continue;
                };
                loop {
                    let line = dump.line() + 1;
                    let Some(row) = dump.row()? else { break };
                    let fields = fields(row, &mut buffer, &mut ends).map_err(at_line(line))?;
                    // A table without columns has empty rows.
                    if fields.len() != columns.len() && !(columns.is_empty() && row.is_empty()) {
                        let (there, wanted) = (fields.len(), columns.len());
                        return Err(format!("line {line}: {there} fields in a row of {wanted} columns"));
                    }
                    let rows = Rows {
                        table,
                        columns: &columns,
                    };
                    each(&rows, &fields).map_err(at_line(line))?;
                }
            }
        }
    }
    Ok(())
}

/// The table and the columns of rows of a dump. `None` for a table that is left out.
fn place(
    name: &Name,
    columns: Option<Vec<String>>,
    model: &Model,
    plan: &Plan,
) -> Result<Option<(usize, Vec<usize>)>, String> {
    let root = model.root(name);
    let targets = &plan.tables;
    if plan.skipped.contains(&root) {
        return Ok(None);
    }
    let table = targets.iter().position(|target| target.source == root);
    let table = table.ok_or_else(|| format!("the dump does not make the table {}", name.shown()))?;
    let columns = match (columns, model.table(name)) {
        (Some(columns), _) => columns,
        (None, Some(table)) => table.columns.iter().map(|column| column.name.clone()).collect(),
        (None, None) => Vec::new(),
    };
    let places = columns.iter().map(|column| {
        let place = targets[table].column(column);
        place.ok_or_else(|| format!("the table {} has no column {column}", name.shown()))
    });
    Ok(Some((table, places.collect::<Result<_, _>>()?)))
}

/// `INSERT INTO t [(..)] [OVERRIDING SYSTEM VALUE] VALUES (..), (..)`
fn insert(sql: &str, model: &Model, plan: &Plan, each: &mut Each<'_>) -> Result<(), String> {
    let tokens = tokens(sql)?;
    let mut cursor = Cursor::new(&tokens[2..]);
    let name = cursor.name().ok_or("INSERT without a table")?;
    let given = cursor.parenthesised().map(names);
    let Some((table, columns)) = place(&name, given, model, plan)? else {
        return Ok(());
    };
    cursor.take_all(&["overriding", "system", "value"]);
    if cursor.take_all(&["default", "values"]) {
        let rows = Rows { table, columns: &[] };
        return each(&rows, &[]);
    }
    if !cursor.take("values") {
        return Err("INSERT is read with VALUES alone".into());
    }
    for row in split(cursor.rest()) {
        let mut rest = Cursor::new(row);
        let row = rest.parenthesised().ok_or("VALUES without a row")?;
        rest.take_all(&["on", "conflict", "do", "nothing"]);
        if !rest.rest().is_empty() {
            return Err("INSERT is read with VALUES and ON CONFLICT DO NOTHING alone".into());
        }
        let values = split(row);
        if values.len() != columns.len() {
            return Err(format!("{} values for {} columns", values.len(), columns.len()));
        }
        let (mut places, mut fields) = (Vec::new(), Vec::new());
        for (place, value) in columns.iter().zip(values) {
            let field = match value {
                [Token::Word(word)] if word == "default" => continue,
                [Token::Word(word)] if word == "null" => None,
                [Token::Word(word)] if word == "true" => Some("t".to_owned()),
                [Token::Word(word)] if word == "false" => Some("f".to_owned()),
                [Token::Text(text) | Token::Number(text)] => Some(text.clone()),
                [Token::Operator(minus), Token::Number(number)] if minus == "-" => Some(format!("-{number}")),
                _ => return Err("a value that is no literal".into()),
            };
            places.push(*place);
            fields.push(field);
        }
        let fields: Vec<_> = fields
            .iter()
            .map(|field| field.as_ref().map(String::as_bytes))
            .collect();
        let rows = Rows {
            table,
            columns: &places,
        };
        each(&rows, &fields)?;
    }
    Ok(())
}

fn rows_of_table(
    name: &str,
    server: &Server,
    client: &mut Client,
    at: usize,
    target: &Target,
    key: &[String],
    each: &mut Each<'_>,
) -> Result<()> {
    let columns: Vec<_> = target.columns.iter().map(|column| quoted(&column.source)).collect();
    let order = match key {
        [] => String::new(),
        // The same order both times.
        key => format!(
            " ORDER BY {}",
            key.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
        ),
    };
    let table = format!("{}.{}", quoted(&target.source.schema), quoted(&target.source.name));
    // The rows of children are in tables of their own; those of partitions are not.
    let only = if target.is_partitioned { "" } else { "ONLY " };
    let copy = format!(
        "COPY (SELECT {} FROM {only}{table}{order}) TO STDOUT",
        columns.join(", ")
    );
    let broken = |error: postgres::Error| {
        let what = format!("the rows of {} cannot be read", target.source.shown());
        server.error(&what, error, Outcome::RolledBack)
    };
    let mut reader = client.copy_out(copy.as_str()).map_err(broken)?;
    let places: Vec<_> = (0..columns.len()).collect();
    let rows = Rows {
        table: at,
        columns: &places,
    };
    let (mut line, mut buffer, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line);
        let read = read.map_err(|error| {
            let what = format!("the rows of {} cannot be read to their end", target.source.shown());
            server.broken(&what, error)
        })?;
        if read == 0 {
            return Ok(());
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        let done = fields(&line, &mut buffer, &mut ends).and_then(|fields| match places.is_empty() {
            true => each(&rows, &[]),
            false => each(&rows, &fields),
        });
        done.map_err(|problem| failed(name, problem))?;
    }
}
