//! A test of the harness: larder is broken on purpose in many ways, and a suite must fail for each.
//!
//! A mutant is a change of one passage of larder's source, in a copy of the repository under `target/mutants`, or a
//! sync that the shim omits. The unchanged source must pass the same suites first; otherwise a failure would prove
//! nothing. `--only` selects the mutants that a suite must detect, `--case` one of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use crate::Arguments;
use crate::cases::Summary;

/// The change of a mutant.
enum Change {
    /// Replaces a passage that occurs once in the file.
    Source {
        file: &'static str,
        from: &'static str,
        to: &'static str,
    },
    /// The shim omits a sync.
    Omit(&'static str),
}

struct Mutant {
    name: &'static str,
    change: Change,
    /// The suite that must detect it, and its size.
    suite: &'static [&'static str],
}

const POWER_CUT: &[&str] = &["power-cut", "--states", "10000"];
const BACKUPS: &[&str] = &["backups", "--states", "1000"];
const BACKUP: &[&str] = &["calls", "--only", "backup/mapped/io"];
const SMALL: &[&str] = &["small", "--states", "156"];
const WRITE_FULL: &[&str] = &["calls", "--only", "write-full/mapped"];
const GROUP: &[&str] = &["calls", "--only", "group/mapped"];
const ALONE: &[&str] = &["second-process", "--only", "alone", "--states", "400"];
const DESCRIPTORS: &[&str] = &["descriptors", "--states", "60"];
const KILL: &[&str] = &["kill", "--states", "160"];
const REPLICA_CUT: &[&str] = &["replica", "--only", "cut", "--states", "600"];
const REPLICA_CALLS: &[&str] = &["replica", "--only", "calls", "--states", "300"];
const REPLICA_KILL: &[&str] = &["replica", "--only", "kill", "--states", "300"];
const REPLICA_FENCE: &[&str] = &["replica", "--only", "fence", "--states", "400"];
const REPLICA_STORAGE: &[&str] = &["replica", "--only", "storage", "--states", "200"];
const PARTITION: &[&str] = &["partition", "--seconds", "60"];
const REPLICA_FOLLOWER: &[&str] = &["replica", "--only", "follower", "--states", "300"];

/// The scenario of `tests/model-check` that has the fence.
const MODEL: &[&str] = &["model-check", "--scenario", "one_history", "--schedules", "100000"];

