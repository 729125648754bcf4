//! The common form of larder's `tracing` events: OpenTelemetry's database attributes where one exists, a target
//! `larder::..`, and never a bound value or SQLite's message, which can quote data. See
//! <https://opentelemetry.io/docs/specs/semconv/database/>.
//!
//! A subscriber is user code that runs on larder's threads. Its panic is caught here, for events and for spans: it must
//! neither end a thread nor appear as the result of a closure. An event is emitted with no lock held, since the
//! subscriber may call the store, and after the replies that it concerns.

use std::mem;

use tracing::Span;
use tracing::dispatcher::has_been_set;
use tracing::span::Entered;

use crate::runtime::panic::{caught, quietly};

macro_rules! event {
    ($level:ident, $target:literal, { $($fields:tt)* }, $message:literal) => {
        crate::runtime::panic::quietly(|| {
            tracing::$level!(target: $target, { "db.system.name" = "sqlite", $($fields)* }, $message)
        })
    };
    // An event about one database file.
    ($level:ident, $target:literal, $path:expr, { $($fields:tt)* }, $message:literal) => {
        event!($level, $target, { "db.namespace" = %$path.display(), $($fields)* }, $message)
    };
}

pub(crate) use event;

/// The caller's current span. Each of its methods, and its drop, may call the subscriber.
pub(crate) struct CallerSpan(Span);

impl CallerSpan {
    pub(crate) fn current() -> Self {
        let current = if has_been_set() { caught(Span::current) } else { None };
        Self(current.unwrap_or_else(Span::none))
    }

    /// Runs `f` in the span.
    pub(crate) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        if self.0.is_disabled() {
            return f();
        }
        let _inside = Inside(caught(|| self.0.enter()));
        f()
    }
}

impl Clone for CallerSpan {
    fn clone(&self) -> Self {
        Self(caught(|| self.0.clone()).unwrap_or_else(Span::none))
    }
}

impl Drop for CallerSpan {
    #[inline]
    fn drop(&mut self) {
        if !self.0.is_disabled() {
            let span = mem::replace(&mut self.0, Span::none());
            quietly(|| drop(span));
        }
    }
}

/// Leaves the span when dropped, including during the unwinding of a closure's panic.
struct Inside<'a>(Option<Entered<'a>>);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let entered = self.0.take();
        quietly(|| drop(entered));
    }
}
