//! receipts.md, section 6: parts and routes.

use crate::golden::cases;
use lockstep_base::limits::STAGES_MAX;
use lockstep_base::part::{Part, PartError};
use proptest::prelude::*;

#[test]
fn the_smallest_and_the_absurd_routes() {
    assert_eq!(Part::check_route(&[], 4), Err(PartError::Count { got: 0 }));
    let many = vec![Part::whole(1); STAGES_MAX + 1];
    assert_eq!(Part::check_route(&many, 1), Err(PartError::Count { got: STAGES_MAX + 1 }));
    assert_eq!(Part::check_route(&[Part::whole(1)], 1), Ok(()));
    assert!(Part::check_route(&Part::split(0, 0), 0).is_err(), "a model without layers has no route");
    for (layers, stages) in [(0, 0), (0, 5), (u32::MAX, u32::MAX), (u32::MAX, 1)] {
        let _ = Part::split(layers, stages);
    }
}

#[test]
fn a_part_reads_like_a_sentence() {
    assert_eq!(Part::whole(5).to_string(), "embed + layers 0..5 + head");
    assert_eq!(Part::layers(2..4, 5).to_string(), "layers 2..4");
    let shard = Part { shard: 1, shards: 2, ..Part::layers(2..4, 5) };
    assert_eq!(shard.to_string(), "layers 2..4, shard 1 of 2");
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn every_split_is_a_route_of_even_stages(layers in 1u32..=1024, stages in 0u32..200) {
        let parts = Part::split(layers, stages);
        prop_assert_eq!(Part::check_route(&parts, layers), Ok(()));
        prop_assert_eq!(parts.len(), (stages.max(1).min(layers) as usize).min(STAGES_MAX));
        let sizes: Vec<usize> = parts.iter().map(Part::layer_count).collect();
        prop_assert_eq!(sizes.iter().sum::<usize>(), layers as usize);
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        prop_assert!(most - least <= 1, "{:?}", sizes);
    }

    #[test]
    fn every_change_of_one_field_breaks_the_route(
        layers in 2u32..40, stages in 1u32..8, at: prop::sample::Index, field in 0..6, delta in 1u32..1000,
    ) {
        let mut parts = Part::split(layers, stages);
        let at = at.index(parts.len());
        let part = &mut parts[at];
        match field {
            0 => part.embed = !part.embed,
            1 => part.first_layer = part.first_layer.wrapping_add(delta),
            2 => part.end_layer = part.end_layer.wrapping_add(delta),
            3 => part.head = !part.head,
            4 => part.shard = part.shard.wrapping_add(delta as u16),
            _ => part.shards = part.shards.wrapping_add(delta as u16),
        }
        prop_assert!(Part::check_route(&parts, layers).is_err(), "{:?}", parts);
    }

    #[test]
    fn a_missing_a_doubled_or_a_swapped_stage_is_no_route(
        layers in 2u32..40, stages in 2u32..8, at: prop::sample::Index,
    ) {
        let parts = Part::split(layers, stages);
        let at = at.index(parts.len());
        let mut missing = parts.clone();
        missing.remove(at);
        prop_assert!(Part::check_route(&missing, layers).is_err());
        let mut doubled = parts.clone();
        doubled.insert(at, parts[at]);
        prop_assert!(Part::check_route(&doubled, layers).is_err());
        let mut swapped = parts.clone();
        swapped.swap(at, (at + 1) % parts.len());
        prop_assert!(Part::check_route(&swapped, layers).is_err());
        prop_assert!(Part::check_route(&parts, layers + 1).is_err());
    }
}
