//! Numbers that no two processes or machines are likely to share. They are names, not secrets.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{SystemTime, UNIX_EPOCH};

/// A random number. A forked child has its parent's random state, so its process and the time are hashed, too.
pub(crate) fn number() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_u128(now.map_or(0, |now| now.as_nanos()));
    hasher.finish()
}
