//! Where the tensors of a step are, for a kernel that goes over all of them at once.
#![cfg_attr(not(any(test, feature = "cuda")), allow(dead_code, reason = "tables are for GPUs, and tested everywhere"))]

/// Numbers of a tensor that one block has, as in the kernels.
const CHUNK: usize = 4096;

/// Bytes of an entry, as in the kernels.
pub(super) const ENTRY: usize = 120;

/// What is done with a tensor; the numbers are those of the kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Kind {
    /// Nothing but its norm is wanted.
    #[default]
    Norm = 0,
    /// Adam moves it.
    Adam = 1,
    /// SGD moves it, or LARS without a trust ratio.
    Sgd = 2,
    /// LARS moves it, and adapts its learning rate.
    Trusted = 3,
}

/// A tensor, or a parameter with what goes with it; pointers are 0 where there is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Entry {
    pub(super) parameter: u64,
    pub(super) grad: u64,
    pub(super) moments: [u64; 2],
    pub(super) count: usize,
    pub(super) kind: Kind,
    pub(super) learning_rate: f64,
    /// Of Adam the decays of its means; of LARS the trust coefficient.
    pub(super) settings: [f64; 2],
    /// As the formulas read them; some of them a kernel computes where only the device knows of what.
    pub(super) factors: [f32; 10],
}

/// The entries as the kernels read them, and into how many chunks they are cut in all; what is empty is left out.
pub(super) fn table(entries: &[Entry]) -> (Vec<u8>, usize, usize) {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY);
    let (mut chunks, mut kept) = (0, 0);
    for entry in entries.iter().filter(|entry| entry.count > 0) {
        let Entry { parameter, grad, moments: [first, second], count, kind, learning_rate, settings, factors } = *entry;
        for word in [parameter, grad, first, second, count as u64, chunks as u64, kind as u64] {
            bytes.extend(word.to_le_bytes());
        }
        [learning_rate, settings[0], settings[1]].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        factors.iter().for_each(|factor| bytes.extend(factor.to_le_bytes()));
        chunks += count.div_ceil(CHUNK);
        kept += 1;
    }
    (bytes, kept, chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_lie_as_the_kernels_read_them() {
        let entry = |count, kind| Entry {
            parameter: 1,
            grad: 2,
            moments: [3, 4],
            count,
            kind,
            learning_rate: 0.1,
            settings: [0.2, 0.3],
            factors: [0.5; 10],
        };
        let (bytes, kept, chunks) = table(&[
            entry(1, Kind::Trusted),
            entry(0, Kind::Norm),
            entry(CHUNK + 1, Kind::Adam),
            entry(CHUNK, Kind::Sgd),
        ]);
        assert_eq!((bytes.len(), kept, chunks), (3 * ENTRY, 3, 4));
        let word = |entry: usize, i: usize| {
            let at = entry * ENTRY + 8 * i;
            u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
        };
        assert_eq!([0, 1, 2, 3, 4].map(|i| word(1, i)), [1, 2, 3, 4, CHUNK as u64 + 1]);
        // Chunks of the entries before.
        assert_eq!([0, 1, 2].map(|i| word(i, 5)), [0, 1, 3]);
        assert_eq!([0, 1, 2].map(|i| word(i, 6)), [3, 1, 2]);
        assert_eq!([7, 8, 9].map(|i| f64::from_bits(word(2, i))), [0.1, 0.2, 0.3]);
        assert_eq!(f32::from_le_bytes(bytes[ENTRY - 4..ENTRY].try_into().unwrap()), 0.5);
        assert_eq!(table(&[]), (Vec::new(), 0, 0));
    }
}
