//! `/debug/pprof/` and `/debug/requests`: etcd's doors for a look into the process, on client ports, opened by its flags.
//! Behind them is what this process has. It has no Go runtime that makes profiles of itself: who asks for one is told,
//! with 501, what to use instead.

use std::collections::VecDeque;
use std::fmt::Write;

use super::Core;
use super::http::{Request, Response};
use super::limits::{TRACES_LAST_MAX, TRACES_SLOWEST_MAX};
use super::method::Method;
use crate::grpc::Code;

const HTML: &str = "text/html; charset=utf-8";

/// Names of Go's profiles, and what takes their place.
const PROFILES: &[(&str, &str)] = &[
    ("allocs", MEMORY),
    ("block", WAITING),
    ("goroutine", THREADS),
    ("heap", MEMORY),
    ("mutex", WAITING),
    ("profile", "perf record -g -p $(pidof ringd) -- sleep 30, then perf report"),
    ("symbol", "perf report names the addresses of perf record"),
    ("threadcreate", THREADS),
    ("trace", "perf trace -p $(pidof ringd), or strace -f -p $(pidof ringd)"),
];
const MEMORY: &str = "process_resident_memory_bytes and ringd_store_dirty_bytes in /metrics; heaptrack -p $(pidof ringd)";
const WAITING: &str = "one thread serves all, and waits for no lock; ringd_turn_duration_seconds and ringd_turn_longest_seconds in /metrics";
const THREADS: &str =
    "gdb -p $(pidof ringd) -batch -ex 'thread apply all bt', or ls /proc/$(pidof ringd)/task";

/// A call that was answered. Nothing of what was in it is kept.
struct Trace {
    method: Method,
    since_ms: u64,
    took_ms: u64,
    code: Code,
    bytes: usize,
}

/// The calls that were answered last, and those that took longest.
#[derive(Default)]
pub struct Traces {
    last: VecDeque<Trace>,
    /// Slowest first.
    slowest: Vec<Trace>,
}

impl Traces {
    pub fn add(&mut self, method: Method, since_ms: u64, took_ms: u64, code: Code, bytes: usize) {
        let trace = || Trace { method, since_ms, took_ms, code, bytes };
        if self.last.len() == TRACES_LAST_MAX {
            self.last.pop_front();
        }
        self.last.push_back(trace());
        let at = self.slowest.partition_point(|slower| slower.took_ms >= took_ms);
        if at < TRACES_SLOWEST_MAX {
            self.slowest.truncate(TRACES_SLOWEST_MAX - 1);
            self.slowest.insert(at, trace());
        }
    }

    fn page(&self, now_ms: u64) -> String {
        let mut page = "<html><head><title>/debug/requests</title></head><body>\n".to_owned();
        let mut table = |title: &str, traces: &mut dyn Iterator<Item = &Trace>| {
            let _ = writeln!(page, "<h1>{title}</h1>\n<pre>");
            let _ = writeln!(page, "seconds ago   took ms  code              bytes  method");
            for Trace { method, since_ms, took_ms, code, bytes } in traces {
                let ago = now_ms.saturating_sub(*since_ms) as f64 / 1e3;
                let (code, path) = (code.name(), method.describe().path);
                let _ = writeln!(page, "{ago:>11.3} {took_ms:>9}  {code:<16} {bytes:>6}  {path}");
            }
            page.push_str("</pre>\n");
        };
        table("Answered last", &mut self.last.iter().rev());
        table("Slowest", &mut self.slowest.iter());
        page + "</body></html>\n"
    }
}

impl Core {
    /// None where there is no such page, or its door is shut.
    pub(super) fn debug_page(&self, request: &Request) -> Option<Response> {
        let page = request.path.strip_prefix("/debug/")?;
        match page {
            "requests" if self.options.traces => {
                Some(Response::of(HTML, self.traces.page(self.now_ms)))
            }
            "events" if self.options.traces => Some(Response::of(
                HTML,
                "<html><head><title>events</title></head><body>What happens is in the log.</body></html>\n",
            )),
            "pprof" if self.options.pprof => {
                let link = "<a href=\"/debug/pprof/\">Temporary Redirect</a>.\n\n";
                let mut response = Response { status: 307, ..Response::of(HTML, link) };
                response.fields.push(("Location", "/debug/pprof/".into()));
                Some(response)
            }
            page if self.options.pprof => Some(self.profile(page.strip_prefix("pprof/")?)),
            _ => None,
        }
    }

    fn profile(&self, name: &str) -> Response {
        if name.is_empty() {
            let mut index = "<html><head><title>/debug/pprof/</title></head><body>\n<p>ringd makes no profiles of itself. \
                 What takes their place:</p>\n<pre>\n"
                .to_owned();
            let _ = writeln!(index, "{:<13} <a href=\"cmdline\">how it was started</a>", "cmdline");
            for (name, instead) in PROFILES {
                let _ = writeln!(index, "{name:<13} {instead}");
            }
            let mut response = Response::of(HTML, index + "</pre></body></html>\n");
            response.fields.push(("X-Content-Type-Options", "nosniff".into()));
            return response;
        }
        if name == "cmdline" {
            return Response::text(200, self.options.command_line.join("\0"));
        }
        match PROFILES.iter().find(|(known, _)| *known == name) {
            Some((_, instead)) => Response::text(
                501,
                format!("ringd has no profile {name}. In its place: {instead}\n"),
            ),
            None => {
                let mut response = Response::text(404, "Unknown profile\n");
                response.fields.push(("X-Go-Pprof", "1".into()));
                response
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_and_the_slowest_calls_are_kept_and_no_more() {
        let mut traces = Traces::default();
        for n in 0..10_000 {
            // Slow ones are early.
            traces.add(Method::Put, n, 10_000 - n, Code::Ok, 1);
        }
        assert_eq!(
            (traces.last.len(), traces.slowest.len()),
            (TRACES_LAST_MAX, TRACES_SLOWEST_MAX)
        );
        assert_eq!(traces.last.back().unwrap().since_ms, 9_999);
        let slowest: Vec<u64> = traces.slowest.iter().map(|trace| trace.since_ms).collect();
        assert_eq!(slowest, (0..TRACES_SLOWEST_MAX as u64).collect::<Vec<_>>());
        assert!(traces.page(10_000).contains("/etcdserverpb.KV/Put"));
    }
}
