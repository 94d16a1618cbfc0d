//! The module graph of each crate, built from its imports: no file may import, directly or indirectly, a file that imports it.
//!
//! A module that only re-exports names is resolved: an import of such a name is an import of the file that defines it.

use std::collections::{BTreeMap, BTreeSet};

use super::Source;

type Path = Vec<String>;

/// Imports between files.
pub struct ModuleGraph {
    imports: BTreeMap<Path, BTreeSet<Path>>,
}

impl ModuleGraph {
    /// Reads the files below `root`, such as `src/`. Tests are ignored.
    pub fn of(sources: &[Source], root: &str) -> Self {
        let code: BTreeMap<Path, &str> = sources
            .iter()
            .filter(|source| source.path.starts_with(root) && !super::is_tests(&source.path))
            .map(|source| (module_of(&source.path[root.len()..]), source.code.as_str()))
            .collect();
        let modules: BTreeSet<Path> = code.keys().cloned().collect();
        let mut exports = BTreeMap::new();
        for (module, code) in &code {
            for item in statements(code, "pub use ") {
                for path in expanded(module, item, &modules) {
                    if let Some(name) = path.last() {
                        exports.insert((module.clone(), name.clone()), path.clone());
                    }
                }
            }
        }
        let imports = code
            .iter()
            .map(|(module, code)| {
                let mut paths = Vec::new();
                for item in statements(code, "use ") {
                    paths.extend(expanded(module, item, &modules));
                }
                paths.extend(inline_paths(module, code));
                let found = paths
                    .into_iter()
                    .filter_map(|path| defining_module(&path, &modules, &exports))
                    .filter(|found| found != module)
                    .collect();
                (module.clone(), found)
            })
            .collect();
        Self { imports }
    }

    /// The edges between parts; `part_of` maps a module to its part.
    pub fn edges(&self, part_of: impl Fn(&[String]) -> String) -> BTreeSet<(String, String)> {
        let mut edges = BTreeSet::new();
        for (module, imports) in &self.imports {
            for import in imports {
                edges.insert((part_of(module), part_of(import)));
            }
        }
        edges.retain(|(from, to)| from != to);
        edges
    }

    /// A cycle of imports, each file once, if there is one.
    pub fn cycle(&self) -> Option<Vec<String>> {
        let mut done = BTreeSet::new();
        self.imports
            .keys()
            .find_map(|start| self.cycle_from(start, &mut Vec::new(), &mut done))
    }

    fn cycle_from<'g>(
        &'g self,
        at: &'g Path,
        way: &mut Vec<&'g Path>,
        done: &mut BTreeSet<&'g Path>,
    ) -> Option<Vec<String>> {
        if let Some(begin) = way.iter().position(|seen| *seen == at) {
            return Some(way[begin..].iter().map(|path| path.join("::")).collect());
        }
        if done.contains(at) {
            return None;
        }
        way.push(at);
        let next = self.imports.get(at).into_iter().flatten();
        let found = next
            .into_iter()
            .find_map(|next| self.cycle_from(next, way, done));
        way.pop();
        done.insert(at);
        found
    }
}

/// `daemon/http/server.rs` is `daemon::http::server`, and `mod.rs` is its folder.
fn module_of(path: &str) -> Path {
    let mut parts: Path = path
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if matches!(
        parts.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        parts.pop();
    }
    parts
}

/// The text between `start` and the semicolon, for each statement that begins so. For `use `, re-exports are left out.
fn statements<'c>(code: &'c str, start: &str) -> Vec<&'c str> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(start) {
        let before = code[..at].rsplit('\n').next().unwrap_or_default();
        if !before.trim().is_empty() {
            continue;
        }
        let rest = &code[at + start.len()..];
        found.extend(rest.split(';').next());
    }
    found
}

/// The paths of a `use`, from the crate's root; none for other crates.
fn expanded(module: &Path, item: &str, modules: &BTreeSet<Path>) -> Vec<Path> {
    let mut found = Vec::new();
    expand("", item, &mut found);
    found
        .into_iter()
        .filter_map(|path| absolute(module, &path, modules))
        .collect()
}

