//! The documents against the code: the format's drawings and figures, the tests that the guarantees
//! name, and every link.
//!
//! In `docs/FORMAT.md`
//! - a drawing stands behind a line `<!-- drawing: FILE -->`, and is the one in the head of that file;
//! - a constant stands in a table row `| NAME | VALUE | FILE | … |`, and has that value there;
//! - every drawing of the files in [`FORMAT_FILES`] is shown.
//!
//! So a change of the format changes the document, or this test fails. `UPDATE=1` redraws.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The files whose heads draw what lies on the disk.
const FORMAT_FILES: &[&str] = &[
    "wal/src/batch.rs",
    "wal/src/record.rs",
    "wal/src/sector.rs",
    "src/store/long.rs",
    "src/store/page.rs",
    "src/store/node.rs",
    "src/store/meta.rs",
    "src/store/run.rs",
    "src/node/record.rs",
    "src/node/snapshot/format.rs",
    "src/mvcc/keys.rs",
    "src/mvcc/record.rs",
    "src/apply/state.rs",
    "src/raft/codec.rs",
    "src/shell/data_dir.rs",
    "src/peer/frame.rs",
    "src/peer/hello.rs",
    "src/peer/codec.rs",
];

/// Where constants are looked up that are named by other constants.
const LIMITS_FILES: &[&str] = &["wal/src/limits.rs", "src/store/limits.rs"];