const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "it replies before COMMIT",
        change: Change::Source {
            file: "src/write/group.rs",
            from: "        if self.commit() {\n            self.reply(began);\n        }\n",
            to: "        if !self.group.is_empty() {\n            self.reply(began);\n            let _ = self.commit_transaction();\n        }\n",
        },
        suite: POWER_CUT,
    },
    Mutant {
        name: "it does not ask is_autocommit after a job",
        change: Change::Source {
            file: "src/write/group.rs",
            from: "        if ended_inside || tidied && self.conn.is_autocommit() {",
            // Else the check of deferred keys, which comes next, would fail for want of a transaction.
            to: "        if ended_inside {\n            return None;\n        }\n        if false {",
        },
        suite: GROUP,
    },
    Mutant {
        name: "it goes on after a failed fsync",
        change: Change::Source {
            file: "src/write/wal.rs",
            from: "        self.set_poison(source).then_some(())?;\n",
            to: "        drop(source);\n",
        },
        suite: WRITE_FULL,
    },
    Mutant {
        name: "it leaves no word of a failed fsync",
        change: Change::Source {
            file: "src/write/wal.rs",
            from: "        let marked = wal_resync::mark(&self.path);\n",
            to: "        let marked = Ok::<(), std::io::Error>(());\n",
        },
        suite: WRITE_FULL,
    },
    Mutant {
        name: "it syncs a log that it has not written again",
        change: Change::Source {
            file: "src/connection/wal_resync.rs",
            from: "        log.write_all_at(&buffer[..read], at)?;\n",
            to: "",
        },
        suite: WRITE_FULL,
    },
    Mutant {
        name: "it takes a failed fsync in COMMIT for a rollback",
        change: Change::Source {
            file: "src/error/sqlite.rs",
            from: "        Some(ffi::SQLITE_IOERR | ffi::SQLITE_NOMEM",
            to: "        Some(ffi::SQLITE_NOMEM",
        },
        suite: WRITE_FULL,
    },
    Mutant {
        name: "no sync of the log before a checkpoint",
        change: Change::Omit("checkpoint-sync"),
        suite: POWER_CUT,
    },
    Mutant {
        name: "no sync of the log's header",
        change: Change::Omit("header-sync"),
        suite: POWER_CUT,
    },
    Mutant {
        name: "it releases a failed savepoint without rolling back",
        change: Change::Source {
            file: "src/write/group.rs",
            from: "self\n                .run_internal(Control::RollbackTo)\n                .and_then(|()| self.run_internal(Control::Release))\n                .is_ok()",
            to: "self.run_internal(Control::Release).is_ok()",
        },
        suite: SMALL,
    },
    Mutant {
        name: "it leaves a deferred foreign key to the group's COMMIT",
        change: Change::Source {
            file: "src/write/foreign_keys.rs",
            from: "        if c_api::deferred_violation(&self.conn) {\n",
            to: "        if false && c_api::deferred_violation(&self.conn) {\n",
        },
        suite: SMALL,
    },
    Mutant {
        name: "a poisoned store makes a checkpoint as it closes",
        change: Change::Source {
            file: "src/write/shutdown.rs",
            from: "        if self.shared.poison.get().is_some() {\n            let why",
            to: "        if false {\n            let why",
        },
        suite: WRITE_FULL,
    },
    Mutant {
        name: "SQLite makes a checkpoint as a poisoned store closes",
        change: Change::Source {
            file: "src/write/shutdown.rs",
            from: "SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, wal_kept_because.is_some());",
            to: "SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);",
        },
        suite: WRITE_FULL,
    },
    Mutant {
        name: "a write that asks for FULL gets NORMAL",
        change: Change::Source {
            file: "src/write/group.rs",
            from: "let wanted = job.order().durability;",
            to: "let wanted = self.options.durability;",
        },
        suite: POWER_CUT,
    },
    Mutant {
        name: "a store that asks for Exclusive shares the file",
        change: Change::Source {
            file: "src/connection/mod.rs",
            from: "Access::Exclusive => Some(c\"unix-excl\"),",
            to: "Access::Exclusive => None,",
        },
        suite: ALONE,
    },
    Mutant {
        name: "a backup takes the place of another before it is whole",
        change: Change::Source {
            file: "src/backup/mod.rs",
            from: "    let copy = unfinished.create(\"copy.db\").map_err(failed)?;\n",
            to: "    let name = if overwrite { &staging.path } else { Path::new(\"copy.db\") };\n    \
                 let _ = fs::remove_file(name);\n    \
                 let copy = unfinished.create(name.to_str().unwrap_or_default()).map_err(failed)?;\n",
        },
        suite: KILL,
    },
    Mutant {
        name: "a backup gets its name before it is synced",
        change: Change::Source {
            file: "src/backup/staging.rs",
            from: "        copy.sync()?;\n        let Copy { path, file } = copy;\n",
            to: "        let Copy { path, file } = copy;\n",
        },
        suite: BACKUPS,
    },
    Mutant {
        name: "the folder of a backup is not synced",
        change: Change::Source {
            file: "src/backup/staging.rs",
            from: "            .and_then(|folder| folder.sync_all())\n",
            to: "            .map(drop)\n",
        },
        suite: BACKUPS,
    },
    Mutant {
        name: "the older backup is removed before the new one has its name",
        change: Change::Source {
            file: "src/backup/staging.rs",
            from: "            fs::rename(&path, &self.path)\n",
            to: "            let _ = fs::remove_file(&self.path);\n            fs::rename(&path, &self.path)\n",
        },
        suite: BACKUPS,
    },
    Mutant {
        name: "unfinished backups are never removed",
        change: Change::Source {
            file: "src/backup/staging.rs",
            from: "        folder.remove_leftovers();\n",
            to: "",
        },
        suite: BACKUPS,
    },
    Mutant {
        name: "the folder of a backup that could not be opened stays",
        change: Change::Source {
            file: "src/connection/temp_folder.rs",
            from: "                    let _ = fs::remove_dir(&path);\n",
            to: "",
        },
        suite: BACKUP,
    },
    Mutant {
        name: "it has no locks but SQLite's",
        change: Change::Source {
            file: "src/connection/open_file.rs",
            from: "        self.lock().locks = self.take_locks(access, until)?;\n",
            to: "",
        },
        suite: DESCRIPTORS,
    },
    Mutant {
        name: "it locks the database and not its index",
        change: Change::Source {
            file: "src/connection/file_lock.rs",
            from: "index.map_or(Ok(()), |index| take(index, DEAD_MANS_SWITCH, libc::F_RDLCK, until))\n",
            to: "index.map_or(Ok(()), |_| Ok(()))\n",
        },
        suite: DESCRIPTORS,
    },
    Mutant {
        name: "it closes its descriptors of the database",
        change: Change::Source {
            file: "src/connection/file_lock.rs",
            from: "kept.users > 0 || kept.file.metadata().map_or(true, |file| file.nlink() > 0)",
            to: "kept.users > 0",
        },
        suite: DESCRIPTORS,
    },
    Mutant {
        name: "nothing is sealed before a checkpoint",
        change: Change::Source {
            file: "src/replica/replication.rs",
            from: "        match self.capture_now(&mut capture) {\n            Ok(()) => {}\n            // The position on",
            to: "        match Ok(()) {\n            Ok(()) => {}\n            // The position on",
        },
        suite: REPLICA_CUT,
    },
    Mutant {
        name: "the log is read to its last commit, not by the count of frames",
        change: Change::Source {
            file: "src/replica/capture.rs",
            from: "        scan.read_to(&mut &self.log, to.frames).map_err(unreadable)\n",
            to: "        scan.read_to_last_commit(&mut &self.log).map_err(CaptureError::Unreadable)\n",
        },
        suite: REPLICA_KILL,
    },
    Mutant {
        name: "the commits in the log are not counted",
        change: Change::Source {
            file: "src/replica/capture.rs",
            from: "        if scan.commits() != made {",
            to: "        if false {",
        },
        suite: REPLICA_KILL,
    },
    Mutant {
        name: "the position is written before the file is sealed",
        change: Change::Source {
            file: "src/replica/capture.rs",
            from: "        let sealed = write_file(&self.spool, &source, file, changed)?;\n",
            to: "        let early = Position {\n            txid: file.max_txid,\n            timestamp: file.timestamp,\n            pages,\n            log: Some(LogPosition::of(header, scan.position())),\n            emptied: false,\n            file: None,\n            ..self.position\n        };\n        self.spool.write_position(&early, false).map_err(CaptureError::Spool)?;\n        let sealed = write_file(&self.spool, &source, file, changed)?;\n",
        },
        suite: REPLICA_KILL,
    },
    Mutant {
        name: "an object whose answer was lost is another's",
        change: Change::Source {
            file: "src/replica/fence.rs",
            from: "        if self.is_there(txids, body).await? {",
            to: "        if false {",
        },
        suite: REPLICA_CALLS,
    },
    Mutant {
        name: "another's object is its own",
        change: Change::Source {
            file: "src/replica/fence.rs",
            from: "        if self.is_there(txids, body).await? {",
            to: "        if true {",
        },
        suite: REPLICA_FENCE,
    },
    Mutant {
        name: "a file of the spool gets its name before it is synced",
        change: Change::Source {
            file: "src/replica/spool.rs",
            from: "        unsealed.file.sync_all()?;\n",
            to: "",
        },
        suite: REPLICA_CUT,
    },
    Mutant {
        name: "a full spool drops the first file, too",
        change: Change::Source {
            file: "src/replica/replication.rs",
            from: "            (first, self.spool.forget_after(first.txid))\n",
            to: "            let first = Sealed {\n                txid: first.txid - 1,\n                ..first\n            };\n            (first, self.spool.forget_after(first.txid))\n",
        },
        suite: REPLICA_CALLS,
    },
    Mutant {
        name: "a write is acknowledged before it is in the replica",
        change: Change::Source {
            file: "src/write/group.rs",
            from: "if ran.job.order().durability == Durability::Replicated {",
            to: "if false {",
        },
        suite: REPLICA_KILL,
    },
    Mutant {
        name: "an upload acknowledges what was committed after its capture",
        change: Change::Source {
            file: "src/replica/replication.rs",
            from: "        let newest = self.held.newest();\n",
            to: "        let newest = u64::MAX;\n",
        },
        suite: REPLICA_STORAGE,
    },
    Mutant {
        name: "a merge forgets the pages of its first file",
        change: Change::Source {
            file: "src/replica/ltx/merge.rs",
            from: "    for (at, input) in inputs.iter_mut().enumerate() {",
            to: "    for (at, input) in inputs.iter_mut().enumerate().skip(1) {",
        },
        suite: REPLICA_CUT,
    },
    Mutant {
        name: "a fenced store goes on to write levels and snapshots",
        change: Change::Source {
            file: "src/replica/upload.rs",
            from: "        is_sure && !self.has_ended() && self.closing.get().is_none() && !self.is_poisoned()\n",
            // A store that was fenced is also poisoned.
            to: "        is_sure && self.closing.get().is_none()\n",
        },
        suite: MODEL,
    },
    Mutant {
        name: "retention deletes claims",
        change: Change::Source {
            file: "src/replica/levels/rules.rs",
            from: "is_older(file, times.l0_retention) && !claims.contains(&txid)",
            to: "is_older(file, times.l0_retention)",
        },
        suite: REPLICA_FENCE,
    },
    Mutant {
        name: "a store that was killed goes on without a claim",
        change: Change::Source {
            file: "src/replica/fence.rs",
            from: "            if has_claimed || !self.is_us(owner) {",
            to: "            let _ = has_claimed;\n            if owner.node != self.node {",
        },
        suite: REPLICA_FENCE,
    },
    Mutant {
        name: "the file of the other machine is taken for its own",
        change: Change::Source {
            file: "src/replica/fence.rs",
            from: "        if self.is_there(txids, body).await? {",
            to: "        if true {",
        },
        suite: PARTITION,
    },
    Mutant {
        name: "a follower notes what it has applied before it commits",
        change: Change::Source {
            file: "src/replica/follower/apply.rs",
            from: "        let committed = writer.commit_own();\n",
            to: "        self.note(&written, None);\n        let committed = writer.commit_own();\n",
        },
        suite: REPLICA_FOLLOWER,
    },
    Mutant {
        name: "a claim is not entered",
        change: Change::Source {
            file: "src/replica/fence.rs",
            from: "        let Some(is_new) = self.enter_claim(own, now, take_over).await? else {\n            return Ok(ClaimResult::Moved);\n        };\n",
            to: "        let is_new = true;\n        let _ = (now, take_over);\n",
        },
        suite: MODEL,
    },
    Mutant {
        name: "a claim does not list after its entry",
        change: Change::Source {
            file: "src/replica/fence.rs",
            from: "        let is_made = if newest == tip {\n",
            to: "        let is_made = if true {\n",
        },
        suite: MODEL,
    },
    Mutant {
        name: "a killed store claims its replica from the one that took over",
        change: Change::Source {
            file: "src/replica/fence.rs",
            from: "owner.filter(|_| !take_over)",
            to: "owner.filter(|_| !take_over && false)",
        },
        suite: MODEL,
    },
    Mutant {
        name: "what waited in the spool makes an owner",
        change: Change::Source {
            file: "src/replica/upload.rs",
            from: "        self.set_ownership(if is_inherited {",
            to: "        self.set_ownership(if false {",
        },
        suite: MODEL,
    },
    Mutant {
        name: "an idle store that learns that it is fenced goes on",
        change: Change::Source {
            file: "src/replica/upload.rs",
            from: "                        Some(other) => Some(Err(Failed::Taken(other))),\n",
            to: "                        Some(other) => {\n                            self.fenced(&other);\n                            continue;\n                        }\n",
        },
        suite: MODEL,
    },
    Mutant {
        name: "a list that is out of date is believed",
        change: Change::Source {
            file: "src/replica/storage/listing.rs",
            from: "    storage.find(0, Txids::one(txid)).await\n",
            to: "    let _ = (storage, txid);\n    Ok(None)\n",
        },
        suite: REPLICA_STORAGE,
    },
];

