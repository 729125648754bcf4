//! A new file of migrations.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{MigrationError, Migrations};
use crate::error::Result;
use crate::runtime::date;

const EMPTY: &[u8] = b"-- migrate:up\n\n\n-- migrate:down\n\n";

impl Migrations {
    /// Creates an empty migration in a folder, in Dbmate's format: a file that is named after the time in UTC, to the
    /// second, and `name`. The folder is created if it is missing. Two files of one second get different versions, also
    /// if two processes make them.
    ///
    /// The file is refused as long as its way up is empty.
    ///
    /// ```
    /// # let place = tempfile::tempdir().unwrap();
    /// # let folder = place.path().join("migrations");
    /// use larder::Migrations;
    ///
    /// let file = Migrations::create(&folder, "add_users")?; // migrations/20260401120000_add_users.sql
    /// assert!(file.to_str().unwrap().ends_with("_add_users.sql"));
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Migration`](crate::Error::Migration): with [`MigrationError::Format`] if the name has other characters
    /// than letters, digits, `_` and `-` of ASCII; with [`MigrationError::Create`] if the folder cannot be written.
    pub fn create(folder: impl AsRef<Path>, name: &str) -> Result<PathBuf> {
        let folder = folder.as_ref();
        let fit = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || !name.chars().all(fit) {
            return Err(MigrationError::Format {
                file: format!("{name:?}"),
                line: None,
                problem: "it is no name for a migration: use letters, digits, _ and -".to_owned(),
            }
            .into());
        }
        create(folder, name).map_err(|(path, source)| MigrationError::Create { path, source }.into())
    }
}

/// The error has the path that cannot be used.
fn create(folder: &Path, name: &str) -> Result<PathBuf, (PathBuf, io::Error)> {
    let of_folder = |error| (folder.to_owned(), error);
    fs::create_dir_all(folder).map_err(of_folder)?;
    loop {
        let taken = versions(folder).map_err(of_folder)?;
        let version = unused_version(&taken, SystemTime::now());
        let path = folder.join(format!("{version}_{name}.sql"));
        write_new(&path).map_err(|error| (path.clone(), error))?;
        let now = versions(folder).map_err(of_folder)?;
        if now.iter().filter(|other| **other == version).count() == 1 {
            return Ok(path);
        }
        // Another process has made one of this second, too. It may remove its own now, as this one does.
        fs::remove_file(&path).map_err(|error| (path.clone(), error))?;
    }
}

fn write_new(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(EMPTY)
}

/// The first second from `now` on that no file of the folder has.
fn unused_version(taken: &[String], now: SystemTime) -> String {
    let mut time = now;
    loop {
        let mut version = date::utc(time);
        version.retain(|c| c.is_ascii_digit());
        if !taken.contains(&version) {
            return version;
        }
        time += Duration::from_secs(1);
    }
}

/// The digits at the start of each name.
fn versions(folder: &Path) -> io::Result<Vec<String>> {
    let version = |entry: io::Result<fs::DirEntry>| {
        let name = entry?.file_name().to_string_lossy().into_owned();
        Ok(name.chars().take_while(char::is_ascii_digit).collect())
    };
    fs::read_dir(folder)?.map(version).collect()
}
