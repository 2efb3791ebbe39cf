//! Whole clusters of the node that runs in production, in one thread, in virtual time, at the
//! mercy of a seed.
//!
//! `cargo test --test sim` runs some seeds; `SIM_SEED=17 cargo test --release --test sim one_seed
//! -- --nocapture` replays one; `SIM_MINUTES=600 cargo test --release --test sim for_hours --
//! --nocapture` goes on for so long with seeds that nobody has tried.

mod client;
mod disk;
mod faults;
mod front;
mod history;
mod laws;
mod leases;
mod member;
mod model;
#[cfg(feature = "mutants")]
mod mutants;
mod odds;
mod random;
mod report;
mod runs;
mod settle;
mod shadow;
mod trace;
mod truth;
mod watching;
mod world;
