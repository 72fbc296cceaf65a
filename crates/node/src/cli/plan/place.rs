//! Which machine holds which layers: as few machines as can hold the model, then layers spread so that the slowest
//! of them is as fast as it can be.
//!
//! Each layer goes to the machine that would be done first with it and still has room. The first machine
//! also holds the embedding, the last one the head, which counts in its memory and in its time.

use super::sizes::Sizes;
use std::ops::Range;

/// What a machine holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) layers: Range<u32>,
    pub(crate) embed: bool,
    pub(crate) head: bool,
    pub(crate) weight_bytes: u64,
    pub(crate) kv_bytes: u64,
}

/// Why a model cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PlaceError {
    /// A layer (or an end of the model) is larger than a machine.
    #[error(
        "{what} with its cache takes {:.2} GiB, a machine has {:.2} for Lockstep: more --memory, or a smaller --context or --sessions",
        gib(*got),
        gib(*usable)
    )]
    TooLarge { what: &'static str, got: u64, usable: u64 },
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// Places `layers` layers on machines with `usable` bytes each, for `positions` cached positions. The head
/// takes as long as `head_layers` layers.
pub(crate) fn place(
    sizes: &Sizes,
    layers: u32,
    positions: u64,
    usable: u64,
    head_layers: f64,
) -> Result<Vec<Machine>, PlaceError> {
    let each = sizes.layer + sizes.kv * positions;
    for (what, got) in [
        ("one layer", each),
        ("the embedding and one layer", sizes.embed + each),
        ("the head and one layer", sizes.head + each),
    ] {
        if got > usable {
            return Err(PlaceError::TooLarge { what, got, usable });
        }
    }
    let room = |count: usize, index: usize| {
        let ends = if index == 0 { sizes.embed } else { 0 } + if index + 1 == count { sizes.head } else { 0 };
        usable.saturating_sub(ends) / each
    };
    let fits = |count: &usize| (0..*count).map(|index| room(*count, index)).sum::<u64>() >= layers.into();
    // A machine more for each layer always fits: one layer and an end do.
    let count = (1..=layers.max(1) as usize).find(fits).unwrap_or(layers as usize);
    let mut held = vec![0u32; count];
    for _ in 0..layers {
        let busy = |index: usize| f64::from(held[index]) + if index + 1 == count { head_layers } else { 0.0 };
        let free = (0..count).filter(|index| u64::from(held[*index]) < room(count, *index));
        // Earlier machines first where equally busy.
        let Some(next) = free.min_by(|a, b| busy(*a).total_cmp(&busy(*b))) else { break };
        held[next] += 1;
    }
    let mut first = 0;
    let machine = |(index, held): (usize, u32)| {
        let layers = first..first + held;
        first = layers.end;
        let (embed, head) = (index == 0, index + 1 == count);
        let ends = if embed { sizes.embed } else { 0 } + if head { sizes.head } else { 0 };
        let held = u64::from(held);
        let (weight_bytes, kv_bytes) = (ends + held * sizes.layer, held * sizes.kv * positions);
        Machine { layers, embed, head, weight_bytes, kv_bytes }
    };
    Ok(held.into_iter().enumerate().map(machine).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { embed: 30, head: 20, layer: 10, layer_read: 10, kv: 1 };

    /// All layers in order, nobody over the limit, no machine more than needed.
    #[test]
    fn everything_is_placed_and_fits() {
        for (layers, usable, positions) in [(1, 60, 0), (12, 100, 2), (70, 64, 5), (9, 42, 2)] {
            let machines = place(&SIZES, layers, positions, usable, 2.0).unwrap();
            let mut next = 0;
            for (index, machine) in machines.iter().enumerate() {
                assert_eq!(machine.layers.start, next);
                next = machine.layers.end;
                assert!(machine.weight_bytes + machine.kv_bytes <= usable, "{machine:?}");
                assert_eq!((machine.embed, machine.head), (index == 0, index + 1 == machines.len()));
            }
            assert_eq!(next, layers);
            let all: u64 = machines.iter().map(|m| m.weight_bytes + m.kv_bytes).sum();
            assert_eq!(all, 50 + u64::from(layers) * (10 + positions));
            // All but one machine could not hold it.
            let fewer = (machines.len() as u64 - 1) * usable;
            assert!(fewer < all + machines.len() as u64 * (10 + positions), "{} machines", machines.len());
        }
    }

    /// Time is balanced where memory allows: the head counts.
    #[test]
    fn the_last_machine_has_fewer_layers() {
        let machines = place(&SIZES, 20, 0, 140, 4.0).unwrap();
        let counts: Vec<usize> = machines.iter().map(|machine| machine.layers.len()).collect();
        assert_eq!(counts, [11, 9], "the first has room for 11");
        let machines = place(&SIZES, 8, 0, 90, 4.0).unwrap();
        let counts: Vec<usize> = machines.iter().map(|machine| machine.layers.len()).collect();
        assert_eq!(counts, [6, 2]);
    }

    #[test]
    fn what_cannot_fit_is_named() {
        let error = place(&SIZES, 3, 40, 49, 0.0).unwrap_err().to_string();
        assert!(error.starts_with("one layer with its cache takes"), "{error}");
        let error = place(&SIZES, 3, 0, 39, 0.0).unwrap_err().to_string();
        assert!(error.starts_with("the embedding and one layer"), "{error}");
    }
}
