//! Numbers that look random and are the same each time, for the fuzz tests of several crates: a file, so that none needs another.

/// Marsaglia's xorshift.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// The next.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One below `end`; 0 where there is none.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }
}
