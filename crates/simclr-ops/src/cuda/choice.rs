//! Which of the algorithms that a library offers is taken.

/// An algorithm as the library describes it, best first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Offer<A> {
    pub(crate) algorithm: A,
    /// Whether the library has it for this problem on this device.
    pub(crate) is_supported: bool,
    /// Whether it gives the same bits every time.
    pub(crate) is_deterministic: bool,
    /// Bytes of memory that it works in.
    pub(crate) workspace: usize,
}

/// The first of `offers` that is supported, gives the same bits every time and works in at most `most` bytes; if all of these need
/// more, the one that needs the least.
pub(crate) fn choose<A: Copy>(offers: &[Offer<A>], most: usize) -> Option<Offer<A>> {
    let possible = || offers.iter().filter(|offer| offer.is_supported && offer.is_deterministic);
    possible().find(|offer| offer.workspace <= most).or_else(|| possible().min_by_key(|offer| offer.workspace)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(algorithm: u8, is_supported: bool, is_deterministic: bool, workspace: usize) -> Offer<u8> {
        Offer { algorithm, is_supported, is_deterministic, workspace }
    }

    #[test]
    fn the_first_that_gives_the_same_bits_in_the_memory_there_is() {
        let offers =
            [offer(0, true, false, 0), offer(1, false, true, 0), offer(2, true, true, 50), offer(3, true, true, 10)];
        let taken = |most| choose(&offers, most).map(|offer| offer.algorithm);
        assert_eq!((taken(50), taken(49), taken(9)), (Some(2), Some(3), Some(3)));
        assert_eq!(choose(&offers[..2], 50), None);
    }
}
