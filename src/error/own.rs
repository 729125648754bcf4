//! Errors of the application's own types, on their way through larder.
//!
//! A closure that returns an `E` of the application is run as one that returns larder's [`Error`]: there is one path
//! through the writer and the readers, and what they judge (a rollback that the closure swallowed, a time limit, a
//! deferred foreign key) they judge as for any closure that failed. So the `E` needs a place meanwhile:
//!
//! - of a write or of an async read, which may run on another thread, it travels inside [`Error::App`] ([`carry`]), is
//!   delivered by the slot like any reply, and is unpacked on the caller's side ([`unpack`]);
//! - of a closure that runs on its caller's thread, it stays there ([`Aside`]), and an empty [`Error::App`] stands for
//!   it.
//!
//! In both, an `E` that is larder's own [`Error`] is returned as it is, so that its origin is found out as ever.

use std::any::Any;
use std::fmt;

use crossbeam_utils::atomic::AtomicCell;

use super::Error;

/// An application's error inside [`Error::App`], which has to be `Sync`. So it is in a cell, and no code reads the cell while it is there.
struct Carried(AtomicCell<Box<dyn Any + Send>>);

/// Packs an error of the application's.
pub(crate) fn carry<E: Send + 'static>(own: E) -> Error {
    let own: Box<dyn Any + Send> = Box::new(own);
    match own.downcast::<Error>() {
        Ok(error) => *error,
        Err(own) => Error::App(Box::new(Carried(AtomicCell::new(own)))),
    }
}

/// The application's error, if that is what `error` carries; otherwise larder's, converted.
pub(crate) fn unpack<E: From<Error> + 'static>(error: Error) -> E {
    let carried = match error {
        Error::App(inner) => inner.downcast::<Carried>().map_err(Error::App),
        other => Err(other),
    };
    match carried {
        Ok(carried) => {
            let own = carried.0.into_inner();
            *own.downcast::<E>()
                .expect("a call gets back the error of its own closure")
        }
        Err(error) => E::from(error),
    }
}

/// The place of an application's error while larder judges the call.
pub(crate) struct Aside<E>(Option<E>);

impl<E> Default for Aside<E> {
    fn default() -> Self {
        Self(None)
    }
}

impl<E: From<Error> + 'static> Aside<E> {
    pub(crate) fn put(&mut self, own: E) -> Error {
        self.0 = Some(own);
        let larders = (&mut self.0 as &mut dyn Any).downcast_mut::<Option<Error>>();
        larders
            .and_then(Option::take)
            .unwrap_or_else(|| Error::App(Box::new(Elsewhere)))
    }

    /// The application's error, if `error` stands for it; otherwise larder's, converted.
    pub(crate) fn take(self, error: Error) -> E {
        match (error, self.0) {
            (Error::App(inner), Some(own)) if inner.is::<Elsewhere>() => own,
            (error, _) => E::from(error),
        }
    }
}

/// Stands for an error that was put aside.
struct Elsewhere;

macro_rules! stand_in {
    ($($name:ident),*) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an error of the application's own type")
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }

        impl std::error::Error for $name {})*
    };
}

stand_in!(Carried, Elsewhere);
