//! [`Token`]: what a follower has to have so that a reader sees its own writes.

use std::fmt;
use std::str::FromStr;

/// A place in the history of a replica: all that was committed on its primary before the token was taken. Made by
/// [`StoreReplica::token`](crate::StoreReplica::token), and given to
/// [`Follower::wait_for`](crate::Follower::wait_for), so that a reader sees its own writes on another machine.
///
/// It is text of 33 characters, for a header or a cookie. Nothing about the data can be read from it.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let (path, replica) = (folder.path().join("app.db"), folder.path().join("replica"));
/// # let store = larder::Options::new().replicate_to(replica.to_str().unwrap()).open(&path)?;
/// use larder::Token;
///
/// let header = store.replica()?.token().to_string();
/// let token: Token = header.parse().unwrap();
/// assert_eq!(token, store.replica()?.token());
/// # Ok::<_, larder::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The number of the replica; 0 if it is not known.
    pub(super) lineage: u64,
    pub(super) txid: u64,
}

impl Token {
    /// The transaction of the replica that has everything the token stands for.
    #[must_use]
    pub fn txid(&self) -> u64 {
        self.txid
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.lineage, self.txid)
    }
}

/// A text is no [`Token`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no token of a replica: two numbers of sixteen hexadecimal digits are expected, with a hyphen between them")]
pub struct ParseTokenError(());

impl FromStr for Token {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |digits: &str| {
            let are_digits = digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            are_digits.then(|| u64::from_str_radix(digits, 16).ok())?
        };
        let parsed = text.split_once('-').and_then(|(lineage, txid)| {
            Some(Self {
                lineage: number(lineage)?,
                txid: number(txid)?,
            })
        });
        parsed.ok_or(ParseTokenError(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_read_as_written() {
        for (lineage, txid) in [(0, 0), (u64::MAX, 1), (0x6f1d_0c2b_9a8e_7d35, u64::MAX)] {
            let token = Token { lineage, txid };
            assert_eq!(token.to_string().parse(), Ok(token));
        }
        let text = Token { lineage: 7, txid: 9 }.to_string();
        let others = [
            "",
            "-",
            "7-9",
            &text[1..],
            &text[..32],
            "+000000000000007-0000000000000009",
        ];
        for other in others
            .into_iter()
            .chain([format!("{text}-").as_str(), &format!(" {text}")])
        {
            assert!(other.parse::<Token>().is_err(), "{other:?}");
        }
    }
}
