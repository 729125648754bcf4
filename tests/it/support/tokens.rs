//! Rust source as tokens: enough to find paths and items, without macros expanded. Comments are left out.

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// A name, a keyword or a number.
    Name,
    Mark,
    /// What is in a string.
    Text,
}

pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    pub(crate) line: usize,
}

pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: text, line: 1 };
    std::iter::from_fn(|| lexer.next()).collect()
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Option<Token> {
        loop {
            let line = self.line;
            let token = |kind, text: &str| {
                Some(Token {
                    kind,
                    text: text.to_owned(),
                    line,
                })
            };
            let first = self.rest.chars().next()?;
            if first.is_whitespace() {
                self.take(first.len_utf8());
            } else if self.rest.starts_with("//") {
                self.take(self.rest.find('\n').unwrap_or(self.rest.len()));
            } else if self.rest.starts_with("/*") {
                self.take_comment();
            } else if let Some(text) = self.string() {
                return token(Kind::Text, text);
            } else if let Some(length) = self.character() {
                self.take(length);
            } else if is_in_name(first) {
                let raw = if self.rest.starts_with("r#") { 2 } else { 0 };
                self.take(raw);
                let length = self.rest.find(|c| !is_in_name(c)).unwrap_or(self.rest.len());
                return token(Kind::Name, self.take(length));
            } else if self.rest.starts_with("::") {
                return token(Kind::Mark, self.take(2));
            } else {
                let mark = self.take(first.len_utf8());
                // `$crate` is `crate`.
                if mark != "$" {
                    return token(Kind::Mark, mark);
                }
            }
        }
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    /// Comments may be nested.
    fn take_comment(&mut self) {
        let mut depth = 0;
        loop {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.take(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.take(2);
            } else {
                self.take(self.rest.chars().next().map_or(0, char::len_utf8));
            }
            if depth == 0 || self.rest.is_empty() {
                return;
            }
        }
    }

    /// What is in a string that begins here, of any kind.
    fn string(&mut self) -> Option<&'a str> {
        let prefix = self.rest.find(|c| !"brc".contains(c))?;
        let raw = self.rest[..prefix].contains('r');
        let after = &self.rest[prefix..];
        let hashes = if raw {
            after.len() - after.trim_start_matches('#').len()
        } else {
            0
        };
        let inside = after[hashes..].strip_prefix('"')?;
        let end = if raw {
            inside.find(&format!("\"{}", "#".repeat(hashes)))?
        } else {
            end_of_string(inside)?
        };
        self.take(prefix + hashes + 1);
        let text = self.take(end);
        self.take(1 + hashes);
        Some(text)
    }

    /// The length of a character or a lifetime that begins here.
    fn character(&self) -> Option<usize> {
        let inside = self.rest.strip_prefix('\'').or_else(|| self.rest.strip_prefix("b'"))?;
        let prefix = self.rest.len() - inside.len();
        let mut characters = inside.char_indices();
        let (_, first) = characters.next()?;
        if first == '\\' {
            characters.next();
            let end = characters.find(|(_, c)| *c == '\'')?;
            return Some(prefix + end.0 + 1);
        }
        let (second, mark) = characters.next()?;
        if mark == '\'' {
            return Some(prefix + second + 1);
        }
        Some(prefix + inside.find(|c| !is_in_name(c)).unwrap_or(inside.len()))
    }
}

fn end_of_string(inside: &str) -> Option<usize> {
    let mut escaped = false;
    let end = inside.char_indices().find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map(|(end, _)| end)
}

fn is_in_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
