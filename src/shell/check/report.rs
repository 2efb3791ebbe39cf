//! What `ringd check` has found, for people and for programs.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value, json};

use super::super::data_dir::DataDir;
use crate::node::Recovered;
use crate::store::{CheckReport, Corruption, MetaSlot, Store};

/// Damage, and where.
pub struct Finding {
    path: PathBuf,
    offset: Option<u64>,
    what: String,
}

impl Finding {
    pub fn at(path: &Path, offset: Option<u64>, what: String) -> Finding {
        Finding { path: path.to_owned(), offset, what }
    }

    pub fn of_page(path: &Path, damage: &Corruption) -> Finding {
        let what = format!("page {}: {}", damage.page, damage.what);
        Finding::at(path, Some(damage.offset), what)
    }

    fn line(&self) -> String {
        match self.offset {
            Some(offset) => {
                format!("DAMAGED {} at offset {offset}: {}", self.path.display(), self.what)
            }
            None => format!("DAMAGED {}: {}", self.path.display(), self.what),
        }
    }
}

/// Lines for people, and the same for programs.
pub struct Report {
    store_path: PathBuf,
    log_path: PathBuf,
    lines: Vec<String>,
    values: serde_json::Map<String, Value>,
    findings: Vec<Finding>,
}

impl Report {
    pub fn new(data_dir: &DataDir) -> Report {
        let unclean = data_dir.was_unclean();
        let stop = if unclean { "without being told to" } else { "as it was told to" };
        Report {
            store_path: data_dir.store_path(),
            log_path: data_dir.wal_path().to_owned(),
            lines: vec![format!("the last process ended {stop}")],
            values: [("clean_stop".to_owned(), json!(!unclean))].into_iter().collect(),
            findings: Vec::new(),
        }
    }

    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    pub fn findings(&self) -> usize {
        self.findings.len()
    }

    pub fn finding(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    pub fn store(&mut self, store: &Store, pages: &CheckReport) {
        let trees = pages.entries.iter().filter(|entries| **entries > 0).count();
        let entries: u64 = pages.entries.iter().sum();
        let slots = store.meta_slots();
        let newest = slots.iter().filter_map(|slot| slot.checkpoint.ok()).max().unwrap_or(0);
        self.lines.push(format!(
            "store {}: {}, checkpoint {}, all up to entry {}; pages: {} in use ({} leaves, {} inner \
             nodes, {} of long values), {} free; {} records in {trees} trees",
            self.store_path.display(),
            HumanBytes(store.file_len()),
            HumanCount(newest),
            HumanCount(store.durable_mark()),
            HumanCount(pages.live_pages.into()),
            HumanCount(pages.leaf_pages.into()),
            HumanCount(pages.inner_pages.into()),
            HumanCount(pages.run_pages.into()),
            HumanCount(pages.available_pages.into()),
            HumanCount(entries),
        ));
        for MetaSlot { offset, checkpoint } in slots {
            if let Err(why) = checkpoint
                && !(newest == 0 && offset > 0)
            {
                self.lines.push(format!(
                    "note: the meta at offset {offset} cannot be used: {why}; a checkpoint was \
                     interrupted there, or it has rotted. The other one counts"
                ));
            }
        }
        self.values.insert(
            "store".to_owned(),
            json!({
                "bytes": store.file_len(),
                "checkpoint": newest,
                "entry": store.durable_mark(),
                "pages_in_use": pages.live_pages,
                "pages_free": pages.available_pages,
                "records": entries,
            }),
        );
    }

    pub fn log(&mut self, verified: &wal::Verified, recovered: &Recovered) {
        for error in &verified.findings {
            self.findings.push(of_log(&self.log_path, error));
        }
        let mut line = format!(
            "log {}: {} segments, {}, {} batches, the last entry is {}",
            self.log_path.display(),
            HumanCount(verified.segments),
            HumanBytes(verified.bytes),
            HumanCount(verified.batches),
            HumanCount(recovered.last_index()),
        );
        if let Some((place, case)) = &verified.end {
            let _ = write!(line, "; it ends in {place}: {}: {}", case.name, case.meaning);
        }
        self.lines.push(line);
        self.values.insert(
            "log".to_owned(),
            json!({
                "segments": verified.segments,
                "bytes": verified.bytes,
                "batches": verified.batches,
                "last_entry": recovered.last_index(),
                "first_entry_beyond_store": recovered.first_needed(),
                "end": verified.end.as_ref().map(|(place, case)| json!({
                    "segment": place.segment.file_name(),
                    "offset": place.offset,
                    "case": case.name,
                })),
            }),
        );
    }

    /// Whether a member could start from both.
    pub fn together(&mut self, together: Result<(), String>) {
        match together {
            Ok(()) => self.lines.push("log and store fit together".to_owned()),
            Err(what) => self.finding(Finding::at(&self.log_path.clone(), None, what)),
        }
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        let findings = self.findings.iter().map(Finding::line);
        let verdict = match self.findings.len() {
            0 => "sound".to_owned(),
            1 => "damaged: 1 finding".to_owned(),
            more => format!("damaged: {more} findings"),
        };
        for line in self.lines.iter().cloned().chain(findings).chain([verdict]) {
            let _ = writeln!(out, "{line}");
        }
        out
    }

    pub fn json(&self) -> String {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|finding| {
                json!({
                    "file": finding.path.to_string_lossy(),
                    "offset": finding.offset,
                    "what": finding.what,
                })
            })
            .collect();
        let mut all = self.values.clone();
        all.insert("sound".to_owned(), json!(findings.is_empty()));
        all.insert("findings".to_owned(), json!(findings));
        format!("{}\n", Value::Object(all))
    }
}

fn of_log(dir: &Path, error: &wal::RecoverError) -> Finding {
    use wal::RecoverError::{Damaged, List, Missing, Read, Size};
    let (segment, offset, what) = match error {
        List(error) => return Finding::at(dir, None, error.to_string()),
        Read { segment, source } => (segment, None, format!("cannot be read: {source}")),
        Size { segment, bytes } => {
            (segment, Some(*bytes), "the file ends there, which is not a multiple of 4096".into())
        }
        Missing { missing, found } => {
            (missing, None, format!("the segment is missing, but {found} is there"))
        }
        Damaged { segment, offset, case } => {
            (segment, Some(*offset), format!("{}: {}", case.name, case.meaning))
        }
    };
    Finding::at(&dir.join(segment.file_name()), offset, what)
}
