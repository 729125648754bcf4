//! `migrations!("folder")`: the files of a folder in the program.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, LitStr};

const USE: &str = "migrations! takes the path of a folder, from the folder of Cargo.toml: migrations!(\"migrations\")";

pub(crate) fn expand(input: TokenStream) -> Result<TokenStream, Error> {
    let refuse = |problem: String| Error::new_spanned(&input, problem);
    let literal: LitStr = syn::parse2(input.clone()).map_err(|_| refuse(USE.into()))?;
    let folder = literal.value();
    if folder.is_empty() || Path::new(&folder).is_absolute() {
        return Err(refuse(USE.into()));
    }
    let root = env::var_os("CARGO_MANIFEST_DIR")
        .ok_or_else(|| refuse("CARGO_MANIFEST_DIR is not set: compile with cargo".into()))?;
    let path = Path::new(&root).join(&folder);
    let files = files(&path).map_err(&refuse)?;
    if files.is_empty() {
        return Err(refuse(format!(
            "there are no migrations in {}: a file is named like 001_users.sql",
            path.display()
        )));
    }
    let files = files.iter().map(|file| {
        let path = format!("/{folder}/{file}");
        // Cargo compiles the crate again when one of these files changes.
        quote! {
            (#file, ::core::include_bytes!(::core::concat!(::core::env!("CARGO_MANIFEST_DIR"), #path)).as_slice())
        }
    });
    let path = format!("/{folder}");
    Ok(quote! {
        ::larder::Migrations::embedded(
            &[#(#files),*],
            #folder,
            if ::core::cfg!(debug_assertions) {
                ::core::option::Option::Some(::core::concat!(::core::env!("CARGO_MANIFEST_DIR"), #path))
            } else {
                ::core::option::Option::None
            },
        )
    })
}

/// The files that `Migrations::folder` would read, by their names from the folder, in order.
fn files(folder: &Path) -> Result<Vec<String>, String> {
    let mut files = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() {
            files.extend(
                ["up.sql", "down.sql"]
                    .map(|name| path.join(name))
                    .into_iter()
                    .filter(|file| file.exists()),
            );
        } else if may_be_one(&path) {
            files.push(path);
        }
    }
    let name = |path: &PathBuf| {
        let name = path.strip_prefix(folder).unwrap_or(path).to_str();
        let name = name.ok_or_else(|| format!("the name of {} is not UTF-8", path.display()))?;
        Ok(name.to_owned())
    };
    files.iter().map(name).collect()
}

fn may_be_one(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let is = |extension: &OsStr| extension.eq_ignore_ascii_case("sql") || extension.eq_ignore_ascii_case("go");
    !hidden && path.extension().is_some_and(is)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).and_then(|entries| {
        let paths: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
        paths
    });
    let mut entries = entries.map_err(|error| {
        format!(
            "{} cannot be read: {error}; the path of migrations! begins at the folder of Cargo.toml",
            folder.display()
        )
    })?;
    entries.sort();
    Ok(entries)
}
