//! The pipeline protocol as state machines without IO: frames, stages, routes, receipts.
