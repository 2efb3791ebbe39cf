//! What was done to files and directories, step by step, for tests that ask what a loss of power leaves
//! of it. Each thread has its own journal; none is kept unless it was asked for.
//!
//! [`leave`] makes what the disk may hold after a crash: all steps that were durable by then, and of the
//! others those that `kept` says. A name is durable after a sync of its directory, a content after a sync
//! of its file; the name of a file whose content was lost is that of an empty one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    MakeDir(PathBuf),
    Write(PathBuf, Vec<u8>),
    SyncFile(PathBuf),
    Rename(PathBuf, PathBuf),
    SyncDir(PathBuf),
}

thread_local! {
    static STEPS: RefCell<Option<Vec<Step>>> = const { RefCell::new(None) };
}

pub fn note(step: Step) {
    STEPS.with_borrow_mut(|steps| {
        if let Some(steps) = steps {
            steps.push(step);
        }
    });
}

/// What `work` has done, beside its result.
pub fn record<T>(work: impl FnOnce() -> T) -> (T, Vec<Step>) {
    STEPS.set(Some(Vec::new()));
    let result = work();
    (result, STEPS.take().unwrap_or_default())
}

/// A directory or a file with its content, by name.
type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// Whether a step is durable after all of `steps`.
fn is_durable(steps: &[Step], nth: usize) -> bool {
    let parent = |path: &Path| path.parent().map(Path::to_owned);
    let mut later = steps[nth + 1..].iter();
    match &steps[nth] {
        Step::MakeDir(path) | Step::Rename(_, path) => {
            let parent = parent(path);
            later.any(|step| matches!(step, Step::SyncDir(dir) if Some(dir) == parent.as_ref()))
        }
        Step::Write(path, _) => later.any(|step| *step == Step::SyncFile(path.clone())),
        Step::SyncFile(_) | Step::SyncDir(_) => true,
    }
}

/// Makes below `to` what a crash after `steps`, which were made below `from`, may leave. `kept` is
/// asked for each thing that was not durable.
pub fn leave(steps: &[Step], from: &Path, to: &Path, kept: &mut dyn FnMut() -> bool) {
    let mut tree = Tree::new();
    for (nth, step) in steps.iter().enumerate() {
        let durable = is_durable(steps, nth);
        match step {
            Step::MakeDir(path) if durable || kept() => drop(tree.insert(path.clone(), None)),
            Step::Write(path, content) => {
                let named = path.parent().is_some_and(|dir| {
                    let synced = Step::SyncDir(dir.to_owned());
                    steps[nth..].contains(&synced)
                });
                // A file that was renamed had a name.
                let renamed = steps[nth..]
                    .iter()
                    .any(|step| matches!(step, Step::Rename(old, _) if old == path));
                if !(named || renamed || kept()) {
                    continue;
                }
                let content = match (durable, kept()) {
                    (true, _) | (false, true) => content.clone(),
                    (false, false) => content[..content.len() / 2 * usize::from(kept())].to_vec(),
                };
                tree.insert(path.clone(), Some(content));
            }
            Step::Rename(old, new) if durable || kept() => {
                let moved: Vec<PathBuf> =
                    tree.keys().filter(|path| path.starts_with(old)).cloned().collect();
                for path in moved {
                    let content = tree.remove(&path).expect("it is there");
                    let rest = path.strip_prefix(old).expect("below it");
                    let renamed =
                        if rest.as_os_str().is_empty() { new.clone() } else { new.join(rest) };
                    tree.insert(renamed, content);
                }
            }
            _ => {}
        }
    }
    for (path, content) in tree {
        // What lies in a directory whose name was lost is lost with it.
        let place = to.join(path.strip_prefix(from).expect("made below it"));
        if !place.parent().is_some_and(Path::is_dir) {
            continue;
        }
        match content {
            None if place.is_dir() => {}
            None => std::fs::create_dir(&place).expect("made"),
            Some(content) => std::fs::write(&place, content).expect("written"),
        }
    }
}
