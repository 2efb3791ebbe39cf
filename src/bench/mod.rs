//! The load generator behind `ringd bench`, but for its sockets and its clock (`shell::bench`).
//!
//! A folder or file is one concern: `options` is the command line, `client` the client side of HTTP/2
//! and gRPC, `work` what is asked of the server, `schedule` when, `stats` what came of it, `engine`
//! all of these together, and `report` how it is shown.
//!
//! Invariants:
//! - The same options and seed ask the same requests in the same order of slots.
//! - In the open loop a latency counts from the moment at which the request was to be sent, whether a
//!   slot was free then or not: a server that stalls is charged for all requests of the stall.
//! - What a server sends is never trusted: it can end a connection, never the program.
//!
//! It deliberately knows neither sockets nor clocks (times are nanoseconds that it is given), nor which
//! server it loads.

mod client;
mod engine;
mod limits;
mod options;
mod random;
mod report;
mod schedule;
mod stats;
mod wire;
mod work;

pub use client::{Broken, Connection, Event, Method, Outcome, Want};
pub use engine::{Engine, LinkId};
pub use limits::READ_BYTES;
pub use options::{Asked, Options, Shape, address, parse};
pub use report::{Curve, ErrorReport, Latency, Operation, Report, SecondReport, plot, table};
