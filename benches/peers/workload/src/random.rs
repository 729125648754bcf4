/// A seeded sequence, equal for every peer. xorshift64, Marsaglia 2003.
pub struct Random(u64);

impl Random {
    pub fn seeded(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ (seed + 1).wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    /// A number from 0 to just below `end`.
    pub fn below(&mut self, end: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as i64
    }

    /// The id of a user.
    pub fn user(&mut self) -> i64 {
        self.below(crate::USERS) + 1
    }
}
