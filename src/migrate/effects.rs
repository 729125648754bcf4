//! What the statements of a script do, as far as their first words tell, and whether some of them undo others.

/// The effect of one statement. Names are in lower case, without quotes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Effect {
    /// A table, index, view or trigger, and the table that an index or a trigger belongs to.
    Create(String, Option<String>),
    Drop(String),
    /// Table and column.
    AddColumn(String, String),
    DropColumn(String, String),
    RenameTable(String, String),
    /// Table, column before and after.
    RenameColumn(String, String, String),
    Insert(String),
    Delete(String),
    Update(String),
    /// It changes nothing that lasts.
    None,
    Other,
}

/// The effects of the statements of some SQL, in order.
pub(super) fn of(sql: &str) -> Vec<Effect> {
    let mut effects = Vec::new();
    let mut statement = Statement::default();
    for token in (Tokens { sql, at: 0 }) {
        if token == Token::Sign(';') && !statement.is_inside_trigger() {
            effects.extend(statement.effect());
            statement = Statement::default();
        } else {
            statement.push(token);
        }
    }
    effects.extend(statement.effect());
    effects
}

/// Whether the SQL ends between two statements.
pub(super) fn is_complete(sql: &str) -> bool {
    let mut statement = Statement::default();
    for token in (Tokens { sql, at: 0 }) {
        if token == Token::Sign(';') && !statement.is_inside_trigger() {
            statement = Statement::default();
        } else {
            statement.push(token);
        }
    }
    statement.tokens.is_empty()
}

impl Effect {
    /// Whether it undoes the other one: what was made is gone, and what was renamed has its name again.
    fn undoes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Drop(this), Self::Create(that, on)) => this == that || on.as_ref() == Some(this),
            (Self::Drop(this), Self::AddColumn(table, _) | Self::Insert(table) | Self::Update(table)) => this == table,
            (Self::DropColumn(t, c), Self::AddColumn(u, d)) => (t, c) == (u, d),
            (Self::RenameTable(a, b), Self::RenameTable(c, d)) => (a, b) == (d, c),
            (Self::RenameColumn(t, a, b), Self::RenameColumn(u, c, d)) => (t, a, b) == (u, d, c),
            (Self::Delete(this), Self::Insert(that)) => this == that,
            _ => false,
        }
    }

    /// Whether it may put back what the other one removed or changed. A migration that replaces something does the same.
    fn restores(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Create(this, _), Self::Drop(that))
            | (Self::Insert(this), Self::Delete(that))
            | (Self::Update(this), Self::Update(that)) => this == that,
            (Self::AddColumn(t, c), Self::DropColumn(u, d)) => (t, c) == (u, d),
            _ => false,
        }
    }

    /// Whether it only adds something.
    fn adds(&self) -> bool {
        matches!(
            self,
            Self::Create(..) | Self::AddColumn(..) | Self::Insert(_) | Self::None
        )
    }
}

/// Whether the statements below undo something that those above made.
pub(super) fn undo_something(below: &[Effect], above: &[Effect]) -> bool {
    let dropped = |effect: &Effect| match effect {
        // Only what was created above: a migration may drop an old table after it has copied its rows.
        Effect::Drop(name) => above
            .iter()
            .any(|other| matches!(other, Effect::Create(made, _) if made == name)),
        other => above.iter().any(|before| other.undoes(before)),
    };
    below.iter().any(dropped)
}

/// Whether the statements below undo everything that those above did.
pub(super) fn undo_everything(below: &[Effect], above: &[Effect]) -> bool {
    let mut lasting = above.iter().filter(|effect| **effect != Effect::None).peekable();
    lasting.peek().is_some()
        && lasting.all(|effect| below.iter().any(|other| other.undoes(effect) || other.restores(effect)))
        && undo_something(below, above)
}

/// Whether the statements below do anything but add to what those above did.
pub(super) fn do_more_than_add(below: &[Effect], above: &[Effect]) -> bool {
    let restores = |effect: &Effect| above.iter().any(|other| effect.restores(other));
    below.iter().any(|effect| !effect.adds() || restores(effect))
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// In lower case; with whether it was quoted.
    Word(String, bool),
    Sign(char),
}

/// The words and signs of some SQL, without comments.
struct Tokens<'s> {
    sql: &'s str,
    at: usize,
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        loop {
            let rest = &self.sql[self.at..];
            let first = rest.chars().next()?;
            if first.is_whitespace() {
                self.at += first.len_utf8();
            } else if rest.starts_with("--") {
                self.at += rest.find('\n').map_or(rest.len(), |end| end + 1);
            } else if let Some(comment) = rest.strip_prefix("/*") {
                self.at += comment.find("*/").map_or(rest.len(), |end| end + 4);
            } else if matches!(first, '\'' | '"' | '`' | '[') {
                return Some(self.quoted(if first == '[' { ']' } else { first }));
            } else if first.is_alphanumeric() || first == '_' {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
                let word = &rest[..end.unwrap_or(rest.len())];
                self.at += word.len();
                return Some(Token::Word(word.to_ascii_lowercase(), false));
            } else {
                self.at += first.len_utf8();
                return Some(Token::Sign(first));
            }
        }
    }
}

