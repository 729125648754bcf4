//! Sizes and durations in a file of options, in readable units: `"64 MiB"`, `"250ms"`.

use serde::{Deserialize, Deserializer, Serializer, de};

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

/// Lossy, because a path need not be UTF-8.
pub(crate) fn path<S: Serializer>(value: &std::path::Path, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&value.display())
}

pub(crate) mod duration {
    use super::*;
    use std::time::Duration;

    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    /// A bare number is refused, because its unit is ambiguous: seconds or milliseconds.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text)
            .map_err(|e| de::Error::custom(format_args!("{text:?} is no duration such as \"5s\" or \"250ms\": {e}")))
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
        Size::deserialize(from).and_then(Size::bytes)
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    pub(super) enum Size {
        Bytes(u64),
        Text(String),
    }

    impl Size {
        pub(super) fn bytes<E: de::Error>(self) -> Result<u64, E> {
            match self {
                Size::Bytes(bytes) => Ok(bytes),
                Size::Text(text) => text
                    .parse::<ByteSize>()
                    .map(|size| size.as_u64())
                    .map_err(|e| E::custom(format_args!("{text:?} is no size such as \"64 MiB\": {e}"))),
            }
        }
    }
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
        Option::<size::Size>::deserialize(from)?
            .map(size::Size::bytes)
            .transpose()
    }
}
