//! `migrations!`: the files of a folder in the program, and a file that is new in the folder.
//!
//! The cargo project of the last tests has a crate named `larder` with as much of it as the macro's code calls. So it is
//! compiled in seconds; the macro and cargo are the real ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use larder::{MigrationError, Migrations};

use crate::support::migrations::migration_error;

fn embedded(files: &[(&str, &[u8])], path: &Path) -> larder::Result<Migrations> {
    Migrations::embedded(files, "migrations", path.to_str())
}

#[cfg(feature = "derive")]
#[test]
fn embedded_folder_is_that_which_is_read() {
    use larder::Options;

    use crate::support::migrations::names;

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let embedded = larder::migrations!("tests/migrations").unwrap();
    let read = Migrations::folder(root.join("tests/migrations")).unwrap();
    let list = |set: &Migrations| format!("{:?}", set.iter().collect::<Vec<_>>());
    assert!(embedded.iter().count() > 3);
    assert_eq!(list(&embedded), list(&read));
    let store = Options::new().migrations(embedded).open_temp().unwrap();
    assert_eq!(names(&store).len(), 4);
    // A store that was migrated by the one goes on with the other.
    let path = tempfile::tempdir().unwrap();
    let path = path.path().join("app.db");
    for set in [read, larder::migrations!("tests/migrations").unwrap()] {
        Options::new().migrations(set).open(&path).unwrap();
    }
}

#[test]
fn file_that_is_new_in_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let users: (&str, &[u8]) = ("001_users.sql", b"CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT");
    let known = [users];
    fs::write(folder.path().join(users.0), users.1).unwrap();
    fs::write(folder.path().join("README.md"), "about").unwrap();
    fs::write(folder.path().join(".002_hidden.sql"), "SELECT 1").unwrap();
    fs::create_dir(folder.path().join("002_empty")).unwrap();
    assert_eq!(embedded(&known, folder.path()).unwrap().iter().count(), 1);

    for new in ["002_orders.sql", "001_users.down.sql", "002_empty/up.sql"] {
        let path = folder.path().join(new);
        fs::write(&path, "SELECT 1").unwrap();
        let error = migration_error(embedded(&known, folder.path()));
        assert!(
            matches!(&error, MigrationError::NotEmbedded { file, folder } if file == new && folder == "migrations")
        );
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("migrations/{new} is not in this program")),
            "{text}"
        );
        assert!(text.contains("cargo:rerun-if-changed=migrations"), "{text}");
        fs::remove_file(path).unwrap();
    }
    // The text is known to cargo, and a file that is gone, too. The program may run where the folder is not.
    fs::write(folder.path().join(users.0), "another text").unwrap();
    assert_eq!(embedded(&known, folder.path()).unwrap().iter().count(), 1);
    assert_eq!(
        embedded(&known, &folder.path().join("nowhere")).unwrap().iter().count(),
        1
    );
    assert_eq!(
        Migrations::embedded(&known, "migrations", None).unwrap().iter().count(),
        1
    );
    let error = migration_error(Migrations::embedded(&[("users.sql", b"SELECT 1")], "migrations", None));
    assert!(matches!(error, MigrationError::Format { .. }), "{error:?}");
}

/// A cargo project, kept in the target folder so that its dependencies are compiled once.
struct Project {
    root: PathBuf,
}

