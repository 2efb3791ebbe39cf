//! The log on a simulated disk: what must hold after any crash, any flipped bit, any full disk.

mod crash;
mod disk;
mod driver;
mod flips;
mod format;
mod round_trip;
mod rows;
mod segments;