const DOCUMENTS: &[&str] = &[
    "README.md",
    "docs/ARCHITECTURE.md",
    "docs/CHANGELOG.md",
    "docs/FORMAT.md",
    "docs/GUARANTEES.md",
    "docs/OPERATIONS.md",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn the_format_document_shows_exactly_the_drawings_of_the_code() {
    let mut document = read("docs/FORMAT.md");
    if std::env::var_os("UPDATE").is_some() {
        document = redrawn(&document, &|file| drawings(&read(file)));
        fs::write(root().join("docs/FORMAT.md"), &document).unwrap();
    }
    let shown = shown_drawings(&document);
    let mut faults = Vec::new();
    for (file, drawing) in &shown {
        if !FORMAT_FILES.contains(&file.as_str()) {
            faults.push(format!("{file} is shown, but not in FORMAT_FILES"));
        } else if !drawings(&read(file)).contains(drawing) {
            faults.push(format!("the head of {file} does not have this drawing:\n{drawing}"));
        }
    }
    for file in FORMAT_FILES {
        let there = drawings(&read(file));
        if there.is_empty() {
            faults.push(format!("{file} has no drawing"));
        }
        for drawing in there {
            if !shown.contains(&((*file).to_owned(), drawing.clone())) {
                faults.push(format!("docs/FORMAT.md does not show this of {file}:\n{drawing}"));
            }
        }
    }
    let hint = "UPDATE=1 takes the drawings over; what is written around them is for you to read";
    assert!(faults.is_empty(), "{}\n\n{hint}", faults.join("\n\n"));
}

#[test]
fn the_format_document_has_the_figures_of_the_code() {
    let rows = constants(&read("docs/FORMAT.md"));
    assert!(rows.len() > 5, "only {} constants in docs/FORMAT.md", rows.len());
    let mut faults = Vec::new();
    for Constant { name, value, file } in rows {
        let found = value_of(&name, &file, &read);
        let expected = parse_value(&value);
        if found.is_none() || found != expected {
            faults.push(format!("{name} of {file} is {found:?}, the document says {value}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_test_that_a_guarantee_names_is_there() {
    let document = read("docs/GUARANTEES.md");
    let named: Vec<_> =
        links(&document).into_iter().filter(|(_, target)| target.ends_with(".rs")).collect();
    assert!(named.len() > 5, "only {} tests in docs/GUARANTEES.md", named.len());
    for (text, target) in named {
        let file = Path::new("docs").join(&target);
        let source = fs::read_to_string(root().join(&file)).unwrap_or_default();
        let test = text.trim_matches('`');
        let there = source.contains(&format!("fn {test}("));
        assert!(there, "{} has no test {test}", file.display());
    }
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut faults = Vec::new();
    for document in DOCUMENTS {
        let folder = root().join(document).parent().unwrap().to_path_buf();
        for (text, target) in links(&read(document)) {
            let file = target.split('#').next().unwrap_or("");
            if !target.starts_with("http") && !file.is_empty() && !folder.join(file).exists() {
                faults.push(format!("{document}: [{text}]({target})"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The `text` blocks in the comment at the head of a file.
fn drawings(source: &str) -> Vec<String> {
    let head: String = source
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .map(|line| format!("{}\n", line.trim_start_matches("//!")))
        .map(|line| line.strip_prefix(' ').map_or(line.clone(), str::to_owned))
        .collect();
    head.split("```text\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```"))
        .map(|(d, _)| d.to_owned())
        .collect()
}

/// File and text of each drawing of the document.
fn shown_drawings(document: &str) -> Vec<(String, String)> {
    let parts = document.split("<!-- drawing: ").skip(1);
    parts
        .map(|part| {
            let (file, rest) = part.split_once(" -->\n").expect("`<!-- drawing: FILE -->`");
            let rest = rest.trim_start().strip_prefix("```text\n").expect("a text block behind it");
            let (drawing, _) = rest.split_once("```").expect("the end of the block");
            (file.to_owned(), drawing.to_owned())
        })
        .collect()
}

/// The document with the drawings that the code has now, where it shows a drawing of that file.
fn redrawn(document: &str, drawings_of: &dyn Fn(&str) -> Vec<String>) -> String {
    let mut shown: BTreeMap<String, usize> = BTreeMap::new();
    let mut out = document.to_owned();
    for (file, old) in shown_drawings(document) {
        let at = shown.entry(file.clone()).or_default();
        if let Some(new) = drawings_of(&file).get(*at) {
            let block = |drawing: &str| format!("<!-- drawing: {file} -->\n```text\n{drawing}```");
            out = out.replacen(&block(&old), &block(new), 1);
        }
        *at += 1;
    }
    out
}

#[derive(Debug, PartialEq)]
struct Constant {
    name: String,
    value: String,
    file: String,
}

/// Rows of tables whose first three cells are a constant's name, its value, and a file.
fn constants(document: &str) -> Vec<Constant> {
    let cell = |text: &str| text.trim().trim_matches('`').to_owned();
    let rows = document.lines().filter_map(|line| {
        let mut cells = line.trim().strip_prefix('|')?.split('|').map(cell);
        let (name, value, file) = (cells.next()?, cells.next()?, cells.next()?);
        let is_name =
            name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        (is_name && !name.is_empty() && file.ends_with(".rs")).then_some(Constant {
            name,
            value,
            file,
        })
    });
    rows.collect()
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(i128),
    Bytes(String),
}

fn parse_value(text: &str) -> Option<Value> {
    evaluate(text, &|_| None)
}

/// The value of `const NAME` in `file`.
fn value_of(name: &str, file: &str, read: &dyn Fn(&str) -> String) -> Option<Value> {
    let source = read(file);
    let start = source.find(&format!("const {name}:"))?;
    let (_, rest) = source[start..].split_once('=')?;
    let (expression, _) = rest.split_once(';')?;
    evaluate(expression, &|other| {
        let files = [file].into_iter().chain(LIMITS_FILES.iter().copied());
        files.filter(|_| other != name).find_map(|file| value_of(other, file, read))
    })
}

/// Integers in any base, byte strings, `+ - * / <<`, parentheses, casts, and other constants.
fn evaluate(text: &str, lookup: &dyn Fn(&str) -> Option<Value>) -> Option<Value> {
    let text = text.trim();
    if let Some(bytes) = text.trim_start_matches('*').strip_prefix("b\"") {
        return Some(Value::Bytes(bytes.strip_suffix('"')?.to_owned()));
    }
    let mut words = words(text);
    let value = sum(&mut words, lookup)?;
    words.is_empty().then_some(Value::Number(value))
}

/// In reverse, so that the next one is popped.
fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let length = match first {
            c if is_part(c) => rest.find(|c| !is_part(c)).unwrap_or(rest.len()),
            '<' => rest.len().min(2),
            c => c.len_utf8(),
        };
        let (word, tail) = rest.split_at(length);
        if !word.trim().is_empty() {
            out.push(word.to_owned());
        }
        rest = tail;
    }
    out.reverse();
    out
}

/// Shifts bind weaker than sums in Rust; nothing here mixes them without parentheses.
fn sum(words: &mut Vec<String>, lookup: &dyn Fn(&str) -> Option<Value>) -> Option<i128> {
    let mut value = product(words, lookup)?;
    loop {
        match words.last().map(String::as_str) {
            Some("+") => {
                words.pop();
                value += product(words, lookup)?;
            }
            Some("-") => {
                words.pop();
                value -= product(words, lookup)?;
            }
            Some("<<") => {
                words.pop();
                value <<= sum(words, lookup)?;
            }
            _ => return Some(value),
        }
    }
}

fn product(words: &mut Vec<String>, lookup: &dyn Fn(&str) -> Option<Value>) -> Option<i128> {
    let mut value = atom(words, lookup)?;
    loop {
        match words.last().map(String::as_str) {
            Some("*") => {
                words.pop();
                value *= atom(words, lookup)?;
            }
            Some("/") => {
                words.pop();
                value = value.checked_div(atom(words, lookup)?)?;
            }
            Some("as") => {
                words.pop();
                words.pop();
            }
            _ => return Some(value),
        }
    }
}

fn atom(words: &mut Vec<String>, lookup: &dyn Fn(&str) -> Option<Value>) -> Option<i128> {
    let word = words.pop()?;
    if word == "(" {
        let value = sum(words, lookup)?;
        return (words.pop()? == ")").then_some(value);
    }
    if !word.starts_with(|c: char| c.is_ascii_digit()) {
        let name = word.rsplit("::").next()?;
        return match lookup(name)? {
            Value::Number(number) => Some(number),
            Value::Bytes(_) => None,
        };
    }
    let plain = word.replace('_', "");
    match plain.get(..2) {
        Some("0x") => i128::from_str_radix(&plain[2..], 16).ok(),
        Some("0b") => i128::from_str_radix(&plain[2..], 2).ok(),
        _ => plain.split(['u', 'i']).next()?.parse().ok(),
    }
}

/// Text and target of each Markdown link.
fn links(document: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut rest = document;
    while let Some((before, after)) = rest.split_once("](") {
        if let (Some(open), Some((target, _))) = (before.rfind('['), after.split_once(')')) {
            out.push((before[open + 1..].to_owned(), target.to_owned()));
        }
        rest = after;
    }
    out
}

/// The helpers, on texts of which the outcome is plain.
mod planted {
    use super::*;

    #[test]
    fn constants_are_computed_as_rust_does() {
        let lookup = |name: &str| (name == "PAGE").then_some(Value::Number(8192));
        for (text, value) in [
            ("4096", 4096),
            ("64 << 20", 64 << 20),
            ("(1 << 48) - 1", (1 << 48) - 1),
            ("2 * PAGE as u64", 16384),
            ("((PAGE - 32) / 2 * 8) as u32", 32640),
            ("0x5EC7", 0x5ec7),
            ("1_000u64", 1000),
            ("limits::PAGE / 4", 2048),
        ] {
            assert_eq!(evaluate(text, &lookup), Some(Value::Number(value)), "{text}");
        }
        assert_eq!(evaluate(" *b\"ab\" ", &lookup), Some(Value::Bytes("ab".to_owned())));
        for bad in ["", "OTHER", "1 +", "(1", "f(1)"] {
            assert_eq!(evaluate(bad, &lookup), None, "{bad}");
        }
    }

    #[test]
    fn a_changed_figure_or_a_lost_constant_is_noticed() {
        let files: BTreeMap<&str, &str> = BTreeMap::from([
            ("a.rs", "/// Doc.\npub const A: usize = 2 * B;\nconst C: [u8; 2] = *b\"xy\";"),
            ("wal/src/limits.rs", "pub(crate) const B: u64 = 1 << 4;"),
            ("src/store/limits.rs", ""),
        ]);
        let read = |file: &str| files.get(file).copied().unwrap_or("").to_owned();
        assert_eq!(value_of("A", "a.rs", &read), Some(Value::Number(32)));
        assert_eq!(value_of("C", "a.rs", &read), Some(Value::Bytes("xy".to_owned())));
        assert_eq!(value_of("B", "a.rs", &read), None);
        assert_ne!(parse_value("31"), value_of("A", "a.rs", &read));
    }

    #[test]
    fn tables_drawings_and_links_are_found() {
        let document = "| `A_B` | `b\"x\"` | `a.rs` | why |\n| A | b | c |\n|---|---|---|\n\
            see [`t`](../a.rs) and [b](c.md#d)\n<!-- drawing: a.rs -->\n```text\n one\n  two\n```\n";
        let row = Constant { name: "A_B".into(), value: "b\"x\"".into(), file: "a.rs".into() };
        assert_eq!(constants(document), [row]);
        let link = |text: &str, target: &str| (text.to_owned(), target.to_owned());
        assert_eq!(links(document), [link("`t`", "../a.rs"), link("b", "c.md#d")]);
        let source = "//! Head.\n//!\n//! ```text\n//!  one\n//!   two\n//! ```\nfn f() {}\n";
        assert_eq!(shown_drawings(document), [("a.rs".to_owned(), drawings(source).remove(0))]);
        let changed = source.replace("two", "too");
        assert_ne!(shown_drawings(document)[0].1, drawings(&changed)[0]);
        let updated = redrawn(document, &|_| drawings(&changed));
        assert_eq!(updated, document.replace("two", "too"));
    }
}
