//! The macro of `larder-derive` for migrations, with its documentation.

#![allow(clippy::needless_doctest_main, reason = "it is the whole of a build script")]

/// Embeds the migrations of a folder in the program: `Migrations::files`, with all files of the folder. The path begins at
/// the folder of `Cargo.toml`. The value is a `Result<Migrations>`.
///
/// ```
/// use larder::Options;
///
/// let migrations = larder::migrations!("tests/migrations")?;
/// let store = Options::new().migrations(migrations).open_temp()?;
/// # assert!(store.migrations()?.pending.is_empty());
/// # Ok::<_, larder::Error>(())
/// ```
///
/// The files are those that [`Migrations::folder`](crate::Migrations::folder) reads; without any, or without the folder,
/// the program does not compile.
///
/// # New files
///
/// Cargo compiles the crate again when one of the files changes or goes. It notices a *new* file only with a build script
/// beside `Cargo.toml`:
///
/// ```no_run
/// // build.rs
/// fn main() {
///     println!("cargo:rerun-if-changed=migrations");
/// }
/// ```
///
/// Without one, a program that was compiled with debug assertions (`cargo run`, `cargo test`) looks into the folder, if it
/// is still there, and fails with [`MigrationError::NotEmbedded`](crate::MigrationError::NotEmbedded), which names the
/// file, instead of running with an old schema. A release build does not look, and does not know the folder.
pub use larder_derive::migrations;
