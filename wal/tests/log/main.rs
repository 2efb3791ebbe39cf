//! The log on a simulated disk: what must hold after any crash, any flipped bit, any full disk.

mod crash;
mod disk;
mod driver;
mod faults;
mod flips;
mod format;
#[cfg(feature = "mutants")]
mod mutants;
mod round_trip;
mod rows;
mod segments;
mod verify;
