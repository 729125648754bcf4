//! PostgreSQL's SQL as tokens.

use std::fmt::{self, Display};

use crate::connection::sql_text::{quoted, string};

/// A token. Comments and white space are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword or a name without quotes, in lower case.
    Word(String),
    /// A name in double quotes.
    Name(String),
    /// A string, without its quotes and escapes.
    Text(String),
    Number(String),
    Operator(String),
    /// One of `( ) [ ] , ; .`
    Mark(char),
}

impl Token {
    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(there) if there == word)
    }

    pub(super) fn is_operator(&self, operator: &str) -> bool {
        matches!(self, Self::Operator(there) if there == operator)
    }

    pub(super) fn is_mark(&self, mark: char) -> bool {
        matches!(self, Self::Mark(there) if *there == mark)
    }
}

impl Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(text) | Self::Number(text) | Self::Operator(text) => f.write_str(text),
            Self::Name(name) => f.write_str(&quoted(name)),
            Self::Text(text) => f.write_str(&string(text)),
            Self::Mark(mark) => write!(f, "{mark}"),
        }
    }
}

/// Tokens as one text, for reports.
pub(super) fn shown(tokens: &[Token]) -> String {
    let mut text = String::new();
    for (at, token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| tokens.get(before));
        let tight = |token: &Token| matches!(token, Token::Mark('(' | '[' | '.'));
        let closes = matches!(token, Token::Mark(')' | ']' | ',' | ';' | '.' | '['));
        let call = token.is_mark('(') && matches!(before, Some(Token::Word(_) | Token::Name(_)));
        let cast = token.is_operator("::") || before.is_some_and(|before| before.is_operator("::"));
        if before.is_some_and(|before| !tight(before)) && !closes && !call && !cast {
            text.push(' ');
        }
        text.push_str(&token.to_string());
    }
    text
}

const OPERATORS: &str = "+-*/<>=~!@#%^&|`?";

