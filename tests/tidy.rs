//! Style that a machine can hold: who may import whom, what only the shell may name, and a few
//! habits. The rules are the tables below; the checker is shown to fail on planted snippets first.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fmt, fs, iter};

/// Layer, and the layers it may name. A layer is a folder or file of `src/`, or the crate `wal`.
/// Everything that is not here is forbidden; a new edge is a decision, to be made here.
const EDGES: &[(&str, &[&str])] = &[
    // Leaves: they know none of the others, so that each can be tested, replaced and read alone.
    ("raft", &["mutants"]),
    // Switches for known bugs, in whoever has one; compiled to nothing but for showing that tests find
    // them.
    ("mutants", &[]),
    ("store", &["mutants"]),
    ("h2", &[]),
    ("grpc", &[]),
    ("proto", &[]),
    ("wal", &[]),
    ("bbolt", &[]),
    ("tls", &[]),
    ("config", &["tls"]),
    // JSON in the place of protobuf.
    ("gateway", &["proto"]),
    ("version", &[]),
    ("membership", &[]),
    // Meaning: revisions, leases, and what an entry does to them.
    ("mvcc", &["store", "proto", "mutants"]),
    ("lease", &["store", "proto", "mutants"]),
    ("auth", &["proto"]),
    ("apply", &["mvcc", "lease", "auth", "membership", "store", "proto", "version", "mutants"]),
    // Composition: what the simulator runs as well.
    (
        "node",
        &[
            "apply",
            "auth",
            "membership",
            "mvcc",
            "lease",
            "raft",
            "wal",
            "store",
            "proto",
            "version",
            "mutants",
        ],
    ),
    // Services. The types of `wal`, `raft` and `store` only pass through, to the shell and back.
    (
        "rpc",
        &[
            "node",
            "apply",
            "auth",
            "membership",
            "mvcc",
            "lease",
            "gateway",
            "h2",
            "grpc",
            "proto",
            "raft",
            "store",
            "wal",
            "bbolt",
            "version",
            "mutants",
        ],
    ),
    // What members say to each other, in bytes, and the links on which they say it.
    ("peer", &["node", "raft", "membership"]),
    // The load generator: a client, which knows a server only from outside.
    ("bench", &["config", "h2", "grpc", "proto"]),
    // The world: may name everything.
    (
        "shell",
        &[
            "rpc",
            "peer",
            "node",
            "apply",
            "auth",
            "membership",
            "mvcc",
            "lease",
            "raft",
            "wal",
            "store",
            "h2",
            "grpc",
            "proto",
            "config",
            "tls",
            "version",
            "bench",
        ],
    ),
    ("main", &["shell", "config", "version"]),
];

/// What only the shell may name, since all else is a plain state machine that is given its inputs
/// and the time.
const WORLD: &[&[&str]] = &[
    &["glommio"],
    &["std", "fs"],
    &["std", "net"],
    &["std", "os", "unix", "fs"],
    &["std", "os", "unix", "net"],
    &["std", "thread", "sleep"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
    &["Instant", "now"],
    &["SystemTime", "now"],
];

/// Path of a file, and what it may name of the world although it is not in the shell.
const WORLD_EXCEPTIONS: &[(&str, &[&str])] = &[
    // The map of the store needs the file that it maps.
    ("src/store/map.rs", &["std", "fs"]),
];

/// A file that is longer is doing two things.
const LINES_MAX: usize = 1000;

/// Macros that say that something is not finished.
const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];

/// Attributes with which a test stops testing.
const SILENCED: &[&str] = &["ignore", "should_panic"];

/// How many lines of code may stand between a `SAFETY:` comment and its `unsafe`.
const SAFETY_DISTANCE_MAX: usize = 3;

