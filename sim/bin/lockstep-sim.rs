//! Simulations from the command line: `lockstep-sim swarm --nodes 1000 --seed 1`.

use lockstep_sim::swarm::{Config, run};
use std::process::ExitCode;

const USAGE: &str =
    "usage: lockstep-sim swarm [--nodes N] [--seed N] [--layers N] [--minutes N] [--leave-percent N]
                          [--stay-minutes N] [--requests N] [--json] [--series]

  --nodes N           machines that come at the beginning (1000)
  --seed N            seed of everything (1)
  --layers N          layers of the model (80)
  --minutes N         virtual minutes (30)
  --leave-percent N   how many leave at once, without a word, at 12 minutes (30)
  --stay-minutes N    how long a machine stays on average; 0: for ever (240)
  --requests N        requests whose routes are compared with the best (40)
  --json              one JSON object
  --series            the balance every five seconds, too";

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok((config, json, series)) => {
            let report = run(&config);
            if series {
                for balance in &report.balances {
                    println!(
                        "{} s: {} nodes, {} replicas, {} of 1000",
                        balance.at_ms / 1000,
                        balance.nodes,
                        balance.replicas,
                        balance.permille()
                    );
                }
            }
            print!("{}", if json { report.json() + "\n" } else { report.text() });
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<(Config, bool, bool), String> {
    match args.next().as_deref() {
        Some("swarm") => {}
        other => return Err(format!("got {other:?}, expected `swarm`")),
    }
    let mut config = Config::new(1, 1000);
    let (mut json, mut series) = (false, false);
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--json" => json = true,
            "--series" => series = true,
            _ => {
                let text = args.next().ok_or_else(|| format!("{flag} without a value"))?;
                let value: u64 = text.parse().map_err(|_| format!("{flag} {text}, expected a number"))?;
                set(&mut config, &flag, value)?;
            }
        }
    }
    Ok((config, json, series))
}

fn set(config: &mut Config, flag: &str, value: u64) -> Result<(), String> {
    let within = |least: u64, most: u64| match (least..=most).contains(&value) {
        true => Ok(value),
        false => Err(format!("{flag} {value}, expected {least} to {most}")),
    };
    match flag {
        "--nodes" => config.nodes = within(1, 20_000)? as usize,
        "--seed" => config.seed = value,
        "--layers" => config.n_layers = within(1, 300)? as u32,
        "--minutes" => config.end_ms = within(1, 10_000)? * 60_000,
        "--leave-percent" => config.shock_permille = within(0, 100)? * 10,
        "--stay-minutes" => config.stay_mean_ms = within(0, 1_000_000)? * 60_000,
        "--requests" => config.requests = within(0, 10_000)? as usize,
        _ => return Err(format!("got {flag}, expected a flag")),
    }
    Ok(())
}
