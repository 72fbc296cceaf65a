//! The simulated network keeps the laws of a transport.

use lockstep_sim::net::Net;
use lockstep_sim::transport;

#[test]
fn the_simulated_network_is_a_transport() {
    for seed in 0..50 {
        transport::laws(seed, |peers| Net::new(seed, peers));
    }
}
