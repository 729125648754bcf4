//! `#[derive(Id)]`: a type of its own for the keys of one table.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Fields, Result};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let id = &input.ident;
    let only = "Id is for a struct of one unnamed field without type parameters: `struct UserId(i64);`";
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(id, only));
    };
    let (Fields::Unnamed(fields), true) = (&data.fields, input.generics.params.is_empty()) else {
        return Err(Error::new_spanned(id, only));
    };
    let [field] = &*fields.unnamed.iter().collect::<Vec<_>>() else {
        return Err(Error::new_spanned(id, only));
    };
    let inner = &field.ty;
    Ok(quote! {
        #[automatically_derived]
        impl ::larder::rusqlite::types::ToSql for #id {
            fn to_sql(&self) -> ::larder::rusqlite::Result<::larder::rusqlite::types::ToSqlOutput<'_>> {
                ::larder::rusqlite::types::ToSql::to_sql(&self.0)
            }
        }

        #[automatically_derived]
        impl ::larder::rusqlite::types::FromSql for #id {
            fn column_result(
                value: ::larder::rusqlite::types::ValueRef<'_>,
            ) -> ::larder::rusqlite::types::FromSqlResult<Self> {
                ::larder::rusqlite::types::FromSql::column_result(value).map(Self)
            }
        }

        #[automatically_derived]
        impl ::core::fmt::Display for #id {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Display::fmt(&self.0, f)
            }
        }

        #[automatically_derived]
        impl ::core::str::FromStr for #id {
            type Err = <#inner as ::core::str::FromStr>::Err;

            fn from_str(text: &str) -> ::core::result::Result<Self, Self::Err> {
                ::core::str::FromStr::from_str(text).map(Self)
            }
        }

        #[automatically_derived]
        impl ::core::convert::From<#inner> for #id {
            fn from(inner: #inner) -> Self {
                Self(inner)
            }
        }

        #[automatically_derived]
        impl ::core::convert::From<#id> for #inner {
            fn from(id: #id) -> Self {
                id.0
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn other_shapes_are_refused() {
        for wrong in [
            "struct Id;",
            "struct Id(i64, i64);",
            "struct Id { id: i64 }",
            "enum Id { A }",
            "struct Id<T>(T);",
        ] {
            let error = expand(&syn::parse_str(wrong).unwrap()).unwrap_err();
            assert!(error.to_string().contains("struct UserId(i64);"), "{wrong}: {error}");
        }
    }
}
