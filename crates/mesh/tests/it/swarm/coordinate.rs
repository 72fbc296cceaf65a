//! docs/spec/swarm.md, coordinates: nodes that measure a few round trips know the others well enough.

use lockstep_base::rng::SplitMix64;
use lockstep_mesh::swarm::Coordinate;
use lockstep_mesh::swarm::coordinate::{AXIS_MAX_US, ERROR_MAX_PERMILLE, HEIGHT_MAX_US};

/// A hundred nodes on a plane of 100 ms, each with up to 10 ms to its exchange, measure 200 round trips each: half of
/// all round trips that were never measured are computed within a tenth.
#[test]
fn round_trips_are_computed() {
    for seed in 0..5 {
        let mut rng = SplitMix64::new(seed);
        let places: Vec<(i64, i64, i64)> = (0..100)
            .map(|_| (rng.below(100_000) as i64, rng.below(100_000) as i64, rng.below(10_000) as i64))
            .collect();
        let real = |a: usize, b: usize| {
            let ((ax, ay, ah), (bx, by, bh)) = (places[a], places[b]);
            (((ax - bx).pow(2) + (ay - by).pow(2)).isqrt() + ah + bh) as u32
        };
        let mut known: Vec<Coordinate> = (0..100).map(|_| Coordinate::unknown(rng.next_u64())).collect();
        for _ in 0..200 {
            for a in 0..100 {
                let b = rng.below(100) as usize;
                if a != b {
                    let other = known[b];
                    known[a].measured(&other, real(a, b), rng.next_u64());
                }
            }
        }
        let mut off: Vec<u32> = (0..100)
            .flat_map(|a| (0..a).map(move |b| (a, b)))
            .map(|(a, b)| known[a].rtt_us(&known[b]).abs_diff(real(a, b)) * 1000 / real(a, b))
            .collect();
        off.sort_unstable();
        assert!(off[off.len() / 2] < 100, "seed {seed}: median error {} of 1000", off[off.len() / 2]);
    }
}

/// Whatever others claim and whatever is measured: a place within the limits.
#[test]
fn a_place_stays_within_the_limits() {
    let mut rng = SplitMix64::new(7);
    let extreme = |rng: &mut SplitMix64| {
        let axis = |rng: &mut SplitMix64| [-AXIS_MAX_US, 0, AXIS_MAX_US][rng.below(3) as usize];
        let (x_us, y_us, z_us) = (axis(rng), axis(rng), axis(rng));
        let height_us = [0, 1, HEIGHT_MAX_US][rng.below(3) as usize];
        Coordinate { x_us, y_us, z_us, height_us, error_permille: rng.below(1001) as u32 }
    };
    for _ in 0..20 {
        let mut mine = Coordinate::unknown(rng.next_u64());
        for _ in 0..500 {
            let other = if rng.below(4) == 0 { mine } else { extreme(&mut rng) };
            let rtt_us = [0, 1, 50_000, u32::MAX][rng.below(4) as usize];
            mine.measured(&other, rtt_us, rng.next_u64());
            assert!(mine.possible(), "{mine:?}");
        }
    }
    assert!(!Coordinate { error_permille: ERROR_MAX_PERMILLE + 1, ..Coordinate::unknown(0) }.possible());
    assert!(!Coordinate { x_us: i32::MIN, ..Coordinate::unknown(0) }.possible());
}
