//! [`Token`]: what a follower has to have so that a reader sees its own writes.

use std::fmt;
use std::str::FromStr;

/// A place in the history of a replica: all that was committed on its primary before the token was taken. Made by
/// [`StoreReplica::token`](crate::StoreReplica::token), and given to
/// [`Follower::wait_for`](crate::Follower::wait_for), so that a reader sees its own writes on another machine.
///
/// It is text of 67 characters, or of 33, for a header or a cookie. Nothing about the data can be read from it.
///
/// A token stands for what its primary has committed, not for a number: what was lost with a primary is an error as another
/// one has that transaction. It stays good when the primary is restarted, and when another is promoted that has the write.
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
    /// The opening of a store that has made this transaction, or is to; 0 if it is in the replica.
    pub(super) opening: u64,
    /// The transaction is no older than that, in milliseconds since 1970. A later one of the same opening has what the token
    /// stands for, even if what waited was dropped, so that the numbers begin again. The latest time if it is not known.
    pub(super) timestamp: i64,
}

impl Token {
    /// A transaction that is in the replica.
    pub(super) fn plain(lineage: u64, txid: u64) -> Self {
        Self {
            lineage,
            txid,
            opening: 0,
            timestamp: i64::MAX,
        }
    }

    /// The transaction of the replica that has everything the token stands for. If what waited to be uploaded was dropped
    /// since, an earlier one has it.
    #[must_use]
    pub fn txid(&self) -> u64 {
        self.txid
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lineage,
            txid,
            opening,
            timestamp,
        } = self;
        write!(f, "{lineage:016x}-{txid:016x}")?;
        if (*opening, *timestamp) != (0, i64::MAX) {
            write!(f, "-{opening:016x}-{timestamp:016x}")?;
        }
        Ok(())
    }
}

/// A text is no [`Token`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no token of a replica: two or four numbers of sixteen hexadecimal digits are expected, with hyphens between them"
)]
pub struct ParseTokenError(());

impl FromStr for Token {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |digits: &str| {
            let are_digits = digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            are_digits.then(|| u64::from_str_radix(digits, 16).ok())?
        };
        let numbers: Option<Vec<u64>> = text.split('-').map(number).collect();
        match numbers.as_deref() {
            Some(&[lineage, txid]) => Ok(Self::plain(lineage, txid)),
            Some(&[lineage, txid, opening, timestamp]) => Ok(Self {
                lineage,
                txid,
                opening,
                timestamp: timestamp.cast_signed(),
            }),
            _ => Err(ParseTokenError(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_read_as_written() {
        for (lineage, txid) in [(0, 0), (u64::MAX, 1), (0x6f1d_0c2b_9a8e_7d35, u64::MAX)] {
            let plain = Token::plain(lineage, txid);
            for (opening, timestamp) in [(0, i64::MAX), (txid, 0), (1, i64::MAX), (lineage, -1)] {
                let token = Token {
                    opening,
                    timestamp,
                    ..plain
                };
                assert_eq!(token.to_string().parse(), Ok(token));
            }
            assert_eq!(plain.to_string().len(), 33);
        }
        let text = Token::plain(7, 9).to_string();
        let three = format!("{text}-0000000000000000");
        let others = [
            "",
            "-",
            "7-9",
            &text[1..],
            &text[..32],
            "+000000000000007-0000000000000009",
            &three,
        ];
        for other in others
            .into_iter()
            .chain([format!("{text}-").as_str(), &format!(" {text}")])
        {
            assert!(other.parse::<Token>().is_err(), "{other:?}");
        }
    }
}
