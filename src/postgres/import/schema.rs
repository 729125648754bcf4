//! The schema of the new database: STRICT tables, indexes and views, and a note for what is not as it was.

use std::collections::{BTreeMap, BTreeSet};

use super::expression::{Place, Scope, literal, translate};
use super::kind::{Kind, TypeName};
use super::model::{Column, Constraint, Index, Model, Name, Rule, Table, View};
use super::report::PostgresNote;
use super::sql::{Token, shown};
use super::view::{Relation, RelationColumn, Views};
use crate::connection::sql_text::{quoted, string};

/// The checks of a domain with its name, its default, and whether it is NOT NULL.
type OfDomain = (Vec<(String, Vec<Token>)>, Option<Vec<Token>>, bool);

const COUNTER: &str = "a table with a counter, and UPDATE .. RETURNING in the same write";

/// How types are mapped.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    pub(super) numeric_as_real: bool,
    /// Whether the rows have the values of generated columns. Those of a dump do not.
    pub(super) has_generated: bool,
}

/// A table of the new database.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) source: Name,
    pub(super) name: String,
    pub(super) columns: Vec<TargetColumn>,
    /// The column that is the rowid.
    pub(super) rowid: Option<usize>,
    pub(super) is_partitioned: bool,
    /// The columns by which a row is found, in a table that has no rowid.
    pub(super) key: Vec<usize>,
    /// The value of `sqlite_sequence`.
    pub(super) sequence: Option<i64>,
    ddl: Vec<String>,
    comment: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct TargetColumn {
    /// Its name in PostgreSQL.
    pub(super) source: String,
    pub(super) name: String,
    pub(super) kind: Kind,
    /// SQLite computes it.
    pub(super) is_generated: bool,
    /// Declared ANY, because the column has NaN.
    pub(super) is_any: bool,
    /// The name and what follows, without the type.
    ddl: String,
}

/// A view of the new database.
#[derive(Clone, Debug)]
pub(super) struct TargetView {
    pub(super) source: Name,
    pub(super) name: String,
    pub(super) sql: String,
    /// Its query in PostgreSQL.
    pub(super) query: String,
}

/// The new schema.
pub(super) struct Plan {
    pub(super) tables: Vec<Target>,
    /// `CREATE INDEX`, made once the rows are there.
    pub(super) indexes: Vec<(Name, String)>,
    /// Made after all tables, each behind those that it reads.
    pub(super) views: Vec<TargetView>,
    pub(super) notes: Vec<PostgresNote>,
    /// Whether migrations have made the tables.
    pub(super) is_made: bool,
    /// Tables that are left out, as asked.
    pub(super) skipped: Vec<Name>,
}

impl Target {
    pub(super) fn column(&self, source: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.source == source)
    }

    /// `CREATE TABLE`.
    pub(super) fn sql(&self) -> String {
        let columns = self.columns.iter().enumerate().map(|(at, column)| {
            let declared = if column.is_any {
                "ANY"
            } else {
                column.kind.sqlite_type()
            };
            let key = if self.rowid == Some(at) {
                " PRIMARY KEY AUTOINCREMENT"
            } else {
                ""
            };
            let key = if self.sequence.is_none() {
                key.trim_end_matches(" AUTOINCREMENT")
            } else {
                key
            };
            format!("    {} {declared}{key}{}", quoted(&column.name), column.ddl)
        });
        // SQLite makes no table without a column.
        let columns = columns.chain(self.columns.is_empty().then(|| "    \"no_columns\" TEXT".to_owned()));
        let rules = self.ddl.iter().map(|rule| format!("    {rule}"));
        let lines = columns.chain(rules).collect::<Vec<_>>().join(",\n");
        let comment = self.comment.as_deref().map(commented).unwrap_or_default();
        format!("CREATE TABLE {} ({comment}\n{lines}\n) STRICT", quoted(&self.name))
    }
}

/// A comment of PostgreSQL, on the line of what it is about.
fn commented(text: &str) -> String {
    format!(" /* {} */", text.replace("*/", "* /").replace(char::is_control, " "))
}

