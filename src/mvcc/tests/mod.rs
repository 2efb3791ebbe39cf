//! The whole layer against a model that keeps every change in a list and answers by going
//! through it, and one test for each rule of etcd that is easily got wrong.

mod cost;
mod directed;
pub mod fixture;
mod model;
mod random;
