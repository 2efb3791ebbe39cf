//! What is compared, and what ringd is to reach.

/// A figure of a run. Where it is a ratio, it is ringd's divided by etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Per second: requests, or what [`Shape::of`] names.
    Throughput,
    P50,
    P99,
    P999,
    /// CPU time of the server for each request, microseconds.
    Cpu,
    /// Highest anonymous resident memory, octets.
    Heap,
    /// What the heap grew by for each watcher, octets.
    HeapPerWatcher,
    /// Octets on the disk at the end.
    Disk,
}

#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// ringd's figure is at least this many times etcd's.
    AtLeastTimes(Metric, f64),
    /// ringd's figure is at most this part of etcd's.
    AtMostTimes(Metric, f64),
    /// Throughput as above; where the generator is the limit, CPU time at most this part instead.
    ThroughputOrCpu {
        at_least: f64,
        cpu_at_most: f64,
    },
    AtLeast(Metric, f64),
    AtMost(Metric, f64),
}

/// Which servers a shape is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subjects {
    Both,
    /// Targets that name no other server.
    RingdAlone,
}

pub struct Shape {
    pub name: &'static str,
    pub what: &'static str,
    pub subjects: Subjects,
    pub server_args: &'static [&'static str],
    /// The server has the first CPU for itself, the generator the others.
    pub is_pinned: bool,
    /// `ringd bench` before anything is measured.
    pub prepare: Vec<&'static str>,
    /// `ringd bench` that is measured.
    pub load: Vec<&'static str>,
    /// The operation whose throughput and latencies count; all requests without one.
    pub of: Option<&'static str>,
    pub watchers: Option<u64>,
    pub targets: Vec<Target>,
}

/// What `--quick` puts in the place of these words.
pub const QUICK: [(&str, &str); 6] = [
    ("6s", "500ms"),
    ("4s", "500ms"),
    ("1s", "100ms"),
    ("1000000", "20000"),
    ("100000", "5000"),
    ("3s", "300ms"),
];

