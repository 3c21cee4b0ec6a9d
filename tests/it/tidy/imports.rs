//! Which source file names which other, read from the paths in the code.
//!
//! An edge leads to the file of the innermost module in a path as it is written, so a `mod.rs` that re-exports from its
//! children may be named from outside, but its children import from one another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// A module by its path below the crate: `["api", "completions"]`.
type Module = Vec<String>;

/// The files of a crate and the paths by which one names another. Tests, `lib.rs` and `main.rs` are left out.
pub struct Imports {
    files: BTreeMap<Module, PathBuf>,
    /// From, to: the paths in the code, with their lines.
    edges: BTreeMap<(Module, Module), Vec<String>>,
}

impl Imports {
    /// Reads all `files`, given relative to the `src` folder and with their text.
    pub fn read(files: &[(PathBuf, String)]) -> Self {
        let files: Vec<_> = files
            .iter()
            .filter(|(path, _)| {
                let skipped = ["lib.rs", "main.rs"]
                    .map(Path::new)
                    .contains(&path.as_path());
                !skipped && path.file_name() != Some("tests.rs".as_ref())
            })
            .collect();
        let mut imports = Self {
            files: files
                .iter()
                .map(|(path, _)| (module_of(path), path.clone()))
                .collect(),
            edges: BTreeMap::new(),
        };
        for (path, text) in files {
            imports.add(&module_of(path), text);
        }
        imports
    }

    fn add(&mut self, module: &Module, text: &str) {
        // Tests stand at the end of a file, and may name anything.
        let end = [
            "mod tests {",
            "pub mod tests {",
            "pub(super) mod tests {",
            "pub(crate) mod tests {",
        ]
        .iter()
        .filter_map(|start| text.find(&format!("\n#[cfg(test)]\n{start}")))
        .min();
        for (line, path) in paths(&text[..end.unwrap_or(text.len())]) {
            if let Some(target) = self.resolve(module, &path)
                && target != *module
            {
                let edge = (module.clone(), target);
                let shown = format!("{line}: {}", path.join("::"));
                self.edges.entry(edge).or_default().push(shown);
            }
        }
    }

    /// The innermost module that a path names, as seen from a module.
    fn resolve(&self, from: &Module, path: &[String]) -> Option<Module> {
        let (mut at, mut rest) = (from.clone(), path);
        match path.first()?.as_str() {
            "crate" => {
                at.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {}
            child => {
                at.push(child.to_owned());
                self.files.get(&at)?;
                rest = &path[1..];
            }
        }
        for segment in rest {
            if segment == "super" {
                at.pop();
                continue;
            }
            at.push(segment.clone());
            if !self.files.contains_key(&at) {
                at.pop();
                break;
            }
        }
        self.files.contains_key(&at).then_some(at)
    }

    /// The modules that a module names, directly or through others.
    fn reached(&self, from: &Module) -> BTreeSet<&Module> {
        let mut reached = BTreeSet::new();
        let mut left = vec![from];
        while let Some(module) = left.pop() {
            for (_, to) in self.edges.keys().filter(|(one, _)| one == module) {
                if reached.insert(to) {
                    left.push(to);
                }
            }
        }
        reached
    }

    /// The sets of files that name each other in a circle, as large as they are.
    pub fn circles(&self) -> Vec<Circle<'_>> {
        let reached: BTreeMap<_, _> = self.files.keys().map(|it| (it, self.reached(it))).collect();
        let mut circles = Vec::new();
        let mut seen = BTreeSet::new();
        for module in self.files.keys() {
            if !reached[module].contains(module) || seen.contains(module) {
                continue;
            }
            let back = |other: &&&Module| reached[**other].contains(module);
            let members: BTreeSet<&Module> = reached[module].iter().filter(back).copied().collect();
            seen.extend(members.iter().copied());
            circles.push(Circle {
                imports: self,
                members,
            });
        }
        circles
    }
}

/// Files that name each other.
pub struct Circle<'a> {
    imports: &'a Imports,
    members: BTreeSet<&'a Module>,
}