fn expand(prefix: &str, item: &str, found: &mut Vec<String>) {
    let item = item.trim();
    let Some(open) = item.find('{') else {
        let name = item.split(" as ").next().unwrap_or_default().trim();
        if !name.is_empty() {
            found.push(format!("{prefix}{name}"));
        }
        return;
    };
    let prefix = format!("{prefix}{}", &item[..open]);
    // A group ends its item.
    let group = &item[open + 1..item.rfind('}').unwrap_or(item.len())];
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &group[start..at], found);
                start = at + 1;
            }
            _ => {}
        }
    }
    expand(&prefix, &group[start..], found);
}

fn absolute(module: &Path, path: &str, modules: &BTreeSet<Path>) -> Option<Path> {
    let mut at = module.clone();
    let mut parts = path.split("::").map(str::trim).peekable();
    match parts.peek().copied() {
        Some("crate") => {
            at.clear();
            parts.next();
        }
        Some("self") => {
            parts.next();
        }
        Some("super") => {
            while parts.peek() == Some(&"super") {
                at.pop();
                parts.next();
            }
        }
        Some(first) => {
            // A child of this module, or another crate.
            let mut child = module.clone();
            child.push(first.to_owned());
            modules.contains(&child).then_some(())?;
        }
        None => return None,
    }
    at.extend(parts.map(str::to_owned));
    Some(at)
}

/// Paths that begin with `crate::` in the code itself.
fn inline_paths(module: &Path, code: &str) -> Vec<Path> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let path: String = code[at..]
            .chars()
            .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
            .collect();
        // A group of a `use` is expanded in `expanded`.
        if !code[at + path.len()..].starts_with('{') {
            let path = path.trim_end_matches(':');
            found.extend(absolute(module, path, &BTreeSet::new()));
        }
    }
    found
}

/// The file that a path resolves to, through re-exports.
fn defining_module(
    path: &Path,
    modules: &BTreeSet<Path>,
    exports: &BTreeMap<(Path, String), Path>,
) -> Option<Path> {
    let mut path = path.clone();
    for _ in 0..8 {
        let length = (0..=path.len())
            .rev()
            .find(|length| modules.contains(&path[..*length]))?;
        let (module, rest) = path.split_at(length);
        let next = rest
            .first()
            .and_then(|name| exports.get(&(module.to_vec(), name.clone())));
        match next {
            Some(next) if *next != path => path = next.clone(),
            _ => return Some(module.to_vec()),
        }
    }
    None
}

#[test]
fn cycles_are_found_through_re_exports() {
    let file = |path: &str, text: &str| Source::new(path, text);
    let graph = |files: &[(&str, &str)]| {
        let sources: Vec<_> = files.iter().map(|(path, text)| file(path, text)).collect();
        ModuleGraph::of(&sources, "src/").cycle()
    };
    let straight = [
        ("src/lib.rs", "pub mod a;\npub mod b;\n"),
        ("src/a.rs", "use crate::b::{B, other::{C, D as E}};\n"),
        (
            "src/b/mod.rs",
            "mod other;\npub use other::C;\npub struct B;\n",
        ),
        ("src/b/other.rs", "pub struct C;\npub struct D;\n"),
    ];
    assert_eq!(graph(&straight), None);
    let mut through_a_re_export = straight;
    through_a_re_export[3].1 = "use crate::a::A;\n";
    assert_eq!(
        graph(&through_a_re_export),
        Some(vec!["a".to_owned(), "b::other".to_owned()])
    );
    let inline = [
        ("src/lib.rs", ""),
        ("src/a.rs", "fn f() { super::b::g() }\nuse super::b;\n"),
        ("src/b.rs", "fn g() { crate::a::f() }\n"),
    ];
    assert_eq!(graph(&inline), Some(vec!["a".to_owned(), "b".to_owned()]));
}
