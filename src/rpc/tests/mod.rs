//! The request layer without sockets and disks: what arrives is bytes, what leaves is bytes, and the log is
//! durable when a test says so.

mod bounds;
mod connections;
mod downgrade;
mod fixture;
mod fuzz;
mod gateway;
mod leaders;
mod matrix;
mod plain;
mod recipes;
mod reflection;