#[derive(Debug, PartialEq, Eq)]
struct Fault {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

#[test]
fn the_tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "wal", "tests", "benches"] {
        rust_files(&root.join(folder), &mut files);
    }
    files.push(root.join("build.rs"));
    assert!(files.len() > 20, "only {} files found below {}", files.len(), root.display());
    let mut faults = Vec::new();
    for path in files {
        let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        faults.extend(check(&name, &fs::read_to_string(&path).unwrap()));
    }
    let lines: Vec<_> = faults.iter().map(Fault::to_string).collect();
    assert!(lines.is_empty(), "{} faults:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn every_layer_of_the_source_is_in_the_table() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let layer = name.trim_end_matches(".rs");
        assert!(layer == "lib" || allowed(layer).is_some(), "src/{name} is in no row of EDGES");
    }
}

#[test]
fn no_layer_reaches_itself() {
    for (layer, _) in EDGES {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&str> = allowed(layer).unwrap().to_vec();
        while let Some(to) = next.pop() {
            assert_ne!(to, *layer, "{layer} can be reached from itself");
            if seen.insert(to) {
                next.extend(allowed(to).unwrap_or_else(|| panic!("{to} has no row")));
            }
        }
    }
}

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

fn allowed(layer: &str) -> Option<&'static [&'static str]> {
    EDGES.iter().find(|(from, _)| *from == layer).map(|(_, to)| *to)
}

/// The layer of a file, and how many modules it lies below the root of its crate.
fn layer(file: &str) -> Option<(&str, usize)> {
    if let Some(path) = file.strip_prefix("wal/src/") {
        return Some(("wal", module_depth(path)));
    }
    let path = file.strip_prefix("src/")?;
    let first = path.split('/').next()?.trim_end_matches(".rs");
    (first != "lib").then_some((first, module_depth(path)))
}

fn module_depth(path: &str) -> usize {
    let path = path.trim_end_matches(".rs");
    match path.rsplit_once('/') {
        Some((folder, "mod")) => folder.split('/').count(),
        None if matches!(path, "lib" | "main") => 0,
        _ => path.split('/').count(),
    }
}

fn check(file: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault =
        |line: usize, what: String| faults.push(Fault { file: file.to_owned(), line, what });
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > LINES_MAX {
        fault(lines.len(), format!("{} lines; at most {LINES_MAX}", lines.len()));
    }
    let tokens = tokens(text);
    for (at, token) in tokens.iter().enumerate() {
        let next = |n: usize| tokens.get(at + n).map_or("", |t| t.text.as_str());
        if token.text == "unsafe" && !has_safety_comment(&lines, token.line) {
            fault(token.line, "`unsafe` without a `SAFETY:` comment".to_owned());
        }
        if UNFINISHED.contains(&token.text.as_str()) && next(1) == "!" {
            fault(token.line, format!("`{}!`", token.text));
        }
        if token.text == "#" && next(1) == "[" {
            let attribute = tokens[at..].iter().take_while(|t| t.text != "]");
            for part in attribute.filter(|t| SILENCED.contains(&t.text.as_str())) {
                fault(part.line, format!("`#[{}]`", part.text));
            }
        }
    }
    let Some((layer, depth)) = layer(file) else { return faults };
    if !file.ends_with("tests.rs") && !file.contains("/tests/") && !text.starts_with("//!") {
        fault(1, "does not begin with a `//!` that says what it is".to_owned());
    }
    for Named { line, path } in paths(&tokens, depth) {
        check_edge(layer, &path, |what| fault(line, what));
        if layer != "shell" {
            check_world(file, &path, |what| fault(line, what));
        }
    }
    faults
}

fn check_edge(from: &str, path: &[String], fault: impl FnOnce(String)) {
    let part = |at: usize| path.get(at).map_or("", String::as_str);
    let to = match part(0) {
        "wal" => "wal",
        // Inside `wal`, the crate is `wal` itself.
        "crate" if from == "wal" => "wal",
        "crate" | "ringd" => part(1),
        _ => return,
    };
    if to == "*" {
        fault(format!("`{}` hides who is imported", path.join("::")));
        return;
    }
    // A macro or item of the root itself, `main` and `lib` have nothing else.
    if to == from || (allowed(to).is_none() && from != "wal" && part(0) != "wal") {
        return;
    }
    if !allowed(from).is_some_and(|list| list.contains(&to)) {
        fault(format!("`{}`: {from} may not name {to}", path.join("::")));
    }
}