/// As much of larder as the code of `migrations!` calls. It prints the names.
const LARDER: &str = "pub use larder_derive::migrations;
    pub struct Migrations;
    impl Migrations {
        pub fn embedded(files: &[(&str, &[u8])], folder: &str, path: Option<&str>) -> Result<(), String> {
            let files: Vec<_> = files.iter().map(|(name, text)| format!(\"{name}={}\", text.len())).collect();
            println!(\"{folder} {} {}\", path.is_some(), files.join(\" \"));
            Ok(())
        }
    }";

impl Project {
    fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let derive = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/larder-derive");
        let project = Self { root };
        let _ = fs::remove_dir_all(project.root.join("app"));
        let larder = format!(
            "[package]\nname = \"larder\"\nedition = \"2024\"\n[dependencies]\nlarder-derive = {{ path = {derive:?} }}\n"
        );
        project.write("larder/Cargo.toml", &larder);
        project.write("larder/src/lib.rs", LARDER);
        let app = "[package]\nname = \"app\"\nedition = \"2024\"\n[dependencies]\nlarder = { path = \"../larder\" }\n[workspace]\n";
        project.write("app/Cargo.toml", app);
        project.write(
            "app/src/main.rs",
            "fn main() { larder::migrations!(\"migrations\").unwrap(); }",
        );
        project.write("app/migrations/001_users.sql", "SELECT 1");
        fs::copy(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock"),
            project.root.join("app/Cargo.lock"),
        )
        .unwrap();
        project
    }

    /// Leaves a file as it is that has the text already: cargo looks at times.
    fn write(&self, file: &str, text: &str) {
        let path = self.root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if fs::read_to_string(&path).is_ok_and(|is| is == text) {
            return;
        }
        fs::write(path, text).unwrap();
    }

    fn cargo(&self, args: &[&str]) -> Output {
        let output = Command::new(env!("CARGO"))
            .args(args)
            .args(["--offline", "--quiet"])
            .current_dir(self.root.join("app"))
            .env("CARGO_TARGET_DIR", self.root.join("target"))
            .env("CARGO_TERM_COLOR", "never")
            .env_remove("OUT_DIR")
            .output();
        output.unwrap()
    }

    /// What the program prints, once it is up to date.
    #[track_caller]
    fn run(&self) -> String {
        self.run_with(&["run"])
    }

    #[track_caller]
    fn run_with(&self, args: &[&str]) -> String {
        let output = self.cargo(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The compiler's error.
    #[track_caller]
    fn refused(&self, macro_call: &str) -> String {
        self.write("app/src/main.rs", &format!("fn main() {{ {macro_call}.unwrap(); }}"));
        let output = self.cargo(&["check"]);
        assert!(!output.status.success(), "it was accepted");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// Waits until the file system's clock has gone on, so that cargo sees a later time.
fn tick(project: &Project) {
    let probe = project.root.join("probe");
    let time = || {
        fs::write(&probe, "").unwrap();
        fs::metadata(&probe).unwrap().modified().unwrap()
    };
    let first = time();
    while time() == first {
        std::thread::yield_now();
    }
}

#[test]
fn cargo_notices_new_file_by_build_script() {
    let project = Project::new("migrations-noticed");
    assert_eq!(project.run(), "migrations true 001_users.sql=8\n");

    // Without a build script it does not, which is why a debug build looks by itself.
    tick(&project);
    project.write("app/migrations/002_orders.sql", "SELECT 2");
    assert_eq!(project.run(), "migrations true 001_users.sql=8\n");
    // It knows the files that are in the program.
    tick(&project);
    project.write("app/migrations/001_users.sql", "SELECT 11");
    assert_eq!(project.run(), "migrations true 001_users.sql=9 002_orders.sql=8\n");

    // That of the documentation.
    let script = include_str!("../../../src/migrate/macros.rs");
    let script: String = script
        .lines()
        .skip_while(|line| !line.contains("// build.rs"))
        .take_while(|line| !line.contains("```"))
        .map(|line| format!("{}\n", line.trim_start_matches("///")))
        .collect();
    assert!(script.contains("rerun-if-changed"), "{script}");
    project.write("app/build.rs", &script);
    project.run();
    for (file, text) in [
        ("003_more.sql", "SELECT 3"),
        ("004_last/up.sql", "SELECT 4"),
        ("004_last/down.sql", "SELECT"),
    ] {
        tick(&project);
        project.write(&format!("app/migrations/{file}"), text);
        let files = project.run();
        assert!(files.contains(&format!(" {file}={}", text.len())), "{files}");
    }
    tick(&project);
    fs::remove_file(project.root.join("app/migrations/003_more.sql")).unwrap();
    let all = "001_users.sql=9 002_orders.sql=8 004_last/up.sql=8 004_last/down.sql=6";
    assert_eq!(project.run(), format!("migrations true {all}\n"));

    // The folder of a release build is not in it.
    assert_eq!(
        project.run_with(&["run", "--release"]),
        format!("migrations false {all}\n")
    );
    let program = fs::read(project.root.join("target/release/app")).unwrap();
    let folder = project
        .root
        .join("app/migrations")
        .into_os_string()
        .into_encoded_bytes();
    assert!(!program.windows(folder.len()).any(|part| part == folder));
}

#[test]
fn compiler_names_what_is_wrong_with_folder() {
    let project = Project::new("migrations-refused");
    let error = project.refused("larder::migrations!()");
    assert!(error.contains("migrations! takes the path of a folder"), "{error}");
    for call in [
        "larder::migrations!(migrations)",
        "larder::migrations!(\"\")",
        "larder::migrations!(\"/migrations\")",
    ] {
        let error = project.refused(call);
        assert!(
            error.contains("from the folder of Cargo.toml: migrations!(\"migrations\")"),
            "{call}: {error}"
        );
    }
    let error = project.refused("larder::migrations!(\"migration\")");
    assert!(error.contains("app/migration cannot be read: No such file"), "{error}");
    fs::create_dir(project.root.join("app/empty")).unwrap();
    fs::write(project.root.join("app/empty/notes.txt"), "").unwrap();
    let error = project.refused("larder::migrations!(\"empty\")");
    assert!(
        error.contains("there are no migrations in") && error.contains("app/empty"),
        "{error}"
    );
}
