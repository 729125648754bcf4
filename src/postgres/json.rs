//! Which text the type `json` of PostgreSQL takes, and which of it `jsonb` does not.
//!
//! `json` checks the grammar of RFC 8259 alone. `jsonb` keeps values instead of text: it has no U+0000 and no halves of
//! surrogate pairs, and its numbers are `numeric`. Both read recursively, so a server with little stack refuses deep nesting.

/// So many levels are read by a server with its default `max_stack_depth` of 2 MB, which has room for twice as many.
const MAX_DEPTH: usize = 6_400;

/// Digits of a `numeric` before its point, and behind it.
const MAX_WHOLE: i64 = 131_072;
const MAX_SCALE: i64 = 16_383;

/// From this exponent on, `numeric` refuses zero too.
const MAX_EXPONENT: i64 = i32::MAX as i64 / 2;

/// Why a text is no `json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JsonError {
    Syntax,
    Depth,
}

/// Why `jsonb` refuses a text that is `json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum OnlyJson {
    /// `\u0000` in a string.
    Nul,
    /// `\ud800` without its other half.
    Surrogate,
    /// A number with more digits than a `numeric` has.
    Number,
}

impl OnlyJson {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            OnlyJson::Nul => "have \\u0000 in a string",
            OnlyJson::Surrogate => "have half of a surrogate pair, such as \\ud800, in a string",
            OnlyJson::Number => "have a number out of the range of numeric",
        }
    }
}

/// What may come next.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    Value,
    /// A value, or the end of an array.
    ValueOrEnd,
    Key,
    /// A key, or the end of an object.
    KeyOrEnd,
    /// A comma, or the end of what the value is in.
    Comma,
}

/// Reads a text. Returns the first reason for which `jsonb` refuses it, if there is one.
pub(crate) fn read(text: &str) -> Result<Option<OnlyJson>, JsonError> {
    let mut reader = Reader {
        rest: text.as_bytes(),
        only_json: None,
    };
    // Whether each level is an object.
    let mut levels: Vec<bool> = Vec::new();
    let mut next = Next::Value;
    loop {
        reader.skip_blanks();
        let Some(first) = reader.take() else {
            let is_whole = next == Next::Comma && levels.is_empty();
            return if is_whole {
                Ok(reader.only_json)
            } else {
                Err(JsonError::Syntax)
            };
        };
        next = match (next, first) {
            (Next::Value | Next::ValueOrEnd, b'[' | b'{') => {
                if levels.len() == MAX_DEPTH {
                    return Err(JsonError::Depth);
                }
                levels.push(first == b'{');
                if first == b'{' {
                    Next::KeyOrEnd
                } else {
                    Next::ValueOrEnd
                }
            }
            (Next::ValueOrEnd, b']') | (Next::KeyOrEnd, b'}') => {
                levels.pop();
                Next::Comma
            }
            (Next::Value | Next::ValueOrEnd, first) => {
                reader.scalar(first).ok_or(JsonError::Syntax)?;
                Next::Comma
            }
            (Next::Key | Next::KeyOrEnd, b'"') => {
                reader.string().ok_or(JsonError::Syntax)?;
                reader.skip_blanks();
                if reader.take() != Some(b':') {
                    return Err(JsonError::Syntax);
                }
                Next::Value
            }
            (Next::Comma, b',') => match levels.last() {
                Some(true) => Next::Key,
                Some(false) => Next::Value,
                None => return Err(JsonError::Syntax),
            },
            (Next::Comma, b']' | b'}') if levels.pop() == Some(first == b'}') => Next::Comma,
            _ => return Err(JsonError::Syntax),
        };
    }
}

struct Reader<'t> {
    rest: &'t [u8],
    only_json: Option<OnlyJson>,
}