fn check_world(file: &str, path: &[String], fault: impl FnOnce(String)) {
    let is_at = |rule: &[&str], at: usize| {
        path.get(at..at + rule.len()).is_some_and(|part| part.iter().eq(rule.iter()))
    };
    let broken = WORLD.iter().find(|rule| match rule[0] {
        "std" | "glommio" => is_at(rule, 0),
        _ => (0..path.len()).any(|at| is_at(rule, at)),
    });
    let Some(rule) = broken else { return };
    let excepted =
        WORLD_EXCEPTIONS.iter().any(|(excepted, what)| *excepted == file && what == rule);
    if !excepted {
        fault(format!("`{}`: only the shell may name {}", path.join("::"), rule.join("::")));
    }
}

/// On the line itself or in the comment above it; attributes and the start of the statement may
/// stand between, a blank line may not.
fn has_safety_comment(lines: &[&str], line: usize) -> bool {
    let says = |text: &str| text.contains("// SAFETY:") || text.contains("/// # Safety");
    let here = lines.get(line - 1).copied().unwrap_or("");
    if says(here) {
        return true;
    }
    let mut code = 0;
    for above in lines[..line - 1].iter().rev().map(|text| text.trim()) {
        if above.starts_with("//") {
            if says(above) {
                return true;
            }
        } else if above.is_empty() || code == SAFETY_DISTANCE_MAX {
            return false;
        } else if !above.starts_with("#[") {
            code += 1;
        }
    }
    false
}

/// An identifier, `::`, or one other character.
#[derive(Debug, PartialEq, Eq)]
struct Token {
    line: usize,
    text: String,
}

/// The code of a file without comments, strings, characters and lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(&c) = chars.get(at) {
        let rest = &chars[at..];
        let length = match c {
            '/' if starts(rest, "//") => rest.iter().take_while(|&&c| c != '\n').count(),
            '/' if starts(rest, "/*") => block_comment(rest),
            '"' => string(rest),
            '\'' => character_or_lifetime(rest),
            c if c.is_alphabetic() || c == '_' => {
                let word = rest.iter().take_while(|&&c| c.is_alphanumeric() || c == '_').count();
                match prefixed_string(rest, word) {
                    Some(length) => length,
                    None => {
                        out.push(Token { line, text: rest[..word].iter().collect() });
                        word
                    }
                }
            }
            ':' if starts(rest, "::") => {
                out.push(Token { line, text: "::".to_owned() });
                2
            }
            c if c.is_whitespace() => 1,
            c => {
                out.push(Token { line, text: c.to_string() });
                1
            }
        };
        line += rest[..length].iter().filter(|&&c| c == '\n').count();
        at += length;
    }
    out
}

fn starts(chars: &[char], with: &str) -> bool {
    with.chars().enumerate().all(|(at, c)| chars.get(at) == Some(&c))
}