pub fn run(arguments: &Arguments) -> Summary {
    let workshop = Workshop::new(arguments.seed);
    let of = |given: &Option<String>, name: &str| given.as_ref().is_none_or(|given| given == name);
    let wanted = |mutant: &&Mutant| of(&arguments.case, mutant.name) && of(&arguments.only, mutant.suite[0]);
    let mut chosen: Vec<&Mutant> = MUTANTS.iter().filter(wanted).collect();
    if std::env::var_os("LARDER_MOTO").is_none() {
        println!("skipped: the mutants of the suite partition need moto (LARDER_MOTO)");
        chosen.retain(|mutant| mutant.suite != PARTITION);
    }
    assert!(!chosen.is_empty(), "no mutant of that name, or of that suite");
    let mut summary = Summary::default();
    let mut count = |name: &str, began: Instant, result: Result<String, String>| {
        let took = began.elapsed();
        match result {
            Ok(said) => {
                summary.passed += 1;
                println!("mutants: {name}: {said} ({took:.1?})");
            }
            Err(problem) => {
                summary.failed += 1;
                println!("mutants: FAILED: {name}: {problem} ({took:.1?})");
            }
        }
    };
    let began = Instant::now();
    count("nothing changed", began, workshop.control(&chosen));
    for mutant in chosen {
        let began = Instant::now();
        count(mutant.name, began, workshop.try_mutant(mutant));
    }
    println!("mutants: {} passed, {} failed", summary.passed, summary.failed);
    summary
}