/// The tokens of a text.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    while let Some(token) = lexer.next()? {
        tokens.push(token);
    }
    Ok(tokens)
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) -> Result<(), String> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with("--") {
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if trimmed.starts_with("/*") {
                self.at += comment(trimmed).ok_or("a comment has no end")?;
            } else {
                return Ok(());
            }
        }
    }

    fn next(&mut self) -> Result<Option<Token>, String> {
        self.skip_space()?;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(None);
        };
        let second = rest[first.len_utf8()..].chars().next();
        let token = match (first, second) {
            ('\'', _) => Token::Text(self.plain(0)?),
            ('e' | 'E', Some('\'')) => Token::Text(self.escaped()?),
            ('u' | 'U', Some('&')) if rest[2..].starts_with(['\'', '"']) => {
                return Err("a string or a name with U& escapes is not read".into());
            }
            ('b' | 'B' | 'x' | 'X' | 'n' | 'N', Some('\'')) => Token::Text(self.plain(1)?),
            ('"', _) => Token::Name(self.name()?),
            ('$', Some(next)) if next == '$' || next.is_alphabetic() || next == '_' => Token::Text(self.dollar()?),
            (c, _) if c.is_ascii_digit() => self.number(),
            ('.', Some(c)) if c.is_ascii_digit() => self.number(),
            ('(' | ')' | '[' | ']' | ',' | ';' | '.', _) => {
                self.at += 1;
                Token::Mark(first)
            }
            (':', Some(':' | '=')) => {
                self.at += 2;
                Token::Operator(rest[..2].into())
            }
            (c, _) if OPERATORS.contains(c) => self.operator(),
            (c, _) if c.is_alphabetic() || c == '_' => self.word(),
            (c, _) => {
                self.at += c.len_utf8();
                Token::Operator(c.into())
            }
        };
        Ok(Some(token))
    }

    fn word(&mut self) -> Token {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
        let word = &rest[..end.unwrap_or(rest.len())];
        self.at += word.len();
        Token::Word(word.to_lowercase())
    }

    fn number(&mut self) -> Token {
        let bytes = self.rest().as_bytes();
        let mut end = 0;
        while let Some(byte) = bytes.get(end) {
            let exponent = matches!(byte, b'+' | b'-') && matches!(bytes[end - 1], b'e' | b'E');
            if !(byte.is_ascii_alphanumeric() || *byte == b'.' || exponent) {
                break;
            }
            end += 1;
        }
        let number = self.rest()[..end].to_owned();
        self.at += end;
        Token::Number(number)
    }

    fn operator(&mut self) -> Token {
        let rest = self.rest();
        let mut end = rest.find(|c: char| !OPERATORS.contains(c)).unwrap_or(rest.len());
        for comment in ["--", "/*"] {
            end = rest[..end].find(comment).unwrap_or(end);
        }
        // An operator ends in a sign only if it has one of these.
        while end > 1 && rest[..end].ends_with(['+', '-']) && !rest[..end].contains(|c: char| "~!@#%^&|`?".contains(c))
        {
            // JSON's arrows end in neither.
            end -= 1;
        }
        let end = end.max(1);
        self.at += end;
        Token::Operator(rest[..end].into())
    }

    /// A string whose quote is at an offset.
    fn plain(&mut self, quote: usize) -> Result<String, String> {
        self.at += quote;
        self.until_quote('\'')
    }

    fn name(&mut self) -> Result<String, String> {
        self.until_quote('"')
    }

    fn until_quote(&mut self, quote: char) -> Result<String, String> {
        let rest = &self.rest()[1..];
        let mut text = String::new();
        let mut from = 0;
        loop {
            let end = rest[from..].find(quote).ok_or("a quote has no end")? + from;
            text.push_str(&rest[from..end]);
            if rest[end + 1..].starts_with(quote) {
                text.push(quote);
                from = end + 2;
            } else {
                self.at += end + 2;
                return Ok(text);
            }
        }
    }

    /// `E'..'`.
    fn escaped(&mut self) -> Result<String, String> {
        let rest = &self.rest()[2..];
        let mut bytes = Vec::new();
        let mut chars = rest.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '\'' if chars.peek().is_some_and(|(_, next)| *next == '\'') => {
                    chars.next();
                    bytes.push(b'\'');
                }
                '\'' => {
                    self.at += at + 3;
                    return String::from_utf8(bytes).map_err(|_| "a string is no UTF-8".to_owned());
                }
                '\\' => {
                    let (_, escape) = chars.next().ok_or("a string has no end")?;
                    let mut digits = |radix: u32, most: usize, first: Option<char>| {
                        let mut value = first.and_then(|c| c.to_digit(radix)).unwrap_or(0);
                        let mut count = usize::from(first.is_some());
                        while count < most {
                            let Some(digit) = chars.peek().and_then(|(_, c)| c.to_digit(radix)) else {
                                break;
                            };
                            value = value * radix + digit;
                            chars.next();
                            count += 1;
                        }
                        value
                    };
                    match escape {
                        'b' => bytes.push(8),
                        'f' => bytes.push(12),
                        'n' => bytes.push(b'\n'),
                        'r' => bytes.push(b'\r'),
                        't' => bytes.push(b'\t'),
                        'x' => bytes.push(digits(16, 2, None).to_le_bytes()[0]),
                        'u' | 'U' => {
                            let value = digits(16, if escape == 'u' { 4 } else { 8 }, None);
                            let value = char::from_u32(value).ok_or("a string has a wrong \\u escape")?;
                            bytes.extend_from_slice(value.encode_utf8(&mut [0; 4]).as_bytes());
                        }
                        '0'..='7' => bytes.push(digits(8, 3, Some(escape)).to_le_bytes()[0]),
                        other => bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
                c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Err("a string has no end".into())
    }

    /// `$tag$..$tag$`.
    fn dollar(&mut self) -> Result<String, String> {
        let rest = self.rest();
        let tag = rest[1..].find('$').ok_or("a dollar quote has no end")? + 2;
        let (tag, body) = rest.split_at(tag);
        let end = body.find(tag).ok_or("a dollar quote has no end")?;
        self.at += tag.len() + end + tag.len();
        Ok(body[..end].to_owned())
    }
}

/// The length of the comment that a text begins with. Comments nest.
fn comment(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    let bytes = text.as_bytes();
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_their_kinds() {
        let read =
            tokens("SELECT \"A\"\"b\", E'x\\n\\'\\u00e9', $q$a;'b$q$ -- end\n/* a /* b */ c */ x::text -1 a->>'k'")
                .unwrap();
        let wanted = [
            Token::Word("select".into()),
            Token::Name("A\"b".into()),
            Token::Mark(','),
            Token::Text("x\n'é".into()),
            Token::Mark(','),
            Token::Text("a;'b".into()),
            Token::Word("x".into()),
            Token::Operator("::".into()),
            Token::Word("text".into()),
            Token::Operator("-".into()),
            Token::Number("1".into()),
            Token::Word("a".into()),
            Token::Operator("->>".into()),
            Token::Text("k".into()),
        ];
        assert_eq!(read, wanted);
    }

    #[test]
    fn tokens_without_end_are_errors() {
        for text in ["'a", "\"a", "E'a", "$$a", "/* a"] {
            assert!(tokens(text).is_err(), "{text}");
        }
    }
}
