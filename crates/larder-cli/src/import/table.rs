//! The tables that an import creates.

use std::collections::BTreeMap;

use larder::CsvTypes;

use crate::args::ImportArgs;
use crate::failure::{Failure, Result};

const TYPES: [&str; 6] = ["INTEGER", "INT", "REAL", "TEXT", "BLOB", "ANY"];

/// The types of the tables that are to be created.
pub(crate) struct Declared {
    given: Vec<(String, String)>,
    /// By table.
    pub(crate) inferred: BTreeMap<String, CsvTypes>,
    primary_key: Vec<String>,
    /// Tables that this import has created.
    created: Vec<String>,
}

impl Declared {
    /// `None` if no table is to be created.
    pub(crate) fn of(args: &ImportArgs) -> Result<Option<Self>> {
        if !args.create_table {
            return Ok(None);
        }
        let mut given = Vec::new();
        for (column, kind) in &args.types {
            let kind = kind.to_ascii_uppercase();
            if !TYPES.contains(&kind.as_str()) {
                return Err(Failure::Usage(format!(
                    "--types {column}={kind}: a STRICT table has the types {}",
                    TYPES.join(", ")
                )));
            }
            given.push((column.clone(), kind));
        }
        Ok(Some(Self {
            given,
            inferred: BTreeMap::new(),
            primary_key: args.primary_key.clone(),
            created: Vec::new(),
        }))
    }

    /// The statement that creates a table, or `None` if a file before this one has created it.
    pub(crate) fn statement(&mut self, table: &str, header: &[String]) -> Result<Option<String>> {
        if self.created.iter().any(|other| other == table) {
            return Ok(None);
        }
        let named = self.given.iter().map(|(name, _)| name).chain(&self.primary_key);
        if let Some(missing) = named.clone().find(|name| !header.contains(name)) {
            return Err(Failure::Other(format!(
                "no field is for the column {missing:?} of {table}"
            )));
        }
        let mut parts: Vec<String> = header.iter().map(|name| self.column(table, name)).collect();
        if !self.primary_key.is_empty() {
            let key: Vec<String> = self.primary_key.iter().map(|name| quoted(name)).collect();
            parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
        }
        self.created.push(table.to_owned());
        let parts = parts.join(",\n    ");
        Ok(Some(format!("CREATE TABLE {}(\n    {parts}\n) STRICT", quoted(table))))
    }

    fn column(&self, table: &str, name: &str) -> String {
        let given = self.given.iter().find(|(column, _)| column == name);
        let inferred = || self.inferred.get(table)?.get(name);
        let kind = given
            .map(|(_, kind)| kind.as_str())
            .or_else(|| inferred().map(|kind| kind.name()));
        format!("{} {}", quoted(name), kind.unwrap_or("TEXT"))
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