impl Tokens<'_> {
    /// A doubled quote ends one quoted part and begins another: together they are the name, without the quote in it.
    fn quoted(&mut self, quote: char) -> Token {
        let mut name = String::new();
        loop {
            let rest = &self.sql[self.at + 1..];
            let end = rest.find(quote).unwrap_or(rest.len());
            name += &rest[..end];
            self.at = (self.at + end + 2).min(self.sql.len());
            if quote == ']' || !self.sql[self.at..].starts_with(quote) {
                return Token::Word(name.to_ascii_lowercase(), true);
            }
        }
    }
}

/// The tokens of one statement that tell its effect.
#[derive(Default)]
struct Statement {
    tokens: Vec<Token>,
    /// The depth of parentheses.
    depth: usize,
    is_trigger: bool,
    /// The CASEs whose END has not come.
    cases: usize,
    /// The last token was END, and not of a CASE.
    ended: bool,
}

/// The tokens that are kept of a statement.
const KEPT: usize = 24;

impl Statement {
    fn push(&mut self, token: Token) {
        self.ended = false;
        match &token {
            Token::Word(word, false) if word == "case" => self.cases += 1,
            Token::Word(word, false) if word == "end" => {
                self.ended = self.cases == 0;
                self.cases = self.cases.saturating_sub(1);
            }
            _ => {}
        }
        match token {
            Token::Sign('(') => self.depth += 1,
            Token::Sign(')') => self.depth = self.depth.saturating_sub(1),
            token if self.depth == 0 && self.tokens.len() < KEPT => {
                self.tokens.push(token);
                if self.tokens.len() == 3 {
                    let mut words = Words::new(&self.tokens);
                    self.is_trigger = words.take("create") && {
                        words.skip(&["temp", "temporary"]);
                        words.take("trigger")
                    };
                }
            }
            _ => {}
        }
    }

    /// Semicolons inside a trigger end its statements; the one after END ends it.
    fn is_inside_trigger(&self) -> bool {
        self.is_trigger && !self.ended
    }

    /// `None` if there are no words.
    fn effect(&self) -> Option<Effect> {
        let mut words = Words::new(&self.tokens);
        let first = words.next()?;
        Some(self.tell(&first, &mut words).unwrap_or(Effect::Other))
    }

    fn tell(&self, first: &str, words: &mut Words<'_>) -> Option<Effect> {
        match first {
            "create" => {
                if words.skip(&["temp", "temporary"]) {
                    return Some(Effect::None);
                }
                words.skip(&["unique", "virtual"]);
                let kind = words.next()?;
                words.skip_all(&["if", "not", "exists"]);
                let name = words.name()?;
                let on = matches!(kind.as_str(), "index" | "trigger")
                    .then(|| words.after("on"))
                    .flatten();
                Some(Effect::Create(name, on))
            }
            "drop" => {
                words.next()?;
                words.skip_all(&["if", "exists"]);
                words.name().map(Effect::Drop)
            }
            "alter" => {
                words.next()?;
                let table = words.name()?;
                match words.next()?.as_str() {
                    "add" => {
                        words.skip(&["column"]);
                        Some(Effect::AddColumn(table, words.next()?))
                    }
                    "drop" => {
                        words.skip(&["column"]);
                        Some(Effect::DropColumn(table, words.next()?))
                    }
                    "rename" if words.take("to") => Some(Effect::RenameTable(table, words.next()?)),
                    "rename" => {
                        words.skip(&["column"]);
                        let before = words.next()?;
                        words.take("to");
                        Some(Effect::RenameColumn(table, before, words.next()?))
                    }
                    _ => None,
                }
            }
            "insert" | "replace" => words.after("into").map(Effect::Insert),
            "delete" => words.after("from").map(Effect::Delete),
            "update" => {
                if words.take("or") {
                    words.next()?;
                }
                words.name().map(Effect::Update)
            }
            "with" => loop {
                let word = words.next()?;
                if matches!(word.as_str(), "insert" | "replace" | "delete" | "update") {
                    return self.tell(&word, words);
                }
                if matches!(word.as_str(), "select" | "values") {
                    return Some(Effect::None);
                }
            },
            "select" | "values" | "pragma" | "analyze" | "reindex" | "vacuum" | "explain" | "begin" | "commit"
            | "end" | "savepoint" | "release" => Some(Effect::None),
            _ => None,
        }
    }
}

/// The words at the start of a statement.
struct Words<'t> {
    tokens: &'t [Token],
    at: usize,
}

impl<'t> Words<'t> {
    fn new(tokens: &'t [Token]) -> Self {
        Self { tokens, at: 0 }
    }