/// Names of SQLite, which are the same in upper and lower case.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    /// A free name.
    fn take(&mut self, wanted: &str) -> String {
        let base = match wanted.to_ascii_lowercase().starts_with("sqlite_") {
            true => format!("pg_{wanted}"),
            false => wanted.to_owned(),
        };
        let mut name = base.clone();
        let mut number = 2;
        while !self.0.insert(name.to_ascii_lowercase()) {
            name = format!("{base}_{number}");
            number += 1;
        }
        name
    }
}

/// Makes the schema.
pub(super) fn plan(model: &Model, rules: Rules) -> Plan {
    let mut planner = Planner {
        model,
        rules,
        names: Names::default(),
        notes: Vec::new(),
        targets: BTreeMap::new(),
    };
    let tables: Vec<_> = model
        .tables
        .iter()
        .filter(|table| table.partition_of.is_none())
        .collect();
    // Names and columns of all tables first: foreign keys name them.
    let names = planner.table_names(&tables);
    let named = tables.iter().zip(names);
    let mut made: Vec<Target> = named.map(|(table, name)| planner.table(table, name)).collect();
    for target in &made {
        let columns = target
            .columns
            .iter()
            .map(|column| (column.source.clone(), column.name.clone()));
        planner
            .targets
            .insert(target.source.clone(), (target.name.clone(), columns.collect()));
    }
    for (table, target) in tables.iter().zip(&mut made) {
        planner.rules_of(table, target);
        planner.partitions(table);
    }
    let views = planner.views(&made);
    let indexes = model
        .indexes
        .iter()
        .filter_map(|index| Some((index.table.clone(), planner.index(index, &made)?)))
        .collect();
    planner.others();
    Plan {
        tables: made,
        indexes,
        views,
        notes: planner.notes,
        is_made: false,
        skipped: Vec::new(),
    }
}

struct Planner<'m> {
    model: &'m Model,
    rules: Rules,
    names: Names,
    notes: Vec<PostgresNote>,
    /// Each table's name and its columns'.
    targets: BTreeMap<Name, (String, BTreeMap<String, String>)>,
}

