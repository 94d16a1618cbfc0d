//! Rules for the sources that a lint cannot express, checked on their text.
//!
//! A rule that is in the way is changed here or not at all. Code in `#[cfg(test)]` modules and in files of tests
//! (`tests.rs`, `*_tests.rs`, `tests/`) is bound by the rules of form only.

#[path = "tidy/modules.rs"]
mod modules;

use std::fs;
use std::path::Path;

/// The roots of the crates.
const CRATES: &[&str] = &[
    "src/",
    "crates/alerting/src/",
    "crates/fake-server/src/",
    "crates/http/src/",
    "crates/secrets/src/",
    "crates/time/src/",
    "crates/token-client/src/",
];

/// Code that decides and does no I/O: folders, and the files in them that are exceptions.
const PURE: &[(&str, &[&str])] = &[
    ("src/domain/", &[]),
    ("crates/alerting/src/incidents/", &[]),
    ("crates/secrets/src/", &[]),
    (
        "crates/token-client/src/",
        &[
            "authorization_server.rs",
            "recording.rs",
            "token_owner_request.rs",
        ],
    ),
];

/// Paths that code without I/O must not use.
const IO: &[&str] = &[
    "tokio",
    "reqwest",
    "hyper",
    "rusqlite",
    "tracing",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "std::process",
    "refreshd_time::clock",
];

/// Layers of the program that each layer must not import. The compiler enforces that crates do not import the program.
const LAYERS: &[(&str, &[&str], &str)] = &[
    (
        "domain",
        &[
            "crate::adapters",
            "crate::commands",
            "crate::config",
            "crate::daemon",
        ],
        "the domain decides",
    ),
    (
        "adapters",
        &["crate::commands", "crate::config", "crate::daemon"],
        "an adapter knows one outside thing and the domain's types",
    ),
    (
        "config",
        &["crate::adapters", "crate::commands", "crate::daemon"],
        "the configuration is read, never run",
    ),
    (
        "daemon",
        &["crate::commands", "refreshd_fake_server"],
        "the daemon does not know who started it",
    ),
];

/// Files that may expose a secret; `*` stands for any rest of a name. In each, a secret must leave its type to be sent,
/// stored, published or compared. Add a line only after careful thought.
const MAY_EXPOSE: &[&str] = &[
    "src/domain/authorization.rs",
    "src/domain/import.rs",
    "src/domain/renewal*.rs",
    "crates/secrets/src/secret.rs",
    "crates/token-client/src/reply*.rs",
    "crates/token-client/src/request*.rs", // requests
    "crates/token-client/src/token_owner_request.rs", // asks for its owner
    "src/config/network.rs",               // is it the address of a proxy?
    "crates/http/src/lib.rs",              // the proxy is told its password
    "crates/http/src/network.rs",          // which is masked
    "src/config/receivers.rs",             // is a channel's address https?
    "src/config/source.rs",                // the text of a file that may hold one
    "src/config/portals.rs",
    "src/config/secrets.rs",
    "crates/alerting/src/channels/email.rs", // secrets that receivers get
    "crates/alerting/src/channels/pagerduty.rs",
    "crates/alerting/src/channels/telegram.rs",
    "crates/alerting/src/channels/http_sender.rs",
    "src/adapters/state/candidates.rs", // the store
    "src/adapters/state/carried.rs",    // the same, for the next process
    "src/adapters/state/installation.rs",
    "src/adapters/state/grant_columns.rs",
    "src/adapters/state/disputes.rs",
    "src/adapters/state/superseded.rs",
    "src/adapters/state/unread.rs",
    "src/adapters/token_files.rs",      // the access token, for readers
    "src/adapters/token_reply.rs",      // the same, as a server's response
    "src/commands/import.rs",           // submits the grant of a dump
    "src/commands/init.rs",             // writes the file of a client secret
    "src/daemon/renewal/carry.rs",      // gives it to the service manager
    "src/daemon/grants/authorize/*.rs", // to mask them in the server's response
    "src/daemon/renewal/execute.rs",    // to mask them in the server's response
    "src/daemon/grants/import.rs",      // is it another secret that is known?
    "src/daemon/install/verify.rs",     // the same
    "src/daemon/renewal/inherited.rs",  // reads what the service manager has kept
    "src/daemon/install/worker.rs",     // the same
    "src/daemon/renewal/unreadable_reply.rs", // reads kept replies again
    "src/daemon/api/replies.rs",        // returns one on request
    "src/daemon/configured.rs",         // a fingerprint
];