fn words(line: &'static str) -> Vec<&'static str> {
    line.split_whitespace().collect()
}

/// The same for clusters: what pins a server to one core is about one member, and what is a target of
/// one member is none of several that share the machine.
pub fn of_clusters(tls: bool) -> Vec<Shape> {
    let targets = |name: &str| match name {
        "put-10x20" | "put-100x10" => vec![
            Target::AtLeastTimes(Metric::Throughput, 5.0),
            Target::AtMostTimes(Metric::P99, 0.333),
        ],
        _ => Vec::new(),
    };
    let both = all(tls).into_iter().filter(|shape| shape.subjects == Subjects::Both);
    both.map(|shape| Shape { targets: targets(shape.name), ..shape }).collect()
}

/// With TLS the cryptography is the same for both, and other targets hold for puts.
pub fn all(tls: bool) -> Vec<Shape> {
    use Metric::{Cpu, Heap, HeapPerWatcher, P50, P99, Throughput};
    use Target::{AtLeast, AtLeastTimes, AtMost, AtMostTimes, ThroughputOrCpu};
    let shape = |name, what, prepare, load, targets| Shape {
        name,
        what,
        subjects: Subjects::Both,
        server_args: &[],
        is_pinned: false,
        prepare: words(prepare),
        load: words(load),
        of: None,
        watchers: None,
        targets,
    };
    let put_targets = || match tls {
        true => vec![AtLeastTimes(Throughput, 4.0)],
        false => vec![AtLeastTimes(Throughput, 8.0), AtMostTimes(P99, 0.25), AtMostTimes(Cpu, 0.1)],
    };
    let one_core = |name, what, args, prepare, load, targets| Shape {
        subjects: Subjects::RingdAlone,
        server_args: args,
        is_pinned: true,
        ..shape(name, what, prepare, load, targets)
    };
    let mut shapes = vec![
        shape(
            "put-10x20",
            "puts of 256 B over 10 connections x 20 streams",
            "put -c 10 -s 20 -d 1s",
            "put -c 10 -s 20 -d 6s",
            put_targets(),
        ),
        shape(
            "put-100x10",
            "puts of 256 B over 100 connections x 10 streams",
            "put -c 100 -s 10 -d 1s",
            "put -c 100 -s 10 -d 6s",
            put_targets(),
        ),
        shape(
            "put-1x1",
            "puts of 256 B, one after the other",
            "put -c 1 -s 1 -d 1s",
            "put -c 1 -s 1 -d 4s",
            vec![AtMostTimes(P50, 0.6)],
        ),
        shape(
            "get-10x20",
            "linearizable gets of 256 B out of 10,000 keys, 10 connections x 20 streams",
            "range --prefill 10000 -d 1s",
            "range --keys 10000 -c 10 -s 20 -d 6s",
            vec![ThroughputOrCpu { at_least: 5.0, cpu_at_most: 0.1 }],
        ),
        shape(
            "kubernetes",
            "the mix of API servers: 1,000 nodes, 10,000 pods of 1 KiB, 6 watches, 10 x 20",
            "put -c 1 -s 1 -n 1",
            "kubernetes --nodes 1000 --keys 10000 --value-size 1024 -c 10 -s 20 -w 1s -d 6s",
            vec![AtLeastTimes(Throughput, 6.0), AtMostTimes(P99, 0.25)],
        ),
        Shape {
            of: Some("delivery"),
            ..shape(
                "watch-1000",
                "1,000 watchers of one prefix over 10 connections, 1,000 puts/s of 64 B",
                "put -c 1 -s 1 -n 1",
                "watch --watchers 1000 --watch-streams 10 --rate 1000 --value-size 64 -w 1s -d 6s",
                vec![AtMostTimes(P99, 0.25)],
            )
        },
        Shape {
            watchers: Some(100_000),
            ..shape(
                "watchers-idle",
                "100,000 watchers over 10 connections x 10 streams, and nothing to tell them",
                "put -c 10 -s 1 -n 100",
                "watch --idle --watchers 100000 --watch-streams 100 -c 10 -d 3s",
                vec![AtMost(HeapPerWatcher, 350.0)],
            )
        },
        shape(
            "count-1m",
            "counts of 1,000,000 keys, one after the other; heap with 1,000,000 keys of 256 B",
            "put --prefill 1000000 -n 1",
            "range --keys 1000000 --count-only -c 1 -s 1 -d 4s",
            vec![AtLeastTimes(Throughput, 1_000.0), AtMostTimes(Heap, 0.125)],
        ),
        shape(
            "list-100k",
            "lists of 100,000 keys of 1 KiB, one after the other",
            "put --prefill 100000 --value-size 1024 -n 1",
            "range --keys 100000 --limit 0 -c 1 -s 1 -d 6s",
            vec![AtLeastTimes(Throughput, 3.0)],
        ),
        one_core(
            "core-put-durable",
            "puts of 256 B with one core for the server, 10 x 100, durable",
            &[],
            "put -c 10 -s 100 -d 1s",
            "put -c 10 -s 100 -d 4s",
            vec![],
        ),
        one_core(
            "core-put-no-fsync",
            "the same with --unsafe-no-fsync: what the core could put into a log",
            &["--unsafe-no-fsync"],
            "put -c 10 -s 100 -d 1s",
            "put -c 10 -s 100 -d 4s",
            vec![AtLeast(Throughput, 100_000.0)],
        ),
        one_core(
            "core-unary",
            "unary requests with nothing behind them (serializable get of no key), one core, 10 x 100",
            &[],
            "range --serializable --keys 10 -c 10 -s 100 -d 1s",
            "range --serializable --keys 10 -c 10 -s 100 -d 4s",
            vec![AtLeast(Throughput, 200_000.0)],
        ),
    ];
    if tls {
        shapes.push(shape(
            "handshakes",
            "handshakes with certificates on both sides and one serializable get each, 20 at a time",
            "put -c 1 -s 1 -n 1",
            "range --serializable --keys 10 -c 20 -s 1 --reconnect -w 1s -d 6s",
            vec![],
        ));
    }
    shapes
}
