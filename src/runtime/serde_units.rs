//! Sizes and durations in a file of options, in readable units: `"64 MiB"`, `"250ms"`.

use std::fmt::{self, Display};

use serde::de::{self, Expected, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serializer};

/// For measurements: seconds, as a number.
pub(crate) fn seconds<S: Serializer>(value: &std::time::Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(value.as_secs_f64())
}

pub(crate) fn optional_seconds<S: Serializer>(value: &Option<std::time::Duration>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => seconds(value, to),
        None => to.serialize_none(),
    }
}

/// As `2026-04-01T12:00:00.123Z`. A time before 1970 is 1970.
#[cfg(feature = "replicate")]
pub(crate) fn time<S: Serializer>(value: &std::time::SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_rfc3339_millis((*value).max(std::time::UNIX_EPOCH)))
}

/// Lossy, because a path need not be UTF-8.
pub(crate) fn path<S: Serializer>(value: &std::path::Path, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&value.display())
}

pub(crate) fn optional_path<S: Serializer>(value: &Option<std::path::PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => path(value, to),
        None => to.serialize_none(),
    }
}

pub(crate) mod duration {
    use super::*;
    use std::time::Duration;

    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    /// A bare number is refused, because its unit is ambiguous: seconds or milliseconds.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        from.deserialize_str(DurationVisitor)
    }

    struct DurationVisitor;

    impl Visitor<'_> for DurationVisitor {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration with a unit, such as \"5s\" or \"250ms\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            humantime::parse_duration(text).map_err(|error| unfit(text, &self, error))
        }
    }
}

pub(crate) mod size {
    use super::*;
    use bytesize::ByteSize;

    pub(crate) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        // bytesize rounds its output, so a size is printed with a unit only if it parses back unchanged.
        let text = ByteSize::b(*value).to_string();
        match text.parse::<ByteSize>() {
            Ok(back) if back.as_u64() == *value => to.serialize_str(&text),
            _ => to.serialize_u64(*value),
        }
    }

    /// `"64 MiB"`, `"64 MB"` (a million bytes each), or a plain number of bytes.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        Size::deserialize(from).map(|Size(bytes)| bytes)
    }

    pub(super) struct Size(pub(super) u64);

    impl<'de> Deserialize<'de> for Size {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            from.deserialize_any(SizeVisitor).map(Self)
        }
    }

    struct SizeVisitor;

    impl Visitor<'_> for SizeVisitor {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size with a unit, such as \"64 MiB\", or a number of bytes")
        }

        fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<u64, E> {
            Ok(bytes)
        }

        fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<u64, E> {
            u64::try_from(bytes).map_err(|_| E::invalid_value(Unexpected::Signed(bytes), &self))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
            let size = text.parse::<ByteSize>();
            size.map(|size| size.as_u64())
                .map_err(|error| unfit(text, &self, error))
        }
    }
}

/// The error of a text: what it is not, and why.
fn unfit<E: de::Error>(text: &str, expected: &dyn Expected, why: impl Display) -> E {
    E::custom(format_args!("{text:?} is not {expected}: {why}"))
}

pub(crate) mod optional_size {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(bytes) => size::serialize(bytes, to),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        Ok(Option::<size::Size>::deserialize(from)?.map(|size::Size(bytes)| bytes))
    }
}
