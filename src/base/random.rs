//! Random numbers from a given seed, and the unique ids that NATS programs make of them.

/// Base-62 digits of the ids, in the order that NATS uses.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Length of an id in characters.
pub const ID_LEN: usize = 22;

/// A small generator (`SplitMix64`): the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator that starts from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below 0");
        // The bias is below 2^-32 for every bound that the server uses.
        self.next_u64() % bound
    }

    /// A unique id: 22 base-62 characters (spec: protocol, vocabulary, NUID).
    pub fn unique_id(&mut self) -> String {
        (0..ID_LEN).map(|_| self.digit()).collect()
    }

    fn digit(&mut self) -> char {
        let index = usize::try_from(self.below(62)).expect("below 62");
        char::from(DIGITS[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_ids() {
        assert_eq!(Random::new(7).unique_id(), Random::new(7).unique_id());
        assert_ne!(Random::new(7).unique_id(), Random::new(8).unique_id());
        assert_eq!(Random::new(7).unique_id().len(), ID_LEN);
    }
}
