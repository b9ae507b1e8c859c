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
    /// Milliseconds that it took, where that was measured.
    pub(crate) milliseconds: Option<f32>,
}

/// The first of `offers` that is supported, gives the same bits every time and works in at most `most` bytes; if all of these need
/// more, the one that needs the least.
pub(crate) fn choose<A: Copy>(offers: &[Offer<A>], most: usize) -> Option<Offer<A>> {
    let possible = || offers.iter().filter(|offer| offer.is_supported && offer.is_deterministic);
    possible().find(|offer| offer.workspace <= most).or_else(|| possible().min_by_key(|offer| offer.workspace)).copied()
}

/// The one of `offers` that took the least time of those that are supported, were measured and work in at most `most` bytes, whether
/// or not it gives the same bits every time.
pub(crate) fn fastest<A: Copy>(offers: &[Offer<A>], most: usize) -> Option<Offer<A>> {
    let possible = offers.iter().filter(|offer| offer.is_supported && offer.workspace <= most);
    let timed = possible.filter_map(|offer| Some((offer.milliseconds?, offer)));
    timed.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, offer)| *offer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(algorithm: u8, is_supported: bool, is_deterministic: bool, workspace: usize) -> Offer<u8> {
        Offer { algorithm, is_supported, is_deterministic, workspace, milliseconds: None }
    }

    #[test]
    fn the_first_that_gives_the_same_bits_in_the_memory_there_is() {
        let offers =
            [offer(0, true, false, 0), offer(1, false, true, 0), offer(2, true, true, 50), offer(3, true, true, 10)];
        let taken = |most| choose(&offers, most).map(|offer| offer.algorithm);
        assert_eq!((taken(50), taken(49), taken(9)), (Some(2), Some(3), Some(3)));
        assert_eq!(choose(&offers[..2], 50), None);
    }
    #[test]
    fn the_fastest_in_the_memory_there_is_whatever_its_bits() {
        let took = |milliseconds, offer| Offer { milliseconds: Some(milliseconds), ..offer };
        let offers = [
            took(0.1, offer(0, false, true, 0)),
            offer(1, true, true, 0),
            took(0.4, offer(2, true, true, 0)),
            took(0.3, offer(3, true, false, 10)),
            took(0.2, offer(4, true, true, 50)),
        ];
        let taken = |most| fastest(&offers, most).map(|offer| offer.algorithm);
        assert_eq!((taken(50), taken(49), taken(9)), (Some(4), Some(3), Some(2)));
        assert_eq!(fastest(&offers[..2], 50), None);
    }
}
