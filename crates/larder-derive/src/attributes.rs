//! The attributes `#[larder(..)]` of a struct and of its fields.

use syn::meta::ParseNestedMeta;
use syn::{Attribute, Error, LitStr, Result};

use crate::rename::{NAMES, Rule};

/// How a field is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// From a column of SQL's types.
    Column,
    /// From a column with JSON.
    Json,
    /// From the columns of another struct.
    Flatten,
    /// Not at all: it has the default of its type.
    Skip,
}

pub(crate) struct Field {
    pub(crate) source: Source,
    pub(crate) rename: Option<LitStr>,
    /// Whether a column that is not there is the default of the type.
    pub(crate) default: bool,
}

/// The rule for the names of the struct's columns.
pub(crate) fn of_struct(attributes: &[Attribute]) -> Result<Rule> {
    let mut rule = Rule::Snake;
    each(attributes, |meta| {
        if !meta.path.is_ident("rename_all") {
            return Err(meta.error("larder has one attribute for a struct: `rename_all = \"camelCase\"`"));
        }
        let name: LitStr = meta.value()?.parse()?;
        rule = Rule::named(&name.value()).ok_or_else(|| {
            let known = NAMES.map(|(name, _)| format!("`{name}`")).join(", ");
            Error::new(name.span(), format!("no such rule: larder knows {known}"))
        })?;
        Ok(())
    })?;
    Ok(rule)
}

pub(crate) fn of_field(attributes: &[Attribute]) -> Result<Field> {
    let mut field = Field {
        source: Source::Column,
        rename: None,
        default: false,
    };
    each(attributes, |meta| {
        if meta.path.is_ident("rename") {
            let value = meta
                .value()
                .map_err(|_| meta.error("the name is missing: `rename = \"..\"`"))?;
            field.rename = Some(value.parse()?);
        } else if meta.path.is_ident("default") {
            field.default = true;
        } else {
            let source = match () {
                () if meta.path.is_ident("json") => Source::Json,
                () if meta.path.is_ident("flatten") => Source::Flatten,
                () if meta.path.is_ident("skip") => Source::Skip,
                () => {
                    return Err(meta.error(
                        "larder's attributes for a field are `rename = \"..\"`, `json`, `flatten`, `default` and `skip`",
                    ));
                }
            };
            if field.source != Source::Column {
                return Err(meta.error("a field has one of `json`, `flatten` and `skip`"));
            }
            field.source = source;
        }
        if matches!(field.source, Source::Flatten | Source::Skip) && (field.rename.is_some() || field.default) {
            return Err(
                meta.error("a field with `flatten` or `skip` has no column: it takes no `rename` and no `default`")
            );
        }
        Ok(())
    })?;
    Ok(field)
}

fn each(attributes: &[Attribute], mut f: impl FnMut(ParseNestedMeta<'_>) -> Result<()>) -> Result<()> {
    let ours = attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("larder"));
    for attribute in ours {
        attribute.parse_nested_meta(&mut f)?;
    }
    Ok(())
}
