//! `#[derive(FromRow)]`: a struct of the columns with the names of its fields.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens as _, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Data, DeriveInput, Error, Fields, FieldsNamed, Ident, LitStr, Result, Type, WherePredicate, parse_quote};

use crate::attributes::{self, Source};
use crate::quoting::quoted;
use crate::rename::Rule;

struct Field<'a> {
    ident: &'a Ident,
    ty: &'a Type,
    source: Source,
    /// The name of its column.
    name: LitStr,
    default: bool,
    /// What errors call it: `` `User::name` ``.
    label: String,
}

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let fields = fields(input, named_fields(input)?)?;
    refuse_one_name_twice(&fields)?;
    let ident = &input.ident;
    let mut generics = input.generics.clone();
    let bounds = bounds(input, &fields);
    if !bounds.is_empty() {
        generics.make_where_clause().predicates.extend(bounds);
    }
    let (with_params, params, conditions) = generics.split_for_impl();

    let read: Vec<_> = fields.iter().filter(|field| field.source != Source::Skip).collect();
    let found = read.iter().map(|field| field.find());
    let values = read.iter().map(|field| field.read());
    let skipped = fields.iter().filter(|field| field.source == Source::Skip);
    let skipped = skipped.map(|field| field.ident);
    let columns = columns(input, &read)?;
    Ok(quote! {
        #[automatically_derived]
        #[allow(unused_variables)]
        impl #with_params ::larder::FromRow for #ident #params #conditions {
            fn find(
                names: &::larder::ColumnNames<'_>,
                found: &mut ::larder::FoundColumns,
            ) -> ::larder::rusqlite::Result<()> {
                #(#found;)*
                ::core::result::Result::Ok(())
            }

            fn read(
                row: &::larder::rusqlite::Row<'_>,
                columns: &mut ::larder::NextColumn<'_>,
            ) -> ::larder::rusqlite::Result<Self> {
                ::core::result::Result::Ok(Self {
                    #(#values,)*
                    #(#skipped: ::core::default::Default::default(),)*
                })
            }
        }

        #[automatically_derived]
        impl #with_params #ident #params #conditions {
            /// The names of the columns that `FromRow` reads, in the order of the fields, as SQL has them: in quotes where
            /// a name needs them.
            #[allow(dead_code)]
            pub const COLUMNS: &'static [&'static str] = #columns;
        }
    })
}

fn named_fields(input: &DeriveInput) -> Result<&FieldsNamed> {
    if let Some(lifetime) = input.generics.lifetimes().next() {
        return Err(Error::new_spanned(
            lifetime,
            "a row is gone when its values are used: FromRow needs types that own them, such as String",
        ));
    }
    match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => Ok(fields),
            _ => Err(Error::new_spanned(
                &input.ident,
                "FromRow reads columns by the names of fields, and these have none: name them, or read a tuple; for the \
                 key of a table, derive Id",
            )),
        },
        _ => Err(Error::new_spanned(
            &input.ident,
            "FromRow is for structs; for the value of one column, implement rusqlite's FromSql",
        )),
    }
}

fn fields<'a>(input: &'a DeriveInput, fields: &'a FieldsNamed) -> Result<Vec<Field<'a>>> {
    let rule = attributes::of_struct(&input.attrs)?;
    fields
        .named
        .iter()
        .map(|field| Field::new(&input.ident, field, rule))
        .collect()
}

impl<'a> Field<'a> {
    fn new(of: &Ident, field: &'a syn::Field, rule: Rule) -> Result<Self> {
        let attributes = attributes::of_field(&field.attrs)?;
        let ident = field.ident.as_ref().expect("the fields are named");
        let plain = ident.unraw().to_string();
        if attributes.source == Source::Flatten && is_option(&field.ty) {
            return Err(Error::new_spanned(
                &field.ty,
                "`flatten` takes no Option, since every row makes the struct: let the fields that may be NULL be Options",
            ));
        }
        let name = attributes
            .rename
            .unwrap_or_else(|| LitStr::new(&rule.apply(&plain), ident.span()));
        Ok(Self {
            ident,
            ty: &field.ty,
            source: attributes.source,
            name,
            default: attributes.default,
            label: format!("`{}::{plain}`", of.unraw()),
        })
    }