/// The only file that reads the clocks.
const CLOCK: &str = "crates/time/src/clock.rs";

/// The state: no other code knows the storage format.
const STATE: &str = "src/adapters/state/";

/// Its promises, which any engine must keep, so they do not know the format either.
const SUITE: &str = "src/adapters/state/conformance/";

/// The only files that start other programs: those of channels, and those that know units and accounts.
const PROGRAMS: &[&str] = &[
    "crates/alerting/src/channels/command.rs",
    "src/adapters/service_manager.rs",
];

/// A source file. `code` is `text` with comments and test modules blanked, line for line.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code: code_of(path, text),
        }
    }

    /// `FILE:LINE: COMPLAINT` for a byte offset into `text` or `code`.
    fn complain(&self, text: &str, at: usize, complaint: &str) -> String {
        format!(
            "{}:{}: {complaint}",
            self.path,
            text[..at].matches('\n').count() + 1
        )
    }

    /// Its layer: the first part of its path below `src`.
    fn layer(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or_default();
        below
            .split('/')
            .next()
            .unwrap_or_default()
            .trim_end_matches(".rs")
    }
}

fn is_tests(path: &str) -> bool {
    let by_name =
        path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/");
    by_name || path.starts_with("tests/") || path.starts_with(SUITE)
}

/// The code of the program: without comments and without everything after the first test module.
fn code_of(path: &str, text: &str) -> String {
    if is_tests(path) {
        return String::new();
    }
    let lines: Vec<&str> = text.lines().collect();
    let mut code = String::new();
    for (number, line) in lines.iter().enumerate() {
        let next = lines[number + 1..]
            .iter()
            .find(|next| !next.trim_start().starts_with("#["))
            .unwrap_or(&"");
        if line.trim() == "#[cfg(test)]" && next.split_whitespace().any(|word| word == "mod") {
            break;
        }
        if !line.trim_start().starts_with("//") {
            // A `//` inside a string is preceded by a colon, as in a URL.
            code.push_str(line.split(" //").next().unwrap_or(line));
        }
        code.push('\n');
    }
    code
}

/// Positions of `name` in `text` as a whole word or path.
fn occurrences<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part_of_a_name = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name)
        .map(|(at, _)| at)
        .filter(move |&at| {
            let first_is_name = name.starts_with(part_of_a_name);
            let last_is_name = name.ends_with(part_of_a_name);
            !(first_is_name && text[..at].ends_with(part_of_a_name)
                || last_is_name && text[at + name.len()..].starts_with(part_of_a_name))
        })
}

