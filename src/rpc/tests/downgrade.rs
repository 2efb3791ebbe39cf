//! A downgrade as a client sees it while time passes: enabled, lowered at the leader's next look, cancelled, raised.

use super::fixture::{Bed, Peer};
use crate::proto::etcdserverpb::downgrade_request::DowngradeAction::{
    self, Cancel, Enable, Validate,
};
use crate::proto::etcdserverpb::{
    DowngradeRequest, DowngradeResponse, StatusRequest, StatusResponse,
};
use crate::rpc::method::Method;

const BAD_TARGET: Outcome<'static> = Err("etcdserver: invalid downgrade target version");
const BAD_FORMAT: Outcome<'static> = Err("etcdserver: wrong downgrade target version format");
const IN_PROGRESS: Outcome<'static> = Err("etcdserver: cluster has a downgrade job in progress");
/// More than the time between two looks of the leader.
const LOOK_MS: u64 = 4_100;

type Outcome<'a> = Result<&'a str, &'a str>;

fn ask(
    bed: &mut Bed,
    peer: &mut Peer,
    action: DowngradeAction,
    version: &str,
) -> Result<String, String> {
    let request = DowngradeRequest { action: action as i32, version: version.to_owned() };
    let stream = peer.call(bed, Method::Downgrade.describe().path, &request);
    bed.settle();
    peer.take(bed);
    match peer.answer(stream) {
        (Some("0"), _) => Ok(peer.answers[&stream].message::<DowngradeResponse>().version),
        (_, text) => Err(text.to_owned()),
    }
}

/// The version of the data, and what is said of a downgrade.
fn status(bed: &mut Bed, peer: &mut Peer) -> (String, bool, String) {
    let stream = peer.call(bed, Method::Status.describe().path, &StatusRequest {});
    bed.settle();
    peer.take(bed);
    let status: StatusResponse = peer.answers[&stream].message();
    let info = status.downgrade_info.unwrap();
    (status.storage_version, info.enabled, info.target_version)
}

fn pass(bed: &mut Bed, ms: u64) {
    for _ in 0..ms / 50 {
        bed.now_ms += 49;
        bed.turn();
        bed.finish_log_write();
    }
}

fn is(found: Result<String, String>, expected: Outcome<'_>) {
    assert_eq!(found.as_deref().map_err(String::as_str), expected);
}

#[test]
fn the_version_goes_down_with_the_leaders_next_look_and_up_again() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    // Just after a look, so that the next one is seconds away.
    pass(&mut bed, LOOK_MS);
    let said =
        |version: &str, target: &str| (version.to_owned(), !target.is_empty(), target.to_owned());
    is(ask(&mut bed, &mut peer, Cancel, ""), Ok("3.7"));
    is(ask(&mut bed, &mut peer, Enable, "3.6"), Ok("3.7"));
    assert_eq!(status(&mut bed, &mut peer), said("3.7.0", "3.6.0"));
    is(ask(&mut bed, &mut peer, Validate, "3.6"), IN_PROGRESS);
    is(ask(&mut bed, &mut peer, Enable, "3.6"), IN_PROGRESS);
    is(ask(&mut bed, &mut peer, Validate, "3.5"), BAD_TARGET);
    pass(&mut bed, LOOK_MS);
    assert_eq!(status(&mut bed, &mut peer), said("3.6.0", "3.6.0"));
    is(ask(&mut bed, &mut peer, Validate, "3.6"), BAD_TARGET);
    is(ask(&mut bed, &mut peer, Validate, "3.5"), IN_PROGRESS);
    is(ask(&mut bed, &mut peer, Cancel, ""), Ok("3.6"));
    pass(&mut bed, LOOK_MS);
    assert_eq!(status(&mut bed, &mut peer), said("3.7.0", ""));
    // Between two looks nothing of it shows.
    is(ask(&mut bed, &mut peer, Enable, "3.6"), Ok("3.7"));
    is(ask(&mut bed, &mut peer, Cancel, ""), Ok("3.7"));
    pass(&mut bed, LOOK_MS);
    assert_eq!(status(&mut bed, &mut peer), said("3.7.0", ""));
}

/// As a real etcd has taken each.
#[test]
fn a_target_is_read_as_etcd_reads_it() {
    let mut bed = Bed::ready();
    let mut peer = bed.connect();
    for good in ["3.6", "3.6.0", "3.6.9", "03.6.0", "3.6.0-rc.1", "3.6.0+build"] {
        is(ask(&mut bed, &mut peer, Validate, good), Ok("3.7"));
    }
    for bad in ["3.5", "3.7", "3.8.0", "4.6", "2.6"] {
        is(ask(&mut bed, &mut peer, Validate, bad), BAD_TARGET);
    }
    for bad in ["", "3", "v3.6", "3.6.x", "3.6-rc", "3.6+x", "3.6.0.0", "3.6.0-rc..1", "3..6"] {
        is(ask(&mut bed, &mut peer, Validate, bad), BAD_FORMAT);
    }
}