/// Checks that every change can be made, without building anything.
pub fn passages(arguments: &Arguments) -> Summary {
    let workshop = Workshop::new(arguments.seed);
    let mut summary = Summary::default();
    for mutant in MUTANTS {
        let Change::Source { file, from, to } = &mutant.change else {
            continue;
        };
        match workshop.changed(file, from, to) {
            Ok(_) => summary.passed += 1,
            Err(problem) => {
                summary.failed += 1;
                println!("passages: FAILED: {}: {problem}", mutant.name);
            }
        }
    }
    println!("passages: {} passed, {} failed", summary.passed, summary.failed);
    summary
}

/// The copy of the repository in which mutants are built.
struct Workshop {
    repository: PathBuf,
    copy: PathBuf,
    target: PathBuf,
    seed: u64,
}

impl Workshop {
    fn new(seed: u64) -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let repository = repository
            .canonicalize()
            .expect("the repository that this was built from");
        let targets = std::env::var_os("CARGO_TARGET_DIR").map_or(repository.join("target"), PathBuf::from);
        let root = targets.join("mutants");
        Self {
            repository,
            copy: root.join("source"),
            target: root.join("target"),
            seed,
        }
    }

    /// Checks that the unchanged source passes the suites of these mutants.
    fn control(&self, mutants: &[&Mutant]) -> Result<String, String> {
        let mut suites: Vec<&[&str]> = mutants.iter().map(|mutant| mutant.suite).collect();
        suites.sort_unstable();
        suites.dedup();
        for suite in &suites {
            self.build(None, suite)?;
            let output = self.run(suite, None)?;
            if !output.status.success() {
                return Err(format!(
                    "larder as it is fails {}: {}",
                    suite.join(" "),
                    last_line(&output)
                ));
            }
        }
        Ok(format!("passes {} suites", suites.len()))
    }

    fn try_mutant(&self, mutant: &Mutant) -> Result<String, String> {
        let omission = match &mutant.change {
            Change::Source { .. } => {
                self.build(Some(&mutant.change), mutant.suite)?;
                None
            }
            Change::Omit(sync) => {
                self.build(None, mutant.suite)?;
                Some(*sync)
            }
        };
        let output = self.run(mutant.suite, omission)?;
        // A mutant that hangs is detected by the watchdog, which aborts.
        if output.status.success() {
            return Err(format!(
                "{} did not notice: {}",
                mutant.suite.join(" "),
                last_line(&output)
            ));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let found = said.lines().find(|line| {
            ["FAILED:", "HANGS:", "failed:"]
                .iter()
                .any(|word| line.starts_with(word))
        });
        match found {
            Some(line) => Ok(format!("caught by {}: {}", mutant.suite[0], shortened(line))),
            None => Err(format!(
                "{} ended without a verdict: {}",
                mutant.suite.join(" "),
                last_line(&output)
            )),
        }
    }

    /// Updates the copy from the repository, applies the change, and builds the harness, or the model check.
    fn build(&self, change: Option<&Change>, suite: &[&str]) -> Result<(), String> {
        let changed = match change {
            Some(Change::Source { file, from, to }) => Some((*file, self.changed(file, from, to)?)),
            _ => None,
        };
        copy(&self.repository, &self.copy, &self.repository, &changed).map_err(|error| format!("copying: {error}"))?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let what: &[&str] = match suite == MODEL {
            true => &["--manifest-path", "tests/model-check/Cargo.toml"],
            false => &["-p", "faults", "--bin", "faults"],
        };
        let output = Command::new(cargo)
            .args(["build", "--release", "--quiet"])
            .args(what)
            .arg("--target-dir")
            .arg(&self.target)
            .current_dir(&self.copy)
            .env_remove("CARGO_TARGET_DIR")
            // Each build runs only once or twice.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cargo: {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "it does not build:\n{}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        Ok(())
    }

    fn changed(&self, file: &str, from: &str, to: &str) -> Result<String, String> {
        let source = fs::read_to_string(self.repository.join(file)).map_err(|error| format!("{file}: {error}"))?;
        match source.matches(from).count() {
            1 => Ok(source.replacen(from, to, 1)),
            count => Err(format!(
                "the passage to change stands {count} times in {file}, not once: {from:?}"
            )),
        }
    }

    fn run(&self, suite: &[&str], omission: Option<&str>) -> Result<Output, String> {
        if suite == MODEL {
            let mut command = Command::new(self.target.join("release/larder-model-check"));
            return command
                .args(&suite[1..])
                .output()
                .map_err(|error| format!("running it: {error}"));
        }
        let mut command = Command::new(self.target.join("release/faults"));
        command
            .args(suite)
            .args(["--seed", &self.seed.to_string(), "--failures", "1"]);
        if let Some(sync) = omission {
            command.args(["--omit", sync]);
        }
        command.output().map_err(|error| format!("running it: {error}"))
    }
}

/// Leaves equal files alone, so that cargo does not rebuild them.
fn copy(from: &Path, to: &Path, root: &Path, changed: &Option<(&str, String)>) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if name != "target" && name != ".git" {
                copy(&path, &target, root, changed)?;
            }
            continue;
        }
        let relative = path.strip_prefix(root).unwrap_or(&path);
        let content = match changed {
            Some((file, text)) if relative == Path::new(file) => text.clone().into_bytes(),
            _ => fs::read(&path)?,
        };
        if fs::read(&target).ok().as_ref() != Some(&content) {
            fs::write(&target, content)?;
        }
    }
    Ok(())
}

fn last_line(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout);
    shortened(said.lines().last().unwrap_or("it said nothing"))
}

fn shortened(line: &str) -> String {
    line.chars().take(160).collect()
}