/// Uses of a path such as `std::fs`, also in a group: `use std::{env, fs::File};`.
fn uses(code: &str, path: &str) -> Vec<usize> {
    let mut found: Vec<usize> = occurrences(code, path).collect();
    let Some((root, name)) = path.split_once("::") else {
        return found;
    };
    let group = format!("{root}::{{");
    for start in occurrences(code, &group) {
        let mut depth = 1;
        let mut expects_item = true;
        for (at, c) in code[start + group.len()..].char_indices() {
            let rest = &code[start + group.len() + at..];
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => expects_item = true,
                _ if c.is_whitespace() => {}
                _ if expects_item => {
                    expects_item = false;
                    if occurrences(rest, name).next() == Some(0) {
                        found.push(start + group.len() + at);
                    }
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    if root == "crate" {
        found.extend(occurrences(code, &format!("super::super::{name}")));
    }
    found
}

fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => path
            .strip_prefix(start)
            .is_some_and(|rest| rest.ends_with(end)),
        None => path == pattern,
    }
}

// --- the rules: each returns its complaints about one file ----------------------------------------------------------

fn begins_with_its_purpose(source: &Source) -> Vec<String> {
    if source.text.starts_with("//!") {
        return Vec::new();
    }
    vec![source.complain(
        &source.text,
        0,
        "a file begins with `//!`: its purpose, and the things that it must not do",
    )]
}

fn has_no_todo(source: &Source) -> Vec<String> {
    if source.path == "tests/tidy.rs" {
        return Vec::new();
    }
    ["TODO", "FIXME", "XXX", "todo!", "unimplemented!", "dbg!"]
        .iter()
        .flat_map(|word| occurrences(&source.text, word).map(move |at| (word, at)))
        .map(|(word, at)| {
            source.complain(
                &source.text,
                at,
                &format!("`{word}`: do it now, or write an issue"),
            )
        })
        .collect()
}

fn imports_only_its_layer(source: &Source) -> Vec<String> {
    LAYERS
        .iter()
        .filter(|(layer, ..)| source.layer() == *layer)
        .flat_map(|(layer, banned, why)| banned.iter().map(move |path| (layer, path, why)))
        .flat_map(|(layer, path, why)| {
            let complaint = format!("`{layer}` must not use `{path}`: {why}");
            uses(&source.code, path)
                .into_iter()
                .map(move |at| source.complain(&source.code, at, &complaint))
        })
        .collect()
}

fn does_no_io(source: &Source) -> Vec<String> {
    let is_pure = PURE.iter().any(|(folder, exceptions)| {
        source
            .path
            .strip_prefix(folder)
            .is_some_and(|file| !exceptions.contains(&file))
    });
    let banned: &[&str] = if is_pure { IO } else { &[] };
    banned
        .iter()
        .flat_map(|path| {
            uses(&source.code, path)
                .into_iter()
                .map(move |at| (path, at))
        })
        .map(|(path, at)| {
            let complaint =
                format!("`{path}`: this code decides: same inputs, same answer, no I/O");
            source.complain(&source.code, at, &complaint)
        })
        .collect()
}

fn reads_time_from_the_clock(source: &Source) -> Vec<String> {
    if source.path == CLOCK {
        return Vec::new();
    }
    ["SystemTime::now", "Instant::now"]
        .iter()
        .flat_map(|call| occurrences(&source.code, call).map(move |at| (call, at)))
        .map(|(call, at)| {
            let why = format!(
                "`{call}` outside {CLOCK}: `now` is an argument, or tests on paused time are worthless"
            );
            source.complain(&source.code, at, &why)
        })
        .collect()
}

fn exposes_no_secret(source: &Source) -> Vec<String> {
    if MAY_EXPOSE
        .iter()
        .any(|pattern| matches(pattern, &source.path))
    {
        return Vec::new();
    }
    ["expose(", "expose_secret("]
        .iter()
        .flat_map(|call| occurrences(&source.code, call))
        .map(|at| {
            let why = "looks into a secret, and is not on the list MAY_EXPOSE in tests/tidy.rs";
            source.complain(&source.code, at, why)
        })
        .collect()
}

/// The program and the suite use the state through its handle. In the state, rows of several columns are read by name.
fn has_no_sql(source: &Source) -> Vec<String> {
    let is_suite = source.path.starts_with(SUITE);
    let code = if is_suite { &source.text } else { &source.code };
    let is_outside = is_suite || !source.path.starts_with(STATE);
    let by_number = |at: &usize| {
        let call = code[*at..].split(')').next().unwrap_or_default();
        let column = call.rsplit('(').next().unwrap_or_default();
        column.parse::<usize>().is_ok_and(|column| column > 0)
    };
    let found: Vec<(usize, &str)> = if is_outside {
        let found = occurrences(code, "rusqlite");
        found.map(|at| (at, "SQL outside the state")).collect()
    } else {
        let found = occurrences(code, "row.get").filter(by_number);
        found.map(|at| (at, "a column by its number")).collect()
    };
    let complain = |(at, why)| source.complain(code, at, why);
    found.into_iter().map(complain).collect()
}

fn gives_a_reason_for_each_exception(source: &Source) -> Vec<String> {
    if source.path == "tests/tidy.rs" {
        return Vec::new();
    }
    ["#[expect(", "#![expect("]
        .iter()
        .flat_map(|attribute| occurrences(&source.text, attribute))
        .filter(|&at| {
            let attribute = &source.text[at..];
            let end = attribute.find(")]").unwrap_or(attribute.len());
            !attribute[..end].contains("reason")
        })
        .map(|at| {
            source.complain(
                &source.text,
                at,
                "an `#[expect(…)]` gives its reason: `reason = \"…\"`",
            )
        })
        .collect()
}

fn does_not_exit(source: &Source) -> Vec<String> {
    if source.path == "src/main.rs" {
        return Vec::new();
    }
    occurrences(&source.code, "process::exit")
        .map(|at| {
            source.complain(
                &source.code,
                at,
                "only main exits: an exit elsewhere cuts a request that has left",
            )
        })
        .collect()
}

fn starts_no_program(source: &Source) -> Vec<String> {
    if PROGRAMS.contains(&source.path.as_str()) {
        return Vec::new();
    }
    occurrences(&source.code, "process::Command")
        .map(|at| {
            let why = format!("only {PROGRAMS:?} start programs: there they are ended in time");
            source.complain(&source.code, at, &why)
        })
        .collect()
}

// --- the sources ------------------------------------------------------------------------------------------------------

/// Every Rust file below `src`, `crates` and `tests`, by its path from the root of the repository.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["src", "crates", "tests"] {
        collect(
            Path::new(env!("CARGO_MANIFEST_DIR")),
            folder,
            "rs",
            &mut found,
        );
    }
    assert!(
        found.iter().any(|source| source.path == "src/lib.rs"),
        "the sources are not where they were"
    );
    found
}