    /// Adds where its columns are.
    fn find(&self) -> TokenStream {
        let Self { ty, name, label, .. } = self;
        match self.source {
            Source::Flatten => quote!(<#ty as ::larder::FromRow>::find(names, found)?),
            _ if self.default => quote!(found.push(names.position(#name)?)),
            _ => quote!(found.push(::core::option::Option::Some(names.require(#name, #label)?))),
        }
    }

    /// The field and its value. Fields are read in the order in which they were found.
    fn read(&self) -> TokenStream {
        let Self { ident, ty, label, .. } = self;
        let read = match (self.source, self.default) {
            (Source::Flatten, _) => return quote!(#ident: <#ty as ::larder::FromRow>::read(row, columns)?),
            (Source::Json, false) => quote!(json),
            (Source::Json, true) => quote!(json_or_default),
            (_, false) => quote!(column),
            (_, true) => quote!(column_or_default),
        };
        // The compiler points at the type if it is none of a column.
        let read = quote_spanned!(ty.span()=> ::larder::derived::#read::<#ty>);
        quote!(#ident: #read(row, columns.index(), #label)?)
    }

    /// The name of its column in SQL.
    fn quoted(&self) -> String {
        quoted(&self.name.value())
    }

    fn bound(&self) -> WherePredicate {
        let ty = self.ty;
        match self.source {
            Source::Column if self.default => {
                parse_quote!(#ty: ::larder::rusqlite::types::FromSql + ::core::default::Default)
            }
            Source::Column => parse_quote!(#ty: ::larder::rusqlite::types::FromSql),
            Source::Json if self.default => parse_quote!(#ty: ::larder::derived::Json + ::core::default::Default),
            Source::Json => parse_quote!(#ty: ::larder::derived::Json),
            Source::Flatten => parse_quote!(#ty: ::larder::FromRow),
            Source::Skip => parse_quote!(#ty: ::core::default::Default),
        }
    }
}

/// By its name: a macro knows no types.
fn is_option(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    path.path.segments.last().is_some_and(|last| last.ident == "Option")
}

/// What the types of fields must have, where they depend on a parameter.
fn bounds(input: &DeriveInput, fields: &[Field<'_>]) -> Vec<WherePredicate> {
    let params: Vec<_> = input.generics.type_params().map(|param| &param.ident).collect();
    let generic = fields
        .iter()
        .filter(|field| mentions(field.ty.to_token_stream(), &params));
    generic.map(Field::bound).collect()
}

fn mentions(tokens: TokenStream, params: &[&Ident]) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => params.contains(&&ident),
        TokenTree::Group(group) => mentions(group.stream(), params),
        _ => false,
    })
}

fn refuse_one_name_twice(fields: &[Field<'_>]) -> Result<()> {
    let read = fields
        .iter()
        .filter(|field| matches!(field.source, Source::Column | Source::Json));
    let mut names = Vec::new();
    for field in read {
        let name = field.name.value().to_ascii_lowercase();
        if names.contains(&name) {
            return Err(Error::new(
                field.name.span(),
                format!("another field reads the column `{name}` already"),
            ));
        }
        names.push(name);
    }
    Ok(())
}

/// The value of `COLUMNS`.
fn columns(input: &DeriveInput, read: &[&Field<'_>]) -> Result<TokenStream> {
    let flattened = read.iter().find(|field| field.source == Source::Flatten);
    let Some(flattened) = flattened else {
        let names = read.iter().map(|field| field.quoted());
        return Ok(quote!(&[#(#names),*]));
    };
    if input.generics.type_params().next().is_some() {
        return Err(Error::new_spanned(
            flattened.ident,
            "`flatten` is for structs without type parameters",
        ));
    }
    let parts = read.iter().map(|field| match (field.source, field.ty, field.quoted()) {
        (Source::Flatten, ty, _) => quote!(<#ty>::COLUMNS),
        (_, _, name) => quote!(&[#name]),
    });
    Ok(quote! {{
        const PARTS: &[&[&str]] = &[#(#parts),*];
        const ALL: [&str; ::larder::derived::count(PARTS)] = ::larder::derived::concat(PARTS);
        &ALL
    }})
}

#[cfg(test)]
mod tests {
    use super::expand;

    fn refused(input: &str) -> String {
        expand(&syn::parse_str(input).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn wrong_shapes_are_refused() {
        assert!(refused("struct User(i64, String);").contains("by the names of fields"));
        assert!(refused("struct User;").contains("by the names of fields"));
        assert!(refused("enum Kind { A }").contains("FromSql"));
        assert!(refused("struct User<'a> { name: &'a str }").contains("such as String"));
    }

    #[test]
    fn wrong_attributes_are_named() {
        let field = |attribute: &str| refused(&format!("struct User {{ #[larder({attribute})] id: i64 }}"));
        assert!(field("rename").contains("`rename = \"..\"`"));
        assert!(field("renamed = \"x\"").contains("`rename = \"..\"`, `json`"));
        assert!(field("json, flatten").contains("one of `json`, `flatten` and `skip`"));
        assert!(field("skip, default").contains("no `default`"));
        assert!(field("rename = \"x\", flatten").contains("no `rename`"));
        let rule = refused("#[larder(rename_all = \"camel\")] struct User { id: i64 }");
        assert!(rule.contains("`camelCase`"), "{rule}");
        let unknown = refused("#[larder(table = \"users\")] struct User { id: i64 }");
        assert!(unknown.contains("rename_all"), "{unknown}");
    }

    #[test]
    fn flatten_of_an_option_is_refused() {
        for ty in ["Option<Address>", "std::option::Option<Address>"] {
            let error = refused(&format!("struct User {{ #[larder(flatten)] address: {ty} }}"));
            assert!(error.contains("takes no Option"), "{ty}: {error}");
        }
    }

    #[test]
    fn one_column_for_two_fields_is_refused() {
        let error = refused("struct User { id: i64, #[larder(rename = \"ID\")] key: i64 }");
        assert!(error.contains("`id`"), "{error}");
    }

    #[test]
    fn flatten_of_a_parameter_is_refused() {
        let error = refused("struct Page<T> { #[larder(flatten)] item: T }");
        assert!(error.contains("without type parameters"), "{error}");
    }
}
