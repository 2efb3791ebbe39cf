//! What the network between members does, under etcd's names.

use prometheus::{
    CounterVec, Encoder, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry, TextEncoder,
    exponential_buckets,
};

/// Counters of each member, by its id in hexadecimal.
pub struct PeerMetrics {
    registry: Registry,
    local: String,
    sent_bytes: CounterVec,
    sent_failures: CounterVec,
    received_bytes: CounterVec,
    received_failures: CounterVec,
    active: GaugeVec,
    disconnected: CounterVec,
    round_trip_seconds: HistogramVec,
}

impl PeerMetrics {
    pub fn new(own: u64) -> PeerMetrics {
        PeerMetrics::build(own).expect("names and labels are constants, and differ")
    }

    fn build(own: u64) -> prometheus::Result<PeerMetrics> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = CounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let sent_bytes =
            counter("etcd_network_peer_sent_bytes_total", "Bytes sent to a member.", &["To"])?;
        let sent_failures = counter(
            "etcd_network_peer_sent_failures_total",
            "Messages to a member that were dropped.",
            &["To"],
        )?;
        let received_bytes = counter(
            "etcd_network_peer_received_bytes_total",
            "Bytes received from a member.",
            &["From"],
        )?;
        let received_failures = counter(
            "etcd_network_peer_received_failures_total",
            "Connections of a member that ended with an error.",
            &["From"],
        )?;
        let disconnected = counter(
            "etcd_network_disconnected_peers_total",
            "How often the connection to a member was lost.",
            &["Local", "Remote"],
        )?;
        let active = GaugeVec::new(
            Opts::new("etcd_network_active_peers", "Whether a member is connected."),
            &["Local", "Remote"],
        )?;
        registry.register(Box::new(active.clone()))?;
        // etcd's buckets: from 0.1 ms, doubling, 16 of them.
        let options = HistogramOpts::new(
            "etcd_network_peer_round_trip_time_seconds",
            "Time of a ping to a member and back.",
        );
        let options = options.buckets(exponential_buckets(0.0001, 2.0, 16)?);
        let round_trip_seconds = HistogramVec::new(options, &["To"])?;
        registry.register(Box::new(round_trip_seconds.clone()))?;
        Ok(PeerMetrics {
            registry,
            local: format!("{own:x}"),
            sent_bytes,
            sent_failures,
            received_bytes,
            received_failures,
            active,
            disconnected,
            round_trip_seconds,
        })
    }

    pub fn sent(&self, to: u64, bytes: usize) {
        self.sent_bytes.with_label_values(&[&format!("{to:x}")]).inc_by(bytes as f64);
    }

    /// `count` in all, since the process was started.
    pub fn dropped(&self, to: u64, count: u64) {
        let counter = self.sent_failures.with_label_values(&[&format!("{to:x}")]);
        counter.inc_by((count as f64 - counter.get()).max(0.0));
    }

    pub fn received(&self, from: u64, bytes: usize) {
        self.received_bytes.with_label_values(&[&format!("{from:x}")]).inc_by(bytes as f64);
    }

    pub fn receive_failed(&self, from: u64) {
        self.received_failures.with_label_values(&[&format!("{from:x}")]).inc();
    }

    pub fn connected(&self, remote: u64) {
        self.active.with_label_values(&[&self.local, &format!("{remote:x}")]).set(1.0);
    }

    pub fn disconnected(&self, remote: u64) {
        let remote = format!("{remote:x}");
        let labels = [self.local.as_str(), remote.as_str()];
        self.active.with_label_values(&labels).set(0.0);
        self.disconnected.with_label_values(&labels).inc();
    }

    pub fn round_trip(&self, to: u64, seconds: f64) {
        self.round_trip_seconds.with_label_values(&[&format!("{to:x}")]).observe(seconds);
    }

    /// Prometheus text.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("a vector grows, and every metric has a value");
        String::from_utf8(text).expect("names, labels and numbers are UTF-8")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_counted_under_etcds_names() {
        let metrics = PeerMetrics::new(0xab);
        metrics.sent(0xcd, 100);
        metrics.dropped(0xcd, 3);
        metrics.dropped(0xcd, 5);
        metrics.connected(0xcd);
        metrics.round_trip(0xcd, 0.001);
        let text = metrics.render();
        for line in [
            "etcd_network_peer_sent_bytes_total{To=\"cd\"} 100",
            "etcd_network_peer_sent_failures_total{To=\"cd\"} 5",
            "etcd_network_active_peers{Local=\"ab\",Remote=\"cd\"} 1",
            "etcd_network_peer_round_trip_time_seconds_count{To=\"cd\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        metrics.disconnected(0xcd);
        let text = metrics.render();
        assert!(text.contains("etcd_network_active_peers{Local=\"ab\",Remote=\"cd\"} 0"));
    }
}