impl Reader<'_> {
    fn take(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn take_if(&mut self, is_wanted: impl Fn(u8) -> bool) -> Option<u8> {
        let first = self.rest.first().copied().filter(|first| is_wanted(*first))?;
        self.rest = &self.rest[1..];
        Some(first)
    }

    fn skip_blanks(&mut self) {
        while self.take_if(|byte| b" \t\n\r".contains(&byte)).is_some() {}
    }

    fn note(&mut self, reason: OnlyJson) {
        self.only_json.get_or_insert(reason);
    }

    /// Reads the rest of a string, a number or a word.
    fn scalar(&mut self, first: u8) -> Option<()> {
        match first {
            b'"' => self.string(),
            b'-' => {
                let digit = self.take_if(|byte| byte.is_ascii_digit())?;
                self.number(digit)
            }
            b'0'..=b'9' => self.number(first),
            b't' => self.word(b"rue"),
            b'f' => self.word(b"alse"),
            b'n' => self.word(b"ull"),
            _ => None,
        }
    }

    /// What follows it is a sign, or the text is no JSON.
    fn word(&mut self, rest: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(rest)?;
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        // Whether the last character was the first half of a pair.
        let mut is_high = false;
        loop {
            match self.take()? {
                b'\\' => {
                    let code = match self.take()? {
                        b'u' => self.code()?,
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => u16::from(b' '),
                        _ => return None,
                    };
                    let is_low = (0xdc00..0xe000).contains(&code);
                    if is_high != is_low {
                        self.note(OnlyJson::Surrogate);
                    }
                    if code == 0 {
                        self.note(OnlyJson::Nul);
                    }
                    is_high = (0xd800..0xdc00).contains(&code);
                }
                byte => {
                    if is_high {
                        self.note(OnlyJson::Surrogate);
                    }
                    is_high = false;
                    match byte {
                        b'"' => return Some(()),
                        0..b' ' => return None,
                        _ => {}
                    }
                }
            }
        }
    }

    /// Four hexadecimal digits.
    fn code(&mut self) -> Option<u16> {
        let (digits, rest) = self.rest.split_at_checked(4)?;
        self.rest = rest;
        let digit = |code: u16, digit: &u8| Some(code << 4 | char::from(*digit).to_digit(16)? as u16);
        digits.iter().try_fold(0, digit)
    }

    fn digits(&mut self) -> usize {
        let count = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.rest = &self.rest[count..];
        count
    }

    /// Reads a number behind its sign and its first digit.
    fn number(&mut self, first: u8) -> Option<()> {
        let (mut zeros, mut is_zero) = (0, first == b'0');
        let mut whole = 1;
        if first != b'0' {
            whole += self.digits();
        }
        let mut fraction = 0;
        if self.take_if(|byte| byte == b'.').is_some() {
            let digits = self.rest;
            fraction = self.digits();
            if fraction == 0 {
                return None;
            }
            if is_zero {
                zeros = digits[..fraction].iter().take_while(|digit| **digit == b'0').count();
                is_zero = zeros == fraction;
            }
        }
        let mut exponent = 0;
        if self.take_if(|byte| byte | 0x20 == b'e').is_some() {
            let sign = self.take_if(|byte| b"+-".contains(&byte));
            let digits = self.rest;
            let count = self.digits();
            if count == 0 {
                return None;
            }
            let digit = |number: i64, digit: &u8| (number * 10 + i64::from(digit - b'0')).min(MAX_EXPONENT);
            exponent = digits[..count].iter().fold(0, digit);
            if sign == Some(b'-') {
                exponent = -exponent;
            }
        }
        // Digits before the point, once the exponent has moved it.
        let whole = match first {
            b'0' => -(zeros as i64),
            _ => whole as i64,
        };
        let is_whole_in_range = is_zero || whole + exponent <= MAX_WHOLE;
        let scale = fraction as i64 - exponent;
        if !is_whole_in_range || scale > MAX_SCALE || exponent.abs() >= MAX_EXPONENT {
            self.note(OnlyJson::Number);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PostgreSQL 15 answers.
    #[test]
    fn text_is_json_or_not_as_at_the_server() {
        let json = [
            "1",
            " 1\t\r\n",
            "-0",
            "1e+5",
            "-1.5E-3",
            "true",
            "null",
            "false",
            "\"\"",
            "\"\\/\\u00e9\\b\"",
            "[]",
            "{}",
            "[ ]",
            "{ }",
            "[1, 2,\n3]",
            r#"{"a":1,"a":2}"#,
            r#"{"a" : {"b":[[]]}}"#,
            "\"\u{7f}ä\u{1f3b5}\"",
            r#""\ud83c\udfb5""#,
            "0.10",
            "1E400",
        ];
        for text in json {
            assert_eq!(read(text), Ok(None), "{text}");
        }
        let broken = [
            "",
            " ",
            "[1,]",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "nul",
            "nulls",
            "\"a",
            "\"\t\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "1 2",
            r#"{"a"}"#,
            "{1:2}",
            "[1 2]",
            "+1",
            "NaN",
            "Infinity",
            "/**/1",
            "{'a':1}",
            "0x1",
            "TRUE",
            "1_0",
            "null,",
            "-01",
            "00",
            "1.5.2",
            "1e5x",
            "true1",
            "1true",
            "[]x",
            "\u{a0}1",
            "\u{feff}1",
            "\u{b}1",
            "[",
            "]",
            "[}",
            "{]",
            r#"{"a":1]"#,
            r#"{"a":1,}"#,
            r#"{,}"#,
            "[,]",
            "\"a\\\"",
            "[1}",
            ",",
            r#"{"a":}"#,
            "--1",
            "1e+",
            "\"\\u",
            "\"\0\"",
        ];
        for text in broken {
            assert_eq!(read(text), Err(JsonError::Syntax), "{text}");
        }
    }

    #[test]
    fn text_that_jsonb_refuses_has_its_reason() {
        let long = |digits: usize| "1".repeat(digits);
        let small = |zeros: usize| format!("0.{}1", "0".repeat(zeros));
        let cases = [
            (r#""\u0000""#.to_owned(), Some(OnlyJson::Nul)),
            (r#"{"\u0000":1}"#.to_owned(), Some(OnlyJson::Nul)),
            (r#""\\u0000""#.to_owned(), None),
            (r#""\ud800""#.to_owned(), Some(OnlyJson::Surrogate)),
            (r#""\udc00""#.to_owned(), Some(OnlyJson::Surrogate)),
            (r#""\ud800\u0041""#.to_owned(), Some(OnlyJson::Surrogate)),
            (r#""\ud800x\udc00""#.to_owned(), Some(OnlyJson::Surrogate)),
            (r#""\ud800\n""#.to_owned(), Some(OnlyJson::Surrogate)),
            (r#""\ud800\ud800\udc00""#.to_owned(), Some(OnlyJson::Surrogate)),
            ("1e131071".to_owned(), None),
            ("1e131072".to_owned(), Some(OnlyJson::Number)),
            ("1e-16383".to_owned(), None),
            ("1e-16384".to_owned(), Some(OnlyJson::Number)),
            ("1.0e-16383".to_owned(), Some(OnlyJson::Number)),
            ("0e-20000".to_owned(), Some(OnlyJson::Number)),
            ("0e999999".to_owned(), None),
            ("0e1073741823".to_owned(), Some(OnlyJson::Number)),
            ("1e99999999999999999999999".to_owned(), Some(OnlyJson::Number)),
            ("0.1e131073".to_owned(), Some(OnlyJson::Number)),
            ("0.1e131072".to_owned(), None),
            (long(131_072), None),
            (long(131_073), Some(OnlyJson::Number)),
            (small(16_382), None),
            (small(16_383), Some(OnlyJson::Number)),
            (format!("[1, {}]", long(131_073)), Some(OnlyJson::Number)),
        ];
        for (text, wanted) in cases {
            let shown = &text[..text.len().min(40)];
            assert_eq!(read(&text), Ok(wanted), "{shown}");
        }
    }

    #[test]
    fn nesting_has_a_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert_eq!(read(&nested(MAX_DEPTH)), Ok(None));
        assert_eq!(read(&objects(MAX_DEPTH)), Ok(None));
        assert_eq!(read(&nested(MAX_DEPTH + 1)), Err(JsonError::Depth));
        assert_eq!(read(&objects(MAX_DEPTH + 1)), Err(JsonError::Depth));
    }
}
