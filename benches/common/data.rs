//! Keys and values as Kubernetes has them, the same in every run.

/// Splitmix64: a bijection, so that different numbers stay different.
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Numbers that are the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % end
    }
}

const APPS: [&str; 8] = [
    "api-gateway",
    "billing",
    "cart",
    "checkout",
    "inventory",
    "payments",
    "search",
    "web-frontend",
];

/// `/registry/pods/<namespace>/<name>`, of about 50 bytes; numbers in order are keys in disorder.
pub fn key(number: u64) -> Vec<u8> {
    let h = mix(number);
    let app = APPS[(h % 8) as usize];
    let namespace = (h >> 3) % 200;
    format!("/registry/pods/team-{namespace:03}/{app}-{:010x}-{:06x}", h >> 24, h & 0xff_ffff)
        .into_bytes()
}

/// Bytes that do not compress.
pub fn value(number: u64, bytes: usize) -> Vec<u8> {
    (0..bytes.div_ceil(8) as u64)
        .flat_map(|word| mix(number ^ word << 40).to_le_bytes())
        .take(bytes)
        .collect()
}
