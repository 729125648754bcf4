//! The macros of [larder](https://docs.rs/larder). Use them as `larder::FromRow`, `larder::Id` and `larder::migrations!`,
//! with larder's feature `derive`; the crate is not meant to be used by itself.

mod attributes;
mod from_row;
mod id;
mod migrations;
mod quoting;
mod rename;

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use syn::{DeriveInput, Error, parse_macro_input};

// Documented in larder, where it is exported.
#[allow(missing_docs)]
#[proc_macro_derive(FromRow, attributes(larder))]
pub fn derive_from_row(input: TokenStream) -> TokenStream {
    expand(input, from_row::expand)
}

#[allow(missing_docs)]
#[proc_macro_derive(Id)]
pub fn derive_id(input: TokenStream) -> TokenStream {
    expand(input, id::expand)
}

#[allow(missing_docs)]
#[proc_macro]
pub fn migrations(input: TokenStream) -> TokenStream {
    let expanded = migrations::expand(input.into());
    expanded.unwrap_or_else(Error::into_compile_error).into()
}

fn expand(input: TokenStream, by: fn(&DeriveInput) -> Result<Tokens, Error>) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    by(&input).unwrap_or_else(Error::into_compile_error).into()
}