    fn next(&mut self) -> Option<String> {
        while let Some(token) = self.tokens.get(self.at) {
            self.at += 1;
            if let Token::Word(word, _) = token {
                return Some(word.clone());
            }
        }
        None
    }

    /// Passes over this keyword, if it comes next.
    fn take(&mut self, keyword: &str) -> bool {
        let found = matches!(self.tokens.get(self.at), Some(Token::Word(word, false)) if word == keyword);
        self.at += usize::from(found);
        found
    }

    fn skip(&mut self, one_of: &[&str]) -> bool {
        one_of.iter().any(|keyword| self.take(keyword))
    }

    fn skip_all(&mut self, keywords: &[&str]) {
        for keyword in keywords {
            self.take(keyword);
        }
    }

    /// A name, without the name of its database.
    fn name(&mut self) -> Option<String> {
        let name = self.next()?;
        if self.tokens.get(self.at) == Some(&Token::Sign('.')) {
            return self.next();
        }
        Some(name)
    }

    /// The name after this keyword.
    fn after(&mut self, keyword: &str) -> Option<String> {
        while self.at < self.tokens.len() {
            if self.take(keyword) {
                return self.name();
            }
            self.at += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> String {
        name.to_owned()
    }

    #[test]
    fn effects_are_those_of_the_statements() {
        let sql = "-- DROP TABLE no;
            CREATE TABLE IF NOT EXISTS \"Users\"(id INTEGER, note TEXT DEFAULT 'a; DROP TABLE no');
            CREATE UNIQUE INDEX main.by_id ON users(id);
            CREATE TRIGGER t AFTER INSERT ON users BEGIN DELETE FROM no; UPDATE no SET a = CASE 1 WHEN 1 THEN 2 END; END;
            CREATE TEMP TABLE scratch(n);
            ALTER TABLE main.[users] ADD COLUMN mail TEXT; ALTER TABLE users DROP mail;
            ALTER TABLE users RENAME TO people; ALTER TABLE people RENAME COLUMN id TO number;
            INSERT OR IGNORE INTO people(number) VALUES (1); WITH x AS (SELECT 1) DELETE FROM `people` WHERE 1;
            UPDATE OR FAIL people SET number = 2; /* DROP TABLE no; */ PRAGMA user_version = 3; SELECT 1;;
            DROP INDEX IF EXISTS by_id; ATTACH 'x' AS y";
        let expected = [
            Effect::Create(name("users"), None),
            Effect::Create(name("by_id"), Some(name("users"))),
            Effect::Create(name("t"), Some(name("users"))),
            Effect::None,
            Effect::AddColumn(name("users"), name("mail")),
            Effect::DropColumn(name("users"), name("mail")),
            Effect::RenameTable(name("users"), name("people")),
            Effect::RenameColumn(name("people"), name("id"), name("number")),
            Effect::Insert(name("people")),
            Effect::Delete(name("people")),
            Effect::Update(name("people")),
            Effect::None,
            Effect::None,
            Effect::Drop(name("by_id")),
            Effect::Other,
        ];
        assert_eq!(of(sql), expected);
    }

    #[test]
    fn statements_undo_what_others_made() {
        for (above, below, something, everything) in [
            ("CREATE TABLE a(n)", "DROP TABLE a", true, true),
            ("CREATE TABLE a(n)", "DROP TABLE IF EXISTS main.\"A\"", true, true),
            ("CREATE TABLE a(n); CREATE INDEX i ON a(n)", "DROP TABLE a", true, true),
            (
                "CREATE TABLE a(n); INSERT INTO a VALUES (1)",
                "DROP TABLE a",
                true,
                true,
            ),
            ("CREATE TABLE a(n); CREATE TABLE b(n)", "DROP TABLE a", true, false),
            ("CREATE TABLE a(n); UPDATE b SET n = 1", "DROP TABLE a", true, false),
            ("ALTER TABLE a ADD b", "ALTER TABLE a DROP COLUMN b", true, true),
            ("ALTER TABLE a RENAME TO b", "ALTER TABLE b RENAME TO a", true, true),
            ("INSERT INTO a VALUES (1)", "DELETE FROM a WHERE n = 1", true, true),
            (
                "CREATE TABLE new(n); INSERT INTO new SELECT n FROM a",
                "DROP TABLE a; ALTER TABLE new RENAME TO a",
                false,
                false,
            ),
            ("DROP TABLE a", "CREATE TABLE a(n)", false, false),
            ("DELETE FROM a", "INSERT INTO a VALUES (1)", false, false),
            ("CREATE TABLE a(n)", "CREATE TABLE b(n)", false, false),
            ("SELECT 1", "DROP TABLE a", false, false),
        ] {
            let (above, below) = (of(above), of(below));
            assert_eq!(undo_something(&below, &above), something, "{above:?}, {below:?}");
            assert_eq!(undo_everything(&below, &above), everything, "{above:?}, {below:?}");
        }
    }
}