impl Planner<'_> {
    fn note(&mut self, object: &str, problem: impl Into<String>, instead: &str) {
        self.notes.push(PostgresNote::new(object, problem, instead));
    }

    /// The name of a type of the user's, as the model has it.
    fn user_type(name: &TypeName) -> Name {
        Name {
            schema: name.schema.clone().unwrap_or_else(|| "public".into()),
            name: name.name.clone(),
        }
    }

    fn is_enum(&self, name: &TypeName) -> bool {
        let found = Self::user_type(name);
        let base = self.model.domains.get(&found).map(|domain| &domain.base);
        !name.is_array && (self.model.enums.contains_key(&found) || base.is_some_and(|base| self.is_enum(base)))
    }

    /// The values of an enum, also of one in a domain or an array.
    fn enum_of(&self, name: &TypeName) -> Option<&[String]> {
        let found = Self::user_type(name);
        match self.model.domains.get(&found) {
            Some(domain) => self.enum_of(&domain.base),
            None => self.model.enums.get(&found).map(Vec::as_slice),
        }
    }

    fn kind(&self, name: &TypeName) -> Kind {
        let found = Self::user_type(name);
        let kind = if self.model.enums.contains_key(&found) {
            Kind::Text
        } else if let Some(domain) = self.model.domains.get(&found) {
            self.kind(&domain.base)
        } else {
            return Kind::of_builtin(name, self.rules.numeric_as_real);
        };
        match name.is_array {
            true => Kind::Array(Box::new(kind)),
            false => kind,
        }
    }

    /// The names of the tables. Those of `public` choose first, in whatever order a source has them.
    fn table_names(&mut self, tables: &[&Table]) -> Vec<String> {
        let mut names = vec![String::new(); tables.len()];
        for of_public in [true, false] {
            let places = tables.iter().enumerate();
            for (at, table) in places.filter(|(_, table)| (table.name.schema == "public") == of_public) {
                names[at] = self.names.take(&wanted_name(&table.name));
            }
        }
        names
    }

    /// The columns of a table.
    fn table(&mut self, table: &Table, name: String) -> Target {
        let wanted = wanted_name(&table.name);
        if name != wanted {
            let problem = format!("is the table {name}: {wanted} is another's in upper or lower case, or SQLite's own");
            self.note(&table.name.shown(), problem, "");
        }
        if table.columns.is_empty() {
            self.note(
                &table.name.shown(),
                "has no columns, and has the column no_columns here",
                "",
            );
        }
        let mut names = Names::default();
        let mut columns = Vec::new();
        for column in &table.columns {
            let name = names.take(&column.name);
            let object = format!("{}.{}", table.name.shown(), column.name);
            if name != column.name {
                let problem = format!("is the column {name}: SQLite's names are the same in upper and lower case");
                self.note(&object, problem, "");
            }
            let kind = self.kind(&column.type_name);
            self.note_type(&object, column, &kind);
            columns.push(TargetColumn {
                source: column.name.clone(),
                name,
                kind,
                is_generated: false,
                is_any: false,
                ddl: String::new(),
            });
        }
        let rowid = primary_key(table)
            .filter(|key| key.len() == 1)
            .and_then(|key| table.columns.iter().position(|column| column.name == key[0]))
            .filter(|at| columns[*at].kind == Kind::Integer);
        let sequence = rowid.and_then(|at| self.sequence(table, &table.columns[at]));
        Target {
            source: table.name.clone(),
            name,
            columns,
            rowid,
            is_partitioned: self
                .model
                .tables
                .iter()
                .any(|other| other.partition_of.as_ref() == Some(&table.name)),
            key: Vec::new(),
            sequence,
            ddl: Vec::new(),
            comment: table.comment.clone(),
        }
    }

    fn note_type(&mut self, object: &str, column: &Column, kind: &Kind) {
        let shown = column.type_name.shown();
        let inner = match kind {
            Kind::Array(element) => element.as_ref(),
            kind => kind,
        };
        let known = ["bpchar", "char", "name"].contains(&column.type_name.name.as_str());
        match inner {
            Kind::AsText if !known => {
                let instead = match column.type_name.name.as_str() {
                    "tsvector" | "tsquery" => "a full-text table (FTS5)",
                    "point" | "box" | "polygon" | "circle" | "line" | "lseg" | "path" => {
                        "an R*Tree, or columns of REAL"
                    }
                    _ => "",
                };
                self.note(object, format!("{shown} is kept as PostgreSQL's text"), instead);
            }
            Kind::Numeric if !matches!(kind, Kind::Array(_)) => {
                let instead = "compare CAST(.. AS REAL), or import it as REAL or as an integer of the smallest unit";
                self.note(
                    object,
                    format!("{shown} is text with all its digits, which sorts as text"),
                    instead,
                );
            }
            _ => {}
        }
        if let Some(values) = self.enum_of(&column.type_name) {
            if column.type_name.is_array {
                let problem = format!(
                    "its items are not checked against the values of {}",
                    column.type_name.name
                );
                self.note(object, problem, "a trigger, or a check in the service");
            } else if !values.is_sorted() {
                let problem = format!("sorts by its text, and not in the order of the values of {shown}");
                self.note(
                    object,
                    problem,
                    "ORDER BY a CASE, or a table of the values with their order",
                );
            }
        }
        let collation = column
            .collation
            .as_deref()
            .filter(|name| !["C", "POSIX", "default"].contains(name));
        if let Some(name) = collation {
            let instead = "a collation of your own in Options::on_connect";
            self.note(object, format!("the collation {name} is left out"), instead);
        }
    }

    /// The last value of the sequence that fills a column.
    fn sequence(&self, table: &Table, column: &Column) -> Option<i64> {
        let owned = |(owner, name): &(Name, String)| *owner == table.name && *name == column.name;
        let mut sequences = self.model.sequences.values();
        let of_column = sequences.find(|sequence| sequence.owner.as_ref().is_some_and(owned));
        let fills = column.is_identity || column.default.as_ref().is_some_and(|default| is_nextval(default));
        fills.then(|| of_column.map_or(0, |sequence| sequence.last.max(0)))
    }

    /// What is said of a table whose rows are in partitions.
    fn partitions(&mut self, root: &Table) {
        let mut count = 0;
        for table in &self.model.tables {
            if table.name == root.name || self.model.root(&table.name) != root.name {
                continue;
            }
            count += 1;
            let known = |rule: &Rule| {
                let same = |other: &Constraint| format!("{:?}", other.rule) == format!("{rule:?}");
                root.constraints.iter().any(same)
            };
            for constraint in table.constraints.iter().filter(|constraint| !known(&constraint.rule)) {
                let object = format!("{}: {}", table.name.shown(), constraint.shown());
                let problem = format!("is of one partition of {}, and is left out", root.name.shown());
                self.notes.push(PostgresNote::new(&object, problem, "a trigger"));
            }
        }
        if count > 0 {
            let problem = format!("the rows of its {count} partitions are in one table, which has no bounds");
            self.note(&root.name.shown(), problem, "");
        }
    }

    fn scoped(&self, tokens: &[Token], target: &Target, place: Place) -> Result<String, String> {
        let column = |of: Option<&str>, name: &str| {
            let name = of.is_none().then_some(name)?;
            let at = target.column(name)?;
            let column = target.columns.get(at)?;
            // The order of an enum is not that of its text.
            let source = self.model.table(&target.source).and_then(|table| table.columns.get(at));
            let kind = match source.is_some_and(|source| self.is_enum(&source.type_name)) {
                true => Kind::AsText,
                false => column.kind.clone(),
            };
            Some((kind, quoted(&column.name)))
        };
        let scope = Scope {
            column: &column,
            kind: &|name| self.kind(name),
            place,
            query: None,
        };
        translate(tokens, &scope)
    }

    /// What follows the columns' types, and the rules of the table.
    fn rules_of(&mut self, table: &Table, target: &mut Target) {
        for (at, column) in table.columns.iter().enumerate() {
            let ddl = self.column(table, column, target, at);
            target.columns[at].ddl = ddl;
        }
        for constraint in &table.constraints {
            if let Some(rule) = self.constraint(table, constraint, target) {
                target.ddl.push(rule);
            }
        }
    }

    fn column(&mut self, table: &Table, column: &Column, target: &mut Target, at: usize) -> String {
        let object = format!("{}.{}", table.name.shown(), column.name);
        let kind = target.columns[at].kind.clone();
        let name = quoted(&target.columns[at].name);
        let mut ddl = String::new();
        let (domain_checks, domain_default, domain_not_null) = self.domain(&column.type_name);
        if (column.not_null || domain_not_null) && target.rowid != Some(at) {
            ddl.push_str(" NOT NULL");
        }
        if column.type_name.name == "citext" {
            ddl.push_str(" COLLATE NOCASE");
            self.note(
                &object,
                "citext is COLLATE NOCASE, which folds the letters of ASCII alone",
                "",
            );
        }
        if let Some(generated) = &column.generated {
            let translated = match reason_to_keep(generated, &kind) {
                Some(reason) => Err(reason.to_owned()),
                None => self.scoped(generated, target, Place::Rule),
            };
            let translated = translated.and_then(|sql| match sql.contains(" AS REAL)") {
                true => Err("numeric has more digits than SQLite computes with".into()),
                false => Ok(sql),
            });
            match translated {
                Ok(sql) => {
                    target.columns[at].is_generated = true;
                    ddl.push_str(&format!(" GENERATED ALWAYS AS ({sql}) STORED"));
                }
                Err(reason) => {
                    let values = match self.rules.has_generated {
                        true => "has the values of now",
                        false => "is NULL, since a dump has no values of it",
                    };
                    let problem = format!("is not computed, and {values}: {}: {reason}", shown(generated));
                    self.note(&object, problem, "a trigger, or the service computes it");
                    if !self.rules.has_generated {
                        ddl = ddl.replace(" NOT NULL", "");
                    }
                }
            }
        }
        if let Some(default) = column.default.clone().or(domain_default) {
            match literal(&default, &kind) {
                Some(sql) => ddl.push_str(&format!(" DEFAULT {sql}")),
                // The key counts by itself, and what else has a sequence is noted below.
                None if is_nextval(&default) => {}
                None => match self.default(&default, &kind, target) {
                    Ok(sql) => ddl.push_str(&format!(" DEFAULT ({sql})")),
                    Err(reason) => {
                        let problem = format!("the default {} is left out: {reason}", shown(&default));
                        self.note(&object, problem, "the service gives the value");
                    }
                },
            }
        }
        if target.rowid != Some(at)
            && let Some(last) = self.sequence(table, column)
        {
            let problem = format!("has no sequence: SQLite counts the key alone; the last value is {last}");
            self.note(&object, problem, COUNTER);
        }
        let mut check = |rule: String| ddl.push_str(&format!(" CHECK ({rule})"));
        match &kind {
            Kind::Bool => check(format!("{name} IN (0, 1)")),
            Kind::Json | Kind::Array(_) => check(format!("json_valid({name})")),
            Kind::Text if column.type_name.name == "varchar" && column.type_name.schema.is_none() => {
                if let Some(length) = column.type_name.length() {
                    check(format!("length({name}) <= {length}"));
                }
            }
            _ => {}
        }
        if let Some(values) = self.enum_of(&column.type_name)
            && kind == Kind::Text
        {
            let values = values.iter().map(|value| string(value)).collect::<Vec<_>>().join(", ");
            check(format!("{name} IN ({values})"));
        }
        for (domain, tokens) in domain_checks {
            let value = |of: Option<&str>, word: &str| {
                (of.is_none() && word == "value").then(|| (kind.clone(), quoted(&target.columns[at].name)))
            };
            let scope = Scope {
                column: &value,
                kind: &|name| self.kind(name),
                place: Place::Rule,
                query: None,
            };
            match translate(&tokens, &scope) {
                Ok(sql) => ddl.push_str(&format!(" CHECK ({sql})")),
                Err(reason) => {
                    let problem = format!(
                        "the check of the domain {domain} is left out: {}: {reason}",
                        shown(&tokens)
                    );
                    self.note(&object, problem, "a trigger, or a check in the service");
                }
            }
        }
        if let Some(comment) = &column.comment {
            ddl.push_str(&commented(comment));
        }
        ddl
    }

    /// The checks, the default and NOT NULL of a domain, and of those that it is made from.
    fn domain(&self, name: &TypeName) -> OfDomain {
        let (mut checks, mut default, mut not_null) = (Vec::new(), None, false);
        let mut name = name;
        while let Some(domain) = self
            .model
            .domains
            .get(&Self::user_type(name))
            .filter(|_| !name.is_array)
        {
            checks.extend(domain.checks.iter().map(|check| (name.shown(), check.clone())));
            default = default.or_else(|| domain.default.clone());
            not_null |= domain.not_null;
            name = &domain.base;
        }
        (checks, default, not_null)
    }

    fn default(&self, tokens: &[Token], kind: &Kind, target: &Target) -> Result<String, String> {
        let sql = self.scoped(tokens, target, Place::Default)?;
        let is_time = sql.contains("strftime(");
        match kind {
            Kind::TimestampTz => Ok(sql),
            Kind::Timestamp if is_time => Ok(format!("rtrim({sql}, 'Z')")),
            Kind::Date if is_time => Ok("date('now')".into()),
            _ if is_time => Err("the time in another type".into()),
            Kind::Numeric => Err("it is computed, and numbers are text here".into()),
            _ => Ok(sql),
        }
    }

    fn constraint(&mut self, table: &Table, constraint: &Constraint, target: &Target) -> Option<String> {
        let object = format!("{}: {}", table.name.shown(), constraint.shown());
        let named = constraint
            .name
            .as_ref()
            .map(|name| format!("CONSTRAINT {} ", quoted(name)));
        let named = named.unwrap_or_default();
        let columns = |names: &[String]| {
            let names = names.iter().filter_map(|name| target.column(name));
            names
                .map(|at| quoted(&target.columns[at].name))
                .collect::<Vec<_>>()
                .join(", ")
        };
        match &constraint.rule {
            Rule::PrimaryKey(_) if target.rowid.is_some() => None,
            Rule::PrimaryKey(key) => Some(format!("{named}PRIMARY KEY ({})", columns(key))),
            Rule::Unique {
                columns: key,
                nulls_are_equal,
            } => {
                if *nulls_are_equal {
                    self.note(
                        &object,
                        "NULLS NOT DISTINCT is left out: two rows may have NULL",
                        "a trigger",
                    );
                }
                if constraint.is_deferrable {
                    self.note(&object, "is checked at once, not at COMMIT", "");
                }
                Some(format!("{named}UNIQUE ({})", columns(key)))
            }
            Rule::Check(_) if !constraint.is_valid => {
                self.note(&object, "is NOT VALID, so rows may violate it, and is left out", "");
                None
            }
            Rule::Check(tokens) => match self.scoped(tokens, target, Place::Rule) {
                Ok(sql) => Some(format!("{named}CHECK ({sql})")),
                Err(reason) => {
                    let problem = format!("the check is left out: {}: {reason}", shown(tokens));
                    self.note(&object, problem, "a trigger, or a check in the service");
                    None
                }
            },
            Rule::ForeignKey(key) => {
                let Some((parent, parents)) = self.targets.get(&key.table).cloned() else {
                    self.note(&object, format!("its parent {} is not imported", key.table.shown()), "");
                    return None;
                };
                if !constraint.is_valid {
                    self.note(&object, "is NOT VALID, so rows may violate it, and is left out", "");
                    return None;
                }
                if key.acts_on_some {
                    self.note(
                        &object,
                        "ON DELETE acts on all its columns here, not on some",
                        "a trigger",
                    );
                }
                if key.is_full {
                    self.note(
                        &object,
                        "MATCH FULL is MATCH SIMPLE here",
                        "a CHECK that all columns or none are NULL",
                    );
                }
                let names = key
                    .parents
                    .iter()
                    .map(|name| parents.get(name).map_or(name.as_str(), String::as_str));
                let names = names.map(quoted).collect::<Vec<_>>().join(", ");
                let names = if names.is_empty() { names } else { format!(" ({names})") };
                let action = |on: &str, action: &Option<String>| {
                    let action = action.as_ref().filter(|action| *action != "NO ACTION");
                    action.map(|action| format!(" ON {on} {action}")).unwrap_or_default()
                };
                let deferred = if constraint.is_deferred {
                    " DEFERRABLE INITIALLY DEFERRED"
                } else {
                    ""
                };
                Some(format!(
                    "{named}FOREIGN KEY ({}) REFERENCES {}{names}{}{}{deferred}",
                    columns(&key.columns),
                    quoted(&parent),
                    action("DELETE", &key.on_delete),
                    action("UPDATE", &key.on_update),
                ))
            }
            Rule::Other(kind) => {
                self.note(
                    &object,
                    format!("{kind} is left out"),
                    "a trigger that looks for the other row",
                );
                None
            }
        }
    }

    fn index(&mut self, index: &Index, made: &[Target]) -> Option<String> {
        let object = format!("index {}", index.name.shown());
        // Those of partitions are those of their root.
        if self
            .model
            .table(&index.table)
            .is_some_and(|table| table.partition_of.is_some())
        {
            return None;
        }
        let target = made.iter().find(|target| target.source == index.table)?;
        if !matches!(index.method.as_str(), "btree" | "hash") {
            let instead = match index.method.as_str() {
                "gin" => "a full-text table (FTS5), or an index on an expression of the JSON",
                "gist" | "spgist" => "an R*Tree",
                _ => "a plain index",
            };
            self.note(&object, format!("{} has no counterpart", index.method), instead);
            return None;
        }
        if index.nulls_are_equal {
            self.note(
                &object,
                "NULLS NOT DISTINCT is left out: two rows may have NULL",
                "a trigger",
            );
        }
        let made = self.index_sql(index, target);
        match made {
            Ok(sql) => Some(sql),
            Err(reason) => {
                self.note(&object, format!("is left out: {reason}"), "");
                None
            }
        }
    }

    fn index_sql(&mut self, index: &Index, target: &Target) -> Result<String, String> {
        let mut keys = Vec::new();
        for key in &index.keys {
            keys.push(self.key(key, target)?);
        }
        if !index.unique {
            let included = index.include.iter().filter_map(|name| target.column(name));
            keys.extend(included.map(|at| quoted(&target.columns[at].name)));
        }
        let predicate = match &index.predicate {
            Some(predicate) => format!(" WHERE {}", self.scoped(predicate, target, Place::Rule)?),
            None => String::new(),
        };
        let name = self.names.take(&index.name.name);
        let unique = if index.unique { "UNIQUE " } else { "" };
        Ok(format!(
            "CREATE {unique}INDEX {} ON {} ({}){predicate}",
            quoted(&name),
            quoted(&target.name),
            keys.join(", ")
        ))
    }

    /// A column or an expression, with its order.
    fn key(&mut self, key: &[Token], target: &Target) -> Result<String, String> {
        let mut rest = key;
        let mut order = "";
        loop {
            match rest {
                [before @ .., Token::Word(nulls), Token::Word(_)] if nulls == "nulls" => rest = before,
                [before @ .., Token::Word(word)] if word == "desc" && !before.is_empty() => {
                    order = " DESC";
                    rest = before;
                }
                [before @ .., Token::Word(word)] if word == "asc" && !before.is_empty() => rest = before,
                // A class of operators.
                [before @ .., Token::Word(word)] if word.ends_with("_ops") && !before.is_empty() => rest = before,
                [before @ .., Token::Word(_), Token::Mark('.')] if !before.is_empty() => rest = before,
                _ => break,
            }
        }
        if let [Token::Word(name) | Token::Name(name)] = rest
            && let Some(at) = target.column(name)
        {
            return Ok(format!("{}{order}", quoted(&target.columns[at].name)));
        }
        Ok(format!("{}{order}", self.scoped(rest, target, Place::Rule)?))
    }

    /// The views that show the same rows here. One may read another, which is made before it.
    fn views(&mut self, made: &[Target]) -> Vec<TargetView> {
        let mut relations: BTreeMap<Name, Relation> = BTreeMap::new();
        for target in made
            .iter()
            .filter(|target| !self.model.parents.contains(&target.source))
        {
            relations.insert(target.source.clone(), self.relation(target));
        }
        let mut views = Vec::new();
        let mut left: Vec<&View> = self.model.views.iter().collect();
        loop {
            let (count, mut failed) = (left.len(), Vec::new());
            for view in std::mem::take(&mut left) {
                match self.view(view, &relations) {
                    Ok((sql, columns)) => {
                        let name = self.names.take(&wanted_name(&view.name));
                        relations.insert(
                            view.name.clone(),
                            Relation {
                                name: name.clone(),
                                columns,
                            },
                        );
                        views.push(TargetView {
                            source: view.name.clone(),
                            sql: format!("CREATE VIEW {} AS {sql}", quoted(&name)),
                            name,
                            query: shown(&view.query),
                        });
                    }
                    Err(reason) => failed.push((view, reason)),
                }
            }
            if failed.len() == count {
                for (view, reason) in failed {
                    self.notes.push(left_out(&view.name, &shown(&view.query), &reason));
                }
                return views;
            }
            left = failed.into_iter().map(|(view, _)| view).collect();
        }
    }

    fn relation(&self, target: &Target) -> Relation {
        let source = self.model.table(&target.source);
        let columns = target.columns.iter().enumerate().map(|(at, column)| RelationColumn {
            source: column.source.clone(),
            name: column.name.clone(),
            kind: Some(column.kind.clone()),
            is_enum: source
                .and_then(|table| table.columns.get(at))
                .is_some_and(|source| self.is_enum(&source.type_name)),
        });
        Relation {
            name: target.name.clone(),
            columns: columns.collect(),
        }
    }

    fn view(&self, view: &View, relations: &BTreeMap<Name, Relation>) -> Result<(String, Vec<RelationColumn>), String> {
        if !view.columns.is_empty() {
            return Err("it names its columns before its query".into());
        }
        let relation = |name: &Name| {
            let known = relations.get(name).cloned();
            known.ok_or_else(|| {
                format!(
                    "it reads {}, which is no table or view here with the same rows",
                    name.shown()
                )
            })
        };
        let views = Views {
            relation: &relation,
            kind: &|name| self.kind(name),
        };
        views.translate(&view.query)
    }

    fn others(&mut self) {
        for (kind, name) in &self.model.others {
            let instead = match *kind {
                "materialized view" => "a table, filled by a write on a schedule or by triggers",
                "trigger" | "event trigger" => "a trigger of SQLite, written again in a migration",
                "function" | "procedure" | "aggregate" | "operator" | "cast" => {
                    "code of the service, or a function in Options::on_connect"
                }
                "row-level security" | "row-level security policy" => {
                    "a store for each tenant, or a WHERE in the repository"
                }
                "LISTEN and NOTIFY" => "a channel of the process, signalled after the write has committed",
                "rule" => "a trigger with INSTEAD OF on a view",
                "privileges" => "the mode of the file, and stores that only read",
                "publication" | "subscription" => "replication by Options::replicate_to",
                "foreign table" | "foreign server" => "a second store",
                "inheritance" => "separate tables: a query of the parent has not the rows of its children",
                "text search object" => "a full-text table (FTS5)",
                _ => "",
            };
            let object = if name.is_empty() { *kind } else { name.as_str() };
            let problem = format!("{kind} has no counterpart");
            self.notes.push(PostgresNote::new(object, problem, instead));
        }
        for (name, sequence) in &self.model.sequences {
            if sequence.owner.is_some() && sequence.increment != 1 {
                let problem = format!("counts by {}, and the key by 1 here", sequence.increment);
                self.notes.push(PostgresNote::new(&name.shown(), problem, ""));
            }
        }
        let unowned: Vec<_> = self
            .model
            .sequences
            .iter()
            .filter(|(_, sequence)| sequence.owner.is_none())
            .collect();
        for (name, sequence) in unowned {
            let problem = format!("the sequence is left out; its last value is {}", sequence.last);
            self.notes.push(PostgresNote::new(&name.shown(), problem, COUNTER));
        }
    }
}

