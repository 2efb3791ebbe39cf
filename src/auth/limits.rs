//! Every bound of this layer, each with its origin.

/// Bytes of the name of a user or a role: what a key of the store has room for behind its prefix. etcd's store
/// takes names of 32 KiB.
pub const NAME_BYTES_MAX: usize = 3_900;

/// Simple tokens that are kept at once. Chosen: each has cost a comparison of a password, which takes some
/// milliseconds at the least, and lives for five minutes. When there are more, the one that would expire first
/// goes.
pub const TOKENS_MAX: usize = 100_000;

/// How often expired tokens are removed: etcd's interval.
pub const TOKEN_SWEEP_MS: u64 = 1_000;