fn block_comment(chars: &[char]) -> usize {
    let (mut at, mut open) = (0, 0);
    while at < chars.len() {
        if starts(&chars[at..], "/*") {
            open += 1;
            at += 2;
        } else if starts(&chars[at..], "*/") {
            open -= 1;
            at += 2;
            if open == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at.min(chars.len())
}

fn string(chars: &[char]) -> usize {
    let mut at = 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// Raw strings, byte strings and C strings, whose quote follows a word; `word` is its length.
fn prefixed_string(chars: &[char], word: usize) -> Option<usize> {
    let prefix: String = chars[..word].iter().collect();
    let raw = match prefix.as_str() {
        "r" | "br" | "cr" => true,
        "b" | "c" => false,
        _ => return None,
    };
    let rest = &chars[word..];
    if !raw {
        return match rest.first() {
            Some('"') => Some(word + string(rest)),
            Some('\'') => Some(word + character_or_lifetime(rest)),
            _ => None,
        };
    }
    let hashes = rest.iter().take_while(|&&c| c == '#').count();
    if rest.get(hashes) != Some(&'"') {
        return None;
    }
    let end: String = iter::once('"').chain(iter::repeat_n('#', hashes)).collect();
    let body = &rest[hashes + 1..];
    let length = (0..body.len()).find(|&at| starts(&body[at..], &end)).unwrap_or(body.len());
    Some((word + hashes + 1 + length + end.len()).min(chars.len()))
}

fn character_or_lifetime(chars: &[char]) -> usize {
    match (chars.get(1), chars.get(2)) {
        (Some('\\'), _) => {
            let end = chars.iter().skip(3).position(|&c| c == '\'');
            end.map_or(chars.len(), |end| end + 4)
        }
        (Some(_), Some('\'')) => 3,
        _ => 1,
    }
}

/// A path that the code names, from its first part on; `super` is resolved where it leaves the
/// layer. `*` stands for all of a module.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    line: usize,
    path: Vec<String>,
}

/// All paths of at least two parts, and every use of a crate by its name alone. `depth` is how
/// deep the file's own module lies.
fn paths(tokens: &[Token], depth: usize) -> Vec<Named> {
    let mut out = Vec::new();
    // For each open brace, whether it opened a module.
    let mut braces = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let text = |n: usize| tokens.get(n).map_or("", |t| t.text.as_str());
        match token.text.as_str() {
            "{" => braces.push(at >= 2 && text(at - 2) == "mod"),
            "}" => {
                braces.pop();
            }
            _ => {}
        }
        let is_part = is_word(&token.text) && !BEFORE_PATHS.contains(&token.text.as_str());
        let starts_path = is_part && (at == 0 || text(at - 1) != "::");
        let global = token.text == "::" && is_word(text(at + 1)) && !follows_a_part(tokens, at);
        let start = if global { at + 1 } else { at };
        let alone = !global && at > 0 && matches!(text(at - 1), "use" | "crate");
        if (starts_path && (text(at + 1) == "::" || alone)) || global {
            let mut found = Vec::new();
            at = tree(tokens, start, &[], &mut found);
            let inside = depth + braces.iter().filter(|is_module| **is_module).count();
            out.extend(found.into_iter().map(|named| resolve(named, inside)));
        } else {
            at += 1;
        }
    }
    out
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words after which a path may begin with `::`, and which are no part of it.
const BEFORE_PATHS: &[&str] =
    &["use", "return", "in", "as", "mut", "dyn", "impl", "for", "where", "match", "if", "else"];

/// `a::<T>::b`, `<T>::b`: the `::` continues something.
fn follows_a_part(tokens: &[Token], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).and_then(|at| tokens.get(at)) else { return false };
    let is_part = is_word(&before.text) && !BEFORE_PATHS.contains(&before.text.as_str());
    is_part || matches!(before.text.as_str(), ">" | "]" | ")")
}

/// One tree as `use` has it, from the first part on. Returns where it ends.
fn tree(tokens: &[Token], mut at: usize, before: &[String], out: &mut Vec<Named>) -> usize {
    let mut path = before.to_vec();
    let line = tokens.get(at).map_or(0, |t| t.line);
    while let Some(token) = tokens.get(at) {
        let more = tokens.get(at + 1).is_some_and(|next| next.text == "::");
        match token.text.as_str() {
            "{" => {
                at += 1;
                while let Some(inner) = tokens.get(at).filter(|t| t.text != "}") {
                    if inner.text == "as" {
                        at += 2;
                    } else if is_word(&inner.text) || matches!(inner.text.as_str(), "*" | "{") {
                        at = tree(tokens, at, &path, out);
                    } else {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "*" => {
                path.push("*".to_owned());
                at += 1;
                break;
            }
            word if is_word(word) => {
                path.push(word.to_owned());
                at += 1;
                if !more {
                    break;
                }
                at += 1;
            }
            // The turbofish: what is in it is found on its own.
            _ => break,
        }
    }
    out.push(Named { line, path });
    at
}

/// `super::super::x` becomes `crate::x` where it climbs to the root.
fn resolve(named: Named, depth: usize) -> Named {
    let climbs = named.path.iter().take_while(|part| *part == "super").count();
    if climbs == 0 || climbs < depth {
        return named;
    }
    let rest = named.path.into_iter().skip(climbs);
    Named { line: named.line, path: iter::once("crate".to_owned()).chain(rest).collect() }
}

/// The checker itself, on planted snippets.
mod planted {
    use super::*;

    const HEAD: &str = "//! A head.\n";

    fn faults(file: &str, code: &str) -> Vec<String> {
        check(file, &format!("{HEAD}{code}")).into_iter().map(|f| f.what).collect()
    }

    #[track_caller]
    fn fails(file: &str, code: &str, what: &str) {
        let faults = faults(file, code);
        assert!(faults.iter().any(|f| f.contains(what)), "{code:?} in {file}: {faults:?}");
    }

    #[track_caller]
    fn passes(file: &str, code: &str) {
        assert_eq!(faults(file, code), Vec::<String>::new(), "{code:?} in {file}");
    }

    #[test]
    fn an_edge_that_is_not_in_the_table_is_found_however_it_is_written() {
        let wrong = "store may not name mvcc";
        for code in [
            "use crate::mvcc;",
            "use crate::mvcc::Revision;",
            "use crate::{mvcc, version};",
            "use crate::{store::Page, mvcc::{self, Revision as R}};",
            "pub use crate::mvcc::*;",
            "use ringd::mvcc;",
            "use ::ringd::mvcc;",
            "fn f() -> crate::mvcc::Revision { }",
            "fn f(r: &mut crate::mvcc::Revision) { }",
            "fn f() { g::<crate::mvcc::R>(crate\n  ::mvcc::new()) }",
            "use super::super::mvcc::Revision;",
            "mod tests { use super::super::super::mvcc; }",
            "macro_rules! m { () => { $crate::mvcc::x() } }",
        ] {
            fails("src/store/page.rs", code, wrong);
        }
        fails("src/store/mod.rs", "use super::mvcc;", wrong);
        fails("src/store/tree/edit.rs", "use super::super::super::mvcc;", wrong);
        fails("src/node/mod.rs", "use crate::rpc::Server;", "node may not name rpc");
        fails("src/raft/log.rs", "use wal::Writer;", "raft may not name wal");
        fails("src/raft/log.rs", "use wal;", "raft may not name wal");
        fails("src/mvcc/mod.rs", "use crate::*;", "hides who is imported");
    }

    #[test]
    fn edges_of_the_table_and_words_that_are_no_edges_pass() {
        for code in [
            "use crate::store::Store; use crate::{proto, store::{Tree, View}};",
            "use crate::mvcc::Revision; use super::*; use super::rpc::x;",
            "// crate::rpc\n/* crate::rpc /* crate::rpc */ */\n/// crate::rpc::Server\nfn f() {}",
            "const S: &str = \"crate::rpc \\\" crate::rpc\";",
            "const S: &str = r#\"crate::rpc \" crate::rpc\"#; const B: &[u8] = b\"crate::rpc\";",
            "fn f<'a>(x: &'a str) { let c = '\"'; let d = '\\''; let e = '\\u{7f}'; }",
            "fn f() { let rpc = 1; x.wal = rpc; std::iter::once(1); }",
            "mod tests { use super::super::range; }",
        ] {
            passes("src/mvcc/range.rs", code);
        }
        passes("src/node/mod.rs", "use wal::{Op, Writer}; use crate::raft;");
        passes("wal/src/writer.rs", "use crate::record::Record; use super::segment;");
        passes("src/shell/mod.rs", "use crate::{rpc, node, config}; use wal::Op;");
        passes("src/lib.rs", "pub mod rpc; pub use crate::rpc::Server;");
    }

    #[test]
    fn the_world_may_only_be_named_by_the_shell() {
        for code in [
            "use glommio::net::TcpStream;",
            "use glommio;",
            "extern crate glommio;",
            "use std::fs;",
            "use std::{fmt, fs::File};",
            "use std::{io::{self, Read}, net};",
            "fn f() { std::fs::read(p) }",
            "fn f() { ::std::fs::read(p) }",
            "use std::os::unix::fs::FileExt;",
            "use std::time::Instant;",
            "use std::time::{Duration, SystemTime};",
            "fn f() { time::Instant::now() }",
            "fn f() { Instant::now() }",
            "fn f() { SystemTime::now() }",
            "fn f() { std::thread::sleep(d) }",
        ] {
            fails("src/mvcc/mod.rs", code, "only the shell may name");
            fails("wal/src/writer.rs", code, "only the shell may name");
            passes("src/shell/clock.rs", code);
        }
        for code in [
            "use std::time::Duration;",
            "use core::net::IpAddr;",
            "fn f(now: Now) { now.fs().net() }",
            "// Instant::now()\nconst S: &str = \"std::fs\";",
        ] {
            passes("src/mvcc/mod.rs", code);
        }
        passes("src/store/map.rs", "use std::fs::File;");
        fails("src/store/map.rs", "use std::net::TcpStream;", "only the shell may name std::net");
        fails("src/store/page.rs", "use std::fs::File;", "only the shell may name std::fs");
    }

    #[test]
    fn unsafe_code_says_why_it_is_sound() {
        for code in [
            "fn f() { unsafe { g() } }",
            "// SAFETY: of the other one.\n\nunsafe { g() }",
            "// Safe, somehow.\nunsafe { g() }",
            "// SAFETY: too far away.\nlet a =\n b(\nc,\nd,\n unsafe { g() });",
            "const S: &str = \"// SAFETY:\";\n\nunsafe impl Send for X {}",
        ] {
            fails("src/store/map.rs", code, "without a `SAFETY:`");
            fails("tests/crash.rs", code, "without a `SAFETY:`");
        }
        for code in [
            "// SAFETY: g has no preconditions.\nunsafe { g() }",
            "// SAFETY: g has\n// no preconditions.\nlet x =\n    unsafe { g() };",
            "unsafe { g() } // SAFETY: g has no preconditions.",
            "/// # Safety\n/// The pointer is valid.\n#[inline]\npub unsafe fn f() {}",
            "// unsafe\nconst S: &str = \"unsafe\";",
        ] {
            passes("src/store/map.rs", code);
        }
    }

    #[test]
    fn silenced_tests_and_unfinished_code_are_found() {
        for (code, what) in [
            ("#[test]\n#[ignore]\nfn t() {}", "#[ignore]"),
            ("#[ignore = \"slow\"]\nfn t() {}", "#[ignore]"),
            ("#[cfg_attr(unix, ignore)]\nfn t() {}", "#[ignore]"),
            ("#[should_panic(expected = \"x\")]\nfn t() {}", "#[should_panic]"),
            ("fn f() { todo!() }", "todo!"),
            ("fn f() { unimplemented!(\"x\") }", "unimplemented!"),
            ("fn f() { dbg!(x) }", "dbg!"),
        ] {
            fails("tests/wire/main.rs", code, what);
        }
        passes("tests/wire/main.rs", "fn f() { ignore(dbg); let todo = ignore; }");
    }

    #[test]
    fn long_files_and_files_without_a_head_are_found() {
        let long = "fn f() {}\n".repeat(LINES_MAX);
        fails("src/mvcc/mod.rs", &long, "1001 lines");
        passes("src/mvcc/mod.rs", &"fn f() {}\n".repeat(LINES_MAX - 1));
        let what = |file: &str| check(file, "fn f() {}").into_iter().map(|f| f.what).next();
        assert!(what("src/mvcc/mod.rs").is_some_and(|w| w.contains("does not begin with")));
        assert_eq!(what("src/mvcc/tests.rs"), None);
        assert_eq!(what("tests/tidy.rs"), None);
    }

    #[test]
    fn a_fault_is_shown_with_its_file_and_line() {
        let code = "//! Head.\n/* a\nb */ const S: &str = \"\n\n\";\nuse crate::rpc;\n";
        let faults: Vec<_> = check("src/h2/mod.rs", code).iter().map(Fault::to_string).collect();
        assert_eq!(faults, ["src/h2/mod.rs:6: `crate::rpc`: h2 may not name rpc"]);
    }
}
