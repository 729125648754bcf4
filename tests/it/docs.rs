//! The documents name things that exist, link to pages that exist, and leave no option or dependency out.
//!
//! `cargo doc` checks the links of the guides, and `cargo test --doc` their examples.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::tokens::{Kind, Token, tokens};

/// Names of other crates.
const FOREIGN: &[&str] = &[
    "Connection::open",
    "Counter::absolute",
    "SqlitePool::connect",
    "mem::forget",
];

/// First segments of paths that lead out of larder.
const FOREIGN_CRATES: &[&str] = &["futures", "include_dir", "rusqlite", "std", "tokio"];

/// Where the guides are published.
const GUIDES: &str = "https://docs.rs/larder/latest/larder/guide/";

/// Folders whose files the documents name.
const FOLDERS: &[&str] = &[".ci", ".github", "benches", "docs", "examples", "fuzz", "src", "tests"];

#[test]
fn backticked_names_exist() {
    let source = Source::read();
    assert!(source.has("Store", "write") && source.has("Error", "Poisoned") && source.has("Stats", "alerts"));
    assert!(!source.has("Store", "alerts") && !source.has("store", "writer"));
    let mut problems = Vec::new();
    for document in documents() {
        for (span, line) in document.spans() {
            for (parent, name) in pairs(&span) {
                let is_event = source.strings.contains(&format!("{parent}::{name}"));
                let is_foreign = FOREIGN.contains(&format!("{parent}::{name}").as_str());
                if !is_event && !is_foreign && !source.has(&parent, &name) {
                    problems.push(format!(
                        "{}:{line}: there is no {parent}::{name}",
                        document.path.display()
                    ));
                }
            }
        }
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn backticked_files_exist() {
    let files = files();
    let mut problems = Vec::new();
    for document in documents() {
        for (span, line) in document.spans() {
            let word = span.split_whitespace().next().unwrap_or_default();
            let top = word.split('/').next().unwrap_or_default();
            let is_source = [".rs", ".md"].iter().any(|end| word.ends_with(end)) || word.ends_with('/');
            let is_listed = word.contains('/') && FOLDERS.contains(&top);
            let is_elsewhere = word.contains(['*', '<', ':', '(']) || ["", "target"].contains(&top);
            if is_elsewhere || !(is_source || is_listed) {
                continue;
            }
            let name = word.trim_end_matches('/');
            let is_it = |file: &String| {
                let file = format!("/{file}/");
                file.contains(&format!("/{name}/"))
            };
            if !files.iter().any(is_it) {
                problems.push(format!("{}:{line}: there is no {word}", document.path.display()));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// Its code needs a crate that larder does not depend on, so `cargo test --doc` cannot compile it. `.ci/nightly companions`
/// compiles the example.
#[test]
fn vector_search_guide_has_the_code_of_its_example() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let example = read("tests/companions/examples/vectors.rs");
    let guide = read("docs/guide/vector-search.md");
    let blocks: Vec<_> = guide.split("```rust,ignore\n").skip(1).collect();
    assert!(blocks.len() >= 4, "{}", blocks.len());
    for block in blocks {
        let code = block.split("```").next().unwrap_or_default();
        assert!(example.contains(code), "it is not in the example:\n{code}");
    }
}

#[test]
fn links_lead_to_headings() {
    let documents = documents();
    let headings: BTreeMap<_, _> = documents
        .iter()
        .map(|document| (normal(&document.path), document.anchors()))
        .collect();
    let source = Source::read();
    let mut problems = Vec::new();
    for document in documents.iter().filter(|document| !document.is_guide()) {
        for (target, line) in document.links() {
            if let Some(page) = target.strip_prefix(GUIDES).filter(|page| !page.is_empty())
                && !source.has("guide", page.trim_end_matches('/'))
            {
                problems.push(format!("{}:{line}: there is no guide {page}", document.path.display()));
            }
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let folder = document.path.parent().expect("a document is in a folder");
            let path = match file {
                "" => document.path.clone(),
                file => normal(&folder.join(file)),
            };
            let is_there = root().join(&path).exists();
            let has_anchor = anchor.is_empty() || headings.get(&path).is_some_and(|all| all.contains(anchor));
            if !is_there || !has_anchor {
                problems.push(format!("{}:{line}: {target} leads nowhere", document.path.display()));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn tuning_guide_lists_every_option() {
    let text = fs::read_to_string(root().join("src/store/options.rs")).unwrap();
    let tokens = tokens(&text);
    let setters: BTreeSet<String> = tokens
        .windows(5)
        .filter(|window| is(window, &["fn", "", "(", "mut", "self"]))
        .map(|window| window[1].text.clone())
        .collect();
    assert!(setters.len() > 30, "{setters:?}");
    let listed: BTreeSet<String> = option_rows().into_iter().map(|row| row.name).collect();
    assert_eq!(
        listed, setters,
        "the table of docs/guide/tuning.md and the setters of Options"
    );
}

/// Read back by `serde`, each default of the table leaves the options as they are.
#[cfg(feature = "serde")]
#[test]
fn tuning_guide_has_the_defaults() {
    use larder::Options;
    use serde_json::{Value, json};

    let defaults = serde_json::to_value(Options::new()).unwrap();
    let mut without = Vec::new();
    for row in option_rows() {
        let Some(default) = row.default else {
            without.push(row.name);
            continue;
        };
        let value: Value = match default.parse::<u64>() {
            Ok(number) => number.into(),
            Err(_) if default == "true" || default == "false" => (default == "true").into(),
            Err(_) if default.chars().all(char::is_alphabetic) => default.to_lowercase().into(),
            Err(_) => default.clone().into(),
        };
        let options: Options = serde_json::from_value(json!({ &row.name: value })).expect(&row.name);
        assert_eq!(
            serde_json::to_value(options).unwrap(),
            defaults,
            "{}: {default}",
            row.name
        );
    }
    assert_eq!(
        without,
        [
            "on_connect",
            "key",
            "readers",
            "wal_hard_limit",
            "migrations",
            "retain",
            "retain_with"
        ]
    );
}

/// The table of `docs/architecture.md` and the source have the same locks.
#[test]
fn lock_table_names_every_lock() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let (_, section) = text.split_once("\n## Locks\n").expect("it has the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = section
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.split('|').next());
    let named: BTreeSet<_> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    let declared: BTreeSet<_> = files()
        .into_iter()
        .filter_map(|file| file.strip_prefix("src/").map(str::to_owned))
        .filter(|file| file.ends_with(".rs") && file != "runtime/sync.rs")
        .filter(|file| {
            let text = fs::read_to_string(root().join("src").join(file)).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            code.contains("Mutex<")
        })
        .collect();
    assert!(declared.contains("queue/mod.rs"), "{declared:?}");
    assert_eq!(named, declared);
}

/// Each event of the source is a row of the table in `docs/guide/monitoring.md`, with its level, target and fields.
#[test]
fn monitoring_guide_lists_every_event() {
    let text = fs::read_to_string(root().join("docs/guide/monitoring.md")).unwrap();
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `larder::")).collect();
    let events = events();
    assert!(events.len() > 30, "the events were found");
    let lists = |event: &Event| {
        let names = event.fields.iter().chain([&event.target, &event.level]);
        let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
        rows.iter()
            .any(|row| row.contains(&event.message) && names.iter().all(|name| row.contains(name)))
    };
    let missing: Vec<_> = events.iter().filter(|event| !lists(event)).collect();
    assert!(missing.is_empty(), "docs/guide/monitoring.md lacks {missing:#?}");
    let is_event = |row: &&&str| events.iter().any(|event| row.contains(&event.message));
    let gone: Vec<_> = rows.iter().filter(|row| !is_event(row)).collect();
    assert!(gone.is_empty(), "these events are not in the source: {gone:#?}");
}

#[derive(Debug)]
struct Event {
    level: String,
    target: String,
    fields: Vec<String>,
    /// The beginning of the message.
    message: String,
}

/// The events of the source, but for slow reads and writes, whose target is a parameter of a macro.
fn events() -> Vec<Event> {
    let sources = files()
        .into_iter()
        .filter(|file| file.starts_with("src/") && file.ends_with(".rs"));
    let mut events = Vec::new();
    for file in sources {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let tokens = tokens(&text);
        for (at, window) in tokens.windows(3).enumerate() {
            if is(window, &["event", "!", "("]) {
                events.extend(Event::parse(&tokens[at + 3..]));
            }
        }
    }
    events
}

impl Event {
    /// Parses what follows `event!(`: the level, the target, the fields in braces, the message.
    fn parse(tokens: &[Token]) -> Option<Self> {
        let target = tokens.get(2).filter(|token| token.kind == Kind::Text)?;
        let open = tokens.iter().position(|token| is_mark(token, "{"))?;
        let (mut fields, mut depth, mut begins) = (Vec::new(), 0, true);
        let mut inside = tokens[open + 1..].iter();
        while let Some(token) = inside.next().filter(|token| depth > 0 || !is_mark(token, "}")) {
            match token.text.as_str() {
                "," if depth == 0 && token.kind == Kind::Mark => begins = true,
                "(" | "[" | "{" if token.kind == Kind::Mark => depth += 1,
                ")" | "]" | "}" if token.kind == Kind::Mark => depth -= 1,
                name if begins && token.kind != Kind::Mark => {
                    fields.push(name.to_owned());
                    begins = false;
                }
                _ => {}
            }
        }
        let message = inside.find(|token| token.kind == Kind::Text)?;
        let beginning = message.text.split([':', ';', ',', '\\']).next().unwrap_or_default();
        Some(Self {
            level: tokens[0].text.clone(),
            target: target.text.clone(),
            fields,
            message: beginning.trim_end().to_owned(),
        })
    }
}

fn is_mark(token: &Token, mark: &str) -> bool {
    token.kind == Kind::Mark && token.text == mark
}

#[test]
fn decisions_justify_every_dependency() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let decisions = fs::read_to_string(root().join("docs/decisions.md")).unwrap();
    let (_, dependencies) = manifest.split_once("\n[dependencies]\n").expect("its table");
    let lines = dependencies.lines().take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
    let missing: Vec<_> = names.filter(|name| !decisions.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "say in docs/decisions.md what {missing:?} is for");
}

#[test]
fn full_names_every_feature_but_sqlcipher() {
    let features = features("Cargo.toml");
    let full: BTreeSet<_> = features["full"].iter().cloned().collect();
    let not_in_it = ["default", "full", "sqlcipher"];
    let named = features.keys().filter(|name| !not_in_it.contains(&name.as_str()));
    let every: BTreeSet<_> = named.cloned().collect();
    assert_eq!(
        full, every,
        "the feature `full` in Cargo.toml names every other one but `sqlcipher`"
    );
    assert_eq!(features["full"].len(), full.len(), "`full` names one of them twice");
}

#[test]
fn command_passes_on_what_it_can_use() {
    let larder = features("Cargo.toml");
    let command = features("crates/larder-cli/Cargo.toml");
    let storages = larder
        .iter()
        .filter(|(name, enables)| *name != "full" && enables.contains(&"replicate".to_owned()));
    let expected: BTreeSet<_> = storages
        .map(|(name, _)| name.as_str())
        .chain(["default", "bundled", "replicate"])
        .collect();
    let has: BTreeSet<_> = command.keys().map(String::as_str).collect();
    let missing: Vec<_> = expected.difference(&has).collect();
    assert!(missing.is_empty(), "larder-cli lacks the features {missing:?}");
    let shared = command
        .iter()
        .filter(|(name, _)| *name != "default" && larder.contains_key(*name));
    for (name, enables) in shared {
        let passed_on = format!("larder/{name}");
        assert!(
            enables.contains(&passed_on),
            "`{name}` of larder-cli lacks `{passed_on}`"
        );
    }
}

/// The features of a manifest, with what each one enables.
fn features(manifest: &str) -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(root().join(manifest)).unwrap();
    let (_, table) = text.split_once("\n[features]\n").expect("its table");
    let lines = table.lines().take_while(|line| !line.starts_with('['));
    let feature = |line: &str| {
        let (name, enables) = line.split_once(" = ")?;
        let enables = enables.trim_start_matches('[').trim_end_matches(']').split(',');
        let enables = enables.map(|name| name.trim().trim_matches('"').to_owned());
        Some((name.to_owned(), enables.filter(|name| !name.is_empty()).collect()))
    };
    let features: BTreeMap<_, _> = lines
        .filter(|line| !line.starts_with('#'))
        .filter_map(feature)
        .collect();
    assert!(features.len() > 4, "the features of {manifest} were found");
    features
}

struct OptionRow {
    name: String,
    /// None where the table has words.
    #[cfg_attr(not(feature = "serde"), expect(dead_code))]
    default: Option<String>,
}

fn option_rows() -> Vec<OptionRow> {
    let path = PathBuf::from("docs/guide/tuning.md");
    let text = fs::read_to_string(root().join(&path)).unwrap();
    let (_, table) = text.split_once("# All options").expect("its heading");
    let code = |cell: &str| cell.trim().strip_prefix('`')?.strip_suffix('`').map(str::to_owned);
    let row = |line: &str| {
        let mut cells = line.strip_prefix('|')?.split('|');
        let name = code(cells.next()?)?;
        let default = code(cells.next()?);
        Some(OptionRow { name, default })
    };
    table.lines().filter_map(row).collect()
}

/// A document, by its path from the root.
struct Document {
    path: PathBuf,
    text: String,
}

fn documents() -> Vec<Document> {
    let documents: Vec<_> = files()
        .into_iter()
        .filter(|file| file.ends_with(".md") && (file.starts_with("docs/") || !file.contains('/')))
        .map(|file| Document {
            text: fs::read_to_string(root().join(&file)).unwrap(),
            path: file.into(),
        })
        .collect();
    assert!(documents.len() > 15, "the documents were found");
    documents
}

impl Document {
    fn is_guide(&self) -> bool {
        self.path.starts_with("docs/guide")
    }

    /// Its lines but for fenced code, with their numbers.
    fn lines(&self) -> impl Iterator<Item = (&str, usize)> {
        let mut fenced = false;
        self.text.lines().zip(1..).filter(move |(line, _)| {
            let is_fence = line.trim_start().starts_with("```");
            fenced ^= is_fence;
            !fenced && !is_fence
        })
    }

    /// The spans in backticks. A span may go on in the next line.
    fn spans(&self) -> Vec<(String, usize)> {
        let mut spans = Vec::new();
        let (mut open, mut begun) = (None::<String>, 0);
        for (line, number) in self.lines() {
            if line.is_empty() {
                open = None;
            }
            let mut parts = line.split('`');
            let first = parts.next().unwrap_or_default();
            if let Some(open) = &mut open {
                open.push(' ');
                open.push_str(first);
            }
            for part in parts {
                match open.take() {
                    Some(span) => spans.push((span, begun)),
                    None => (open, begun) = (Some(part.to_owned()), number),
                }
            }
        }
        spans
    }

    fn links(&self) -> Vec<(String, usize)> {
        let mut links = Vec::new();
        for (line, number) in self.lines() {
            if let Some((_, target)) = line.split_once("]: ").filter(|_| line.starts_with('[')) {
                links.push((target.to_owned(), number));
            }
            for (start, _) in line.match_indices("](") {
                let target = &line[start + 2..];
                if let Some(end) = target.find(')') {
                    links.push((target[..end].to_owned(), number));
                }
            }
        }
        links
    }

    /// Its headings, as a link names them.
    fn anchors(&self) -> BTreeSet<String> {
        let headings = self.lines().filter(|(line, _)| line.starts_with('#'));
        let anchor = |line: &str| -> String {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
            heading
                .chars()
                .filter(kept)
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        };
        headings.map(|(line, _)| anchor(line)).collect()
    }
}

/// The last two names of each path in the text: `Store`, `write`.
fn pairs(span: &str) -> Vec<(String, String)> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let paths = span.split(|c| !is_path(c)).filter(|path| path.contains("::"));
    let pair = |path: &str| {
        let names: Vec<&str> = path.split("::").filter(|name| !name.is_empty()).collect();
        let is_foreign = FOREIGN_CRATES.contains(names.first()?) || names.get(1) == Some(&"rusqlite");
        let (parent, name) = (names.len().checked_sub(2).map(|at| names[at])?, names.last()?);
        (!is_foreign).then(|| (parent.to_owned(), (*name).to_owned()))
    };
    paths.filter_map(pair).collect()
}

/// Every file of the repository, by its path from the root.
fn files() -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            let is_left_out = [".git", "target", "corpus", "artifacts"].map(Path::new);
            if is_left_out.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else {
                files.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path {
        if part == ".." {
            normal.pop();
        } else if part != "." {
            normal.push(part);
        }
    }
    normal
}

/// What `src` defines: for each type its methods, constants, fields and variants, for each module its items.
#[derive(Default)]
struct Source {
    members: BTreeMap<String, BTreeSet<String>>,
    /// Strings: the targets of events are among them.
    strings: BTreeSet<String>,
}

impl Source {
    fn read() -> Self {
        let mut source = Self::default();
        for file in files()
            .iter()
            .filter(|file| file.starts_with("src/") && file.ends_with(".rs"))
        {
            let tokens = tokens(&fs::read_to_string(root().join(file)).unwrap());
            let texts = tokens.iter().filter(|token| token.kind == Kind::Text);
            source.strings.extend(texts.map(|token| token.text.clone()));
            let path: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
            let module = match path[path.len() - 1] {
                "mod" => path[path.len() - 2],
                "lib" => "larder",
                name => name,
            };
            source.items(module, &tokens);
        }
        source
    }

    fn has(&self, parent: &str, name: &str) -> bool {
        self.members.get(parent).is_some_and(|names| names.contains(name))
    }

    fn add(&mut self, parent: &str, name: &str) {
        self.members
            .entry(parent.to_owned())
            .or_default()
            .insert(name.to_owned());
    }

    /// The items of a module, or of an `impl` or a `trait`.
    fn items(&mut self, parent: &str, tokens: &[Token]) {
        let mut i = 0;
        while i < tokens.len() {
            let text = tokens[i].text.as_str();
            let name = tokens.get(i + 1).filter(|token| token.kind == Kind::Name);
            if tokens[i].kind == Kind::Text {
                i += 1;
                continue;
            }
            match (text, name) {
                ("impl", _) => {
                    let open = body(tokens, i);
                    let end = closing(tokens, open);
                    if let Some(name) = implemented(&tokens[i + 1..open]) {
                        self.items(&name, inside(tokens, open));
                    }
                    i = end;
                }
                ("struct" | "enum" | "trait" | "mod" | "union", Some(name)) => {
                    let open = body(tokens, i);
                    self.add(parent, &name.text);
                    match text {
                        "struct" => self.fields(&name.text, inside(tokens, open)),
                        "enum" => self.variants(&name.text, inside(tokens, open)),
                        _ => self.items(&name.text, inside(tokens, open)),
                    }
                    i = closing(tokens, open);
                }
                ("fn", Some(name)) => {
                    self.add(parent, &name.text);
                    i = closing(tokens, body(tokens, i));
                }
                ("const" | "static" | "type" | "macro_rules", Some(name)) if name.text != "fn" => {
                    self.add(parent, &name.text);
                }
                // A re-export.
                ("use", _) => {
                    while i < tokens.len() && tokens[i].text != ";" {
                        if tokens[i].kind == Kind::Name {
                            self.add(parent, &tokens[i].text);
                        }
                        i += 1;
                    }
                }
                _ if "({[".contains(text) && tokens[i].kind == Kind::Mark => i = closing(tokens, i),
                _ => {}
            }
            i += 1;
        }
    }

    fn fields(&mut self, parent: &str, tokens: &[Token]) {
        let before = |token: Option<&Token>| token.is_none_or(|token| [",", "pub", ")", "]"].contains(&&*token.text));
        self.named(parent, tokens, |i, tokens| {
            let is_field = tokens.get(i + 1).is_some_and(|token| token.text == ":");
            is_field && before(i.checked_sub(1).map(|i| &tokens[i]))
        });
    }

    fn variants(&mut self, parent: &str, tokens: &[Token]) {
        self.named(parent, tokens, |i, tokens| {
            i == 0 || [",", "]"].contains(&&*tokens[i - 1].text)
        });
    }

    /// Adds the names outside of brackets that `is_one` accepts.
    fn named(&mut self, parent: &str, tokens: &[Token], is_one: impl Fn(usize, &[Token]) -> bool) {
        let mut i = 0;
        while i < tokens.len() {
            if tokens[i].kind == Kind::Mark && "({[".contains(tokens[i].text.as_str()) {
                i = closing(tokens, i);
            } else if tokens[i].kind == Kind::Name && is_one(i, tokens) {
                self.add(parent, &tokens[i].text);
            }
            i += 1;
        }
    }
}

/// Where the block of an item begins, or its semicolon.
fn body(tokens: &[Token], mut i: usize) -> usize {
    while i < tokens.len() {
        match (tokens[i].kind, tokens[i].text.as_str()) {
            (Kind::Mark, "{" | ";") => return i,
            (Kind::Mark, "(" | "[") => i = closing(tokens, i),
            _ => {}
        }
        i += 1;
    }
    i
}

/// What is in the bracket at `open`.
fn inside(tokens: &[Token], open: usize) -> &[Token] {
    let end = closing(tokens, open);
    tokens.get(open + 1..end).unwrap_or_default()
}

/// Where the bracket closes that opens at `i`; `i` itself if there is none.
fn closing(tokens: &[Token], i: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens
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
    i
}

/// The type in the header of an `impl`: `WriteTx` of `<'a> Deref for WriteTx<'a> where ..`.
fn implemented(header: &[Token]) -> Option<String> {
    let mut depth = 0;
    let mut name = None;
    for (i, token) in header.iter().enumerate() {
        match token.text.as_str() {
            "<" => depth += 1,
            ">" if header[i - 1].text != "-" => depth -= 1,
            "where" if depth == 0 => break,
            "for" if depth == 0 => name = None,
            _ if depth == 0 && token.kind == Kind::Name && token.text != "dyn" => name = Some(token.text.clone()),
            _ => {}
        }
    }
    name
}

fn is(tokens: &[Token], wanted: &[&str]) -> bool {
    tokens
        .iter()
        .zip(wanted)
        .all(|(token, &wanted)| wanted.is_empty() || token.text == wanted)
}
