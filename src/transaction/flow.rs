//! [`Flow`]: whether a query goes on after a row.

use std::ops::ControlFlow;

/// What the closure of each row returns: `()` to go on, or a [`ControlFlow`], which may stop the query early.
///
/// ```
/// use std::ops::ControlFlow::{Break, Continue};
///
/// let store = larder::Store::open_temp()?;
/// let first_long = store.read(|tx| {
///     let sql = "SELECT value FROM json_each(?1)";
///     tx.query_each(sql, [r#"["ant", "spider", "fly"]"#], |row| {
///         let name: String = row.get(0)?;
///         Ok(if name.len() > 3 { Break(name) } else { Continue(()) })
///     })
/// })?;
/// assert_eq!(first_long, Break("spider".to_owned()));
/// # Ok::<_, larder::Error>(())
/// ```
///
/// The result of the call is what the closure returned last, or [`CONTINUE`](Self::CONTINUE) if it was called for every
/// row.
pub trait Flow: sealed::Flow {
    /// Goes on.
    const CONTINUE: Self;

    /// Whether it stops.
    fn is_break(&self) -> bool;
}

impl Flow for () {
    const CONTINUE: Self = ();

    fn is_break(&self) -> bool {
        false
    }
}

impl<B> Flow for ControlFlow<B> {
    const CONTINUE: Self = ControlFlow::Continue(());

    fn is_break(&self) -> bool {
        ControlFlow::is_break(self)
    }
}

mod sealed {
    use std::ops::ControlFlow;

    /// No other crate implements the trait.
    pub trait Flow {}

    impl Flow for () {}

    impl<B> Flow for ControlFlow<B> {}
}