impl fmt::Display for Circle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} files in a circle:", self.members.len())?;
        for ((from, to), paths) in &self.imports.edges {
            if self.members.contains(from) && self.members.contains(to) {
                let (from, to) = (&self.imports.files[from], &self.imports.files[to]);
                let (from, to) = (from.display(), to.display());
                writeln!(f, "  {from} -> {to} (line {})", paths.join(", line "))?;
            }
        }
        Ok(())
    }
}

/// `api/completions/mod.rs` and `api/completions.rs` are both the module `api::completions`.
fn module_of(file: &Path) -> Module {
    let parts = file.with_extension("");
    let parts = parts.iter().map(|part| part.to_string_lossy().into_owned());
    let mut module: Module = parts.collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

/// The paths in a text, `use` trees spelled out, with their lines.
fn paths(text: &str) -> Vec<(usize, Module)> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_word(tokens[at].1) && tokens.get(at + 1).is_some_and(|next| next.1 == "::") {
            at = tree(&tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads the path at `at`, including a list in braces at its end. Returns the position after it.
fn tree(
    tokens: &[(usize, &str)],
    mut at: usize,
    before: &[String],
    found: &mut Vec<(usize, Module)>,
) -> usize {
    let line = tokens[at].0;
    let mut path = before.to_vec();
    while let Some(&(_, token)) = tokens.get(at).filter(|(_, token)| is_word(token)) {
        path.push(token.to_owned());
        at += 1;
        if tokens.get(at).is_none_or(|(_, next)| *next != "::") {
            break;
        }
        at += 1;
    }
    if tokens.get(at).is_some_and(|(_, next)| *next == "{") && tokens[at - 1].1 == "::" {
        at += 1;
        while tokens.get(at).is_some_and(|(_, next)| *next != "}") {
            at = match tokens[at].1 {
                "as" => at + 2,
                token if is_word(token) => tree(tokens, at, &path, found),
                _ => at + 1,
            };
        }
        return at + 1;
    }
    found.push((line, path));
    at
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::` and braces with their lines; without comments. Strings that hold paths are taken for code: none does.
fn tokens(text: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let code = line.split("//").next().unwrap_or_default();
        let mut rest = code;
        while let Some(first) = rest.chars().next() {
            let word = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            let length = match first {
                _ if rest.starts_with("::") => 2,
                _ if word > 0 => word,
                _ => first.len_utf8(),
            };
            if !first.is_whitespace() {
                tokens.push((number, &rest[..length]));
            }
            rest = &rest[length..];
        }
    }
    tokens
}

#[test]
fn circles_are_found() {
    let check = |files: &[(&str, &str)], expect: &[&str]| {
        let files = files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), (*text).to_owned()));
        let imports = Imports::read(&files.collect::<Vec<_>>());
        let circles: Vec<String> = imports.circles().iter().map(Circle::to_string).collect();
        assert_eq!(circles, expect);
    };
    check(
        &[
            ("a/mod.rs", "mod b; mod c; pub use b::B; // c::C"),
            ("a/b.rs", "use super::c::{C, D};\nstruct B;"),
            (
                "a/c.rs",
                "#[cfg(test)]\nmod tests {\n    use super::super::b::B;\n}",
            ),
            ("a/tests.rs", "use super::b::B;"),
            ("d.rs", "fn f(a: &crate::a::b::B) { use crate::a::c::*; }"),
        ],
        &[],
    );
    // A child that names its parent, which names the child.
    check(
        &[
            ("a/mod.rs", "mod b;\nuse b::B;"),
            (
                "a/b.rs",
                "use std::{fmt, io::{self, Read}};\nuse super::{A};",
            ),
        ],
        &[
            "2 files in a circle:\n  a/mod.rs -> a/b.rs (line 2: b::B)\n  a/b.rs -> a/mod.rs (line 2: super::A)\n",
        ],
    );
    check(
        &[
            ("a.rs", "pub mod b; use crate::c;"),
            ("a/b.rs", "use super::super::c::d::{self, D};"),
            ("c/mod.rs", "pub mod d; fn f() { self::d::D::new() }"),
            ("c/d.rs", "use crate::a::b::B;"),
        ],
        &[
            "2 files in a circle:\n  a/b.rs -> c/d.rs (line 1: super::super::c::d::self, line 1: super::super::c::d::D)\n  c/d.rs -> a/b.rs (line 1: crate::a::b::B)\n",
        ],
    );
}
