//! The one form of larder's `tracing` events: OpenTelemetry's database attributes where one exists, a target
//! `larder::..`, and never a bound value or SQLite's message, which can quote data.
//! See <https://opentelemetry.io/docs/specs/semconv/database/>.

macro_rules! event {
    ($level:ident, $target:literal, { $($fields:tt)* }, $message:literal) => {
        tracing::$level!(target: $target, { "db.system.name" = "sqlite", $($fields)* }, $message)
    };
    // Of one database file.
    ($level:ident, $target:literal, $path:expr, { $($fields:tt)* }, $message:literal) => {
        event!($level, $target, { "db.namespace" = %$path.display(), $($fields)* }, $message)
    };
}

pub(crate) use event;
