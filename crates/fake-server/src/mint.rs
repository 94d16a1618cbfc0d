//! Tokens, codes and ids in Bitrix24's format. Must be predictable: the same seed gives the same tokens.

use std::fmt::Write as _;
use std::sync::Arc;

use refreshd_time::Timestamp;

/// Generator of tokens. Not for real secrets.
#[derive(Debug)]
pub(super) struct Mint(fastrand::Rng);

impl Mint {
    pub(super) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// 70 hex digits: the expiry as a little-endian `u32`, three ids, and 152 random bits.
    pub(super) fn token(
        &mut self,
        ends_at: Timestamp,
        portal: usize,
        grant: usize,
        user_id: u64,
    ) -> Arc<str> {
        let ends_at = u32::try_from(ends_at.secs().max(0))
            .unwrap_or(u32::MAX)
            .swap_bytes();
        let ids = format!(
            "{ends_at:08x}{:08x}{:08x}{:08x}",
            portal as u32, grant as u32, user_id as u32
        );
        (ids + &self.hex(38)).into()
    }

    /// Random lower-case hex digits.
    pub(super) fn hex(&mut self, digits: usize) -> String {
        let mut out = String::with_capacity(digits + 16);
        while out.len() < digits {
            // Writing to a String cannot fail.
            let _ = write!(out, "{:016x}", self.0.u64(..));
        }
        out.truncate(digits);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_shape_of_bitrix24s_and_its_end_in_front() {
        let mut mint = Mint::new(1);
        let token = mint.token(Timestamp::from_secs(1_771_943_628), 0x71b, 0x844, 27);
        assert_eq!(token.len(), 70);
        assert!(
            token.starts_with("ccb69d690000071b000008440000001b"),
            "{token}"
        );
        assert!(token.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens_and_no_token_comes_twice() {
        let (mut one, mut two) = (Mint::new(7), Mint::new(7));
        let first = one.hex(38);
        assert_eq!(first, two.hex(38));
        assert_ne!(first, one.hex(38));
        assert_ne!(first, Mint::new(8).hex(38));
    }
}