fn collect(root: &Path, folder: &str, extension: &str, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(root.join(folder)) else {
        return;
    };
    for entry in entries {
        let entry = entry.expect("the folder can be read");
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(root, &path, extension, found);
        } else if entry.path().extension().is_some_and(|is| is == extension) {
            found.push(Source::new(
                &path,
                &fs::read_to_string(entry.path()).expect("a source is UTF-8"),
            ));
        }
    }
}

#[track_caller]
fn check_all(rule: fn(&Source) -> Vec<String>) {
    let complaints: Vec<String> = sources().iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_file_begins_with_its_purpose() {
    check_all(begins_with_its_purpose);
}

#[test]
fn no_todo_is_left() {
    check_all(has_no_todo);
}

#[test]
fn every_module_imports_only_its_layer() {
    check_all(imports_only_its_layer);
}

#[test]
fn deciding_code_does_no_io() {
    check_all(does_no_io);
}

#[test]
fn imports_have_no_cycles() {
    let sources = sources();
    for root in CRATES {
        assert!(
            sources.iter().any(|source| source.path.starts_with(root)),
            "{root}"
        );
        let cycle = modules::ModuleGraph::of(&sources, root).cycle();
        assert_eq!(
            cycle, None,
            "in {root}: move the common part into a file of its own"
        );
    }
    let unknown: Vec<_> = sources
        .iter()
        .filter(|source| source.path.starts_with("crates/"))
        .filter(|source| !CRATES.iter().any(|root| source.path.starts_with(root)))
        .map(|source| &source.path)
        .collect();
    assert!(
        unknown.is_empty(),
        "add their crates to CRATES: {unknown:?}"
    );
}

/// The layers of the program and the crates with their imports, as a Mermaid flowchart.
fn map_of(sources: &[Source]) -> String {
    let layer = |module: &[String]| module.first().cloned().unwrap_or_else(|| "main".to_owned());
    let mut edges = modules::ModuleGraph::of(sources, "src/").edges(layer);
    let crates = CRATES
        .iter()
        .filter_map(|root| root.strip_prefix("crates/"));
    for name in crates.map(|root| root.trim_end_matches("/src/")) {
        let imported = format!("refreshd_{}", name.replace('-', "_"));
        for source in sources {
            let from = match source.path.strip_prefix("crates/") {
                Some(below) => below.split('/').next().unwrap_or_default().to_owned(),
                None if source.path.starts_with("src/") => source.layer().to_owned(),
                None => continue,
            };
            if from != name && occurrences(&source.code, &imported).next().is_some() {
                edges.insert((from, name.to_owned()));
            }
        }
    }
    let mut map = String::from("```mermaid\nflowchart TD\n");
    for (from, to) in edges
        .iter()
        .filter(|(from, _)| !matches!(from.as_str(), "lib" | "main"))
    {
        map.push_str(&format!("    {from} --> {to}\n"));
    }
    map + "```\n"
}

/// A failure prints the text that belongs into the page.
#[test]
fn documented_module_map_matches_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let map = map_of(&sources());
    assert!(
        page.contains(&map),
        "docs/architecture.md does not contain this map:\n{map}"
    );
}

