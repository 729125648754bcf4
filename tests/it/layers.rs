//! The layer rule: a module imports only from its own room and from rooms on lower floors. A room is a folder of `src`.
//! The order of the floors is in `docs/architecture.md`.
//!
//! The test reads `src` as tokens. It finds every path that names another module of the crate: in `use` trees, inline,
//! in macros, and in the strings of attributes such as `serde(with = "crate::runtime::serde_units::size")`. A re-export counts as the
//! module that it comes from. Code for tests or documentation only is skipped.
//!
//! The statics of the process are looked at, too: which of them a fork has to know (`runtime/process_mutex.rs`).
//!
//! `cargo test --test it -- --nocapture layers` prints the largest circle of files that import one another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::support::tokens::{Kind, Token, tokens};

/// The floors of `docs/architecture.md`, from the top down.
static FLOORS: LazyLock<Vec<Vec<Room>>> = LazyLock::new(|| floors(&document("docs/architecture.md")));

/// A folder of `src`, or `lib` for `lib.rs`.
#[derive(Debug, PartialEq)]
struct Room {
    name: String,
    /// False for a place that is kept for a room to come.
    exists: bool,
}

#[test]
fn every_import_goes_down() {
    let source = Source::read();
    let imports = source.imports();
    let problems = imports_not_down(&source, &imports);
    let circle = largest_circle(&imports);
    println!(
        "{} files, {} imports, {} of them not down; the largest circle has {} files: {}",
        source.files().count(),
        edges(&imports).len(),
        problems.len(),
        circle.len(),
        circle.join(" "),
    );
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// A `OnceLock` has a lock as well: another thread may be initializing it as the process forks.
#[test]
fn locks_of_the_process_are_known_to_forks() {
    let mut folders = vec![root().join("src")];
    let (mut known, mut others) = (0, Vec::new());
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let tokens = tokens(&fs::read_to_string(&path).unwrap());
            let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
            for at in texts
                .iter()
                .enumerate()
                .filter(|(_, text)| **text == "static")
                .map(|(at, _)| at)
            {
                let [name, ":", kind @ ..] = &texts[at + 1..] else {
                    continue;
                };
                let end = kind.iter().position(|text| ["<", "="].contains(text)).unwrap();
                match kind[end - 1] {
                    "ProcessMutex" => known += 1,
                    "Mutex" | "RwLock" | "Once" | "OnceLock" | "LazyLock" if *name != "LISTED" => {
                        others.push(format!("{name} in {}", path.display()));
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(known >= 4);
    assert!(others.is_empty(), "see src/runtime/process_mutex.rs: {others:?}");
}

#[test]
fn planted_import_that_goes_up_is_named() {
    let source = Source::of(&[
        ("", "mod options; mod queue; mod store; mod telemetry;"),
        ("options", "pub struct Access;"),
        ("queue", "pub struct Job; fn f() { crate::store::Store::open() }"),
        ("store", "use crate::queue::Job; pub struct Store;"),
        ("telemetry", "fn f() { let _ = super::options::Access; }"),
    ]);
    let problems = imports_not_down(&source, &source.imports());
    let wanted = [
        "queue:1: `crate::store::Store::open` leads from the room queue to the room store, which is not below it",
        "telemetry:1: `super::options::Access` leads from the room telemetry to the room options, which is not below it",
    ];
    assert_eq!(problems, wanted);
}

#[test]
fn rooms_are_the_folders_of_src() {
    let entries = fs::read_dir(root().join("src")).unwrap().map(Result::unwrap);
    let mut folders: BTreeSet<_> = entries
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    // It has documents alone.
    folders.remove("guide");
    let rooms = FLOORS.iter().flatten().filter(|room| room.exists && room.name != "lib");
    let rooms: BTreeSet<_> = rooms.map(|room| room.name.clone()).collect();
    assert_eq!(
        rooms, folders,
        "the floors of docs/architecture.md, and the folders of src"
    );
}

#[test]
fn floors_are_read_from_their_block() {
    let found = floors("text\n```floors\nlib\n(status), (tenants)\nconnection, queue\n```\ntext\n");
    let found: Vec<Vec<_>> = found
        .iter()
        .map(|floor| floor.iter().map(|room| (room.name.as_str(), room.exists)).collect())
        .collect();
    let wanted: [&[_]; 3] = [
        &[("lib", true)],
        &[("status", false), ("tenants", false)],
        &[("connection", true), ("queue", true)],
    ];
    assert_eq!(found, wanted);
}

fn floors(document: &str) -> Vec<Vec<Room>> {
    let (_, block) = document.split_once("\n```floors\n").expect("a block of floors");
    let lines = block.lines().take_while(|line| *line != "```");
    let room = |name: &str| {
        let kept = name.strip_prefix('(').and_then(|name| name.strip_suffix(')'));
        Room {
            name: kept.unwrap_or(name).to_owned(),
            exists: kept.is_none(),
        }
    };
    lines.map(|line| line.split(", ").map(room).collect()).collect()
}

fn document(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One line for each pair of files of which the first imports the second, which is not below it.
fn imports_not_down(source: &Source, imports: &[Import]) -> Vec<String> {
    let mut wrong = BTreeMap::new();
    for import in imports {
        if !goes_down(&import.from, &import.to) {
            wrong
                .entry((import.from.as_str(), import.to.as_str()))
                .or_insert(import);
        }
    }
    let problem = |import: &&Import| {
        format!(
            "{}:{}: `{}` leads from the room {} to the room {}, which is not below it",
            source.modules[&import.from].file.display(),
            import.line,
            import.path,
            room(&import.from).0,
            room(&import.to).0,
        )
    };
    wrong.values().map(problem).collect()
}

#[test]
fn every_form_of_path_is_found() {
    let source = Source::of(&[
        (
            "",
            r##"
                mod a; mod b; mod c; mod d;
                pub use b::{inner::Deep, Flat as Renamed};
            "##,
        ),
        (
            "a",
            r##"
                //! crate::d::in_a_comment /* crate::d::nested */
                use crate::{b::{self, Flat}, c::*};
                use std::fmt::{self, Display};
                pub(in crate::d) struct S<'d> { x: &'d str, y: [char; 2] }
                const NOT: &str = "crate::d::in_a_string \" crate::d::still";
                const RAW: &str = r#"crate::d::raw " "#;
                const MARKS: [char; 3] = ['"', '\'', '\\'];
                #[serde(with = "crate::b::inner")]
                struct T;
                #[doc = "crate::d"]
                fn f() { vec![b::inner::Deep, crate::Renamed, self::local()] }
                #[cfg(test)]
                mod tests { use super::*; use crate::d::Tested; }
                #[cfg(test)]
                use crate::d::{Tested, Again};
                mod nested { fn g() { super::super::c::g(); super::f() } }
            "##,
        ),
        (
            "b",
            "pub(crate) mod inner; pub(crate) use crate::c::Moved; pub struct Flat;",
        ),
        ("b::inner", "pub struct Deep; use super::Moved;"),
        (
            "c",
            "pub struct Moved; macro_rules! m { () => { $crate::d::made() } } pub(crate) use m;",
        ),
        (
            "d",
            "use crate::c::m; use crate::b::Moved as Other; fn made() { Other::new(); other::new() }",
        ),
    ]);
    let imports = source.imports();
    let found = edges(&imports);
    let found: Vec<_> = found.iter().map(|(from, to)| format!("{from}>{to}")).collect();
    let wanted = [
        ">b",
        ">b::inner",
        "a>b",
        "a>b::inner",
        "a>c",
        "b>c",
        "b::inner>c",
        "c>d",
        "d>c",
    ];
    assert_eq!(found, wanted);
}

fn goes_down(from: &str, to: &str) -> bool {
    let ((from, from_floor), (to, to_floor)) = (room(from), room(to));
    from == to || from_floor < to_floor
}

/// The room of a module, and its floor, counted from the top.
fn room(module: &str) -> (&'static str, usize) {
    let name = match module.split("::").next() {
        None | Some("") => "lib",
        Some(name) => name,
    };
    for (floor, rooms) in FLOORS.iter().enumerate() {
        if let Some(room) = rooms.iter().find(|room| room.name == name) {
            return (&room.name, floor);
        }
    }
    panic!("say in docs/architecture.md on which floor the room {name} is")
}

type Edges<'a> = BTreeSet<(&'a str, &'a str)>;

fn edges(imports: &[Import]) -> Edges<'_> {
    imports
        .iter()
        .map(|import| (import.from.as_str(), import.to.as_str()))
        .collect()
}

/// The files of the largest set in which each reaches each by imports.
fn largest_circle(imports: &[Import]) -> Vec<&str> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges(imports) {
        next.entry(from).or_default().push(to);
    }
    let reached = |start| {
        let (mut seen, mut left) = (BTreeSet::new(), vec![start]);
        while let Some(module) = left.pop() {
            for &to in next.get(module).into_iter().flatten() {
                if seen.insert(to) {
                    left.push(to);
                }
            }
        }
        seen
    };
    let reach: BTreeMap<&str, BTreeSet<&str>> = next.keys().map(|&module| (module, reached(module))).collect();
    let circle = |module: &str| -> Vec<&str> {
        let back = |&&other: &&&str| reach.get(other).is_some_and(|seen| seen.contains(module));
        reach[module].iter().filter(back).copied().collect()
    };
    next.keys()
        .map(|module| circle(module))
        .max_by_key(Vec::len)
        .unwrap_or_default()
}

/// One path in the source that leads to another file.
struct Import {
    from: String,
    to: String,
    line: usize,
    path: String,
}

#[derive(Default)]
struct Module {
    file: PathBuf,
    /// The module that the file belongs to: another one for `mod name { .. }`.
    home: String,
    children: BTreeSet<String>,
    /// Names that `use` has brought in, and the paths that they stand for.
    names: BTreeMap<String, Vec<String>>,
    /// Every path, and its line.
    paths: Vec<(Vec<String>, usize)>,
}

/// Modules by their paths in the crate: `writer::alone`. The root is the empty one.
#[derive(Default)]
struct Source {
    modules: BTreeMap<String, Module>,
}

impl Source {
    fn read() -> Self {
        let root = root().join("src");
        let mut source = Self::default();
        let mut left = vec![(String::new(), root.join("lib.rs"))];
        while let Some((module, file)) = left.pop() {
            let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            for name in source.add(&module, &file, &text) {
                let child = join(&module, &name);
                let folder = root.join(child.replace("::", "/"));
                let files = [folder.with_extension("rs"), folder.join("mod.rs")];
                let file = files.into_iter().find(|file| file.exists());
                left.push((
                    child.clone(),
                    file.unwrap_or_else(|| panic!("no file for the module {child}")),
                ));
            }
        }
        source
    }

    fn of(files: &[(&str, &str)]) -> Self {
        let mut source = Self::default();
        for (module, text) in files {
            source.add(module, Path::new(module), text);
        }
        source
    }

    fn files(&self) -> impl Iterator<Item = &Module> {
        self.modules
            .iter()
            .filter(|(path, module)| **path == module.home)
            .map(|(_, module)| module)
    }

    /// Adds a file, and gives the names of the modules that it has in files of their own.
    fn add(&mut self, module: &str, file: &Path, text: &str) -> Vec<String> {
        let tokens = tokens(text);
        let mut scan = Scan {
            source: self,
            tokens: &tokens,
            file,
            home: module,
            files: Vec::new(),
        };
        scan.module(module, 0);
        scan.files
    }

    fn imports(&self) -> Vec<Import> {
        let mut imports = Vec::new();
        for (path, module) in &self.modules {
            for (segments, line) in &module.paths {
                let Some(to) = self.resolve(path, segments, 0) else {
                    continue;
                };
                let to = self.modules[&to].home.clone();
                if to != module.home {
                    imports.push(Import {
                        from: module.home.clone(),
                        to,
                        line: *line,
                        path: segments.join("::"),
                    });
                }
            }
        }
        imports
    }

    /// The module in which that is defined which a path means; none if that is in another crate.
    fn resolve(&self, from: &str, path: &[String], depth: usize) -> Option<String> {
        assert!(depth < 32, "{path:?} in {from} leads in a circle");
        let module = &self.modules[from];
        let (mut at, mut rest) = match path.first()?.as_str() {
            "crate" => (String::new(), &path[1..]),
            "self" => (from.to_owned(), &path[1..]),
            "super" => (from.to_owned(), path),
            name if module.children.contains(name) || module.names.contains_key(name) => (from.to_owned(), path),
            _ => return None,
        };
        while let Some((name, others)) = rest.split_first() {
            let module = &self.modules[&at];
            if name == "super" {
                at = parent(&at).to_owned();
            } else if module.children.contains(name) {
                at = join(&at, name);
            } else if let Some(target) = module
                .names
                .get(name)
                // `use async_trait::async_trait` leads out of the crate.
                .filter(|target| target.first() != Some(name))
            {
                let path: Vec<_> = target.iter().chain(others).cloned().collect();
                return self.resolve(&at, &path, depth + 1);
            } else {
                return Some(at);
            }
            rest = others;
        }
        Some(at)
    }
}

fn join(module: &str, name: &str) -> String {
    [module, name]
        .iter()
        .filter(|part| !part.is_empty())
        .copied()
        .collect::<Vec<_>>()
        .join("::")
}

fn parent(module: &str) -> &str {
    module.rsplit_once("::").map_or("", |(parent, _)| parent)
}

/// Finds modules, imports and paths in the tokens of one file.
struct Scan<'a> {
    source: &'a mut Source,
    tokens: &'a [Token],
    file: &'a Path,
    home: &'a str,
    files: Vec<String>,
}

impl Scan<'_> {
    /// Reads a module from token `i` on. Gives the token after its closing brace.
    fn module(&mut self, path: &str, mut i: usize) -> usize {
        let mut found = Module {
            file: self.file.to_owned(),
            home: self.home.to_owned(),
            ..Module::default()
        };
        let mut depth = 0;
        while i < self.tokens.len() {
            if self.is(i, "#") && self.is(i + 1, "[") {
                i = self.attribute(i, &mut found);
            } else if self.is(i, "use") && !self.is(i + 1, "<") {
                i = self.use_tree(i + 1, &[], &mut found);
            } else if self.is(i, "mod") && (self.is(i + 2, ";") || self.is(i + 2, "{")) {
                let name = self.tokens[i + 1].text.clone();
                found.children.insert(name.clone());
                if self.is(i + 2, "{") {
                    i = self.module(&join(path, &name), i + 3);
                } else {
                    self.files.push(name);
                    i += 3;
                }
            } else if let Some((segments, after)) = self.path(i) {
                found.paths.push((segments, self.tokens[i].line));
                i = after;
            } else {
                depth += usize::from(self.is(i, "{"));
                let closes = self.is(i, "}");
                i += 1;
                if closes && depth == 0 {
                    break;
                }
                depth -= usize::from(closes);
            }
        }
        self.source.modules.insert(path.to_owned(), found);
        i
    }

    /// Reads an attribute as far as its brackets; what is in them is then read like all else. With `cfg(test)` or
    /// `cfg(doc)` it is passed over, and its item, too.
    fn attribute(&self, i: usize, found: &mut Module) -> usize {
        let end = self.closing(i + 1);
        let inside = &self.tokens[i + 2..end];
        let names: BTreeSet<_> = inside.iter().map(|token| token.text.as_str()).collect();
        let is_left_out = names.contains("test") || names.contains("doc");
        if inside[0].text == "cfg" && is_left_out && !names.contains("not") {
            return self.after_item(end + 1);
        }
        if inside[0].text == "doc" {
            return end + 1;
        }
        for token in inside.iter().filter(|token| token.kind == Kind::Text) {
            let segments: Vec<_> = token.text.split("::").map(str::to_owned).collect();
            let starts = ["crate", "self", "super"].contains(&segments[0].as_str());
            if starts && segments.len() > 1 {
                found.paths.push((segments, token.line));
            }
        }
        i + 2
    }

    /// The token after an item that begins at `i`: after its block, or its semicolon.
    fn after_item(&self, mut i: usize) -> usize {
        let is_use =
            self.is(i, "use") || (self.is(i, "pub") && self.tokens[i..].iter().take(8).any(|t| t.text == "use"));
        while i < self.tokens.len() {
            if self.is(i, ";") {
                return i + 1;
            }
            if ["(", "[", "{"].iter().any(|open| self.is(i, open)) {
                let is_block = self.is(i, "{") && !is_use;
                i = self.closing(i);
                if is_block {
                    return i + 1;
                }
            }
            i += 1;
        }
        i
    }

    /// Where the bracket closes that opens at `i`.
    fn closing(&self, i: usize) -> usize {
        let mut depth = 0;
        for (at, token) in self
            .tokens
            .iter()
            .enumerate()
            .skip(i)
            .filter(|(_, token)| token.kind == Kind::Mark)
        {
            match token.text.as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return at;
            }
        }
        panic!(
            "{}:{}: a bracket is not closed",
            self.file.display(),
            self.tokens[i].line
        );
    }

    /// Reads what comes after `use`, or after `{` or `,` inside of it. Gives the token after it.
    fn use_tree(&self, mut i: usize, before: &[String], found: &mut Module) -> usize {
        let line = self.tokens[i].line;
        let mut path = before.to_vec();
        loop {
            if self.is(i, "::") {
                i += 1;
            } else if self.is(i, "{") {
                let end = self.closing(i);
                i += 1;
                while i < end {
                    i = self.use_tree(i, &path, found);
                    i += usize::from(self.is(i, ","));
                }
                return end + 1;
            } else if self.is(i, "*") {
                found.paths.push((path, line));
                return i + 1;
            } else {
                // `self` is the module before it, but for `use self::name`.
                if !self.is(i, "self") || path.is_empty() {
                    path.push(self.tokens[i].text.clone());
                }
                i += 1;
                if !self.is(i, "::") {
                    break;
                }
            }
        }
        let mut name = path.last().cloned().expect("a name");
        if self.is(i, "as") {
            name.clone_from(&self.tokens[i + 1].text);
            i += 2;
        }
        found.paths.push((path.clone(), line));
        found.names.insert(name, path);
        i
    }

    /// The path of two names or more that begins at `i`, and the token after it.
    fn path(&self, i: usize) -> Option<(Vec<String>, usize)> {
        let is_name = |i: usize| self.tokens.get(i).is_some_and(|token| token.kind == Kind::Name);
        let is_visibility = i >= 2 && self.is(i - 1, "in") && self.is(i - 2, "(");
        if !is_name(i) || is_visibility || i > 0 && (self.is(i - 1, "::") || self.is(i - 1, ".")) {
            return None;
        }
        let mut segments = vec![self.tokens[i].text.clone()];
        let mut after = i + 1;
        while self.is(after, "::") && is_name(after + 1) {
            segments.push(self.tokens[after + 1].text.clone());
            after += 2;
        }
        (segments.len() > 1).then_some((segments, after))
    }

    fn is(&self, i: usize, text: &str) -> bool {
        let token = self.tokens.get(i);
        token.is_some_and(|token| token.kind != Kind::Text && token.text == text)
    }
}