/// The name of a table or a view, with its schema unless that is `public`.
fn wanted_name(name: &Name) -> String {
    match name.schema.as_str() {
        "public" => name.name.clone(),
        schema => format!("{schema}_{}", name.name),
    }
}

/// The note of a view that is not made.
pub(super) fn left_out(name: &Name, query: &str, reason: &str) -> PostgresNote {
    let problem = format!("the view is left out: {reason}: {query}");
    PostgresNote::new(&name.shown(), problem, "write it again in a migration")
}

pub(super) fn primary_key(table: &Table) -> Option<&[String]> {
    table.constraints.iter().find_map(|constraint| match &constraint.rule {
        Rule::PrimaryKey(columns) => Some(columns.as_slice()),
        _ => None,
    })
}

/// Why the values of a generated column are kept instead of its expression: SQLite would compute others.
fn reason_to_keep(expression: &[Token], kind: &Kind) -> Option<&'static str> {
    const OTHERS: &[&str] = &["lower", "upper", "substr", "substring"];
    let calls_other = |token: &Token| OTHERS.iter().any(|name| token.is_word(name));
    match kind {
        Kind::Integer | Kind::Bool | Kind::Float | Kind::Text if !expression.iter().any(calls_other) => None,
        Kind::Integer | Kind::Bool | Kind::Float | Kind::Text => {
            Some("lower and upper fold the letters of ASCII alone, and substr counts from the end")
        }
        Kind::Numeric | Kind::NumericReal | Kind::NumericExact => {
            Some("numeric has more digits than SQLite computes with")
        }
        _ => Some("SQLite computes no values of this type"),
    }
}

fn is_nextval(tokens: &[Token]) -> bool {
    // In quotes by --quote-all-identifiers.
    let named = |token: &Token| matches!(token, Token::Word(name) | Token::Name(name) if name == "nextval");
    tokens.iter().any(named)
}
