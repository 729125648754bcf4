//! The keys of a replica's objects, in the two layouts of Litestream 0.5.

use std::fmt;

use object_store::path::Path;

/// How the folder of a level is named, below the replica's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `0000`, four hexadecimal digits: Litestream's layout on S3.
    Hex,
    /// `ltx/0`, decimal: Litestream's layout in folders and everywhere else.
    Decimal,
}

impl Layout {
    /// The folder of a level.
    pub(super) fn level(self, prefix: &Path, level: u8) -> Path {
        match self {
            Layout::Hex => prefix.clone().join(format!("{level:04x}")),
            Layout::Decimal => prefix.clone().join("ltx").join(level.to_string()),
        }
    }

    pub(super) fn file(self, prefix: &Path, level: u8, txids: Txids) -> Path {
        self.level(prefix, level).join(txids.file_name())
    }
}

/// The first and the last transaction of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txids {
    /// The first transaction, from 1 on.
    pub min: u64,
    /// The last transaction.
    pub max: u64,
}

impl Txids {
    /// The one transaction of a file of level 0.
    pub fn one(txid: u64) -> Self {
        Self { min: txid, max: txid }
    }

    /// The name of the file, such as `0000000000000001-0000000000000009.ltx`.
    pub fn file_name(self) -> String {
        format!("{self}.ltx")
    }

    /// Parses the name of a file. Other names are `None`.
    pub fn parse(name: &str) -> Option<Self> {
        let (min, max) = name.strip_suffix(".ltx")?.split_once('-')?;
        let (min, max) = (txid(min)?, txid(max)?);
        (min >= 1 && min <= max).then_some(Self { min, max })
    }
}

/// Sixteen digits, the letters small.
fn txid(digits: &str) -> Option<u64> {
    let is_digit = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    let are_digits = digits.len() == 16 && digits.bytes().all(is_digit);
    are_digits.then(|| u64::from_str_radix(digits, 16).ok())?
}

impl fmt::Display for Txids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_litestreams() {
        let prefix = Path::from("a/b");
        let txids = Txids { min: 1, max: 0xfedc };
        let key = |layout: Layout, level| layout.file(&prefix, level, txids).to_string();
        let name = "0000000000000001-000000000000fedc.ltx";
        assert_eq!(key(Layout::Hex, 9), format!("a/b/0009/{name}"));
        assert_eq!(key(Layout::Decimal, 0), format!("a/b/ltx/0/{name}"));
        assert_eq!(Layout::Decimal.level(&Path::default(), 10).to_string(), "ltx/10");
    }

    #[test]
    fn names_of_other_files_are_none() {
        for txids in [Txids::one(1), Txids { min: 1, max: u64::MAX }, Txids { min: 7, max: 9 }] {
            assert_eq!(Txids::parse(&txids.file_name()), Some(txids));
        }
        let (one, two) = ("0000000000000001", "0000000000000002");
        for name in [
            format!("{one}-{two}"),
            format!("{one}-{two}.ltx.tmp"),
            format!("{one}-{two}.LTX"),
            format!("{two}-{one}.ltx"),
            format!("{one}{two}.ltx"),
            format!("+{}-{two}.ltx", &one[1..]),
            format!("000000000000000A-{}.ltx", "000000000000000B"),
            format!("0000000000000000-{one}.ltx"),
            format!("{one}-0{two}.ltx"),
            ".ltx".to_owned(),
            "-.ltx".to_owned(),
        ] {
            assert_eq!(Txids::parse(&name), None, "{name}");
        }
    }
}
