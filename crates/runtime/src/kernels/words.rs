//! The words of sixteen blocks side by side: what SHA-256 of many messages reads (`crate::trace`).

use super::kernel::Kernel;
#[cfg(all(feature = "std", target_arch = "x86_64"))]
use super::x86::words_avx512;

/// Blocks side by side, words of a block.
const WIDTH: usize = 16;

/// Word `j` of block `i`, big-endian, into `words[j][i]`.
pub(crate) fn words(kernel: Kernel, blocks: &[&[u8; 4 * WIDTH]; WIDTH], words: &mut [[u32; WIDTH]; WIDTH]) {
    match kernel {
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Kernel::Avx512(witness) => words_avx512::words(witness, blocks, words),
        _ => {
            for (lane, block) in blocks.iter().enumerate() {
                for (row, word) in words.iter_mut().zip(block.as_chunks::<4>().0) {
                    row[lane] = u32::from_be_bytes(*word);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_base::rng::SplitMix64;

    /// Every kernel puts every byte where the specification has it.
    #[test]
    fn words_stand_side_by_side() {
        for kernel in Kernel::available() {
            let mut rng = SplitMix64::new(1);
            let mut blocks = [[0u8; 64]; WIDTH];
            blocks.iter_mut().for_each(|block| rng.fill(block));
            let mut got = [[0; WIDTH]; WIDTH];
            words(kernel, &blocks.each_ref(), &mut got);
            for (j, row) in got.iter().enumerate() {
                for (i, word) in row.iter().enumerate() {
                    assert_eq!(
                        word.to_be_bytes(),
                        blocks[i][4 * j..4 * j + 4],
                        "{kernel} word {j} of block {i}"
                    );
                }
            }
        }
    }
}
