//! Tests of the protocol: formats here, state machines under faults in `sim`.
