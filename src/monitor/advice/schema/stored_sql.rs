//! SQL of the schema that needs a setting of the connection.

use crate::connection::stored_sql::{
    SchemaObject, UnsafeUse, accepts_double_quoted_strings, names, unsafe_uses, with_strings,
};
use crate::error::Result;
use crate::monitor::advice::{Finding, Severity};
use crate::transaction::ReadTx;

pub(super) fn look(tx: &ReadTx<'_>) -> Result<Vec<Finding>> {
    let (strings, unsafe_uses) = tx.inspect(|conn| {
        let accepted = accepts_double_quoted_strings(conn);
        let strings = if accepted { Vec::new() } else { with_strings(conn)? };
        Ok((strings, unsafe_uses(conn)?))
    })?;
    let (code, tables): (Vec<_>, Vec<_>) = strings.iter().partition(|object| object.is_code());
    let findings = [
        strings_in_code(&code),
        strings_in_tables(&tables),
        unsafe_functions(&unsafe_uses),
    ];
    Ok(findings.into_iter().flatten().collect())
}

fn strings_in_code(found: &[&SchemaObject]) -> Option<Finding> {
    if found.is_empty() {
        return None;
    }
    let message = format!(
        "{} cannot be used, because of a string in double quotes, which larder reads as the name of a column",
        names(found.iter().copied())
    );
    let remedy = "Create them again in a migration, with single quotes around strings; or set \
                  Options::double_quoted_strings(true)";
    Some(Finding::new(
        Severity::Critical,
        "double_quoted_string",
        message,
        remedy,
    ))
}

/// These work with larder, and may not with other programs.
fn strings_in_tables(found: &[&SchemaObject]) -> Option<Finding> {
    if found.is_empty() {
        return None;
    }
    let message = format!(
        "{} needs strings in double quotes: a program that does not accept them cannot VACUUM or ALTER",
        names(found.iter().copied())
    );
    let remedy = "Rebuild the table, or create the index again, with single quotes around strings. Before you do, look at \
                  each: it may be a misspelt name of a column";
    Some(Finding::new(Severity::Note, "double_quoted_string", message, remedy))
}

fn unsafe_functions(found: &[UnsafeUse]) -> Option<Finding> {
    let UnsafeUse { used, .. } = found.first()?;
    let message = format!(
        "SQLite refuses statements that need {}: unsafe use of {used}",
        names(found.iter().map(|found| &found.object))
    );
    let remedy = "Register functions that are harmless in any SQL with FunctionFlags::SQLITE_INNOCUOUS; or set \
                  Options::trusted_schema(true) if nobody else writes the schema (what is marked as direct only is refused \
                  all the same)";
    Some(Finding::new(Severity::Critical, "unsafe_function", message, remedy))
}
