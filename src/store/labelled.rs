//! A handle whose calls have a label: see [`Store::labelled`].

use std::borrow::Cow;

use super::Store;
use crate::options::{ReadOptions, WriteOptions};

/// # Labels
impl Store {
    /// Returns a handle whose reads and writes have that name in errors, events and statistics, instead of the
    /// `file:line` of the call: for a repository whose calls all come from one function. A label in the options of a call
    /// takes precedence. The name is cut to 256 bytes; a constant costs a call nothing.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let links = store.labelled("links");
    /// links.read(|tx| tx.scalar::<i64>("SELECT 1", []))?;
    /// assert_eq!(store.stats().call_sites[0].site, "links");
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn labelled(&self, label: impl Into<Cow<'static, str>>) -> Self {
        Self {
            label: Some(label.into()),
            ..self.clone()
        }
    }

    pub(super) fn write_options(&self, options: WriteOptions) -> WriteOptions {
        match &self.label {
            Some(label) if options.label.is_none() => options.label(label.clone()),
            _ => options,
        }
    }

    pub(super) fn read_options(&self, options: ReadOptions) -> ReadOptions {
        match &self.label {
            Some(label) if options.label.is_none() => options.label(label.clone()),
            _ => options,
        }
    }
}