#[test]
fn only_the_clock_reads_time() {
    check_all(reads_time_from_the_clock);
}

#[test]
fn secrets_are_exposed_only_where_allowed() {
    check_all(exposes_no_secret);
}

#[test]
fn sql_is_only_in_the_state() {
    check_all(has_no_sql);
}

#[test]
fn every_exception_has_a_reason() {
    check_all(gives_a_reason_for_each_exception);
}

#[test]
fn only_main_exits() {
    check_all(does_not_exit);
}

#[test]
fn only_the_command_channel_starts_programs() {
    check_all(starts_no_program);
}

#[test]
fn every_file_allowed_to_expose_secrets_exists() {
    let sources = sources();
    let stale: Vec<_> = MAY_EXPOSE
        .iter()
        .filter(|pattern| !sources.iter().any(|source| matches(pattern, &source.path)))
        .collect();
    assert!(
        stale.is_empty(),
        "MAY_EXPOSE in tests/tidy.rs names files that are gone: {stale:?}"
    );
}

#[test]
fn every_test_named_in_the_threat_model_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for folder in ["src", "crates", "tests"] {
        collect(root, folder, "rs", &mut sources);
    }
    let model = fs::read_to_string(root.join("deploy/threat-model.md")).unwrap();
    // Functions only; files and keys have other characters or are short.
    let is_function =
        |name: &&str| name.len() > 20 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let named: Vec<&str> = model
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(is_function)
        .collect();
    assert!(named.len() > 30, "{named:?}");
    for name in named {
        let function = format!("fn {name}(");
        assert!(
            sources.iter().any(|source| source.text.contains(&function)),
            "there is no test {name}"
        );
    }
}

/// Without the folder there is nothing to ship; the compiler checks each profile's `include_str!`.
#[test]
fn every_shipped_provider_is_compiled_in() {
    let mut profiles = Vec::new();
    collect(
        Path::new(env!("CARGO_MANIFEST_DIR")),
        "config/providers",
        "toml",
        &mut profiles,
    );
    let sources = sources();
    let forgotten: Vec<_> = profiles
        .iter()
        .filter(|profile| {
            let included = format!("{}\"", profile.path);
            !sources.iter().any(|source| {
                source.code.contains("include_str!") && source.code.contains(&included)
            })
        })
        .map(|profile| {
            format!(
                "{}:1: is shipped and not compiled in: `include_str!` it in src/config",
                profile.path
            )
        })
        .collect();
    assert!(forgotten.is_empty(), "\n{}\n", forgotten.join("\n"));
}

/// A rule, a path, a text, and the lines that it must complain about.
type Case = (
    fn(&Source) -> Vec<String>,
    &'static str,
    &'static str,
    &'static [usize],
);

