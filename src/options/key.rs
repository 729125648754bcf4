//! [`Key`]: the key of an encrypted database.

use std::fmt;
use std::sync::Arc;

/// The key of a database that SQLCipher encrypts, for [`Options::key`](crate::Options::key).
///
/// It shows itself nowhere: `Debug` prints `Key(..)`, there is no `Display`, and neither an error nor an event has it.
///
/// ```
/// use larder::Key;
///
/// let key = Key::from("correct horse battery staple");
/// assert_eq!(format!("{key:?}"), "Key(..)");
/// let raw = Key::raw([7; 32]); // from a key management service
/// # let _ = raw;
/// ```
#[derive(Clone)]
pub struct Key(Arc<Secret>);

enum Secret {
    Passphrase(String),
    Raw([u8; 32]),
}

impl Key {
    /// A passphrase, as SQLCipher's `PRAGMA key = 'passphrase'`. Each connection derives the key from it, by 256,000 rounds
    /// of PBKDF2: some 0.1 s for each of a store's connections. Not empty, without NUL.
    ///
    /// ```
    /// use larder::{Key, Options};
    ///
    /// let options = Options::new().key(Key::passphrase("correct horse battery staple"));
    /// # let _ = options;
    /// ```
    pub fn passphrase(passphrase: impl Into<String>) -> Self {
        Self(Arc::new(Secret::Passphrase(passphrase.into())))
    }

    /// A key of 256 bits, as SQLCipher's `PRAGMA key = "x'..'"`. Nothing is derived from it, so it must be random.
    ///
    /// ```
    /// use larder::{Key, Options};
    ///
    /// # fn of_the_key_service() -> [u8; 32] { [7; 32] }
    /// let options = Options::new().key(Key::raw(of_the_key_service()));
    /// # let _ = options;
    /// ```
    pub fn raw(bytes: [u8; 32]) -> Self {
        Self(Arc::new(Secret::Raw(bytes)))
    }

    /// The key as the value of a PRAGMA.
    pub(crate) fn literal(&self) -> String {
        match &*self.0 {
            Secret::Passphrase(passphrase) => format!("'{}'", passphrase.replace('\'', "''")),
            Secret::Raw(bytes) => format!("\"x'{}'\"", hex(bytes)),
        }
    }

    /// What makes the key one that SQLCipher would not take, or not as it is.
    pub(super) fn problem(&self) -> Option<&'static str> {
        match &*self.0 {
            Secret::Passphrase(passphrase) if passphrase.is_empty() => {
                Some("the passphrase is empty, which for SQLCipher means no encryption")
            }
            Secret::Passphrase(passphrase) if passphrase.contains('\0') => {
                Some("the passphrase has a NUL, at which SQLite's text would end")
            }
            // SQLCipher reads such a passphrase as a raw key.
            Secret::Passphrase(passphrase)
                if passphrase.get(..2).is_some_and(|head| head.eq_ignore_ascii_case("x'"))
                    && passphrase.ends_with('\'') =>
            {
                Some("the passphrase has the form of a raw key, x'..': use Key::raw")
            }
            Secret::Passphrase(_) | Secret::Raw(_) => None,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    crate::runtime::hex::hex(bytes)
}

impl From<&str> for Key {
    fn from(passphrase: &str) -> Self {
        Self::passphrase(passphrase)
    }
}

impl From<String> for Key {
    fn from(passphrase: String) -> Self {
        Self::passphrase(passphrase)
    }
}

impl From<[u8; 32]> for Key {
    fn from(bytes: [u8; 32]) -> Self {
        Self::raw(bytes)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}
