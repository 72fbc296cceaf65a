//! `lockstep node --drill`: a node that lies once, on purpose, and writes down where.

use lockstep_base::op::Place;
use lockstep_mesh::engine::DrillFactory;
use lockstep_runtime::drill::{Drill, Strike};
use lockstep_runtime::observe::{Observer, Values};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Positions of a task within which a drill strikes.
pub const DRILL_POSITIONS: u32 = 32;

/// Makes a drill for every task, at a place drawn from the operating system's randomness. The
/// note goes to `log`, once it has struck.
pub fn factory(log: PathBuf) -> DrillFactory {
    Box::new(move |open| {
        let positions = open.positions.min(DRILL_POSITIONS);
        let drill = Drill::new(&open.part, positions, rand::random());
        Box::new(Logged { drill, log: log.clone(), written: false })
    })
}

struct Logged {
    drill: Drill,
    log: PathBuf,
    written: bool,
}

impl Observer for Logged {
    fn output(&mut self, place: Place, run: u32, values: Values<'_>) {
        self.drill.output(place, run, values);
        if let Some(strike) = self.drill.struck().filter(|_| !self.written) {
            self.written = true;
            if let Err(error) = note(&self.log, &strike) {
                eprintln!("lockstep node: the drill's note could not be written: {error}");
            }
        }
    }
}

fn note(path: &Path, strike: &Strike) -> std::io::Result<()> {
    let Strike { place, row, bit } = strike;
    let text = json!({
        "token": place.position,
        "layer": super::verify::layer(place),
        "op": place.op.name(),
        "row": row,
        "bit": bit,
    });
    std::fs::write(path, format!("{text}\n"))
}