/// A violation of each rule, so that a rule that detects nothing any more is noticed.
#[test]
fn rules_detect_violations() {
    let cases: &[Case] = &[
        (begins_with_its_purpose, "src/a.rs", "use std::fs;\n", &[1]),
        (begins_with_its_purpose, "tests/a.rs", "//! Tests.\n", &[]),
        (
            has_no_todo,
            "tests/a.rs",
            "//! A\n// TODO: more\nfn f() { todo!() }\n",
            &[2, 3],
        ),
        (
            has_no_todo,
            "src/a.rs",
            "//! A\nconst TODOS: &str = \"XXXX\";\n",
            &[],
        ),
        (
            does_no_io,
            "src/domain/a.rs",
            "//! No tokio.\nuse std::fs;\nuse tokio::time;\n",
            &[3, 2],
        ),
        (
            does_no_io,
            "crates/token-client/src/a.rs",
            "//! A\nuse std::{\n    fmt,\n    fs::File,\n};\n",
            &[4],
        ),
        (
            imports_only_its_layer,
            "src/domain.rs",
            "//! A\nuse crate::{domain::a::{b, config}, adapters};\n",
            &[2],
        ),
        (
            does_no_io,
            "src/domain/a.rs",
            "//! A\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n",
            &[],
        ),
        (
            does_no_io,
            "crates/token-client/src/recording.rs",
            "//! A\nuse tokio::net::TcpStream;\n",
            &[],
        ),
        (
            does_no_io,
            "src/domain/a_tests.rs",
            "//! A\nuse std::fs;\n",
            &[],
        ),
        (
            imports_only_its_layer,
            "src/adapters/a.rs",
            "//! A\nuse std::fs;\nuse super::super::daemon::b;\n",
            &[3],
        ),
        (
            imports_only_its_layer,
            "src/config/a.rs",
            "//! A\nuse crate::domain;\nfn f() { crate::adapters::g() }\n",
            &[3],
        ),
        (
            imports_only_its_layer,
            "src/daemon/a.rs",
            "//! A\nuse crate::config;\nuse refreshd_fake_server;\n",
            &[3],
        ),
        (
            reads_time_from_the_clock,
            "src/daemon/a.rs",
            "//! A\nlet t = tokio::time::Instant::now();\n",
            &[2],
        ),
        (
            reads_time_from_the_clock,
            CLOCK,
            "//! A\nlet t = SystemTime::now();\n",
            &[],
        ),
        (
            exposes_no_secret,
            "src/daemon/a.rs",
            "//! A\n\nlet t = secret.expose();\n",
            &[3],
        ),
        (
            exposes_no_secret,
            "crates/token-client/src/reply_a.rs",
            "//! A\nlet t = secret.expose();\n",
            &[],
        ),
        (
            has_no_sql,
            "src/daemon/a.rs",
            "//! A\nuse rusqlite::Row;\n",
            &[2],
        ),
        (
            has_no_sql,
            "src/adapters/state/conformance/a.rs",
            "//! A\nuse rusqlite::Row;\n",
            &[2],
        ),
        (
            has_no_sql,
            "src/adapters/state/a.rs",
            "//! A\nuse rusqlite::Row;\nrow.get(0)?;\nrow.get::<_, Option<i64>>(12)?;\n",
            &[4],
        ),
        (
            gives_a_reason_for_each_exception,
            "src/a.rs",
            "//! A\n#[expect(\n    clippy::a,\n    reason = \"b\"\n)]\n",
            &[],
        ),
        (
            gives_a_reason_for_each_exception,
            "src/a.rs",
            "//! A\n#![expect(clippy::a)]\nfn reason() {}\n",
            &[2],
        ),
        (
            does_not_exit,
            "src/daemon/a.rs",
            "//! A\nstd::process::exit(1);\n",
            &[2],
        ),
        (
            starts_no_program,
            "src/daemon/a.rs",
            "//! A\nuse tokio::process::Command;\n",
            &[2],
        ),
        (
            starts_no_program,
            PROGRAMS[0],
            "//! A\nuse std::process::Command;\n",
            &[],
        ),
        (
            does_not_exit,
            "src/main.rs",
            "//! A\nstd::process::exit(1);\n",
            &[],
        ),
    ];
    for (number, (rule, path, text, lines)) in cases.iter().enumerate() {
        let expected: Vec<String> = lines
            .iter()
            .map(|line| format!("{path}:{line}: "))
            .collect();
        let complaints = rule(&Source::new(path, text));
        let same = complaints.len() == expected.len()
            && complaints
                .iter()
                .zip(&expected)
                .all(|(is, expected)| is.starts_with(expected));
        assert!(
            same,
            "case {number}: expected {expected:?}, found {complaints:?}"
        );
    }
}
